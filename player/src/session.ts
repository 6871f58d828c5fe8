// One play: its answer, its ranking, its token. Impure: asks the control plane again when the token nears its end or
// an appliance says that it has ended. The session id stays, so the same viewer gets the same ranking.

import { requestPlay, type Play } from "./control";
import type { PlayAnswer, PlayRequest } from "./play";
import { Bans, rankingOf, renewedRanking, type RankedObject, type Ranking } from "./ranking";

/** Renewed this long before the token ends, but not before nine tenths of its life have passed. */
const MARGIN_MS = 120_000;
/** Between two askings, so that a refused token cannot become a storm on the control plane. */
const RENEW_PAUSE_MS = 5_000;

export class Session {
  readonly bans = new Bans();
  answer: PlayAnswer;

  private ranking: Ranking;
  private renewAt: number;
  private renewedAt = -Infinity;
  private renewing: Promise<void> | null = null;

  private constructor(
    readonly request: PlayRequest,
    play: Play,
    private readonly note: (text: string) => void,
  ) {
    this.answer = play.answer;
    this.ranking = rankingOf(play.answer);
    this.renewAt = renewAt(play.lifetimeMs);
  }

  static async open(request: PlayRequest, note: (text: string) => void): Promise<Session> {
    return new Session(request, await requestPlay(request), note);
  }

  find(object: string): RankedObject | null {
    if (performance.now() >= this.renewAt) void this.renew();
    return this.ranking.get(object) ?? null;
  }

  /** One asking at a time; a second caller waits for the first's. Never rejects: the old token may still do. */
  renew(): Promise<void> {
    if (this.renewing === null && performance.now() - this.renewedAt < RENEW_PAUSE_MS) return Promise.resolve();
    this.renewing ??= this.askAgain().finally(() => {
      this.renewing = null;
    });
    return this.renewing;
  }

  private async askAgain(): Promise<void> {
    this.renewedAt = performance.now();
    try {
      const play = await requestPlay(this.request);
      this.ranking = renewedRanking(this.ranking, play.answer);
      this.answer = play.answer;
      this.renewAt = renewAt(play.lifetimeMs);
      this.note("The play was renewed with a new token");
    } catch {
      this.renewAt = performance.now() + RENEW_PAUSE_MS * 2;
      this.note("The play could not be renewed; going on with the old token");
    }
  }
}

function renewAt(lifetimeMs: number): number {
  return performance.now() + Math.max(0, Math.max(lifetimeMs * 0.9, lifetimeMs - MARGIN_MS));
}
