// BullMQ on Redis: `client` submits and waits for the events of the results, `worker` answers.

import { Queue, QueueEvents, Worker } from "bullmq";
import { batched, measure } from "./measure.mjs";

const connection = { host: "127.0.0.1", port: Number(process.env.REDIS_PORT) };
const limits = { removeOnComplete: 10_000, removeOnFail: 10_000 };

if (process.argv[2] === "worker") {
  const worker = new Worker("tasks", async (job) => job.data, { connection, concurrency: 256 });
  await worker.waitUntilReady();
  console.log("ready");
} else {
  const queue = new Queue("tasks", { connection, defaultJobOptions: limits });
  const events = new QueueEvents("tasks", { connection });
  events.setMaxListeners(0);
  await events.waitUntilReady();
  const submit = batched(async (payloads) => {
    const jobs = await queue.addBulk(payloads.map((data) => ({ name: "echo", data: { data } })));
    return jobs.map((job) => job.waitUntilFinished(events));
  });
  await measure("BullMQ + Redis", process.env.DURABILITY, submit);
  process.exit(0);
}
