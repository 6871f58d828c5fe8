import assert from "node:assert/strict";
import { test } from "node:test";

import { patienceFor } from "../src/patience";
import { Bans } from "../src/ranking";
import { ATTEMPTS_MAX, parseContentRange, Transfer, type Action, type Span } from "../src/transfer";

const SIZE = 1000;
const SPAN: Span = { first: 100, last: 199 };

function transfer(names: string[], span: Span | null = SPAN, bans = new Bans()): Transfer {
  const candidates = () => names.map((appliance) => ({ appliance, url: `http://${appliance}/` }));
  const patience = (timeouts: number) => patienceFor(8_000, timeouts);
  return new Transfer({ object: "x", span, size: SIZE }, { candidates, patience, bans });
}

function head(first: number, last: number, status = 206) {
  return { kind: "head" as const, status, range: { first, last, size: SIZE }, length: last - first + 1, etag: null };
}

function opened(actions: Action[]): { appliance: string; range: string | null } | null {
  const open = actions.find((action): action is Action & { kind: "open" } => action.kind === "open");
  return open === undefined ? null : { appliance: open.appliance, range: open.range };
}

function declined(actions: Action[]): string | null {
  const found = actions.find((action): action is Action & { kind: "declined" } => action.kind === "declined");
  return found === undefined ? null : `${found.appliance}: ${found.reason}`;
}

test("a tag that is no digest says nothing", () => {
  const it = transfer(["a", "b"]);
  it.step({ kind: "start" }, 0);
  assert.deepEqual(it.step({ ...head(100, 199), etag: 'W/"12-34"' }, 1), [{ kind: "read" }]);
});

test("a span arrives from the best appliance", () => {
  const it = transfer(["a", "b"]);
  assert.deepEqual(opened(it.step({ kind: "start" }, 0)), { appliance: "a", range: "bytes=100-199" });
  assert.deepEqual(it.step(head(100, 199), 1), [{ kind: "read" }]);
  it.step({ kind: "bytes", count: 100 }, 2);
  assert.deepEqual(it.step({ kind: "end" }, 3), [{ kind: "done", appliance: "a" }]);
  assert.equal(it.deadline, null);
});

test("a connection lost in mid-body is resumed at the next appliance from where it broke", () => {
  const it = transfer(["a", "b"]);
  it.step({ kind: "start" }, 0);
  it.step(head(100, 199), 1);
  it.step({ kind: "bytes", count: 40 }, 2);
  const actions = it.step({ kind: "broken" }, 3);
  assert.equal(declined(actions), "a: connection lost");
  assert.deepEqual(opened(actions), { appliance: "b", range: "bytes=140-199" });
  it.step(head(140, 199), 4);
  it.step({ kind: "bytes", count: 60 }, 5);
  assert.deepEqual(it.step({ kind: "end" }, 6), [{ kind: "done", appliance: "b" }]);
});

for (const [status, reason] of [
  [503, "busy or draining"],
  [429, "too many requests"],
  [404, "does not hold it"],
  [500, "error"],
] as const) {
  test(`a ${status} moves to the next appliance with one request wasted`, () => {
    const bans = new Bans();
    const it = transfer(["a", "b"], SPAN, bans);
    it.step({ kind: "start" }, 0);
    const actions = it.step({ kind: "head", status, range: null, length: 0, etag: null }, 1);
    assert.equal(declined(actions), `a: ${reason}`);
    assert.equal(opened(actions)?.appliance, "b");
    const later = transfer(["a", "b"], SPAN, bans);
    assert.equal(opened(later.step({ kind: "start" }, 2))?.appliance, "b");
  });
}

