// hls.js's loader, ours: carries out what `transfer.ts` decides, with fetch. Serves fragments (fLoader) and playlists
// (pLoader). Impure: network, clock, timers. It decides nothing except how bytes are put together.

import type {
  HlsConfig,
  Loader,
  LoaderCallbacks,
  LoaderConfiguration,
  LoaderContext,
  LoaderStats,
} from "hls.js";

import { mediaNameOf, type MediaName } from "./names";
import { patienceFor } from "./patience";
import type { Bans, Candidate, RankedObject } from "./ranking";
import { parseContentRange, Transfer, type Action, type Reason, type Span, type TransferEvent } from "./transfer";

/** What a loader needs to know of the play, and whom it tells. One per play, shared by all its loaders. */
export interface LoaderHost {
  bans: Bans;
  /** Null: not an object of this play. */
  find: (object: string) => RankedObject | null;
  /** Milliseconds left to play; null before the first picture. */
  bufferMs: () => number | null;
  /** Asks for the play again. Settles when done, whether or not it succeeded. */
  renew: () => Promise<void>;
  onBytes: (appliance: string, count: number) => void;
  onDeclined: (appliance: string, name: MediaName | null, reason: Reason, status: number | null) => void;
  onDone: (done: Delivered) => void;
}

export interface Delivered {
  /** Who sent the last of it. */
  appliance: string;
  name: MediaName | null;
  span: Span;
  bytes: Uint8Array<ArrayBuffer>;
  /** Of the moving picture; false for sound, subtitles and playlists. */
  picture: boolean;
}

type Callbacks = LoaderCallbacks<LoaderContext>;

/** What `HlsConfig.fLoader` and `pLoader` want: a class that knows this play. */
export function loaderFor(host: LoaderHost): new (config: HlsConfig) => Loader<LoaderContext> {
  return class extends RankedLoader {
    constructor() {
      super(host);
    }
  };
}

class RankedLoader implements Loader<LoaderContext> {
  context: LoaderContext | null = null;
  stats: LoaderStats = emptyStats();

  private callbacks: Callbacks | null = null;
  private transfer: Transfer | null = null;
  private name: MediaName | null = null;
  private body = new Growing();
  private appliance = "";
  private request: AbortController | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private limit: ReturnType<typeof setTimeout> | undefined;
  /** When the last byte came, or the request went out: from here on time is lost, if the attempt fails. */
  private aliveAt = 0;
  private lostFrom: number | null = null;

  constructor(private readonly host: LoaderHost) {}

  load(context: LoaderContext, config: LoaderConfiguration, callbacks: Callbacks): void {
    this.context = context;
    this.callbacks = callbacks;
    this.name = mediaNameOf(context.url);
    const object = this.name?.object ?? context.url;
    const known = this.host.find(object);
    const own: Candidate[] = [{ appliance: hostOf(context.url), url: context.url }];
    this.transfer = new Transfer(
      { object, span: spanOf(context), size: known?.bytes ?? null },
      {
        candidates: () => this.host.find(object)?.candidates ?? own,
        patience: (timeouts) => patienceFor(this.host.bufferMs(), timeouts),
        bans: this.host.bans,
      },
    );
    this.body = new Growing(this.transfer.expected);
    this.stats.total = this.transfer.expected ?? 0;
    this.stats.loading.start = performance.now();
    this.limit = setTimeout(() => this.timeOut(), config.loadPolicy.maxLoadTimeMs);
    this.dispatch({ kind: "start" });
  }

  abort(): void {
    const { callbacks, context, stats } = this;
    this.stop(true);
    if (callbacks !== null && context !== null) callbacks.onAbort?.(stats, context, null);
  }

  destroy(): void {
    this.stop(true);
    this.context = null;
  }

  getCacheAge(): number | null {
    return null;
  }

  getResponseHeader(): string | null {
    return null;
  }

  private dispatch(event: TransferEvent): void {
    for (const action of this.transfer?.step(event, performance.now()) ?? []) this.perform(action);
    this.arm();
  }

  private perform(action: Action): void {
    switch (action.kind) {
      case "open":
        this.resume();
        void this.open(action.appliance, action.url, action.range);
        return;
      case "declined":
        this.giveUpRequest();
        this.lostFrom ??= this.aliveAt;
        this.host.onDeclined(action.appliance, this.name, action.reason, action.status);
        return;
      case "renew":
        void this.host.renew().then(() => this.dispatch({ kind: "renewed" }));
        return;
      case "done":
        this.succeed(action.appliance);
        return;
      case "failed":
        this.fail(action.reason);
        return;
      case "read":
      case "wait":
        return;
    }
  }

  /** Time spent on an attempt that failed is not bandwidth: hls.js's estimate must not see it. */
  private resume(): void {
    const now = performance.now();
    if (this.lostFrom !== null) {
      const { loading } = this.stats;
      loading.start += now - this.lostFrom;
      if (loading.first !== 0) loading.first += now - this.lostFrom;
      this.lostFrom = null;
    }
    this.aliveAt = now;
  }

  private async open(appliance: string, url: string, range: string | null): Promise<void> {
    const request = new AbortController();
    this.request = request;
    this.appliance = appliance;
    // An attempt that was given up may still speak; nobody listens to it.
    const tell = (event: TransferEvent): boolean => {
      if (this.request !== request) return false;
      this.dispatch(event);
      return this.request === request;
    };
    try {
      const response = await fetch(url, {
        // Each span is wanted once, and the browser's cache would let concurrent ranges of one object wait for another.
        cache: "no-store",
        credentials: "omit",
        referrerPolicy: "no-referrer",
        headers: range === null ? {} : { Range: range },
        signal: request.signal,
      });
      if (response.status === 403) {
        const text = await response.text();
        tell({ kind: "forbidden", expired: /expired/i.test(text) });
        return;
      }
      if (!tell(headOf(response))) return;
      if (await this.pump(response, request, tell)) tell({ kind: "end" });
    } catch {
      // fetch and reader reject alike for refused, reset, short of Content-Length, and our own abort.
      tell({ kind: "broken" });
    }
  }

