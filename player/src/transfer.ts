// One span of one object, fetched from whoever has it: `step(event, now) -> actions`. Pure: opens no connection,
// reads no clock; `loader.ts` carries out the actions and reports the events.
//
//            open                 head ok                bytes, end: all there
//   start ---------> asking --------------------> reading ---------------------> over (done)
//                    ^  |  refused, broken, late     | broken, late, short
//                    |  v                            v
//                  next appliance  <-----------------+     after 12 attempts: over (failed)
//
// What has arrived is kept: the next appliance is asked only for the rest. That is sound because an object never
// changes and its name is its digest. Only an answer that contradicts its own head is thrown away.

import type { Patience } from "./patience";
import type { Bans, Candidate } from "./ranking";

export interface Span {
  first: number;
  /** Inclusive. */
  last: number;
}

export interface ContentRange extends Span {
  /** Null when the answer says `*`. */
  size: number | null;
}

export interface Wanted {
  object: string;
  /** Null: the whole object. */
  span: Span | null;
  /** Of the whole object; null when nobody told us (a URL outside the play). */
  size: number | null;
}

export type TransferEvent =
  | { kind: "start" }
  /** `range`, `length` and `etag` are null where the header is absent or not exposed to us. */
  | { kind: "head"; status: number; range: ContentRange | null; length: number | null; etag: string | null }
  /** 403, with what its body says of the token. */
  | { kind: "forbidden"; expired: boolean }
  | { kind: "bytes"; count: number }
  | { kind: "end" }
  | { kind: "broken" }
  | { kind: "deadline" }
  /** The play was asked for again, with or without success. */
  | { kind: "renewed" };

export type Reason =
  | "unreachable"
  | "connection lost"
  | "no answer in time"
  | "stopped sending"
  | "wrong bytes"
  | "token refused"
  | "busy or draining"
  | "too many requests"
  | "does not hold it"
  | "error";

export type Action =
  | { kind: "open"; appliance: string; url: string; range: string | null }
  | { kind: "read" }
  | { kind: "declined"; appliance: string; reason: Reason; status: number | null }
  | { kind: "wait" }
  | { kind: "renew" }
  | { kind: "done"; appliance: string }
  | { kind: "failed"; reason: Reason };

export interface Surroundings {
  /** Asked again before each attempt: a renewed play brings other URLs. The best first. */
  candidates: () => Candidate[];
  patience: (timeouts: number) => Patience;
  bans: Bans;
}

interface Attempt {
  appliance: string;
  askedAt: number;
  /** Bytes of the span that were there before this attempt. */
  before: number;
}

type State =
  | { kind: "idle" }
  | { kind: "asking"; attempt: Attempt }
  | { kind: "reading"; attempt: Attempt }
  | { kind: "waiting" }
  | { kind: "renewing"; attempt: Attempt }
  | { kind: "over" };

/** Bounds one transfer; hls.js has retries of its own above it. */
export const ATTEMPTS_MAX = 12;
const BACKOFF_FIRST_MS = 250;
const BACKOFF_MOST_MS = 2_000;

export class Transfer {
  /** Good bytes so far, from the start of the span. The loader drops whatever it holds beyond. */
  received = 0;
  /** When a `deadline` event is due; null: never. */
  deadline: number | null = null;

  private state: State = { kind: "idle" };
  private attempts = 0;
  private timeouts = 0;
  private backoffs = 0;
  private renewed = false;
  private lastReason: Reason = "unreachable";

  constructor(
    private readonly wanted: Wanted,
    private readonly around: Surroundings,
  ) {}

  /** Bytes of the whole span, if known. */
  get expected(): number | null {
    const { span, size } = this.wanted;
    return span === null ? size : span.last - span.first + 1;
  }

  step(event: TransferEvent, now: number): Action[] {
    const state = this.state;
    switch (event.kind) {
      case "start":
        return state.kind === "idle" ? this.next(now) : [];
      case "head":
        return state.kind === "asking" ? this.head(event, state.attempt, now) : [];
      case "forbidden":
        return state.kind === "asking" ? this.forbidden(event.expired, state.attempt, now) : [];
      case "bytes":
        return state.kind === "reading" ? this.bytes(event.count, state.attempt, now) : [];
      case "end":
        return state.kind === "reading" ? this.end(state.attempt, now) : [];
      case "broken":
        return this.broken(state, now);
      case "deadline":
        return this.late(state, now);
      case "renewed":
        return state.kind === "renewing" ? this.next(now) : [];
    }
  }

  private head(head: TransferEvent & { kind: "head" }, attempt: Attempt, now: number): Action[] {
    const ranged = this.rangeFrom(attempt.before) !== null;
    if (head.status !== (ranged ? 206 : 200)) {
      const { reason, objectOnly } = reasonOf(head.status);
      return this.decline(attempt, reason, now, { status: head.status, objectOnly });
    }
    if (!this.consistent(head, attempt)) return this.discard(attempt, now);
    this.state = { kind: "reading", attempt };
    this.deadline = now + this.around.patience(this.timeouts).progressMs;
    return [{ kind: "read" }];
  }

  private forbidden(expired: boolean, attempt: Attempt, now: number): Action[] {
    if (expired && !this.renewed) {
      this.renewed = true;
      this.state = { kind: "renewing", attempt };
      this.deadline = null;
      return [{ kind: "renew" }];
    }
    return this.decline(attempt, "token refused", now, { status: 403, objectOnly: false });
  }

