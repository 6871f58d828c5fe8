// A small fleet for the player's browser test: a stand-in control plane in this process, two stand-in appliances in
// their own. Everything listens on 127.0.0.1 at free ports.

import { fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import http from "node:http";
import { fileURLToPath } from "node:url";

const DIST = new URL("../../dist/", import.meta.url);
const BOX = fileURLToPath(new URL("box.mjs", import.meta.url));
/** What oca-control sends. */
const POLICY = "default-src 'self'; connect-src *; media-src 'self' blob:; worker-src 'self' blob:; img-src 'self' data:; " +
  "style-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
const TYPES = { html: "text/html; charset=utf-8", js: "text/javascript; charset=utf-8", css: "text/css; charset=utf-8" };

export class Lab {
  static async start(title, { bytesPerSecond = 400_000 } = {}) {
    const lab = new Lab(title, bytesPerSecond);
    for (const name of ["box-a", "box-b"]) await lab.startBox(name);
    await new Promise((resolve) => lab.server.listen(0, "127.0.0.1", resolve));
    lab.url = `http://127.0.0.1:${lab.server.address().port}`;
    return lab;
  }

  constructor(title, bytesPerSecond) {
    this.title = title;
    this.bytesPerSecond = bytesPerSecond;
    this.boxes = new Map();
    this.plays = 0;
    this.server = http.createServer((request, response) => this.answer(request, response));
  }

  async startBox(name) {
    const child = fork(BOX, [this.title.objects, String(this.bytesPerSecond)], { stdio: "inherit" });
    const [{ port }] = await once(child, "message");
    this.boxes.set(name, { child, port, alive: true });
  }

  async order(name, manner) {
    const { child } = this.boxes.get(name);
    child.send({ manner });
    await once(child, "message");
  }

  async kill(name) {
    const box = this.boxes.get(name);
    if (!box.alive) return;
    box.alive = false;
    const gone = once(box.child, "exit");
    box.child.kill("SIGKILL");
    await gone;
  }

  async stop() {
    await Promise.all([...this.boxes.keys()].map((name) => this.kill(name)));
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  answer(request, response) {
    const { pathname } = new URL(request.url, this.url);
    const json = (value, status = 200) => {
      const type = status === 200 ? "application/json" : "application/problem+json";
      response.writeHead(status, { "Content-Type": type }).end(JSON.stringify(value));
    };
    if (pathname === "/") return this.file(response, "index.html");
    if (pathname.startsWith("/assets/")) return this.file(response, pathname.slice("/assets/".length));
    if (pathname === "/v1/titles") return json([{ title: "night-train", name: "Night Train", duration_ms: this.title.durationMs }]);
    if (pathname === "/v1/fleet") return json(this.fleet());
    if (pathname === "/v1/plays") return this.play(request, json);
    if (pathname === "/v1/plays/multivariant.m3u8") {
      return response.writeHead(200, { "Content-Type": "application/vnd.apple.mpegurl" }).end(this.multivariant());
    }
    const stopping = /^\/stop\/(box-[ab])$/.exec(pathname);
    if (stopping) return void this.kill(stopping[1]).then(() => response.writeHead(204).end());
    json({ type: "about:blank", title: "Not found", status: 404, detail: pathname }, 404);
  }

  file(response, name) {
    if (!/^[a-z]+\.(html|js|css)$/.test(name)) return response.writeHead(404).end();
    const head = { "Content-Type": TYPES[name.split(".")[1]], "Content-Security-Policy": POLICY };
    response.writeHead(200, head).end(readFileSync(new URL(name, DIST)));
  }

  async play(request, json) {
    let body = "";
    for await (const piece of request) body += piece;
    const asked = JSON.parse(body);
    if (asked.territory !== "SE") {
      const detail = `night-train is not licensed for the territory ${asked.territory}`;
      return json({ type: "/problems/territory", title: "Not licensed here", status: 403, detail }, 403);
    }
    this.plays += 1;
    this.token = `token-${this.plays}`;
    json(this.playAnswer(asked));
  }

  playAnswer({ session, title }) {
    const base = (name) => `http://127.0.0.1:${this.boxes.get(name).port}`;
    const names = [...this.boxes.keys()];
    const object = (tier, { object, file, bytes }) => {
      return { object, bytes, urls: names.map((name) => `${base(name)}/~${this.token}/night-train/${tier}/${file}`) };
    };
    return {
      session,
      title,
      name: "Night Train",
      duration_ms: this.title.durationMs,
      token: this.token,
      expires: new Date(Date.now() + 3_600_000).toISOString(),
      hls: `${this.url}/v1/plays/multivariant.m3u8?session=${session}`,
      appliances: names.map((name) => ({ appliance: name, cluster: "lab", base_url: base(name) })),
      streams: this.title.streams.map((stream) => ({
        ...stream,
        bandwidth_bps: stream.bps,
        average_bandwidth_bps: stream.bps,
        track: object(stream.tier, stream.track),
        playlist: object(stream.tier, stream.playlist),
      })),
    };
  }

  multivariant() {
    const { port } = this.boxes.get("box-a");
    const uri = ({ tier, playlist }) => `http://127.0.0.1:${port}/~${this.token}/night-train/${tier}/${playlist.file}`;
    const lines = ["#EXTM3U", "#EXT-X-VERSION:7", "#EXT-X-INDEPENDENT-SEGMENTS"];
    for (const stream of this.title.streams) {
      const { kind, language, bps, codecs, width, height } = stream;
      const chosen = language === "en" ? "YES" : "NO";
      if (kind === "audio") {
        lines.push(`#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="audio",NAME="${language}",LANGUAGE="${language}",DEFAULT=${chosen},AUTOSELECT=YES,URI="${uri(stream)}"`);
      } else if (kind === "subtitles") {
        lines.push(`#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="text",NAME="${language}",LANGUAGE="${language}",DEFAULT=NO,AUTOSELECT=YES,URI="${uri(stream)}"`);
      } else {
        lines.push(`#EXT-X-STREAM-INF:BANDWIDTH=${bps + 70_000},CODECS="${codecs},mp4a.40.2",RESOLUTION=${width}x${height},AUDIO="audio",SUBTITLES="text"`);
        lines.push(uri(stream));
      }
    }
    return `${lines.join("\n")}\n`;
  }

  fleet() {
    return [...this.boxes].map(([appliance, { alive, port }]) => ({
      appliance,
      cluster: "lab",
      base_url: `http://127.0.0.1:${port}`,
      offered: alive,
      reason: alive ? undefined : "silent",
      age_ms: alive ? 400 : 9_000,
      report: {
        health: "ok", limited_by: "none", headroom: 0.93, draining: false,
        server: { rate_bps: alive ? 2_400_000 : 0, connections: 3 },
      },
    }));
  }
}
