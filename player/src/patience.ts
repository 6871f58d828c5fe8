// How long to wait for an appliance before asking the next: pure arithmetic on what is left to play.
//
// Waiting costs nothing while the buffer is long and everything when it is short, so the limit is a quarter of the
// buffer: after one time-out three quarters are left for the next appliance. Each further time-out of the same
// transfer doubles the limit, because then the viewer's own line is the likelier cause than three boxes at once.

export interface Patience {
  /** From sending the request to the head of the answer. */
  firstByteMs: number;
  /** Between two pieces of the body. */
  progressMs: number;
}

const LEAST_MS = 1_000;
const MOST_MS = 4_000;
const AT_START_MS = 2_000;
const DOUBLINGS_MAX = 3;

/** `bufferMs` is null until the first picture: nobody is being interrupted yet. */
export function patienceFor(bufferMs: number | null, timeouts: number): Patience {
  const base = bufferMs === null ? AT_START_MS : Math.min(MOST_MS, Math.max(LEAST_MS, bufferMs / 4));
  const limit = base * 2 ** Math.min(timeouts, DOUBLINGS_MAX);
  return { firstByteMs: limit, progressMs: limit };
}
