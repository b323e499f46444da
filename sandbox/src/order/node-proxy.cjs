// Loaded first in every Node of a sandbox.
"use strict";

// The kernel's list of interfaces comes through a kind of socket that no sandbox has. What there is to see is the loopback.
const os = require("node:os");
const interfaces = os.networkInterfaces;
os.networkInterfaces = function networkInterfaces() {
  try {
    return interfaces.call(os);
  } catch {
    const lo = { mac: "00:00:00:00:00:00", internal: true };
    return {
      lo: [
        { address: "127.0.0.1", netmask: "255.0.0.0", family: "IPv4", ...lo, cidr: "127.0.0.1/8" },
        { address: "::1", netmask: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", family: "IPv6", ...lo, cidr: "::1/128", scopeid: 0 },
      ],
    };
  }
};
require("node:module").syncBuiltinESMExports();

// Node reads HTTP_PROXY by itself from 22.21 and 24 on. Before, this has `fetch`, `http` and `https` go through the proxy as
// newer ones do.

const named = process.env.HTTP_PROXY;
if (named && process.env.NODE_USE_ENV_PROXY === "1" && !process.allowedNodeEnvironmentFlags.has("--use-env-proxy")) {
  through(new URL(named));
}

function through(proxy) {
  const http = require("node:http");
  const https = require("node:https");
  const net = require("node:net");
  const tls = require("node:tls");

  // Its own loopback is its own.
  const own = (host) => /^(localhost|127\.[0-9.]+|\[?::1\]?)$/i.test(host);

  /** A connection to a host through a tunnel. */
  function tunnel(host, port, done) {
    const to = `${net.isIPv6(host) ? `[${host}]` : host}:${port}`;
    const ask = http.request({
      host: proxy.hostname,
      port: proxy.port,
      method: "CONNECT",
      path: to,
      headers: { host: to },
      agent: false,
    });
    ask.once("connect", (answer, socket) => {
      if (answer.statusCode === 200) return done(null, socket);
      socket.destroy();
      const code = answer.headers["x-mesh-egress"] ?? answer.statusCode;
      done(Object.assign(new Error(`the proxy refuses ${to}: ${code}`), { code: "EPROXY" }));
    });
    ask.once("error", done);
    ask.end();
  }

  function secure(options, done) {
    const host = options.host || "localhost";
    tunnel(host, options.port || 443, (error, socket) => {
      if (error) return done(error);
      const servername = options.servername ?? (net.isIP(host) ? "" : host);
      done(null, tls.connect({ ...options, path: undefined, socket, servername }));
    });
  }

  class PlainAgent extends http.Agent {
    addRequest(request, options, ...more) {
      const host = options.host || "localhost";
      if (options.socketPath || own(host)) return super.addRequest(request, options, ...more);
      const port = Number(options.port || 80);
      const at = `${net.isIPv6(host) ? `[${host}]` : host}${port === 80 ? "" : `:${port}`}`;
      const path = request.path;
      request.path = `http://${at}${path}`;
      // Headers that were given as a list are written already.
      if (request._header) request._header = request._header.replace(` ${path} `, () => ` ${request.path} `);
      return super.addRequest(request, { ...options, host: proxy.hostname, hostname: proxy.hostname, port: Number(proxy.port) }, ...more);
    }
  }

  class SecureAgent extends https.Agent {
    createConnection(options, done) {
      if (options.socketPath || own(options.host || "localhost")) return super.createConnection(options, done);
      secure(options, done);
    }
  }

  const kept = { keepAlive: true, scheduling: "lifo", timeout: 5000 };
  http.globalAgent = new PlainAgent(kept);
  https.globalAgent = new SecureAgent(kept);

  // What `fetch` goes through is there once something of it was used.
  const place = Symbol.for("undici.globalDispatcher.1");
  const original = globalThis.fetch;
  let dispatcher;
  globalThis.fetch = function fetch(...given) {
    dispatcher ??= forFetch();
    return original.apply(this, given);
  };

  function forFetch() {
    void globalThis.Headers.name;
    const before = globalThis[place];
    if (before?.constructor?.name !== "Agent") return before ?? null;
    const Agent = before.constructor;
    const connect = (options, done) => {
      const { hostname: host, port, protocol } = options;
      const connected = (error, socket) => {
        if (error) return done(error);
        socket.once(protocol === "https:" ? "secureConnect" : "connect", () => {
          socket.off("error", done);
          done(null, socket);
        });
        socket.once("error", done);
      };
      if (protocol !== "https:") return connected(null, net.connect({ host, port: port || 80 }));
      const servername = options.servername ?? undefined;
      if (own(host)) return connected(null, tls.connect({ host, port: port || 443, servername }));
      secure({ host, port, servername, ALPNProtocols: ["http/1.1"] }, connected);
    };
    class Through extends Agent {
      dispatch(options, handler) {
        const origin = new URL(options.origin);
        if (origin.protocol !== "http:" || own(origin.hostname)) return super.dispatch(options, handler);
        const headers = Array.isArray(options.headers)
          ? [...options.headers, "host", origin.host]
          : { ...options.headers, host: origin.host };
        return super.dispatch({ ...options, origin: proxy.origin, path: origin.origin + options.path, headers }, handler);
      }
    }
    globalThis[place] = new Through({ connect });
    return globalThis[place];
  }
}
