// How long the viewer was kept waiting: the media element's events in, periods out. Pure: the time is an argument.
//
// Counted is every `waiting` after the first picture until the picture moves again. Not counted: the wait for the
// first picture, one that a viewer's own seek began, and the one Chromium announces at the very end of a title.

export type WaitEvent =
  | { kind: "waiting"; seeking: boolean; leftMs: number }
  | { kind: "moving" }
  | { kind: "paused" }
  | { kind: "ended" };

const END_MS = 250;

export class Waits {
  /** Finished periods, ms. */
  readonly periods: number[] = [];

  private moved = false;
  private since: { at: number; atEnd: boolean } | null = null;

  /** True when a period has just ended. */
  step(event: WaitEvent, now: number): boolean {
    switch (event.kind) {
      case "waiting":
        if (this.moved && !event.seeking) this.since ??= { at: now, atEnd: event.leftMs < END_MS };
        return false;
      case "moving":
        this.moved = true;
        return this.close(now);
      case "paused":
        return this.close(now);
      case "ended": {
        if (this.since?.atEnd === true) this.since = null;
        return this.close(now);
      }
    }
  }

  /** How long the viewer has been waiting by now, 0 while the picture moves. */
  current(now: number): number {
    return this.since === null || this.since.atEnd ? 0 : now - this.since.at;
  }

  private close(now: number): boolean {
    if (this.since === null) return false;
    this.periods.push(Math.round(now - this.since.at));
    this.since = null;
    return true;
  }
}
