// The list of appliances: rank, health, who serves, what each has sent to this play, and in the demo a switch for
// each. Cards are kept and rewritten in place, so that a focused button stays focused.

import { element, setText } from "./dom";
import { conditionOf, type FleetBox } from "./fleet";
import * as words from "./words";

export interface FleetState {
  /** Of this play, the best first; empty before the first play. */
  ranked: { appliance: string; base_url: string }[];
  fleet: FleetBox[];
  serving: string | null;
  bytes: ReadonlyMap<string, number>;
  /** Milliseconds until an appliance is asked again; null: it may be asked now. */
  banMs: (appliance: string) => number | null;
}

export interface Switch {
  stopped: (appliance: string) => boolean;
  toggle: (appliance: string) => void;
}

const COLOURS = 6;

interface Card {
  root: HTMLLIElement;
  rank: HTMLElement;
  badge: HTMLElement;
  condition: HTMLElement;
  word: HTMLElement;
  load: HTMLElement;
  address: HTMLElement;
  sent: HTMLElement;
  share: HTMLElement;
  button: HTMLButtonElement | null;
}

export class FleetView {
  private readonly cards = new Map<string, Card>();
  private readonly colours = new Map<string, number>();

  constructor(
    private readonly list: HTMLOListElement,
    private readonly empty: HTMLElement,
    /** Null outside the demo. */
    private readonly power: Switch | null,
  ) {}

  /** The class and custom property of an appliance's colour; it keeps it for as long as the page is open. */
  colourOf(appliance: string): string {
    const index = this.colours.get(appliance) ?? this.colours.size;
    this.colours.set(appliance, index);
    return `box-${index % COLOURS}`;
  }

  show(state: FleetState): void {
    const names = [...state.ranked.map((box) => box.appliance), ...state.fleet.map((box) => box.appliance)];
    const unique = [...new Set(names)];
    // Colours by name, so that they do not depend on the ranking of the first play.
    for (const name of [...unique].sort()) this.colourOf(name);
    const total = [...state.bytes.values()].reduce((sum, count) => sum + count, 0);
    unique.forEach((name, index) => {
      const card = this.cards.get(name) ?? this.create(name);
      if (this.list.children[index] !== card.root) this.list.insertBefore(card.root, this.list.children[index] ?? null);
      this.write(card, name, state, total);
    });
    for (const [name, card] of this.cards) {
      if (unique.includes(name)) continue;
      card.root.remove();
      this.cards.delete(name);
    }
    this.empty.hidden = unique.length > 0;
  }

  private create(name: string): Card {
    const rank = element("span", "rank");
    const badge = element("span", "badge", "Serving now");
    const word = element("span", "");
    const condition = element("span", "condition", element("i", ""), word);
    const load = element("span", "soft");
    const address = element("span", "soft");
    const sent = element("span", "");
    const share = element("i", "");
    const head = element("header", "", rank, element("span", "called", name), badge);
    const bottom = element("div", "row", sent);
    const root = element(
      "li",
      "box",
      head,
      element("div", "row", condition, load),
      element("div", "share", share),
      bottom,
      element("div", "row", address),
    );
    const button = this.power === null ? null : this.createButton(name, this.power);
    if (button !== null) bottom.append(button);
    const card = { root, rank, badge, condition, word, load, address, sent, share, button };
    this.cards.set(name, card);
    return card;
  }

  private createButton(name: string, power: Switch): HTMLButtonElement {
    const button = element("button", "stop", "Stop");
    button.type = "button";
    button.addEventListener("click", () => power.toggle(name));
    return button;
  }

  private write(card: Card, name: string, state: FleetState, total: number): void {
    const place = state.ranked.findIndex((box) => box.appliance === name);
    const box = state.fleet.find((one) => one.appliance === name);
    const serving = state.serving === name;
    card.root.className = `box ${this.colourOf(name)}${serving ? " serving" : ""}`;
    card.rank.hidden = state.ranked.length === 0;
    setText(card.rank, place < 0 ? "–" : String(place + 1));
    card.rank.title = place < 0 ? "Not offered for this play" : `Rank ${place + 1} for this play`;
    card.badge.hidden = !serving;
    const { light, word } = conditionOf(box);
    card.condition.dataset["light"] = light;
    const banMs = state.banMs(name);
    setText(card.word, banMs === null ? word : `${word} · asked again in ${Math.ceil(banMs / 1000)} s`);
    setText(card.load, banMs === null && box?.offered === true ? loadOf(box) : "");
    setText(card.address, addressOf(box, state.ranked[place]?.base_url));
    const sent = state.bytes.get(name) ?? 0;
    const part = total === 0 ? 0 : sent / total;
    setText(card.sent, `${words.bytes(sent)} to you · ${words.percent(part)}`);
    card.share.style.width = `${part * 100}%`;
    if (card.button !== null && this.power !== null) writeButton(card.button, name, this.power.stopped(name));
  }
}

function writeButton(button: HTMLButtonElement, name: string, stopped: boolean): void {
  button.className = stopped ? "start" : "stop";
  setText(button, stopped ? "Start" : "Stop");
  button.setAttribute("aria-label", `${stopped ? "Start" : "Stop"} ${name}`);
}

function loadOf(box: FleetBox): string {
  if (box.rateBps === null) return "";
  const free = box.headroom === null ? "" : ` · ${words.percent(box.headroom)} free`;
  return `sends ${words.bitrate(box.rateBps)}${free}`;
}

function addressOf(box: FleetBox | undefined, ranked: string | undefined): string {
  const address = (box?.baseUrl || ranked || "").replace(/^https?:\/\//, "");
  return [box?.cluster ?? "", address].filter((part) => part !== "").join(" · ");
}
