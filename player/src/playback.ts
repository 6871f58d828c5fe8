// One playback: hls.js on a video element, over our loader. Impure. Says what happened through `PlaybackEvents`;
// `page.ts` shows it. What to fetch from where is `loader.ts`; how fast to adapt is hls.js's own.

import Hls, { type ErrorData, type HlsConfig } from "hls.js";

import { loaderFor, type Delivered } from "./loader";
import type { Session } from "./session";
import type { Tally } from "./tally";
import { Waits } from "./waits";

export interface PlaybackEvents {
  onFirstPicture: () => void;
  onDelivered: (delivered: Delivered) => void;
  onTracks: () => void;
  onWaited: (ms: number) => void;
  onEnded: () => void;
  /** Nothing more will come by itself. */
  onFailed: (message: string) => void;
}

export interface Track {
  index: number;
  label: string;
  selected: boolean;
}

const DEFAULT_BUFFER_S = 20;
/** After hls.js and our loader have both given up: this often again, at this distance. */
const RESTARTS_MAX = 20;
const RESTART_PAUSE_MS = 3_000;
const MEDIA_RECOVERIES_MAX = 3;

export class Playback {
  readonly waits = new Waits();

  private readonly hls: Hls;
  private readonly listeners = new AbortController();
  private started = false;
  private restarts = 0;
  private mediaRecoveries = 0;
  private restartTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly video: HTMLVideoElement,
    private readonly session: Session,
    private readonly tally: Tally,
    private readonly events: PlaybackEvents,
    bufferS: number = DEFAULT_BUFFER_S,
  ) {
    this.hls = new Hls(this.config(bufferS));
    this.hls.on(Hls.Events.ERROR, (_, data) => this.onError(data));
    for (const event of [Hls.Events.AUDIO_TRACKS_UPDATED, Hls.Events.SUBTITLE_TRACKS_UPDATED] as const) {
      this.hls.on(event, () => events.onTracks());
    }
    this.hls.on(Hls.Events.AUDIO_TRACK_SWITCHED, () => events.onTracks());
    this.hls.on(Hls.Events.SUBTITLE_TRACK_SWITCH, () => events.onTracks());
    this.listen();
    this.hls.loadSource(ownOrigin(session.answer.hls));
    this.hls.attachMedia(video);
  }

  stop(): void {
    clearTimeout(this.restartTimer);
    this.listeners.abort();
    this.hls.destroy();
  }

  /** Seconds ahead of the picture that need nobody any more. */
  get bufferS(): number {
    const { buffered, currentTime } = this.video;
    for (let index = 0; index < buffered.length; index += 1) {
      // A gap of a tenth of a second is jumped over by hls.js.
      if (buffered.start(index) <= currentTime + 0.1 && currentTime < buffered.end(index)) {
        return buffered.end(index) - currentTime;
      }
    }
    return 0;
  }

  /** The rung on the screen. */
  get rung(): { height: number; bitrate: number } | null {
    const level = this.hls.levels[this.hls.currentLevel];
    return level === undefined ? null : { height: level.height, bitrate: level.bitrate };
  }

  /** bit/s, as hls.js estimates it. */
  get throughput(): number | null {
    return Number.isFinite(this.hls.bandwidthEstimate) && this.started ? this.hls.bandwidthEstimate : null;
  }

  get audioTracks(): Track[] {
    return this.hls.audioTracks.map(({ name, lang }, index) => {
      return { index, label: labelOf(name, lang), selected: index === this.hls.audioTrack };
    });
  }

  get subtitleTracks(): Track[] {
    return this.hls.subtitleTracks.map(({ name, lang }, index) => {
      return { index, label: labelOf(name, lang), selected: index === this.hls.subtitleTrack };
    });
  }

  chooseAudio(index: number): void {
    this.hls.audioTrack = index;
  }

  /** -1: none. */
  chooseSubtitles(index: number): void {
    this.hls.subtitleTrack = index;
    this.hls.subtitleDisplay = index >= 0;
  }

  private config(bufferS: number): Partial<HlsConfig> {
    const { session, tally, events } = this;
    const loader = loaderFor({
      bans: session.bans,
      find: (object) => session.find(object),
      bufferMs: () => (this.started ? this.bufferS * 1000 : null),
      renew: () => session.renew(),
      onBytes: (appliance, count) => tally.addBytes(appliance, count),
      onDeclined: (appliance, _name, reason, status) => {
        tally.addDeclined(appliance, reason, status, performance.now());
      },
      onDone: (delivered) => {
        if (delivered.picture) tally.addPicture(delivered.appliance, performance.now());
        events.onDelivered(delivered);
      },
    });
    // Our loader has tried every appliance, some of them twice, before hls.js hears of an error.
    const retry = { maxNumRetry: 4, retryDelayMs: 500, maxRetryDelayMs: 4_000 };
    const policy = { maxTimeToFirstByteMs: 60_000, maxLoadTimeMs: 60_000, timeoutRetry: retry, errorRetry: retry };
    return {
      fLoader: loader as unknown as NonNullable<HlsConfig["fLoader"]>,
      pLoader: loader as unknown as NonNullable<HlsConfig["pLoader"]>,
      fragLoadPolicy: { default: policy },
      playlistLoadPolicy: { default: policy },
      manifestLoadPolicy: { default: policy },
      // The bundle is one file, and CMAF needs no transmuxing that a worker would be worth.
      enableWorker: false,
      maxBufferLength: bufferS,
      maxMaxBufferLength: bufferS,
      backBufferLength: 30,
      // A first guess that starts a 540p rung, instead of a fragment fetched only to measure.
      testBandwidth: false,
      abrEwmaDefaultEstimate: 2_000_000,
    };
  }

  private listen(): void {
    const { video, waits } = this;
    const on = (name: keyof HTMLMediaElementEventMap, act: () => void): void => {
      video.addEventListener(name, act, { signal: this.listeners.signal });
    };
    const moving = (): void => {
      this.firstPicture();
      if (waits.step({ kind: "moving" }, performance.now())) this.events.onWaited(waits.periods.at(-1) ?? 0);
    };
    on("waiting", () => {
      const leftMs = (video.duration - video.currentTime) * 1000;
      waits.step({ kind: "waiting", seeking: video.seeking, leftMs }, performance.now());
    });
    on("playing", moving);
    on("timeupdate", () => {
      // `timeupdate` also comes with a seek or a pause; only a picture that moves ends a wait.
      if (!video.seeking && !video.paused && video.readyState >= HTMLMediaElement.HAVE_FUTURE_DATA) moving();
    });
    on("pause", () => {
      if (!video.ended) waits.step({ kind: "paused" }, performance.now());
    });
    on("ended", () => {
      waits.step({ kind: "ended" }, performance.now());
      this.events.onEnded();
    });
  }

  private firstPicture(): void {
    if (this.started || this.video.paused) return;
    this.started = true;
    this.events.onFirstPicture();
  }

  private onError(data: ErrorData): void {
    if (!data.fatal) return;
    const message = `${data.details}: ${data.error.message}`;
    if (data.type === Hls.ErrorTypes.MEDIA_ERROR && this.mediaRecoveries < MEDIA_RECOVERIES_MAX) {
      this.mediaRecoveries += 1;
      this.tally.addNote("The decoder was restarted", performance.now());
      this.hls.recoverMediaError();
      return;
    }
    if (data.type === Hls.ErrorTypes.NETWORK_ERROR && this.restarts < RESTARTS_MAX) {
      this.restarts += 1;
      this.tally.addNote("No appliance delivers; trying again", performance.now());
      this.restartTimer = setTimeout(() => void this.restart(), RESTART_PAUSE_MS);
      return;
    }
    this.events.onFailed(message);
  }

  /** With a fresh ranking: the old one has led nowhere. */
  private async restart(): Promise<void> {
    await this.session.renew();
    if (this.listeners.signal.aborted) return;
    if (this.hls.levels.length === 0) this.hls.loadSource(ownOrigin(this.session.answer.hls));
    else this.hls.startLoad();
  }
}

/** The control plane names itself by its public URL; this page may have reached it under another (`localhost`). */
function ownOrigin(url: string): string {
  const { pathname, search } = new URL(url, location.href);
  return `${location.origin}${pathname}${search}`;
}

function labelOf(name: string, language: string | undefined): string {
  if (language === undefined || language === "") return name;
  // BCP 47 "undetermined", which Intl would call "root".
  if (language === "und") return "Unknown language";
  try {
    return new Intl.DisplayNames(["en"], { type: "language" }).of(language) ?? name;
  } catch {
    return name;
  }
}
