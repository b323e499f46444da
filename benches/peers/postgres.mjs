// PostgreSQL as a queue with SKIP LOCKED: taking a task and its result are commits of their own, each of up to 32 tasks.

import pg from "pg";
import { BATCH_MAX, Results, batched, measure } from "./measure.mjs";

const at = { host: process.env.PGHOST, user: "peer", database: "postgres" };
const connect = async () => {
  const client = new pg.Client(at);
  await client.connect();
  return client;
};

const TAKE = `WITH next AS (SELECT id FROM tasks WHERE state = 'queued' ORDER BY id LIMIT ${BATCH_MAX} FOR UPDATE SKIP LOCKED)
  UPDATE tasks SET state = 'running', attempt = attempt + 1, started = now() FROM next WHERE tasks.id = next.id
  RETURNING tasks.id, tasks.input`;
const END = `WITH ended AS (UPDATE tasks SET state = 'succeeded', output = given.output, ended = now()
    FROM unnest($1::bigint[], $2::text[]) AS given(id, output) WHERE tasks.id = given.id RETURNING tasks.id)
  SELECT pg_notify('ended', string_agg(id::text, ',')) FROM ended`;

if (process.argv[2] === "worker") {
  let wake = () => {};
  const ears = await connect();
  ears.on("notification", () => wake());
  await ears.query("LISTEN submitted");
  const work = async () => {
    const client = await connect();
    for (;;) {
      const { rows } = await client.query(TAKE);
      if (rows.length === 0) {
        // The timeout is for a notification that comes between the question and the wait.
        await new Promise((resolve) => ((wake = resolve), setTimeout(resolve, 2)));
        continue;
      }
      await client.query(END, [rows.map((row) => row.id), rows.map((row) => row.input)]);
    }
  };
  console.log("ready");
  await Promise.all(Array.from({ length: 4 }, work));
} else {
  const results = new Results();
  const ears = await connect();
  ears.on("notification", ({ payload }) => payload.split(",").forEach((id) => results.done(id)));
  await ears.query("LISTEN ended");
  const pool = new pg.Pool({ ...at, max: 8 });
  const submit = batched(async (payloads) => {
    const { rows } = await pool.query(
      `WITH new AS (INSERT INTO tasks (input) SELECT unnest($1::text[]) RETURNING id)
       SELECT id, pg_notify('submitted', '') FROM new`,
      [payloads],
    );
    return rows.map((row) => results.wait(row.id));
  });
  await measure("PostgreSQL SKIP LOCKED", process.env.DURABILITY, submit);
  process.exit(0);
}
