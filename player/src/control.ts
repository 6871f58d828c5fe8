// The control plane's HTTP API as this page uses it. Impure: fetch and the clock. Every failure is a `Refusal` or
// `Unreachable` (`problem.ts`).

import { fleetOf, type FleetBox } from "./fleet";
import type { PlayAnswer, PlayRequest, TitleSummary } from "./play";
import { problemOf, Refusal, Unreachable } from "./problem";

const LIMIT_MS = 10_000;

export interface Play {
  answer: PlayAnswer;
  /** How long the token lives, by the service's own clock: the viewer's may be wrong by hours. */
  lifetimeMs: number;
}

export async function fetchTitles(): Promise<TitleSummary[]> {
  return (await (await ask("/v1/titles")).json()) as TitleSummary[];
}

export async function fetchFleet(): Promise<FleetBox[]> {
  return fleetOf(await (await ask("/v1/fleet")).json());
}

export async function requestPlay(request: PlayRequest): Promise<Play> {
  const response = await ask("/v1/plays", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(request),
  });
  const answer = (await response.json()) as PlayAnswer;
  const told = Date.parse(response.headers.get("Date") ?? "");
  const now = Number.isNaN(told) ? Date.now() : told;
  return { answer, lifetimeMs: Date.parse(answer.expires) - now };
}

async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  const signal = AbortSignal.timeout(LIMIT_MS);
  const response = await fetch(path, { ...init, signal, cache: "no-store" }).catch((error: unknown) => {
    throw new Unreachable(error instanceof Error ? error.message : String(error));
  });
  if (!response.ok) throw new Refusal(problemOf(response.status, await response.text()));
  return response;
}
