// What crosses between this page and the control plane: the JSON of `content::play`, field for field.

export interface PlayRequest {
  title: string;
  session: string;
  member: string;
  plan: string;
  territory: string;
  device: { height_max: number; codecs: string[] };
  languages: string[];
}

export interface PlayAnswer {
  session: string;
  title: string;
  name: string;
  duration_ms: number;
  token: string;
  /** RFC 3339. */
  expires: string;
  hls: string;
  dash: string;
  /** The best first. */
  appliances: RankedAppliance[];
  streams: PlayStream[];
}

export interface RankedAppliance {
  appliance: string;
  cluster: string;
  base_url: string;
}

export interface PlayStream {
  id: string;
  tier: string;
  kind: "video" | "audio" | "subtitles";
  codecs: string;
  bandwidth_bps: number;
  average_bandwidth_bps: number;
  width?: number;
  height?: number;
  language?: string;
  track: PlayObject;
  playlist: PlayObject;
}

export interface PlayObject {
  object: string;
  bytes: number;
  /** The best first. */
  urls: string[];
}

export interface TitleSummary {
  title: string;
  name: string;
  duration_ms: number;
}

/** RFC 9457. */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
}
