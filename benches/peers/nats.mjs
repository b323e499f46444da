// NATS JetStream: a work queue of tasks, and a stream of results; each acknowledged by the server.

import { AckPolicy, RetentionPolicy, StorageType, connect } from "nats";
import { Results, measure } from "./measure.mjs";

const nats = await connect({ servers: `127.0.0.1:${process.env.NATS_PORT}` });
const jetstream = nats.jetstream();
const manager = await nats.jetstreamManager();

if (process.argv[2] === "worker") {
  const storage = StorageType.File;
  await manager.streams.add({ name: "TASKS", subjects: ["task.>"], retention: RetentionPolicy.Workqueue, storage });
  await manager.streams.add({ name: "RESULTS", subjects: ["result.>"], storage, max_msgs: 100_000 });
  await manager.consumers.add("TASKS", { durable_name: "worker", ack_policy: AckPolicy.Explicit, max_ack_pending: 1024 });
  const consumer = await jetstream.consumers.get("TASKS", "worker");
  const messages = await consumer.consume({ max_messages: 512 });
  console.log("ready");
  for await (const message of messages) {
    // The result first: a task that is acknowledged and has none would be lost.
    jetstream.publish(message.subject.replace("task", "result"), message.data).then(() => message.ack());
  }
} else {
  const results = new Results();
  nats.subscribe("result.>", { callback: (_, message) => results.done(message.subject.slice("result.".length)) });
  const run = Date.now();
  let next = 0;
  await measure("NATS JetStream", process.env.DURABILITY, async (payload) => {
    const id = `${run}-${next++}`;
    await jetstream.publish(`task.${id}`, new TextEncoder().encode(payload), { msgID: id });
    await results.wait(id);
  });
  process.exit(0);
}
