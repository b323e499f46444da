// Everyday Node, case by case: prints for each what it came to, or why it failed.
import { execFileSync, execSync, fork, spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import { readFile, mkdtemp, writeFile } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { Readable, Transform } from "node:stream";
import { Worker, isMainThread, parentPort } from "node:worker_threads";
import zlib from "node:zlib";
import crypto from "node:crypto";
import dns from "node:dns/promises";

const here = new URL(import.meta.url).pathname;
const within = (ms, promise) =>
  Promise.race([promise, new Promise((_, no) => setTimeout(() => no(new Error("too late")), ms).unref())]);

const cases = {
  async packages() {
    const own = path.join(os.homedir(), "node_modules", "greet");
    fs.mkdirSync(own, { recursive: true });
    fs.writeFileSync(path.join(own, "package.json"), '{"name":"greet","main":"main.js"}');
    fs.writeFileSync(path.join(own, "main.js"), "module.exports = () => require('node:fs').readFileSync(__dirname + '/word', 'utf8')");
    fs.writeFileSync(path.join(own, "word"), "hello");
    const { createRequire } = await import("node:module");
    return createRequire(path.join(os.homedir(), "x.js"))("greet")();
  },
  async bundled() {
    return (await import("./beside.mjs")).VALUE;
  },
  async workers() {
    const all = [1, 2, 3, 4].map(async (n) => {
      const worker = new Worker(here, { workerData: n });
      worker.postMessage(n);
      const [answer] = await once(worker, "message");
      await worker.terminate();
      return answer;
    });
    return (await Promise.all(all)).reduce((a, b) => a + b);
  },
  async children() {
    const shell = execSync("printf a | tr a b").toString();
    const file = execFileSync(process.execPath, ["-p", "1+1"]).toString().trim();
    const child = fork(here, ["child"]);
    child.send(20);
    const [answer] = await once(child, "message");
    child.kill();
    const cat = spawn("cat");
    cat.stdin.end("x".repeat(500000));
    let length = 0;
    for await (const chunk of cat.stdout) length += chunk.length;
    return [shell, file, answer, length];
  },
  async streams() {
    const dir = await mkdtemp(path.join(os.tmpdir(), "w-"));
    const packed = path.join(dir, "packed");
    const upper = new Transform({ transform: (chunk, _, done) => done(null, chunk.toString().toUpperCase()) });
    await pipeline(Readable.from(["a", "b", "c"]), upper, zlib.createGzip(), fs.createWriteStream(packed));
    return zlib.gunzipSync(await readFile(packed)).toString();
  },
  async watch() {
    const dir = await mkdtemp(path.join(os.homedir(), "w-"));
    const seen = new Promise((yes) => fs.watch(dir, (_, name) => yes(name)));
    await writeFile(path.join(dir, "new"), "x");
    return within(60000, seen);
  },
  async signals() {
    const got = new Promise((yes) => process.once("SIGUSR2", yes));
    process.kill(process.pid, "SIGUSR2");
    return within(60000, got);
  },
  async served() {
    const server = http.createServer((_, answer) => answer.end("served")).listen(0, "127.0.0.1");
    await once(server, "listening");
    const answer = await fetch(`http://127.0.0.1:${server.address().port}/`);
    const text = await answer.text();
    server.close();
    server.closeAllConnections();
    const own = path.join(os.homedir(), "node.sock");
    fs.rmSync(own, { force: true });
    const local = net.createServer((socket) => socket.end("local")).listen(own);
    await once(local, "listening");
    const [said] = await once(net.connect(own), "data");
    local.close();
    return [text, said.toString()];
  },
  async system() {
    const key = crypto.generateKeyPairSync("ed25519");
    const signed = crypto.sign(null, Buffer.from("x"), key.privateKey);
    const bytes = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]);
    await WebAssembly.instantiate(bytes);
    const { address } = await dns.lookup("localhost", 4);
    return [crypto.verify(null, Buffer.from("x"), key.publicKey, signed), address, os.userInfo().username, os.cpus().length > 0];
  },
  async over_http() {
    const answer = await within(60000, fetch(`http://allowed.test:${asked.http}/node`));
    return [answer.status, (await answer.text()).includes("/node")];
  },
  async over_tls() {
    const answer = await within(60000, fetch(`https://allowed.test:${asked.tls}/node`));
    return [answer.status, await answer.text()];
  },
};

let asked;
if (!isMainThread) {
  parentPort.once("message", (n) => parentPort.postMessage(n * n));
} else if (process.argv[2] === "child") {
  process.on("message", (n) => process.send(n + 1));
} else {
  asked = JSON.parse(fs.readFileSync(0, "utf8"));
  const told = {};
  for (const [name, run] of Object.entries(cases)) {
    try {
      told[name] = await run();
    } catch (error) {
      told[name] = `failed: ${error?.stack ?? error} ${error?.cause?.stack ?? error?.cause ?? ""}`.slice(0, 600);
    }
  }
  process.stdout.write(JSON.stringify(told), () => process.exit(0));
}
