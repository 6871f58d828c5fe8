// What this browser can decode and show. Impure: asks the browser.

/** One sample of each codec family that a title may be encoded in (RFC 6381). */
const SAMPLES: Record<string, string> = {
  avc1: 'video/mp4; codecs="avc1.64001f"',
  hvc1: 'video/mp4; codecs="hvc1.1.6.L93.B0"',
  av01: 'video/mp4; codecs="av01.0.05M.08"',
  vp09: 'video/mp4; codecs="vp09.00.31.08"',
  mp4a: 'audio/mp4; codecs="mp4a.40.2"',
  opus: 'audio/mp4; codecs="opus"',
  "ec-3": 'audio/mp4; codecs="ec-3"',
};

export function device(): { height_max: number; codecs: string[] } {
  const supported = (type: string): boolean => "MediaSource" in window && MediaSource.isTypeSupported(type);
  const codecs = Object.keys(SAMPLES).filter((family) => supported(SAMPLES[family] ?? ""));
  // A small window may become a full screen; below 1080 lines the adaptation decides, not the offer.
  return { height_max: Math.max(1080, Math.round(screen.height * devicePixelRatio)), codecs };
}

/** 128 random bits. `randomUUID` would need a secure context, and the page may be opened from another machine. */
export function newSessionId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
