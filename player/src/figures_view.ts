// The six figures under the picture, and the list of moves.

import { element, setText } from "./dom";
import type { Move } from "./tally";
import * as words from "./words";

export interface Figures {
  rung: { height: number; bitrate: number } | null;
  throughput: number | null;
  bufferS: number | null;
  startMs: number | null;
  waits: readonly number[];
  switches: number;
  wastedRequests: number;
}

type Name = "quality" | "line" | "buffer" | "start" | "stalls" | "moves";

const LABELS: Record<Name, string> = {
  quality: "Quality",
  line: "Throughput",
  buffer: "Buffer",
  start: "Start",
  stalls: "Stalls",
  moves: "Moves",
};

export class FiguresView {
  private readonly tiles = new Map<Name, { root: HTMLElement; value: HTMLElement; under: HTMLElement }>();

  constructor(list: HTMLElement) {
    for (const name of Object.keys(LABELS) as Name[]) {
      const value = element("dd", "", "–");
      const under = element("dd", "under", "\u00a0");
      const root = element("div", "", element("dt", "", LABELS[name]), value, under);
      this.tiles.set(name, { root, value, under });
      list.append(root);
    }
  }

  show(figures: Figures | null): void {
    const { rung = null, throughput = null, bufferS = null, startMs = null } = figures ?? {};
    const waits = figures?.waits ?? [];
    const waited = waits.reduce((sum, ms) => sum + ms, 0);
    const wasted = figures?.wastedRequests ?? 0;
    this.write("quality", rung === null ? "–" : `${rung.height}p`, rung === null ? "" : words.bitrate(rung.bitrate));
    this.write("line", throughput === null ? "–" : words.bitrate(throughput), throughput === null ? "" : "estimated");
    this.write("buffer", bufferS === null ? "–" : `${bufferS.toFixed(1)} s`, bufferS === null ? "" : "ahead");
    this.write("start", startMs === null ? "–" : words.milliseconds(startMs), startMs === null ? "" : "to the first picture");
    const stalled = waited > 0 ? `${words.milliseconds(waited)} in all` : "never stalled";
    this.write("stalls", startMs === null ? "–" : String(waits.length), startMs === null ? "" : stalled);
    const requests = `${wasted} ${wasted === 1 ? "request" : "requests"} wasted`;
    this.write("moves", startMs === null ? "–" : String(figures?.switches ?? 0), startMs === null ? "" : requests);
    const stalls = this.tiles.get("stalls");
    if (stalls !== undefined) stalls.root.dataset["light"] = startMs === null ? "" : waits.length === 0 ? "good" : "bad";
  }

  private write(name: Name, value: string, under: string): void {
    const tile = this.tiles.get(name);
    if (tile === undefined) return;
    setText(tile.value, value);
    setText(tile.under, under === "" ? "\u00a0" : under);
  }
}

/** Adds what is new since the last call; the newest stands first. */
export class LogView {
  private shown: Move | null = null;

  constructor(
    private readonly list: HTMLOListElement,
    private readonly empty: HTMLElement,
    private readonly colourOf: (appliance: string) => string,
  ) {}

  clear(): void {
    this.shown = null;
    this.list.replaceChildren();
    this.empty.hidden = false;
  }

  show(moves: readonly Move[], beganMs: number): void {
    const from = this.shown === null ? 0 : moves.indexOf(this.shown) + 1;
    for (const move of moves.slice(from)) {
      const time = element("time", "", words.duration(move.atMs - beganMs));
      const mark = element("i", move.appliance === "" ? "" : this.colourOf(move.appliance));
      const name = move.appliance === "" ? [] : [element("strong", "", move.appliance), " "];
      this.list.prepend(element("li", move.kind, time, mark, element("span", "", ...name, move.text)));
    }
    this.shown = moves.at(-1) ?? null;
    this.empty.hidden = this.list.childElementCount > 0;
  }
}
