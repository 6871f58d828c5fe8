// The page: reads the address, wires the form, the playback and the views together. Impure, and the only module that
// knows them all. Start reading at `Page.play`.

import Hls from "hls.js";

import { addressOf } from "./address";
import { Check } from "./check";
import { fetchFleet, fetchTitles } from "./control";
import { device, newSessionId } from "./device";
import { byId, element, setOptions, setText } from "./dom";
import { FiguresView, LogView } from "./figures_view";
import type { FleetBox } from "./fleet";
import { FleetView, type Switch } from "./fleet_view";
import { BufferGraph } from "./graph";
import { Playback } from "./playback";
import { wordsFor } from "./problem";
import { Session } from "./session";
import { Tally } from "./tally";
import { Waits } from "./waits";
import * as words from "./words";

const FLEET_EVERY_MS = 2_000;
const SHOW_EVERY_MS = 250;
const TITLES_EVERY_MS = 2_000;

class Page {
  private readonly address = addressOf(location.search);
  private readonly video = byId("video", HTMLVideoElement);
  private readonly title = byId("title", HTMLSelectElement);
  private readonly plan = byId("plan", HTMLSelectElement);
  private readonly territory = byId("territory", HTMLInputElement);
  private readonly audio = byId("audio", HTMLSelectElement);
  private readonly subtitles = byId("subtitles", HTMLSelectElement);
  private readonly curtain = byId("curtain", HTMLDivElement);
  private readonly message = byId("message", HTMLDivElement);
  private readonly fleetView: FleetView;
  private readonly figuresView = new FiguresView(byId("figures", HTMLDListElement));
  private readonly logView: LogView;
  private readonly graph = new BufferGraph(byId("graph", HTMLCanvasElement));
  private readonly check: Check | null;

  private readonly stopped = new Set<string>();
  private fleet: FleetBox[] = [];
  private session: Session | null = null;
  private playback: Playback | null = null;
  private tally = new Tally();
  private beganMs = 0;
  private startMs: number | null = null;
  private switchesDrawn = 0;
  /** Counts plays: what an older one still has to say is not heard. */
  private generation = 0;

  constructor() {
    const power = this.address.demo === null ? null : this.powerOver(this.address.demo);
    this.fleetView = new FleetView(byId("fleet", HTMLOListElement), byId("fleet-empty", HTMLElement), power);
    const colourOf = (appliance: string): string => this.fleetView.colourOf(appliance);
    this.logView = new LogView(byId("log", HTMLOListElement), byId("log-empty", HTMLElement), colourOf);
    const waits = (): Waits => this.playback?.waits ?? new Waits();
    this.check = this.address.check ? new Check(this.video, () => this.tally, waits) : null;
    this.video.muted = this.address.check;
    if (this.address.plan !== null) this.plan.value = this.address.plan;
    if (this.address.territory !== null) this.territory.value = this.address.territory;
  }

  async run(): Promise<void> {
    this.wire();
    setInterval(() => this.show(), SHOW_EVERY_MS);
    void this.pollFleet();
    this.figuresView.show(null);
    await this.offerTitles();
    if (this.address.autoplay) await this.play();
  }

