// `window.ocaCheck`, with `check=1` in the page's address: what `cargo xtask demo --check` reads to judge a playback
// that no person watches. Every media fragment is hashed as it arrived, before hls.js sees it.

import type { Delivered } from "./loader";
import type { Tally } from "./tally";
import type { Waits } from "./waits";

export interface CheckedFragment {
  object: string;
  extension: string;
  first: number;
  last: number;
  sha256: string;
  appliance: string;
}

export type CheckState = "loading" | "playing" | "ended" | "error";

declare global {
  interface Window {
    ocaCheck?: object;
  }
}

export class Check {
  private state: CheckState = "loading";
  private error: string | undefined;
  private startMs: number | null = null;
  private readonly fragments: CheckedFragment[] = [];
  private hashing: Promise<void>[] = [];

  constructor(video: HTMLVideoElement, tally: () => Tally, waits: () => Waits) {
    const check = this;
    window.ocaCheck = {
      get state() { return check.state; },
      get error() { return check.error; },
      get startMs() { return check.startMs; },
      // A wait that still lasts counts too: a stall without end must not read as none.
      get waits() {
        const current = Math.round(waits().current(performance.now()));
        return current > 0 ? [...waits().periods, current] : [...waits().periods];
      },
      get fragments() { return check.fragments; },
      get serving() { return tally().serving; },
      get switches() { return tally().switches; },
      get wastedRequests() { return tally().wastedRequests; },
      get currentTime() { return video.currentTime; },
      get duration() { return Number.isFinite(video.duration) ? video.duration : null; },
    };
  }

  /** Call before anyone else touches the bytes: the digest copies them at once. */
  deliver({ appliance, name, span, bytes }: Delivered): void {
    if (name === null || name.extension === "m3u8") return;
    const { object, extension } = name;
    const hashed = crypto.subtle.digest("SHA-256", bytes).then(
      (digest) => {
        this.fragments.push({ object, extension, ...span, sha256: hex(digest), appliance });
      },
      (error: unknown) => this.fail(`cannot hash a fragment: ${String(error)}`),
    );
    this.hashing.push(hashed);
  }

  started(ms: number): void {
    this.startMs = Math.round(ms);
    if (this.state === "loading") this.state = "playing";
  }

  /** `ended` only once the list is complete. */
  async ended(): Promise<void> {
    await Promise.all(this.hashing);
    if (this.state !== "error") this.state = "ended";
  }

  fail(message: string): void {
    this.state = "error";
    this.error = message;
  }
}

function hex(digest: ArrayBuffer): string {
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
