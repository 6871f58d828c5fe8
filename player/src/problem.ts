// A refusal of the control plane (RFC 9457) in words for a viewer. Pure.

import type { Problem } from "./play";

export class Refusal extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail);
  }
}

/** No answer at all: the control plane is down, or not where this page thinks. */
export class Unreachable extends Error {}

export interface Words {
  headline: string;
  advice: string;
  /** The control plane's own words, for whoever looks further. */
  detail: string;
}

/** By the last part of the problem's type. */
const KNOWN: Record<string, [headline: string, advice: string]> = {
  territory: ["Not available where you are", "The licence for this title does not cover this territory."],
  "not-yet": ["Not available yet", "The licence for this title begins later."],
  "licence-over": ["No longer available", "The licence for this title has ended."],
  "unknown-title": ["No such title", "It may have been withdrawn. Choose another."],
  plan: ["Not in your plan", "Choose a plan that includes this picture quality."],
  device: ["This browser cannot play it", "None of the title's encodings can be decoded here."],
  "no-appliance": ["No appliance can serve it now", "It may still be filling. Try again in a moment."],
  "malformed-request": ["The request was not understood", "Check the territory: two letters, such as SE."],
};

const BY_STATUS: Record<number, [headline: string, advice: string]> = {
  400: ["The request was not understood", "Reload the page; the player may be older than the service."],
  422: ["This browser cannot play it", "None of the title's encodings can be decoded here."],
  403: ["Not allowed", "The terms of this title do not allow this play."],
  404: ["No such title", "It may have been withdrawn. Choose another."],
  429: ["Too many requests", "Wait a moment, then try again."],
  503: ["No appliance can serve it now", "It may still be filling. Try again in a moment."],
};

export function wordsFor(error: unknown): Words {
  if (error instanceof Refusal) return wordsForProblem(error.problem);
  if (error instanceof Unreachable) {
    const advice = "It does not answer. What is already playing goes on.";
    return { headline: "The control plane is out of reach", advice, detail: error.message };
  }
  const detail = error instanceof Error ? error.message : String(error);
  return { headline: "Playback failed", advice: "Start the title again.", detail };
}

function wordsForProblem(problem: Problem): Words {
  const kind = problem.type.split("/").pop() ?? "";
  const known = KNOWN[kind] ?? BY_STATUS[problem.status];
  const [headline, advice] = known ?? [problem.title, "Try again in a moment."];
  return { headline, advice, detail: problem.detail };
}

/** Whatever body came with a status that is not 2xx; a proxy in between may have sent its own. */
export function problemOf(status: number, body: string): Problem {
  const fallback = { type: "about:blank", title: `The service answered ${status}`, status, detail: "" };
  try {
    const value: unknown = JSON.parse(body);
    if (typeof value !== "object" || value === null) return fallback;
    const fields = value as Record<string, unknown>;
    const text = (name: "type" | "title" | "detail"): string => {
      const field = fields[name];
      return typeof field === "string" ? field : fallback[name];
    };
    return { type: text("type"), title: text("title"), status, detail: text("detail") };
  } catch {
    return fallback;
  }
}