  private wire(): void {
    byId("choice", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void this.play();
    });
    byId("begin", HTMLButtonElement).addEventListener("click", () => byId("choice", HTMLFormElement).requestSubmit());
    this.title.addEventListener("change", () => this.nameChoice());
    this.audio.addEventListener("change", () => this.playback?.chooseAudio(Number(this.audio.value)));
    this.subtitles.addEventListener("change", () => this.playback?.chooseSubtitles(Number(this.subtitles.value)));
  }

  /** Asks until there is a title: on a fresh system the page may be open before the first is published. */
  private async offerTitles(): Promise<void> {
    for (;;) {
      try {
        const titles = await fetchTitles();
        const options = titles.map(({ title, name, duration_ms }) => {
          return { value: title, label: `${name} (${words.duration(duration_ms)})` };
        });
        const asked = this.address.title;
        // A title that is not listed is still asked for: the refusal says why.
        if (asked !== null && !titles.some(({ title }) => title === asked)) options.push({ value: asked, label: asked });
        setOptions(this.title, options, asked ?? options[0]?.value ?? "");
        this.message.hidden = true;
        if (options.length > 0) return this.nameChoice();
        setText(byId("curtain-text", HTMLElement), "No title has been published yet");
      } catch (error) {
        this.explain(error);
      }
      await new Promise((resolve) => setTimeout(resolve, TITLES_EVERY_MS));
    }
  }

  private nameChoice(): void {
    setText(byId("curtain-text", HTMLElement), this.title.selectedOptions[0]?.text ?? "Choose a title");
  }

  private async play(): Promise<void> {
    const generation = (this.generation += 1);
    this.reset();
    try {
      const session = await Session.open(this.request(), (text) => this.tally.addNote(text, performance.now()));
      if (generation !== this.generation) return;
      this.session = session;
      this.begin(session);
    } catch (error) {
      if (generation === this.generation) this.failed(error);
    }
  }

  private reset(): void {
    this.playback?.stop();
    this.playback = this.session = this.startMs = null;
    this.tally = new Tally();
    this.switchesDrawn = 0;
    this.beganMs = performance.now();
    this.logView.clear();
    this.graph.clear();
    this.message.hidden = true;
    for (const select of [this.audio, this.subtitles]) {
      select.disabled = true;
      setOptions(select, [], "");
    }
  }

  private request(): Parameters<typeof Session.open>[0] {
    return {
      title: this.title.value,
      session: newSessionId(),
      member: "viewer",
      plan: this.plan.value,
      territory: this.territory.value.toUpperCase(),
      device: device(),
      languages: [...navigator.languages],
    };
  }

  private begin(session: Session): void {
    if (!Hls.isSupported()) throw new Error("This browser has no Media Source Extensions");
    setText(byId("name", HTMLElement), session.answer.name);
    document.title = session.answer.name;
    this.curtain.hidden = true;
    this.playback = new Playback(this.video, session, this.tally, {
      onFirstPicture: () => {
        // From the wish to play, the play request included.
        this.startMs = performance.now() - this.beganMs;
        this.check?.started(this.startMs);
      },
      onDelivered: (delivered) => this.check?.deliver(delivered),
      onTracks: () => this.showTracks(),
      onWaited: (ms) => this.tally.addNote(`The picture stood still for ${words.milliseconds(ms)}`, performance.now()),
      onEnded: () => {
        this.tally.addNote("The end", performance.now());
        void this.check?.ended();
      },
      onFailed: (message) => this.failed(new Error(message)),
    }, this.address.bufferS);
    this.video.play().catch((error: unknown) => {
      // Without a click a browser may refuse sound; the controls are there for the viewer.
      if (error instanceof DOMException && error.name === "NotAllowedError") return;
      if (error instanceof DOMException && error.name === "AbortError") return;
      this.failed(error);
    });
  }

  private failed(error: unknown): void {
    this.explain(error);
    const { headline, detail } = wordsFor(error);
    this.check?.fail(detail === "" ? headline : `${headline}: ${detail}`);
  }

  private explain(error: unknown): void {
    const { headline, advice, detail } = wordsFor(error);
    const [head, body, small] = [...this.message.children];
    if (head !== undefined) setText(head, headline);
    if (body !== undefined) setText(body, advice);
    if (small !== undefined) setText(small, detail);
    this.message.hidden = false;
  }

  private showTracks(): void {
    const { playback } = this;
    if (playback === null) return;
    const fill = (select: HTMLSelectElement, tracks: Playback["audioTracks"], none: boolean): void => {
      const options = tracks.map(({ index, label }) => ({ value: String(index), label }));
      if (none) options.unshift({ value: "-1", label: "Off" });
      const selected = tracks.find((track) => track.selected)?.index ?? -1;
      setOptions(select, options, String(selected));
      select.disabled = tracks.length === 0;
    };
    fill(this.audio, playback.audioTracks, false);
    fill(this.subtitles, playback.subtitleTracks, true);
  }

  private async pollFleet(): Promise<void> {
    const control = byId("control", HTMLElement);
    for (;;) {
      try {
        this.fleet = await fetchFleet();
        const offered = this.fleet.filter((box) => box.offered).length;
        const all = this.fleet.length;
        control.dataset["light"] = offered === 0 ? "bad" : offered < all ? "warn" : "good";
        setText(control, "");
        control.append(element("i", ""), `${offered} of ${all} appliances offered`);
      } catch {
        control.dataset["light"] = "bad";
        control.replaceChildren(element("i", ""), "Control plane out of reach");
      }
      await new Promise((resolve) => setTimeout(resolve, FLEET_EVERY_MS));
    }
  }

  private show(): void {
    const { playback, session, tally } = this;
    const now = performance.now();
    this.fleetView.show({
      ranked: session?.answer.appliances ?? [],
      fleet: this.fleet,
      serving: tally.serving,
      bytes: tally.bytes,
      banMs: (appliance) => {
        const until = session?.bans.bannedUntil(appliance, now) ?? null;
        return until === null ? null : until - now;
      },
    });
    setText(byId("order", HTMLElement), session === null ? "" : "best first for this play");
    this.logView.show(tally.moves, this.beganMs);
    if (playback === null) return this.graph.draw(now);
    const { rung, throughput, bufferS, waits } = playback;
    const { startMs } = this;
    const { switches, wastedRequests } = tally;
    this.figuresView.show({ rung, throughput, bufferS, startMs, waits: waits.periods, switches, wastedRequests });
    this.drawGraph(now, bufferS);
  }

  private drawGraph(now: number, bufferS: number): void {
    const { serving, switches } = this.tally;
    const colour = serving === null ? "--ink-soft" : `--${this.fleetView.colourOf(serving)}`;
    this.graph.add({ atMs: now, bufferS, colour, move: switches !== this.switchesDrawn });
    this.switchesDrawn = switches;
    this.graph.draw(now);
    const key = byId("graph-key", HTMLElement);
    const served = [...this.tally.bytes.keys()].filter((name) => this.ranked(name));
    if (key.childElementCount === served.length) return;
    key.replaceChildren(...served.map((name) => {
      return element("b", this.fleetView.colourOf(name), element("i", ""), name);
    }));
  }

  private ranked(name: string): boolean {
    return this.session?.answer.appliances.some(({ appliance }) => appliance === name) ?? false;
  }

  private powerOver(demo: string): Switch {
    return {
      stopped: (appliance) => this.stopped.has(appliance),
      toggle: (appliance) => {
        const verb = this.stopped.has(appliance) ? "start" : "stop";
        fetch(`${demo}/${verb}/${encodeURIComponent(appliance)}`, { method: "POST" })
          .then((response) => {
            if (!response.ok) throw new Error(`the demo answered ${response.status}`);
            if (verb === "stop") this.stopped.add(appliance);
            else this.stopped.delete(appliance);
            this.tally.addNote(`You ${verb === "stop" ? "stopped" : "started"} ${appliance}`, performance.now());
          })
          .catch((error: unknown) => {
            this.tally.addNote(`${appliance} could not be reached for this: ${String(error)}`, performance.now());
          });
      },
    };
  }
}

void new Page().run();
