// What `GET /v1/fleet` says of each appliance, read with tolerance: this view must not break because a field is new.
// Pure.

export interface FleetBox {
  appliance: string;
  cluster: string;
  baseUrl: string;
  offered: boolean;
  /** Why it is not offered. */
  reason: string;
  /** Age of its last report; null: never reported. */
  ageMs: number | null;
  health: string;
  draining: boolean;
  limitedBy: string;
  /** 0 (full) to 1 (idle); null without a report. */
  headroom: number | null;
  /** What it sends now; null while its server does not answer. */
  rateBps: number | null;
  connections: number | null;
}

type Fields = Record<string, unknown>;

export function fleetOf(value: unknown): FleetBox[] {
  return Array.isArray(value) ? value.map(boxOf).filter((box) => box.appliance !== "") : [];
}

function boxOf(value: unknown): FleetBox {
  const box = fields(value);
  const report = fields(box["report"]);
  const server = fields(report["server"]);
  const reason = text(box["reason"]);
  return {
    appliance: text(box["appliance"]),
    cluster: text(box["cluster"]),
    baseUrl: text(box["base_url"]),
    offered: typeof box["offered"] === "boolean" ? box["offered"] : reason === "",
    reason,
    ageMs: number(box["age_ms"]),
    health: text(report["health"]),
    draining: report["draining"] === true || box["drain_ordered"] === true,
    limitedBy: text(report["limited_by"]),
    headroom: number(report["headroom"]),
    rateBps: number(server["rate_bps"]),
    connections: number(server["connections"]),
  };
}

function fields(value: unknown): Fields {
  return typeof value === "object" && value !== null ? (value as Fields) : {};
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function number(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

export type Light = "good" | "warn" | "bad" | "unknown";

/** One box in one word and one colour. */
export function conditionOf(box: FleetBox | undefined): { light: Light; word: string } {
  if (box === undefined) return { light: "unknown", word: "not listed" };
  if (box.ageMs === null) return { light: "unknown", word: "no report yet" };
  if (box.draining) return { light: "warn", word: "draining" };
  if (!box.offered) return { light: "bad", word: REASONS[box.reason] ?? (box.reason || "not offered") };
  if (box.health === "failed") return { light: "bad", word: "failed" };
  if (box.health === "degraded") return { light: "warn", word: "degraded" };
  return { light: "good", word: "healthy" };
}

const REASONS: Record<string, string> = {
  health: "failed",
  silent: "silent",
  draining: "draining",
  full: "full",
  content: "filling",
};
