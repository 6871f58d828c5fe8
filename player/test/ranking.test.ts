import assert from "node:assert/strict";
import { test } from "node:test";

import { BAN_MS, Bans, rankingOf, renewedRanking } from "../src/ranking";
import type { PlayAnswer } from "../src/play";

const A = { appliance: "a", url: "http://a/" };
const B = { appliance: "b", url: "http://b/" };

test("the best ranked is chosen until it declines, and again after thirty seconds", () => {
  const bans = new Bans();
  assert.equal(bans.choose([A, B], "x", 0)?.appliance, "a");
  bans.ban("a", null, 0);
  assert.equal(bans.choose([A, B], "x", BAN_MS - 1)?.appliance, "b");
  assert.equal(bans.choose([A, B], "x", BAN_MS)?.appliance, "a");
});

test("one missing object bans an appliance for that object alone", () => {
  const bans = new Bans();
  bans.ban("a", "x", 0);
  assert.equal(bans.choose([A, B], "x", 1)?.appliance, "b");
  assert.equal(bans.choose([A, B], "y", 1)?.appliance, "a");
});

test("when all are banned the one banned longest ago is tried", () => {
  const bans = new Bans();
  bans.ban("b", null, 0);
  bans.ban("a", null, 10);
  assert.deepEqual(bans.choose([A, B], "x", 20), { ...B, desperate: true });
  bans.ban("b", null, 30);
  assert.equal(bans.choose([A, B], "x", 40)?.appliance, "a");
});

test("an answer to a request from before the ban does not lift it", () => {
  const bans = new Bans();
  bans.ban("a", null, 100);
  bans.lift("a", "x", 99);
  assert.equal(bans.choose([A, B], "x", 101)?.appliance, "b");
  bans.lift("a", "x", 100);
  assert.equal(bans.choose([A, B], "x", 101)?.appliance, "a");
});

test("a renewed play brings new tokens, also for objects that it no longer names", () => {
  const old = rankingOf(answer("t1", ["11", "22"]));
  const renewed = renewedRanking(old, answer("t2", ["11", "33"]));
  assert.deepEqual(renewed.get("11")?.candidates, [{ appliance: "box-a", url: "http://127.0.0.2:80/~t2/n/sd/11.mp4" }]);
  assert.deepEqual(renewed.get("22")?.candidates, [{ appliance: "box-a", url: "http://127.0.0.2:80/~t2/n/sd/22.mp4" }]);
});

function answer(token: string, objects: string[]): PlayAnswer {
  const object = (name: string, extension: string) => {
    return { object: name, bytes: 9, urls: [`http://127.0.0.2:80/~${token}/n/sd/${name}.${extension}`] };
  };
  const stream = (name: string) => ({
    id: name,
    tier: "sd",
    kind: "video" as const,
    codecs: "avc1.64001f",
    bandwidth_bps: 1,
    average_bandwidth_bps: 1,
    track: object(name, "mp4"),
    playlist: object(`p${name}`, "m3u8"),
  });
  return {
    session: "s",
    title: "n",
    name: "N",
    duration_ms: 1,
    token,
    expires: "2026-01-01T00:00:00Z",
    hls: "",
    dash: "",
    appliances: [{ appliance: "box-a", cluster: "lab", base_url: "http://127.0.0.2:80" }],
    streams: objects.map(stream),
  };
}
