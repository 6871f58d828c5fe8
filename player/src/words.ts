// Numbers for people. Pure.

export function bitrate(bps: number): string {
  if (bps < 1_000) return `${Math.round(bps)} b/s`;
  if (bps < 1_000_000) return `${Math.round(bps / 1_000)} kb/s`;
  return `${decimal(bps / 1_000_000)} Mb/s`;
}

export function bytes(count: number): string {
  if (count < 1_000) return `${count} B`;
  if (count < 1_000_000) return `${Math.round(count / 1_000)} kB`;
  if (count < 1_000_000_000) return `${decimal(count / 1_000_000)} MB`;
  return `${decimal(count / 1_000_000_000)} GB`;
}

export function duration(ms: number): string {
  const seconds = Math.round(ms / 1000);
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const [hours = 0, minutes = 0, rest = 0] = parts;
  const two = (value: number): string => String(value).padStart(2, "0");
  return hours > 0 ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

export function milliseconds(ms: number): string {
  return ms < 1_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

export function percent(part: number): string {
  return `${Math.round(part * 100)} %`;
}

function decimal(value: number): string {
  return value < 100 ? value.toFixed(1) : String(Math.round(value));
}
