// What every peer is measured by: a closed loop with a fixed number of tasks in flight, each 1 KiB in and 1 KiB out.
//
// A task counts when its result has come back to the client, which the system under test says is as durable as it gets.

import { performance } from "node:perf_hooks";

/** One task's input. */
export const PAYLOAD = "x".repeat(1024);
/** Most tasks in one request, where a peer's client can send several at once. */
export const BATCH_MAX = 32;

const SECONDS = Number(process.env.PEERS_SECONDS ?? 10);
const WARM_UP = Number(process.env.PEERS_WARM_UP ?? 2);
const IN_FLIGHT = (process.env.PEERS_IN_FLIGHT ?? "1,64,256").split(",").map(Number);

/**
 * Makes `submit(payload) -> Promise` of `send(payloads) -> Promise<Promise[]>`: what is submitted while the event loop
 * turns once goes in one request, at most BATCH_MAX of it.
 */
export function batched(send) {
  let waiting = [];
  const flush = async () => {
    const all = waiting;
    waiting = [];
    for (let from = 0; from < all.length; from += BATCH_MAX) {
      const some = all.slice(from, from + BATCH_MAX);
      send(some.map((one) => one.payload)).then(
        (results) => some.forEach((one, at) => one.resolve(results[at])),
        (error) => some.forEach((one) => one.reject(error)),
      );
    }
  };
  return (payload) =>
    new Promise((resolve, reject) => {
      if (waiting.push({ payload, resolve, reject }) === 1) setImmediate(flush);
    });
}

/** Results by the id of their task, whichever of the two comes first. */
export class Results {
  #open = new Map();
  #early = new Map();

  wait(id) {
    if (this.#early.delete(id)) return Promise.resolve();
    return new Promise((resolve) => this.#open.set(id, resolve));
  }

  done(id) {
    const resolve = this.#open.get(id);
    if (resolve === undefined) this.#early.set(id, true);
    else this.#open.delete(id), resolve();
  }
}

function quantile(sorted, q) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))];
}

async function loop(submit, inFlight, seconds) {
  const took = [];
  const began = performance.now();
  const end = began + seconds * 1000;
  const one = async () => {
    while (performance.now() < end) {
      const at = performance.now();
      await submit(PAYLOAD);
      took.push(performance.now() - at);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, one));
  return { took, seconds: (performance.now() - began) / 1000 };
}

/** Measures `submit` at each number in flight, and prints a line of JSON for each. */
export async function measure(system, durability, submit) {
  await loop(submit, 16, WARM_UP);
  for (const inFlight of IN_FLIGHT) {
    const { took, seconds } = await loop(submit, inFlight, SECONDS);
    took.sort((a, b) => a - b);
    const round = (ms) => Math.round(ms * 10) / 10;
    const row = {
      system,
      durability,
      inFlight,
      rate: Math.round(took.length / seconds),
      p50: round(quantile(took, 0.5)),
      p99: round(quantile(took, 0.99)),
    };
    console.log(JSON.stringify(row));
  }
}