  private bytes(count: number, attempt: Attempt, now: number): Action[] {
    const expected = this.expected;
    if (expected !== null && this.received + count > expected) return this.discard(attempt, now);
    this.received += count;
    this.deadline = now + this.around.patience(this.timeouts).progressMs;
    return [{ kind: "read" }];
  }

  private end(attempt: Attempt, now: number): Action[] {
    const expected = this.expected;
    if (expected !== null && this.received < expected) return this.discard(attempt, now);
    this.state = { kind: "over" };
    this.deadline = null;
    this.around.bans.lift(attempt.appliance, this.wanted.object, attempt.askedAt);
    return [{ kind: "done", appliance: attempt.appliance }];
  }

  private broken(state: State, now: number): Action[] {
    if (state.kind === "asking") return this.decline(state.attempt, "unreachable", now);
    // Some servers lose the connection after the last byte; all that was asked for is there.
    if (state.kind === "reading" && this.received === this.expected) return this.end(state.attempt, now);
    return state.kind === "reading" ? this.decline(state.attempt, "connection lost", now) : [];
  }

  private late(state: State, now: number): Action[] {
    if (this.deadline === null || now < this.deadline) return [];
    if (state.kind === "waiting") return this.open(now);
    if (state.kind !== "asking" && state.kind !== "reading") return [];
    this.timeouts += 1;
    return this.decline(state.attempt, state.kind === "asking" ? "no answer in time" : "stopped sending", now);
  }

  /** The answer contradicts its head or what is known of the object: nothing of it can be trusted. */
  private discard(attempt: Attempt, now: number): Action[] {
    this.received = attempt.before;
    return this.decline(attempt, "wrong bytes", now);
  }

  private decline(
    attempt: Attempt,
    reason: Reason,
    now: number,
    { status, objectOnly }: { status: number | null; objectOnly: boolean } = { status: null, objectOnly: false },
  ): Action[] {
    this.lastReason = reason;
    this.around.bans.ban(attempt.appliance, objectOnly ? this.wanted.object : null, now);
    return [{ kind: "declined", appliance: attempt.appliance, reason, status }, ...this.next(now)];
  }

  private next(now: number): Action[] {
    const choice = this.around.bans.choose(this.around.candidates(), this.wanted.object, now);
    if (choice === null || this.attempts >= ATTEMPTS_MAX) {
      this.state = { kind: "over" };
      this.deadline = null;
      return [{ kind: "failed", reason: this.lastReason }];
    }
    // All declined in this very transfer: knocking again at once would only make it worse.
    if (choice.desperate && this.attempts > 0) {
      this.state = { kind: "waiting" };
      this.deadline = now + Math.min(BACKOFF_MOST_MS, BACKOFF_FIRST_MS * 2 ** this.backoffs);
      this.backoffs += 1;
      return [{ kind: "wait" }];
    }
    return this.open(now);
  }

  private open(now: number): Action[] {
    const choice = this.around.bans.choose(this.around.candidates(), this.wanted.object, now);
    if (choice === null) return this.next(now);
    this.attempts += 1;
    this.state = { kind: "asking", attempt: { appliance: choice.appliance, askedAt: now, before: this.received } };
    this.deadline = now + this.around.patience(this.timeouts).firstByteMs;
    const { appliance, url } = choice;
    return [{ kind: "open", appliance, url, range: this.rangeFrom(this.received) }];
  }

  private rangeFrom(received: number): string | null {
    const { span, size } = this.wanted;
    if (span !== null) return `bytes=${span.first + received}-${span.last}`;
    return received === 0 ? null : `bytes=${received}-${size === null ? "" : size - 1}`;
  }

  private consistent(head: TransferEvent & { kind: "head" }, attempt: Attempt): boolean {
    const { object, span, size } = this.wanted;
    // An appliance's entity tag is the object's digest; any other form of tag says nothing.
    if (head.etag !== null && /^"[0-9a-f]{64}"$/.test(head.etag) && head.etag !== `"${object}"`) return false;
    const offset = (span?.first ?? 0) + attempt.before;
    const expected = this.expected;
    const left = expected === null ? null : expected - attempt.before;
    if (head.length !== null && left !== null && head.length !== left) return false;
    if (head.range === null) return true;
    if (head.range.first !== offset) return false;
    if (left !== null && head.range.last !== offset + left - 1) return false;
    return size === null || head.range.size === null || head.range.size === size;
  }
}

/** What a status means, and whether it speaks of the object alone or of the whole appliance. */
function reasonOf(status: number): { reason: Reason; objectOnly: boolean } {
  if (status === 404 || status === 410) return { reason: "does not hold it", objectOnly: true };
  // 200 for a range, 206 for none, 416: it disagrees with the play about what the object is.
  if (status === 200 || status === 206 || status === 416) return { reason: "wrong bytes", objectOnly: true };
  if (status === 429) return { reason: "too many requests", objectOnly: false };
  if (status === 503) return { reason: "busy or draining", objectOnly: false };
  return { reason: "error", objectOnly: false };
}

/** RFC 9110 §14.4: `bytes 0-99/1234`, `bytes 0-99/*`. Null when it is not of that form. */
export function parseContentRange(text: string | null): ContentRange | null {
  const match = text === null ? null : /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15}|\*)$/.exec(text.trim());
  if (match === null) return null;
  const [, first = "", last = "", size = ""] = match;
  return { first: Number(first), last: Number(last), size: size === "*" ? null : Number(size) };
}
