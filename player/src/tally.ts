// What this play got from whom: counters and the list of moves. Pure: the time is an argument. The views read it.

import type { Reason } from "./transfer";

export interface Move {
  atMs: number;
  kind: "start" | "declined" | "serving" | "note";
  appliance: string;
  text: string;
}

const MOVES_MAX = 200;

const SENTENCES: Record<Reason, string> = {
  unreachable: "does not answer",
  "connection lost": "lost the connection",
  "no answer in time": "was too slow to answer",
  "stopped sending": "stopped sending",
  "wrong bytes": "sent wrong bytes",
  "token refused": "refused the token",
  "busy or draining": "is busy or draining",
  "too many requests": "asks for fewer requests",
  "does not hold it": "does not hold this object",
  error: "answered with an error",
};

export class Tally {
  readonly bytes = new Map<string, number>();
  readonly moves: Move[] = [];
  /** Who sent the last piece of the moving picture. */
  serving: string | null = null;
  switches = 0;
  /** Requests that an appliance declined or broke off. */
  wastedRequests = 0;

  addBytes(appliance: string, count: number): void {
    this.bytes.set(appliance, (this.bytes.get(appliance) ?? 0) + count);
  }

  addDeclined(appliance: string, reason: Reason, status: number | null, now: number): void {
    this.wastedRequests += 1;
    const suffix = status === null ? "" : ` (${status})`;
    this.add({ atMs: now, kind: "declined", appliance, text: SENTENCES[reason] + suffix });
  }

  addPicture(appliance: string, now: number): void {
    if (appliance === this.serving) return;
    const first = this.serving === null;
    if (!first) this.switches += 1;
    this.serving = appliance;
    this.add({ atMs: now, kind: "serving", appliance, text: first ? "serves" : "takes over" });
  }

  addNote(text: string, now: number): void {
    this.add({ atMs: now, kind: "note", appliance: "", text });
  }

  private add(move: Move): void {
    this.moves.push(move);
    if (this.moves.length > MOVES_MAX) this.moves.shift();
  }
}