for (const [what, answer] of [
  ["another range than asked", head(101, 199)],
  ["a range that begins elsewhere, of unknown length", { ...head(101, 199), length: null }],
  ["a shorter range than asked", { ...head(100, 198), length: 100 }],
  ["a shorter length than asked", { ...head(100, 199), length: 99 }],
  ["another size of the object", { ...head(100, 199), range: { first: 100, last: 199, size: 999 } }],
  ["the tag of another object", { ...head(100, 199), etag: `"${"0".repeat(64)}"` }],
  ["the whole object instead of the range", head(100, 199, 200)],
] as const) {
  test(`${what} is a failure of that appliance`, () => {
    const it = transfer(["a", "b"]);
    it.step({ kind: "start" }, 0);
    const actions = it.step(answer, 1);
    assert.equal(declined(actions), "a: wrong bytes");
    assert.deepEqual(opened(actions), { appliance: "b", range: "bytes=100-199" });
  });
}

test("nothing of a body that ends early or goes on too long is kept", () => {
  for (const ending of [[{ kind: "end" as const }], [{ kind: "bytes" as const, count: 90 }]]) {
    const it = transfer(["a", "b"]);
    it.step({ kind: "start" }, 0);
    it.step({ ...head(100, 199), range: null, length: null }, 1);
    it.step({ kind: "bytes", count: 30 }, 2);
    const actions = ending.flatMap((event) => it.step(event, 3));
    assert.deepEqual(opened(actions), { appliance: "b", range: "bytes=100-199" });
    assert.equal(it.received, 0);
  }
});

test("a silent appliance is left after a quarter of the buffer, the next one gets twice as long", () => {
  const it = transfer(["a", "b"]);
  it.step({ kind: "start" }, 0);
  assert.equal(it.deadline, 2_000);
  assert.deepEqual(it.step({ kind: "deadline" }, 1_999), []);
  const actions = it.step({ kind: "deadline" }, 2_000);
  assert.equal(declined(actions), "a: no answer in time");
  assert.equal(opened(actions)?.appliance, "b");
  assert.equal(it.deadline, 6_000);
});

test("a body that stops is resumed elsewhere; one that trickles is not late", () => {
  const it = transfer(["a", "b"]);
  it.step({ kind: "start" }, 0);
  it.step(head(100, 199), 10);
  for (let at = 1_000; at <= 5_000; at += 1_000) {
    assert.deepEqual(it.step({ kind: "deadline" }, at), []);
    it.step({ kind: "bytes", count: 1 }, at);
  }
  const actions = it.step({ kind: "deadline" }, 7_000);
  assert.equal(declined(actions), "a: stopped sending");
  assert.deepEqual(opened(actions), { appliance: "b", range: "bytes=105-199" });
});

test("when all decline they are asked again, ever more slowly, and then it fails", () => {
  const it = transfer(["a", "b"]);
  const asked: string[] = [];
  let now = 0;
  let actions = it.step({ kind: "start" }, now);
  for (let turn = 0; turn < 100 && !actions.some(({ kind }) => kind === "failed"); turn += 1) {
    const next = opened(actions);
    if (next !== null) asked.push(next.appliance);
    if (next === null) now = it.deadline ?? now;
    actions = it.step({ kind: next === null ? "deadline" : "broken" }, now);
  }
  assert.equal(asked.length, ATTEMPTS_MAX);
  assert.deepEqual(asked.slice(0, 4), ["a", "b", "a", "b"]);
  assert.ok(now > 5_000 && now < 30_000, `gave up after ${now} ms`);
  assert.deepEqual(actions.at(-1), { kind: "failed", reason: "unreachable" });
});

test("an ended token renews the play once, without blaming the appliance", () => {
  const it = transfer(["a", "b"]);
  it.step({ kind: "start" }, 0);
  assert.deepEqual(it.step({ kind: "forbidden", expired: true }, 1), [{ kind: "renew" }]);
  assert.equal(it.deadline, null);
  assert.equal(opened(it.step({ kind: "renewed" }, 2))?.appliance, "a");
  const again = it.step({ kind: "forbidden", expired: true }, 3);
  assert.equal(declined(again), "a: token refused");
  assert.equal(opened(again)?.appliance, "b");
});

test("a token that is refused for another reason moves at once", () => {
  const it = transfer(["a", "b"]);
  it.step({ kind: "start" }, 0);
  assert.equal(opened(it.step({ kind: "forbidden", expired: false }, 1))?.appliance, "b");
});

