// The buffer over the last minute, each stretch in the colour of the appliance that served then. Draws on a canvas;
// the samples are kept here.

export interface Sample {
  atMs: number;
  bufferS: number;
  /** A CSS custom property: `--box-0`. */
  colour: string;
  /** Somebody took over at this moment. */
  move: boolean;
}

const WINDOW_MS = 60_000;
const LEAST_TOP_S = 10;
const MARGIN = { left: 34, right: 6, top: 8, bottom: 18 };

export class BufferGraph {
  private samples: Sample[] = [];

  constructor(private readonly canvas: HTMLCanvasElement) {}

  clear(): void {
    this.samples = [];
  }

  add(sample: Sample): void {
    this.samples.push(sample);
    while ((this.samples[0]?.atMs ?? Infinity) < sample.atMs - WINDOW_MS) this.samples.shift();
  }

  draw(nowMs: number): void {
    const context = this.canvas.getContext("2d");
    if (context === null) return;
    const { width, height } = this.fit(context);
    const style = getComputedStyle(this.canvas);
    const colour = (name: string): string => style.getPropertyValue(name).trim();
    const top = this.top();
    const x = (atMs: number): number =>
      MARGIN.left + (1 - (nowMs - atMs) / WINDOW_MS) * (width - MARGIN.left - MARGIN.right);
    const y = (bufferS: number): number =>
      height - MARGIN.bottom - (bufferS / top) * (height - MARGIN.top - MARGIN.bottom);
    context.clearRect(0, 0, width, height);
    context.font = `11px ${style.fontFamily}`;
    this.drawGrid(context, { width, height, top, y, line: colour("--line"), ink: colour("--ink-soft") });
    this.drawArea(context, x, y, colour);
  }

  private drawGrid(
    context: CanvasRenderingContext2D,
    at: { width: number; height: number; top: number; y: (s: number) => number; line: string; ink: string },
  ): void {
    context.strokeStyle = at.line;
    context.fillStyle = at.ink;
    context.lineWidth = 1;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const seconds of [0, at.top / 2, at.top]) {
      context.beginPath();
      context.moveTo(MARGIN.left, Math.round(at.y(seconds)) + 0.5);
      context.lineTo(at.width - MARGIN.right, Math.round(at.y(seconds)) + 0.5);
      context.stroke();
      context.fillText(`${seconds} s`, MARGIN.left - 6, at.y(seconds));
    }
    context.textBaseline = "alphabetic";
    context.textAlign = "left";
    context.fillText("1 min ago", MARGIN.left, at.height - 3);
    context.textAlign = "right";
    context.fillText("now", at.width - MARGIN.right, at.height - 3);
  }

  private drawArea(
    context: CanvasRenderingContext2D,
    x: (atMs: number) => number,
    y: (bufferS: number) => number,
    colour: (name: string) => string,
  ): void {
    for (const stretch of stretches(this.samples)) {
      const [first] = stretch;
      const last = stretch.at(-1);
      if (first === undefined || last === undefined) continue;
      const line = new Path2D();
      stretch.forEach((sample, index) => {
        if (index === 0) line.moveTo(x(sample.atMs), y(sample.bufferS));
        else line.lineTo(x(sample.atMs), y(sample.bufferS));
      });
      const area = new Path2D(line);
      area.lineTo(x(last.atMs), y(0));
      area.lineTo(x(first.atMs), y(0));
      area.closePath();
      context.strokeStyle = context.fillStyle = colour(first.colour);
      context.globalAlpha = 0.2;
      context.fill(area);
      context.globalAlpha = 1;
      context.lineWidth = 2;
      context.lineJoin = "round";
      context.stroke(line);
    }
    this.drawMoves(context, x, y, colour("--ink-soft"));
  }

  private drawMoves(
    context: CanvasRenderingContext2D,
    x: (atMs: number) => number,
    y: (bufferS: number) => number,
    ink: string,
  ): void {
    context.strokeStyle = ink;
    context.lineWidth = 1;
    context.setLineDash([3, 3]);
    for (const { atMs } of this.samples.filter((sample) => sample.move)) {
      context.beginPath();
      context.moveTo(x(atMs), MARGIN.top);
      context.lineTo(x(atMs), y(0));
      context.stroke();
    }
    context.setLineDash([]);
  }

  /** The top of the scale: an even number of seconds with some air. */
  private top(): number {
    const most = Math.max(0, ...this.samples.map((sample) => sample.bufferS));
    return Math.max(LEAST_TOP_S, Math.ceil(most / 10) * 10);
  }

  private fit(context: CanvasRenderingContext2D): { width: number; height: number } {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const ratio = devicePixelRatio;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    return { width, height };
  }
}

/** Runs of one colour; each begins where the one before ended, so that the area has no gaps. */
function stretches(samples: Sample[]): Sample[][] {
  const runs: Sample[][] = [];
  for (const sample of samples) {
    const run = runs.at(-1);
    if (run !== undefined && run[0]?.colour === sample.colour) {
      run.push(sample);
      continue;
    }
    const before = run?.at(-1);
    runs.push(before === undefined ? [sample] : [{ ...before, colour: sample.colour }, sample]);
  }
  return runs;
}
