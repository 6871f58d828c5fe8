import assert from "node:assert/strict";
import { test } from "node:test";

import { addressOf, loopbackOf } from "../src/address";
import { conditionOf, fleetOf } from "../src/fleet";
import { mediaNameOf, withToken } from "../src/names";
import { patienceFor } from "../src/patience";
import { problemOf, Refusal, Unreachable, wordsFor } from "../src/problem";
import { Tally } from "../src/tally";
import { Waits } from "../src/waits";
import * as words from "../src/words";

const DIGEST = "ab".repeat(32);

test("a media URL gives its name, and any other URL gives none", () => {
  const url = `http://127.0.0.2:8080/~to.k-e_n/night-train/sd/${DIGEST}.mp4`;
  assert.deepEqual(mediaNameOf(`${url}?x=1`), { title: "night-train", tier: "sd", object: DIGEST, extension: "mp4" });
  assert.equal(withToken(url, "new"), `http://127.0.0.2:8080/~new/night-train/sd/${DIGEST}.mp4`);
  for (const bad of [
    "",
    "http://127.0.0.1:8000/v1/plays/multivariant.m3u8",
    url.replace("/~to.k-e_n", ""),
    url.replace("/sd/", "/4k/"),
    url.replace(".mp4", ".exe"),
    url.replace("ab", "AB"),
  ]) {
    assert.equal(mediaNameOf(bad), null, bad);
  }
});

test("patience is a quarter of the buffer within limits, and doubles with each time-out", () => {
  assert.equal(patienceFor(8_000, 0).firstByteMs, 2_000);
  assert.equal(patienceFor(0, 0).firstByteMs, 1_000);
  assert.equal(patienceFor(60_000, 0).firstByteMs, 4_000);
  assert.equal(patienceFor(null, 0).firstByteMs, 2_000);
  assert.equal(patienceFor(8_000, 2).progressMs, 8_000);
  assert.equal(patienceFor(8_000, 50).progressMs, 16_000);
});

test("a wait counts from the picture's standing still until it moves", () => {
  const waits = new Waits();
  waits.step({ kind: "waiting", seeking: false, leftMs: 9_000 }, 0);
  waits.step({ kind: "moving" }, 500);
  assert.deepEqual(waits.periods, [], "the wait for the first picture is no stall");
  waits.step({ kind: "waiting", seeking: false, leftMs: 9_000 }, 1_000);
  waits.step({ kind: "waiting", seeking: true, leftMs: 9_000 }, 1_100);
  assert.equal(waits.current(1_200), 200);
  assert.equal(waits.step({ kind: "moving" }, 1_300), true);
  assert.deepEqual(waits.periods, [300]);
  assert.equal(waits.current(2_000), 0);
});

test("neither a viewer's seek nor the end of the title is a stall", () => {
  const waits = new Waits();
  waits.step({ kind: "moving" }, 0);
  waits.step({ kind: "waiting", seeking: true, leftMs: 9_000 }, 10);
  waits.step({ kind: "moving" }, 900);
  waits.step({ kind: "waiting", seeking: false, leftMs: 40 }, 1_000);
  waits.step({ kind: "ended" }, 2_000);
  assert.deepEqual(waits.periods, []);
});

test("a stall that only the end of the title ends is a stall", () => {
  const waits = new Waits();
  waits.step({ kind: "moving" }, 0);
  waits.step({ kind: "waiting", seeking: false, leftMs: 5_000 }, 1_000);
  waits.step({ kind: "ended" }, 4_000);
  assert.deepEqual(waits.periods, [3_000]);
});

test("the tally counts moves of the picture and requests that were wasted", () => {
  const tally = new Tally();
  tally.addPicture("a", 0);
  tally.addPicture("a", 1);
  tally.addDeclined("a", "busy or draining", 503, 2);
  tally.addPicture("b", 3);
  tally.addBytes("b", 5);
  tally.addBytes("b", 5);
  assert.deepEqual([tally.serving, tally.switches, tally.wastedRequests, tally.bytes.get("b")], ["b", 1, 1, 10]);
  assert.deepEqual(tally.moves.map(({ appliance, text }) => `${appliance} ${text}`), [
    "a serves",
    "a is busy or draining (503)",
    "b takes over",
  ]);
});

test("a refusal is told in a viewer's words with the service's own beneath", () => {
  const problem = problemOf(403, JSON.stringify({ type: "/problems/territory", title: "T", status: 403, detail: "not in US" }));
  const told = wordsFor(new Refusal(problem));
  assert.equal(told.headline, "Not available where you are");
  assert.equal(told.detail, "not in US");
  assert.equal(wordsFor(new Refusal(problemOf(503, "<html>"))).headline, "No appliance can serve it now");
  assert.equal(wordsFor(new Refusal(problemOf(418, "null"))).headline, "The service answered 418");
  assert.equal(wordsFor(new Unreachable("refused")).headline, "The control plane is out of reach");
});

test("the fleet is read with tolerance", () => {
  const report = { health: "degraded", headroom: 0.5, draining: false, limited_by: "none", server: null };
  const [good, silent, ...rest] = fleetOf([
    { appliance: "a", cluster: "c", base_url: "http://a", offered: true, age_ms: 3, report, news: 1 },
    { appliance: "b", offered: false, reason: "silent", age_ms: 9_000, report: null },
    "rubbish",
    null,
  ]);
  assert.deepEqual(rest, []);
  assert.deepEqual(conditionOf(good), { light: "warn", word: "degraded" });
  assert.deepEqual(conditionOf(silent), { light: "bad", word: "silent" });
  assert.deepEqual(conditionOf(undefined), { light: "unknown", word: "not listed" });
  assert.deepEqual(fleetOf("rubbish"), []);
});

test("orders to stop an appliance go to this machine only", () => {
  assert.equal(loopbackOf("http://127.0.0.1:9000/x"), "http://127.0.0.1:9000");
  for (const bad of [null, "", "http://example.org", "https://127.0.0.1", "http://127.0.0.1.example.org", "javascript:1"]) {
    assert.equal(loopbackOf(bad), null, String(bad));
  }
  assert.equal(addressOf("?buffer=rubbish&check=1").bufferS, undefined);
  assert.deepEqual([addressOf("?buffer=8").bufferS, addressOf("?check=1").check], [8, true]);
});

test("numbers are written for people", () => {
  assert.deepEqual([words.bitrate(950), words.bitrate(64_000), words.bitrate(5_800_000)], ["950 b/s", "64 kb/s", "5.8 Mb/s"]);
  assert.deepEqual([words.bytes(12), words.bytes(18_400_000)], ["12 B", "18.4 MB"]);
  assert.deepEqual([words.duration(59_600), words.duration(3_725_000)], ["1:00", "1:02:05"]);
  assert.deepEqual([words.milliseconds(212.4), words.milliseconds(1_030)], ["212 ms", "1.03 s"]);
});
