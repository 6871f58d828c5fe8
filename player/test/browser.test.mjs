// The bundle in a headless Chromium, against appliances that are killed, drain, fall silent or lie in mid-play. What
// must hold each time: the title plays to its end, never waits more than 250 ms after the first picture, wastes few
// requests, and every byte is the origin's. Skips, saying so, where Chromium or ffmpeg is missing.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";

import { Chromium, findChromium } from "./lab/chromium.mjs";
import { Lab } from "./lab/lab.mjs";
import { makeTitle } from "./lab/media.mjs";

const SECONDS = 10;
const TROUBLE_AT_S = 2;
const WAIT_MOST_MS = 250;

const chromium = findChromium();
const missing = [
  chromium === undefined ? "chromium" : null,
  spawnSync("ffmpeg", ["-version"]).status === 0 ? null : "ffmpeg",
].filter((name) => name !== null);
const skip = missing.length > 0 ? `needs ${missing.join(" and ")}, not installed here` : false;

let folder;
let title;

// The form in which the whole suite counts skips.
if (skip) console.log(`SKIP: the player in a browser: ${skip}`);

before(async () => {
  if (skip) return;
  folder = mkdtempSync(join(tmpdir(), "oca-player-"));
  title = makeTitle(folder, SECONDS);
});

after(() => {
  if (folder) rmSync(folder, { recursive: true, force: true });
});

const KINDS = [
  ["is killed", (lab) => lab.kill("box-a")],
  ["drains with 503", (lab) => lab.order("box-a", "unavailable")],
  ["loses its objects (404)", (lab) => lab.order("box-a", "missing")],
  ["stops in mid-body", (lab) => lab.order("box-a", "hangs")],
  ["falls silent", (lab) => lab.order("box-a", "silent")],
  ["answers with another range", (lab) => lab.order("box-a", "short")],
];

// Each plays in real time, and mostly waits.
describe("the player in a browser", { concurrency: 2 }, () => {
  for (const [what, trouble] of KINDS) {
    test(`playback goes on without a stall when the serving appliance ${what}`, { skip, timeout: 60_000 }, async () => {
      await playing({}, async (lab, page) => {
        await trouble(lab);
        const result = await toTheEnd(page);
        assert.equal(result.serving, "box-b");
        assert.equal(result.switches, 1);
        // One for the picture and one for the sound, if both were under way; a 404 is learned object by object.
        assert.ok(result.wastedRequests >= 1 && result.wastedRequests <= 3, `${result.wastedRequests} requests wasted`);
      });
    });
  }

  test("a process killed in the middle of a body costs no more than the rest of that body", { skip, timeout: 60_000 }, async () => {
    // So slow that there is always a body under way.
    await playing({ bytesPerSecond: 160_000 }, async (lab, page) => {
      await lab.kill("box-a");
      const result = await toTheEnd(page);
      assert.equal(result.serving, "box-b");
      const log = await page.evaluate("document.getElementById('log').innerText");
      assert.match(log, /box-a lost the connection/);
    });
  });

  test("an ended token is renewed in mid-play and no appliance is blamed", { skip, timeout: 60_000 }, async () => {
    await playing({}, async (lab, page) => {
      for (const name of ["box-a", "box-b"]) await lab.order(name, "expired");
      const result = await toTheEnd(page);
      assert.deepEqual([result.serving, result.switches, result.wastedRequests, lab.plays], ["box-a", 0, 0, 2]);
    });
  });

  test("an appliance that is dead from the start costs neither the play nor its playlists", { skip, timeout: 60_000 }, async () => {
    await visiting({}, async (lab, browser) => {
      await lab.kill("box-a");
      const page = await browser.open(addressOf(lab));
      const result = await toTheEnd(page);
      assert.equal(result.serving, "box-b");
      assert.ok(result.startMs < 3_000, `started after ${result.startMs} ms`);
    });
  });

  test("when every appliance declines for a while, playback goes on once they are back", { skip, timeout: 60_000 }, async () => {
    await playing({}, async (lab, page) => {
      for (const name of ["box-a", "box-b"]) await lab.order(name, "unavailable");
      await page.until("ocaCheck.waits.at(-1) > 1000", 20_000);
      for (const name of ["box-a", "box-b"]) await lab.order(name, "good");
      const result = await toTheEnd(page, { stalls: true });
      assert.ok(result.waits.length > 0);
      assert.ok(result.wastedRequests <= 2 * 12, `${result.wastedRequests} requests wasted`);
    });
  });

  test("a refusal is shown in words", { skip, timeout: 60_000 }, async () => {
    await visiting({}, async (lab, browser) => {
      const page = await browser.open(`${addressOf(lab)}&territory=US`);
      await page.until("window.ocaCheck?.state === 'error'", 10_000);
      const message = await page.evaluate("document.getElementById('message').innerText");
      assert.match(message, /Not available where you are/);
      assert.match(message, /not licensed for the territory US/);
    });
  });

  test("another language and subtitles can be chosen while it plays", { skip, timeout: 60_000 }, async () => {
    await playing({}, async (_lab, page) => {
      await choose(page, "audio", "Swedish");
      await choose(page, "subtitles", "English");
      const result = await toTheEnd(page);
      const played = new Set(result.fragments.map(({ object }) => object));
      for (const id of ["audio-sv", "subtitles-en"]) {
        const stream = title.streams.find((one) => one.id === id);
        assert.ok(played.has(stream.track.object), `${id} was never fetched`);
      }
    });
  });
});