test("an appliance that delivers when nobody else is left is asked first again", () => {
  const bans = new Bans();
  bans.ban("a", null, 0);
  bans.ban("b", null, 1);
  const it = transfer(["a", "b"], SPAN, bans);
  assert.equal(opened(it.step({ kind: "start" }, 10))?.appliance, "a");
  it.step(head(100, 199), 11);
  it.step({ kind: "bytes", count: 100 }, 12);
  it.step({ kind: "end" }, 13);
  assert.equal(bans.bannedUntil("a", 14), null);
  assert.notEqual(bans.bannedUntil("b", 14), null);
});

test("a whole object is asked for without a range, and resumed with one", () => {
  const it = transfer(["a", "b"], null);
  assert.deepEqual(opened(it.step({ kind: "start" }, 0)), { appliance: "a", range: null });
  it.step({ kind: "head", status: 200, range: null, length: SIZE, etag: null }, 1);
  it.step({ kind: "bytes", count: 600 }, 2);
  assert.deepEqual(opened(it.step({ kind: "broken" }, 3)), { appliance: "b", range: "bytes=600-999" });
});

test("events that come after the end change nothing", () => {
  const it = transfer(["a"]);
  it.step({ kind: "start" }, 0);
  it.step(head(100, 199), 1);
  it.step({ kind: "bytes", count: 100 }, 2);
  it.step({ kind: "end" }, 3);
  for (const event of [{ kind: "broken" }, { kind: "deadline" }, { kind: "end" }, { kind: "start" }] as const) {
    assert.deepEqual(it.step(event, 99_999), []);
  }
});

/** The slowest obvious reading: whatever order of faults, what is kept is a prefix, and it ends. */
test("from a thousand seeds the bytes that are kept are those of the span, in order", () => {
  for (let seed = 1; seed <= 1_000; seed += 1) {
    const random = generator(seed);
    const it = transfer(["a", "b", "c"]);
    const kept: number[] = [];
    let now = 0;
    let at = 0;
    let queue = it.step({ kind: "start" }, now);
    for (let turn = 0; ; turn += 1) {
      assert.ok(turn < 2_000, `seed ${seed} does not end`);
      const last = queue.at(-1);
      if (last?.kind === "done") {
        assert.deepEqual(kept.slice(0, it.received), Array.from({ length: 100 }, (_, index) => 100 + index), `seed ${seed}`);
        break;
      }
      if (last?.kind === "failed") break;
      if (last?.kind === "open") {
        at = Number(/^bytes=(\d+)-199$/.exec(last.range ?? "")?.[1]);
        assert.equal(at, 100 + it.received, `seed ${seed} asks for other bytes than it lacks`);
        const statuses = [206, 206, 206, 503, 404];
        const status = statuses[Math.floor(random() * statuses.length)] ?? 206;
        queue = random() < 0.2 ? it.step({ kind: "broken" }, now) : it.step({ ...head(at, 199), status }, now);
      } else if (last?.kind === "read" && random() < 0.8 && at <= 199) {
        const count = Math.min(1 + Math.floor(random() * 50), 200 - at);
        kept.length = it.received;
        for (let index = 0; index < count; index += 1) kept.push(at + index);
        at += count;
        queue = it.step({ kind: "bytes", count }, now);
      } else if (last?.kind === "read") {
        queue = it.step({ kind: random() < 0.5 ? "broken" : "end" }, now);
      } else {
        now = it.deadline ?? now + 1;
        queue = it.step({ kind: "deadline" }, now);
      }
    }
  }
});

test("a Content-Range is read to the letter", () => {
  assert.deepEqual(parseContentRange("bytes 0-99/1234"), { first: 0, last: 99, size: 1234 });
  assert.deepEqual(parseContentRange("bytes 5-9/*"), { first: 5, last: 9, size: null });
  for (const bad of [null, "", "bytes */99", "bytes=0-1/2", "bytes 0-1", "bytes -1-2/3"]) {
    assert.equal(parseContentRange(bad), null, String(bad));
  }
});

/** Park and Miller's minimal standard generator. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
}
