// A headless Chromium driven over its debugging pipe (Chrome DevTools Protocol: JSON, each message ended by a zero
// byte, on file descriptors 3 and 4). No port, no driver, no dependency.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required",
  "--remote-debugging-pipe", "--window-size=1440,900", "--mute-audio",
];

export function findChromium() {
  return ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((path) => existsSync(path));
}

export class Chromium {
  static async start(path) {
    const profile = mkdtempSync(join(tmpdir(), "oca-player-chromium-"));
    const child = spawn(path, [...FLAGS, `--user-data-dir=${profile}`, "about:blank"], {
      stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
      detached: true,
    });
    const browser = new Chromium(child, profile);
    await browser.send("Browser.getVersion");
    return browser;
  }

  constructor(child, profile) {
    this.child = child;
    this.profile = profile;
    this.pending = new Map();
    this.listeners = new Set();
    this.nextId = 0;
    let rest = "";
    child.stdio[4].setEncoding("utf8");
    child.stdio[4].on("data", (text) => {
      const messages = (rest + text).split("\0");
      rest = messages.pop();
      for (const message of messages) this.receive(JSON.parse(message));
    });
    child.stdio[3].on("error", () => {});
    child.on("exit", () => {
      for (const { reject } of this.pending.values()) reject(new Error("chromium ended"));
      this.pending.clear();
    });
  }

  receive(message) {
    const waiting = this.pending.get(message.id);
    if (waiting === undefined) {
      for (const listener of this.listeners) listener(message);
      return;
    }
    this.pending.delete(message.id);
    if (message.error) waiting.reject(new Error(message.error.message));
    else waiting.resolve(message.result);
  }

  send(method, params = {}, sessionId = undefined) {
    const id = (this.nextId += 1);
    const answer = new Promise((resolve, reject) => this.pending.set(id, { resolve, reject }));
    this.child.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return answer;
  }

  /** A new tab. `complaints` collects what the page's policy or an uncaught error says. */
  async open(url, { dark = false, width = 1440, height = 900 } = {}) {
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    const page = new Tab(this, targetId, sessionId);
    await page.send("Runtime.enable");
    await page.send("Log.enable");
    await page.send("Page.enable");
    const features = [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }];
    await page.send("Emulation.setEmulatedMedia", { features });
    await page.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: false });
    await page.send("Page.navigate", { url });
    await page.until("location.href !== 'about:blank' && document.readyState === 'complete'", 10_000);
    return page;
  }

  async stop() {
    const gone = new Promise((resolve) => this.child.once("exit", resolve));
    // The whole group: Chromium's own children outlive a killed parent.
    try { process.kill(-this.child.pid, "SIGKILL"); } catch { /* it has ended by itself */ }
    await gone;
    rmSync(this.profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  }
}

class Tab {
  constructor(browser, targetId, sessionId) {
    this.browser = browser;
    this.targetId = targetId;
    this.sessionId = sessionId;
    this.complaints = [];
    browser.listeners.add((message) => this.hear(message));
  }

  hear({ method, params, sessionId }) {
    if (sessionId !== this.sessionId) return;
    if (method === "Runtime.exceptionThrown") {
      this.complaints.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    }
    if (method === "Log.entryAdded" && params.entry.source === "security") this.complaints.push(params.entry.text);
  }

  send(method, params) {
    return this.browser.send(method, params, this.sessionId);
  }

  async evaluate(expression) {
    const options = { expression, returnByValue: true, awaitPromise: true, userGesture: true };
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", options);
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  /** Asks again until the expression is truthy; the limit bounds it, it is not what is waited for. */
  async until(expression, limitMs) {
    const end = Date.now() + limitMs;
    for (;;) {
      const value = await this.evaluate(expression);
      if (value) return value;
      if (Date.now() > end) {
        const state = await this.evaluate("JSON.stringify(window.ocaCheck ?? null)");
        throw new Error(`not true in ${limitMs} ms: ${expression}; the page says ${state}; ${this.complaints.join("; ")}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async screenshot() {
    const { data } = await this.send("Page.captureScreenshot", { format: "png" });
    return Buffer.from(data, "base64");
  }

  close() {
    return this.browser.send("Target.closeTarget", { targetId: this.targetId });
  }
}
