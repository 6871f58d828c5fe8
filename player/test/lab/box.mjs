// A stand-in for an appliance, in a process of its own so that it can be killed: serves a folder of objects by single
// byte ranges at a fixed pace, and misbehaves on order (`process.send`). Only for tests of the player.

import { createReadStream, statSync } from "node:fs";
import http from "node:http";
import { join } from "node:path";

const folder = process.argv[2];
const bytesPerSecond = Number(process.argv[3]);
/** good | unavailable | missing | silent | hangs | short | expired */
let manner = "good";
let requests = 0;

const HEAD = {
  "Access-Control-Allow-Origin": "*",
  "Access-Control-Expose-Headers": "Content-Range, ETag",
  "Accept-Ranges": "bytes",
};

const server = http.createServer((request, response) => {
  requests += 1;
  if (request.method === "OPTIONS") {
    response.writeHead(204, { ...HEAD, "Access-Control-Allow-Headers": "Range" }).end();
    return;
  }
  const [, token = "", , , name = ""] = request.url.split("/");
  if (manner === "silent") return;
  if (manner === "unavailable") return response.writeHead(503, { ...HEAD, "Retry-After": "5" }).end("draining\n");
  if (manner === "missing") return response.writeHead(404, HEAD).end("not in the catalogue\n");
  if (manner === "expired" && token === "~token-1") return response.writeHead(403, HEAD).end("the token has expired\n");
  serve(request, response, name);
});

function serve(request, response, name) {
  const path = join(folder, name);
  let size;
  try {
    ({ size } = statSync(path));
  } catch {
    return response.writeHead(404, HEAD).end("no such object\n");
  }
  const match = /^bytes=(\d+)-(\d+)?$/.exec(request.headers.range ?? "");
  const first = match ? Number(match[1]) : 0;
  const last = match?.[2] === undefined ? size - 1 : Math.min(Number(match[2]), size - 1);
  const count = last - first + 1;
  const head = { ...HEAD, "Content-Length": count, "Content-Type": "application/octet-stream" };
  if (match) head["Content-Range"] = `bytes ${first}-${last}/${size}`;
  if (manner === "short") head["Content-Range"] = `bytes ${first}-${last - 1}/${size}`;
  response.writeHead(match ? 206 : 200, head);
  void send(createReadStream(path, { start: first, end: last, highWaterMark: 4096 }), response, count);
}

async function send(source, response, count) {
  let sent = 0;
  const began = Date.now();
  for await (const piece of source) {
    if (response.destroyed) return;
    if (manner === "hangs" && sent >= count / 2) return;
    response.write(piece);
    sent += piece.length;
    const aheadMs = (sent / bytesPerSecond) * 1000 - (Date.now() - began);
    if (aheadMs > 4) await new Promise((resolve) => setTimeout(resolve, aheadMs));
  }
  response.end();
}

process.on("message", (order) => {
  if (order.manner) manner = order.manner;
  process.send({ requests });
});
process.on("disconnect", () => process.exit(0));
server.listen(0, "127.0.0.1", () => process.send({ port: server.address().port }));
