// Answers each task with its input.
import { createInterface } from "node:readline";

const say = (message) => console.log(JSON.stringify(message));

say({ type: "HANDSHAKE", payload: { name: "echo-node", version: "1.0.0", capabilities: ["echo-node"] } });
for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line);
  if (message.type === "TASK_REQUEST") {
    const payload = { ok: true, output: message.payload.input };
    say({ type: "TASK_RESULT", task_id: message.task_id, payload });
  } else if (message.type === "CONTROL" && message.payload.verb === "shutdown") {
    break;
  }
}
