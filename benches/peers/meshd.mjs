// meshd: tasks over HTTP, one by one or in arrays, done by one process agent that speaks KLP.

import { readFileSync } from "node:fs";
import { Agent, request } from "undici";
import { batched, measure } from "./measure.mjs";

const { MESH_URL: url, MESH_TOKEN_FILE: file } = process.env;
const dispatcher = new Agent({ connections: 256, pipelining: 1 });
const headers = { authorization: `Bearer ${readFileSync(file, "utf8").trim()}`, "content-type": "application/json" };

async function post(body) {
  const answer = await request(`${url}/v1/tasks?wait=60s`, { method: "POST", headers, body: JSON.stringify(body), dispatcher });
  if (answer.statusCode !== 200) throw new Error(`${answer.statusCode}: ${await answer.body.text()}`);
  const tasks = await answer.body.json();
  for (const task of Array.isArray(tasks) ? tasks : [tasks]) {
    if (task.state !== "succeeded") throw new Error(JSON.stringify(task));
  }
}

const task = (input) => ({ requirements: ["echo"], input });
await measure("meshd, one by one", process.env.DURABILITY, (payload) => post(task(payload)));
await measure("meshd, arrays", process.env.DURABILITY, batched(async (payloads) => {
  await post(payloads.map(task));
  return payloads;
}));
process.exit(0);
