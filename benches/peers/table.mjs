// Lines of JSON on standard input as one table, in Markdown: a row per system and durability, a column per number in flight.

import { readFileSync } from "node:fs";

const rows = readFileSync(0, "utf8").split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
const columns = [...new Set(rows.map((row) => row.inFlight))].sort((a, b) => a - b);
const systems = [...new Set(rows.map((row) => `${row.system} | ${row.durability}`))];
console.log(`| system | durability | ${columns.map((n) => `${n} in flight`).join(" | ")} |`);
console.log(`|---|---|${columns.map(() => "---:|").join("")}`);
for (const system of systems) {
  const cells = columns.map((inFlight) => {
    const row = rows.find((one) => `${one.system} | ${one.durability}` === system && one.inFlight === inFlight);
    return row === undefined ? "" : `${row.rate} (${row.p50} / ${row.p99})`;
  });
  console.log(`| ${system} | ${cells.join(" | ")} |`);
}
