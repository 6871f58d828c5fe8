// What a media URL says (DESIGN §3): `http://box/~token/title/tier/<blake3>.<ext>`.
// The object's name alone decides which bytes are meant; the host and the token only say where and by what right.

export interface MediaName {
  title: string;
  tier: string;
  /** BLAKE3, 64 lowercase hexadecimal digits. */
  object: string;
  extension: "mp4" | "m3u8" | "vtt";
}

const MEDIA_PATH = /^\/~[^/]+\/([a-z0-9][a-z0-9-]{0,63})\/(base|sd|hd|uhd)\/([0-9a-f]{64})\.(mp4|m3u8|vtt)$/;

/** Null for any URL that is not an object on an appliance. */
export function mediaNameOf(url: string): MediaName | null {
  const path = pathOf(url);
  const match = path === null ? null : MEDIA_PATH.exec(path);
  if (match === null) return null;
  const [, title = "", tier = "", object = "", extension = ""] = match;
  return { title, tier, object, extension: extension as MediaName["extension"] };
}

/** The same object under another token, on the same host. */
export function withToken(url: string, token: string): string {
  return url.replace(/\/~[^/]+\//, `/~${token}/`);
}

function pathOf(url: string): string | null {
  try {
    return new URL(url).pathname;
  } catch {
    return null;
  }
}
