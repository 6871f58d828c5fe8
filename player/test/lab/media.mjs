// A tiny title in the shape that the pipeline writes: two AVC rungs, two audio languages, one WebVTT, each a single
// fragmented MP4 addressed by byte range, its media playlist with relative URIs, everything named by a digest.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const HLS = ["-f", "hls", "-hls_time", "2", "-hls_playlist_type", "vod", "-hls_segment_type", "fmp4", "-hls_flags", "single_file"];

export function makeTitle(folder, seconds, { width = 320, height = 180 } = {}) {
  const work = join(folder, "work");
  const objects = join(folder, "objects");
  mkdirSync(work, { recursive: true });
  mkdirSync(objects);
  const picture = `testsrc2=size=${width}x${height}:rate=25:duration=${seconds}`;
  const video = (rate) => ["-f", "lavfi", "-i", picture, "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p",
    "-profile:v", "high", "-b:v", rate, "-maxrate", rate, "-bufsize", rate, "-g", "50", "-keyint_min", "50", "-sc_threshold", "0"];
  const audio = (hertz) => ["-f", "lavfi", "-i", `sine=frequency=${hertz}:duration=${seconds}`, "-c:a", "aac", "-b:a", "64k"];
  const streams = [
    { id: "video-low", tier: "sd", kind: "video", width, height, codecs: "avc1.64000d", bps: 400_000, arguments: video("400k") },
    { id: "video-high", tier: "sd", kind: "video", width, height, codecs: "avc1.64000d", bps: 900_000, arguments: video("900k") },
    { id: "audio-en", tier: "base", kind: "audio", language: "en", codecs: "mp4a.40.2", bps: 70_000, arguments: audio(330) },
    { id: "audio-sv", tier: "base", kind: "audio", language: "sv", codecs: "mp4a.40.2", bps: 70_000, arguments: audio(550) },
  ];
  const made = streams.map((stream) => makeStream(work, objects, stream));
  return { objects, streams: [...made, makeSubtitles(objects, seconds)], durationMs: seconds * 1000 };
}

function makeStream(work, objects, { arguments: options, ...stream }) {
  const playlist = join(work, `${stream.id}.m3u8`);
  execFileSync("ffmpeg", ["-v", "error", "-y", ...options, ...HLS, "-hls_segment_filename", join(work, `${stream.id}.mp4`), playlist]);
  const track = keep(objects, readFileSync(join(work, `${stream.id}.mp4`)), "mp4");
  const text = readFileSync(playlist, "utf8").replaceAll(`${stream.id}.mp4`, track.file);
  return { ...stream, track, playlist: keep(objects, Buffer.from(text), "m3u8") };
}

function makeSubtitles(objects, seconds) {
  const cues = Array.from({ length: seconds }, (_, at) => {
    const two = (value) => String(value).padStart(2, "0");
    return `00:00:${two(at)}.000 --> 00:00:${two(at)}.900\nSecond ${at}\n`;
  });
  const track = keep(objects, Buffer.from(`WEBVTT\n\n${cues.join("\n")}`), "vtt");
  const text = `#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:${seconds}\n#EXT-X-PLAYLIST-TYPE:VOD\n` +
    `#EXTINF:${seconds},\n${track.file}\n#EXT-X-ENDLIST\n`;
  const playlist = keep(objects, Buffer.from(text), "m3u8");
  return { id: "subtitles-en", tier: "base", kind: "subtitles", language: "en", codecs: "", bps: 200, track, playlist };
}

/** The name here is a SHA-256; the player takes any 64 digits and never computes it. */
function keep(objects, bytes, extension) {
  const object = createHash("sha256").update(bytes).digest("hex");
  const file = `${object}.${extension}`;
  writeFileSync(join(objects, file), bytes);
  return { object, file, bytes: bytes.length };
}
