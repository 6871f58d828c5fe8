// What the page's own address asks for. Pure.

export interface Address {
  title: string | null;
  plan: string | null;
  territory: string | null;
  autoplay: boolean;
  check: boolean;
  /** Where `cargo xtask demo` takes orders to stop and start an appliance. */
  demo: string | null;
  bufferS: number | undefined;
}

export function addressOf(search: string): Address {
  const query = new URLSearchParams(search);
  const bufferS = Number(query.get("buffer"));
  return {
    title: query.get("title"),
    plan: query.get("plan"),
    territory: query.get("territory"),
    autoplay: query.get("autoplay") === "1",
    check: query.get("check") === "1",
    demo: loopbackOf(query.get("demo")),
    bufferS: bufferS >= 4 && bufferS <= 120 ? bufferS : undefined,
  };
}

/** A link to this page must not make a viewer's browser post to a stranger: the demo runs on the viewer's own machine. */
export function loopbackOf(text: string | null): string | null {
  try {
    const url = new URL(text ?? "");
    const loopback = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/.test(url.hostname);
    return loopback && url.protocol === "http:" ? url.origin : null;
  } catch {
    return null;
  }
}