  /** False once the attempt has been given up. */
  private async pump(
    response: Response,
    request: AbortController,
    tell: (event: TransferEvent) => boolean,
  ): Promise<boolean> {
    const reader = response.body?.getReader();
    for (;;) {
      const piece = await reader?.read();
      if (this.request !== request) return false;
      if (piece === undefined || piece.done) return true;
      this.take(piece.value);
      if (!tell({ kind: "bytes", count: piece.value.length })) return false;
    }
  }

  private take(piece: Uint8Array): void {
    const { stats, transfer } = this;
    this.aliveAt = performance.now();
    if (stats.loading.first === 0) stats.loading.first = Math.max(this.aliveAt, stats.loading.start);
    // What an attempt left beyond the good bytes is overwritten.
    this.body.write(transfer?.received ?? 0, piece);
    stats.loaded = (transfer?.received ?? 0) + piece.length;
    stats.chunkCount += 1;
    this.host.onBytes(this.appliance, piece.length);
  }

  private succeed(appliance: string): void {
    const { callbacks, context, stats, transfer, name } = this;
    if (callbacks === null || context === null || transfer === null) return;
    const bytes = this.body.view(transfer.received);
    stats.loading.end = Math.max(performance.now(), stats.loading.first);
    stats.loaded = stats.total = bytes.length;
    this.stop(false);
    const first = spanOf(context)?.first ?? 0;
    const span = { first, last: first + bytes.length - 1 };
    this.host.onDone({ appliance, name, span, bytes, picture: isPicture(context) });
    const data = context.responseType === "arraybuffer" ? bytes.buffer : new TextDecoder().decode(bytes);
    // Relative URIs resolve against the URL that was asked for, so an object keeps one URL whoever sent it.
    callbacks.onSuccess({ url: context.url, data, code: 200 }, stats, context, null);
  }

  private fail(reason: Reason): void {
    const { callbacks, context, stats } = this;
    this.stop(false);
    // 503: hls.js repeats what a server could not do, and gives up at once on what the client did wrong.
    if (callbacks !== null && context !== null) callbacks.onError({ code: 503, text: reason }, context, null, stats);
  }

  private timeOut(): void {
    const { callbacks, context, stats } = this;
    this.stop(true);
    if (callbacks !== null && context !== null) callbacks.onTimeout(stats, context, null);
  }

  private arm(): void {
    clearTimeout(this.timer);
    const deadline = this.transfer?.deadline ?? null;
    if (deadline === null) return;
    // Rounded up: a timer that fires a fraction early would find its deadline not yet due.
    const delay = Math.max(0, Math.ceil(deadline - performance.now()));
    this.timer = setTimeout(() => this.dispatch({ kind: "deadline" }), delay);
  }

  private stop(aborted: boolean): void {
    clearTimeout(this.timer);
    clearTimeout(this.limit);
    this.giveUpRequest();
    this.transfer = null;
    this.callbacks = null;
    if (aborted && this.stats.loading.end === 0) this.stats.aborted = true;
  }

  private giveUpRequest(): void {
    const request = this.request;
    this.request = null;
    request?.abort();
  }
}

/** Bytes in the order of the span; sized at once when the size is known. */
class Growing {
  private buffer: Uint8Array<ArrayBuffer>;

  constructor(expected: number | null = null) {
    this.buffer = new Uint8Array(expected ?? 4096);
  }

  write(offset: number, piece: Uint8Array): void {
    const needed = offset + piece.length;
    if (needed > this.buffer.length) {
      const larger = new Uint8Array(Math.max(needed, this.buffer.length * 2));
      larger.set(this.buffer.subarray(0, offset));
      this.buffer = larger;
    }
    this.buffer.set(piece, offset);
  }

  view(count: number): Uint8Array<ArrayBuffer> {
    return count === this.buffer.length ? this.buffer : this.buffer.slice(0, count);
  }
}

function headOf(response: Response): TransferEvent {
  const length = response.headers.get("Content-Length");
  return {
    kind: "head",
    status: response.status,
    range: parseContentRange(response.headers.get("Content-Range")),
    etag: response.headers.get("ETag"),
    length: length === null || !/^\d{1,15}$/.test(length) ? null : Number(length),
  };
}

/** hls.js gives an exclusive end, and zero for the whole object. */
function spanOf(context: LoaderContext): Span | null {
  const { rangeStart = 0, rangeEnd = 0 } = context;
  return rangeEnd > rangeStart ? { first: rangeStart, last: rangeEnd - 1 } : null;
}

function isPicture(context: LoaderContext): boolean {
  return "frag" in context && (context.frag as { type?: string }).type === "main";
}

function hostOf(url: string): string {
  try {
    return new URL(url).host;
  } catch {
    return "control plane";
  }
}

function emptyStats(): LoaderStats {
  return {
    aborted: false,
    loaded: 0,
    retry: 0,
    total: 0,
    chunkCount: 0,
    bwEstimate: 0,
    loading: { start: 0, first: 0, end: 0 },
    parsing: { start: 0, end: 0 },
    buffering: { start: 0, first: 0, end: 0 },
  };
}
