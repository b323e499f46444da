// Restate: a service with one handler, called through the ingress; a call returns with the durable result.

import { Agent, request } from "undici";
import * as restate from "@restatedev/restate-sdk";
import { measure } from "./measure.mjs";

if (process.argv[2] === "worker") {
  const service = restate.service({ name: "echo", handlers: { run: async (_, input) => input } });
  await restate.serve({ services: [service], port: Number(process.env.SERVICE_PORT) });
  console.log("ready");
} else {
  const dispatcher = new Agent({ connections: 256, pipelining: 1 });
  const ingress = `http://127.0.0.1:${process.env.INGRESS_PORT}/echo/run`;
  const headers = { "content-type": "application/json" };
  await measure("Restate (JS handler)", process.env.DURABILITY, async (payload) => {
    const answer = await request(ingress, { method: "POST", headers, body: JSON.stringify(payload), dispatcher });
    if (answer.statusCode !== 200) throw new Error(`${answer.statusCode}: ${await answer.body.text()}`);
    await answer.body.dump();
  });
  process.exit(0);
}
