// Which appliance to ask next: `(candidates, bans, now) -> candidate`. Pure: knows no network and no clock.
//
// An appliance that declined is banned for 30 s and then takes its rank back. An appliance that merely lacks one
// object (404) is banned for that object alone. When every candidate is banned, the one banned longest ago is
// tried rather than giving up: it has had the most time to recover. Next: `transfer.ts`, which does the asking.

import { withToken } from "./names";
import type { PlayAnswer, PlayObject } from "./play";

export const BAN_MS = 30_000;

export interface Candidate {
  appliance: string;
  url: string;
}

export interface RankedObject {
  /** Size of the whole object. */
  bytes: number;
  /** The best first. */
  candidates: Candidate[];
}

export type Ranking = Map<string, RankedObject>;

/** Every object of a play with where to get it. */
export function rankingOf(answer: PlayAnswer): Ranking {
  const ranking: Ranking = new Map();
  const bases = answer.appliances.map(({ appliance, base_url }) => ({ appliance, prefix: `${base_url}/` }));
  const add = (object: PlayObject): void => {
    const candidates = object.urls.map((url) => ({
      appliance: bases.find(({ prefix }) => url.startsWith(prefix))?.appliance ?? hostOf(url),
      url,
    }));
    ranking.set(object.object, { bytes: object.bytes, candidates });
  };
  for (const stream of answer.streams) {
    add(stream.track);
    add(stream.playlist);
  }
  return ranking;
}

/** The ranking of a renewed play. An object that only the old one names stays reachable, under the new token. */
export function renewedRanking(old: Ranking, answer: PlayAnswer): Ranking {
  const ranking = rankingOf(answer);
  for (const [object, { bytes, candidates }] of old) {
    if (ranking.has(object)) continue;
    const moved = candidates.map(({ appliance, url }) => ({ appliance, url: withToken(url, answer.token) }));
    ranking.set(object, { bytes, candidates: moved });
  }
  return ranking;
}

export interface Choice extends Candidate {
  /** Every candidate is banned; this one for the longest. */
  desperate: boolean;
}

interface Ban {
  since: number;
  until: number;
}

/** Who declined, and until when it is left alone. Times are milliseconds of the caller's monotonic clock. */
export class Bans {
  private readonly bans = new Map<string, Ban>();

  /** With an object: for that object only. */
  ban(appliance: string, object: string | null, now: number): void {
    this.bans.set(key(appliance, object), { since: now, until: now + BAN_MS });
  }

  /**
   * An appliance that has delivered what was asked of it after its ban is banned no longer. What was asked before
   * proves nothing: a draining appliance finishes its sessions and refuses new ones.
   */
  lift(appliance: string, object: string, askedAt: number): void {
    for (const name of [key(appliance, null), key(appliance, object)]) {
      const ban = this.bans.get(name);
      if (ban !== undefined && ban.since <= askedAt) this.bans.delete(name);
    }
  }

  /** When the whole appliance may be asked again, or null if it may be asked now. */
  bannedUntil(appliance: string, now: number): number | null {
    const ban = this.bans.get(key(appliance, null));
    return ban !== undefined && now < ban.until ? ban.until : null;
  }

  choose(candidates: Candidate[], object: string, now: number): Choice | null {
    let longest: { candidate: Candidate; since: number } | null = null;
    for (const candidate of candidates) {
      const since = this.bannedSince(candidate.appliance, object, now);
      if (since === null) return { ...candidate, desperate: false };
      if (longest === null || since < longest.since) longest = { candidate, since };
    }
    return longest === null ? null : { ...longest.candidate, desperate: true };
  }

  private bannedSince(appliance: string, object: string, now: number): number | null {
    const both = [this.bans.get(key(appliance, null)), this.bans.get(key(appliance, object))];
    const live = both.filter((ban): ban is Ban => ban !== undefined && now < ban.until);
    return live.length === 0 ? null : Math.max(...live.map((ban) => ban.since));
  }
}

// A slug holds no blank, so the two kinds of key cannot be confused.
function key(appliance: string, object: string | null): string {
  return object === null ? appliance : `${appliance} ${object}`;
}

function hostOf(url: string): string {
  try {
    return new URL(url).host;
  } catch {
    return url;
  }
}
