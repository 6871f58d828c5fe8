import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";

import type { LoaderConfiguration, LoaderContext, LoaderResponse, LoaderStats } from "hls.js";

import { loaderFor, type Delivered, type LoaderHost } from "../src/loader";
import { Bans } from "../src/ranking";

const OBJECT = "ab".repeat(32);
const BODY = Uint8Array.from({ length: 300 }, (_, index) => index % 251);

/** One answer of a stand-in network: how long until it comes on a stand-in clock, and what it is. */
type Answer = (clock: Clock, range: [number, number], signal: AbortSignal) => Promise<Response>;

class Clock {
  ms = 1_000;
}

interface Outcome {
  response: LoaderResponse | null;
  stats: LoaderStats;
  asked: string[];
  declined: string[];
  delivered: Delivered[];
}

test("time lost on an appliance that fails is not in the bandwidth that hls.js measures", async (t) => {
  const { response, stats, declined } = await load(t, [
    async (clock) => {
      clock.ms += 900;
      return new Response("draining", { status: 503 });
    },
    async (clock, range) => {
      clock.ms += 10;
      return partial(range, clock, 20);
    },
  ]);
  assert.deepEqual(declined, ["box-a: busy or draining"]);
  assert.deepEqual([stats.loading.first - stats.loading.start, stats.loading.end - stats.loading.start], [30, 30]);
  assert.deepEqual([stats.loaded, stats.total], [100, 100]);
  assert.deepEqual(new Uint8Array(response?.data as ArrayBuffer), BODY.slice(100, 200));
});

test("a body that breaks off is completed by the next appliance, byte for byte", async (t) => {
  const { response, asked, delivered } = await load(t, [
    async (_clock, [first]) => {
      const pieces = [BODY.slice(first, first + 37)];
      const body = new ReadableStream({
        pull(controller) {
          const piece = pieces.pop();
          if (piece === undefined) controller.error(new TypeError("network error"));
          else controller.enqueue(piece);
        },
      });
      return new Response(body, { status: 206, headers: { "Content-Length": "100" } });
    },
    async (clock, range) => partial(range, clock, 5),
  ]);
  assert.deepEqual(asked, ["http://box-a/ bytes=100-199", "http://box-b/ bytes=137-199"]);
  assert.deepEqual(new Uint8Array(response?.data as ArrayBuffer), BODY.slice(100, 200));
  assert.deepEqual(delivered.map(({ appliance, span }) => [appliance, span]), [["box-b", { first: 100, last: 199 }]]);
});

test("an aborted load ends its request and says nothing more", async (t) => {
  let signal: AbortSignal | undefined;
  const { response, stats } = await load(
    t,
    [(_clock, _range, given) => new Promise((_, reject) => {
      signal = given;
      given.addEventListener("abort", () => reject(new DOMException("aborted", "AbortError")));
    })],
    (loader) => loader.abort(),
  );
  assert.equal(response, null);
  assert.equal(signal?.aborted, true);
  assert.equal(stats.aborted, true);
});

function partial([first, last]: [number, number], clock: Clock, ms: number): Response {
  const body = new ReadableStream({
    pull(controller) {
      clock.ms += ms;
      controller.enqueue(BODY.slice(first, last + 1));
      controller.close();
    },
  }, { highWaterMark: 0 });
  const headers = { "Content-Range": `bytes ${first}-${last}/${BODY.length}` };
  return new Response(body, { status: 206, headers });
}

/** Loads bytes 100 to 199 of the object, each request answered by the next of the answers. */
async function load(
  t: TestContext,
  answers: Answer[],
  meddle: (loader: { abort(): void }) => void = () => {},
): Promise<Outcome> {
  const clock = new Clock();
  const outcome: Omit<Outcome, "response" | "stats"> = { asked: [], declined: [], delivered: [] };
  t.mock.method(performance, "now", () => clock.ms);
  t.mock.method(globalThis, "fetch", (url: string, init: { headers: Record<string, string>; signal: AbortSignal }) => {
    const range = init.headers["Range"] ?? "";
    outcome.asked.push(`${url} ${range}`);
    const answer = answers.shift();
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(range) ?? [];
    return answer?.(clock, [Number(first), Number(last)], init.signal) ?? Promise.reject(new TypeError("refused"));
  });
  const host: LoaderHost = {
    bans: new Bans(),
    find: () => ({
      bytes: BODY.length,
      candidates: ["box-a", "box-b"].map((appliance) => ({ appliance, url: `http://${appliance}/` })),
    }),
    bufferMs: () => 8_000,
    renew: () => Promise.resolve(),
    onBytes: () => {},
    onDeclined: (appliance, _name, reason) => outcome.declined.push(`${appliance}: ${reason}`),
    onDone: (delivered) => outcome.delivered.push(delivered),
  };
  const loader = new (loaderFor(host))({} as never);
  const stats = loader.stats;
  const context = { url: `http://box-a/~t/n/sd/${OBJECT}.mp4`, rangeStart: 100, rangeEnd: 200, responseType: "arraybuffer" };
  const response = await new Promise<LoaderResponse | null>((resolve) => {
    loader.load(context as LoaderContext, { loadPolicy: { maxLoadTimeMs: 60_000 } } as LoaderConfiguration, {
      onSuccess: (given) => resolve(given),
      onError: () => resolve(null),
      onTimeout: () => resolve(null),
      onAbort: () => resolve(null),
    });
    meddle(loader);
  });
  loader.destroy();
  return { response, stats, ...outcome };
}