function addressOf(lab) {
  return `${lab.url}/?title=night-train&autoplay=1&check=1&buffer=5&demo=${encodeURIComponent(lab.url)}`;
}

/** A browser for each: a tab that is not in front does not start to play. */
async function visiting(options, act) {
  const lab = await Lab.start(title, options);
  try {
    const browser = await Chromium.start(chromium);
    try {
      await act(lab, browser);
    } finally {
      await browser.stop();
    }
  } finally {
    await lab.stop();
  }
}

async function playing(options, act) {
  await visiting(options, async (lab, browser) => {
    const page = await browser.open(addressOf(lab));
    await page.until(`ocaCheck.state === 'error' || ocaCheck.currentTime > ${TROUBLE_AT_S}`, 20_000);
    await act(lab, page);
  });
}

async function toTheEnd(page, { stalls = false } = {}) {
  await page.until("['ended', 'error'].includes(ocaCheck.state)", 30_000);
  const result = JSON.parse(await page.evaluate("JSON.stringify(ocaCheck)"));
  assert.equal(result.state, "ended", result.error);
  assert.ok(stalls || result.waits.every((ms) => ms <= WAIT_MOST_MS), `waited ${result.waits} ms`);
  assert.ok(result.startMs > 0);
  assert.deepEqual(page.complaints, []);
  judgeFragments(result.fragments);
  return result;
}

/** Every fragment equals the origin's bytes, and together they cover a picture and a sound without a hole. */
function judgeFragments(fragments) {
  for (const { object, extension, first, last, sha256 } of fragments) {
    const bytes = readFileSync(join(title.objects, `${object}.${extension}`)).subarray(first, last + 1);
    assert.equal(bytes.length, last - first + 1);
    assert.equal(sha256, createHash("sha256").update(bytes).digest("hex"), `${object} ${first}-${last}`);
  }
  const kinds = new Set(fragments.map(({ object }) => title.streams.find((one) => one.track.object === object)?.kind));
  assert.ok(kinds.has("video") && kinds.has("audio"));
  assert.ok(fragments.length >= SECONDS / 2, `only ${fragments.length} fragments`);
}

async function choose(page, id, label) {
  const found = `Array.from(document.getElementById('${id}').options).find((option) => option.text === '${label}')`;
  await page.until(found, 5_000);
  await page.evaluate(`(() => {
    const select = document.getElementById('${id}');
    select.value = ${found}.value;
    select.dispatchEvent(new Event('change'));
  })()`);
}
