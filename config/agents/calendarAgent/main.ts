// A personal calendar that speaks KLP on standard input and output: one JSON object per line.
//
// It keeps its events in the memory that meshd gives it, one key per event, so they survive restarts.

import { createInterface } from "node:readline";

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
type Fields = { [key: string]: Json };
type CalendarEvent = { id: string; title: string; start: string; end: string };

const EVENT_PREFIX = "event/";

// Requests to meshd's memory that wait for their answer, by the id they were sent under.
const waiting = new Map<string, (reply: Fields) => void>();
let sent = 0;

/** The calendar cannot be read or written now; later it may. */
class Unavailable extends Error {}

function send(message: Fields): void {
  process.stdout.write(JSON.stringify(message) + "\n");
}

function memory(payload: Fields): Promise<Json> {
  const id = `m${++sent}`;
  return new Promise((resolve, reject) => {
    waiting.set(id, (reply) => (reply.ok ? resolve(reply.value) : reject(new Unavailable(String(reply.error ?? reply.detail)))));
    send({ type: "MEMORY", id, payload });
  });
}

async function events(): Promise<CalendarEvent[]> {
  const keys = (await memory({ op: "list", key: EVENT_PREFIX })) as string[];
  const values = await Promise.all(keys.map((key) => memory({ op: "get", key })));
  return values.filter((value) => value !== null) as CalendarEvent[];
}

/** An instant out of the input, or a refusal that names the field. */
function instant(input: Fields, field: string): string {
  const time = Date.parse(String(input[field]));
  if (Number.isNaN(time)) {
    throw new Error(`${field}: expected an ISO 8601 time`);
  }
  return new Date(time).toISOString();
}

function overlaps(event: CalendarEvent, start: string, end: string): boolean {
  return event.start < end && start < event.end;
}

async function perform(action: string, task: string, input: Fields): Promise<Json> {
  switch (action) {
    case "scheduleEvent": {
      const [start, end] = [instant(input, "start"), instant(input, "end")];
      if (end <= start) {
        throw new Error("end: must be after start");
      }
      const conflict = (await events()).find((event) => event.id !== task && overlaps(event, start, end));
      if (conflict) {
        return { scheduled: false, conflict: conflict as unknown as Json };
      }
      // The task's own id, so that a repeated attempt writes the same event again instead of a second one.
      const event = { id: task, title: String(input.title ?? "Untitled"), start, end };
      await memory({ op: "set", key: EVENT_PREFIX + task, value: event });
      return { scheduled: true, event };
    }
    case "cancelEvent": {
      await memory({ op: "delete", key: EVENT_PREFIX + String(input.id) });
      return { cancelled: String(input.id) };
    }
    case "queryAvailability": {
      const [start, end] = [instant(input, "start"), instant(input, "end")];
      const busy = (await events()).filter((event) => overlaps(event, start, end));
      return { available: busy.length === 0, busy: busy as unknown as Json };
    }
    default:
      throw new Error(`no such action: ${action}`);
  }
}

async function work(message: Fields): Promise<void> {
  const payload = message.payload as Fields;
  const reply = { type: "TASK_RESULT", task_id: message.task_id, attempt: message.attempt };
  try {
    const output = await perform(String(payload.action), String(message.task_id), (payload.input ?? {}) as Fields);
    send({ ...reply, payload: { ok: true, output } });
  } catch (error) {
    // What it refuses now it would refuse again.
    const failure = error instanceof Unavailable ? "unavailable" : "refusal";
    send({ ...reply, payload: { ok: false, error: { class: failure, message: (error as Error).message } } });
  }
}

createInterface({ input: process.stdin }).on("line", (line) => {
  const message = JSON.parse(line) as Fields;
  const payload = (message.payload ?? {}) as Fields;
  if (message.type === "TASK_REQUEST") {
    void work(message);
  } else if (message.type === "MEMORY" || message.type === "ERROR") {
    // An ERROR in answer to a request has no `ok` and so counts as refused.
    const id = String(message.in_reply_to);
    waiting.get(id)?.(payload);
    waiting.delete(id);
  } else if (message.type === "CONTROL" && payload.verb === "shutdown") {
    process.exit(0);
  }
});

send({
  type: "HANDSHAKE",
  payload: {
    name: "calendarAgent",
    version: "1.0.3",
    capabilities: ["scheduleEvent", "cancelEvent", "queryAvailability"],
  },
});
