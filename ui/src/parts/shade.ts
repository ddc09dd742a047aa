// What a chart says beside its lines: where there is no data yet, and where more may come.

import type uPlot from "uplot";
import { fade } from "./plot.tsx";

/** All in Unix seconds; begin and settle are 0 when there is nothing to say. */
export interface Facts {
  from: number;
  to: number;
  /** Before this the store has nothing. */
  begin: number;
  /** After this, records may still be on their way. */
  settle: number;
}

/** Says where there is no data yet, and where more of it may come. */
export function shade(u: uPlot, facts: Facts, c: Record<string, string>): void {
  const { ctx } = u;
  const { left, top, width, height } = u.bbox;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  if (facts.begin > facts.from) {
    const x = Math.min(u.valToPos(facts.begin, "x", true), left + width);
    hatch(ctx, left, top, x - left, height, fade(c["line-2"]!, 0.5));
    const ratio = devicePixelRatio;
    if (x - left > 120 * ratio) {
      ctx.font = `${11 * ratio}px system-ui, sans-serif`;
      ctx.textBaseline = "top";
      ctx.textAlign = "left";
      const label = "no data yet";
      ctx.fillStyle = c["paper"]!;
      const w = ctx.measureText(label).width;
      ctx.fillRect(left + 10 * ratio, top + 8 * ratio, w + 12 * ratio, 18 * ratio);
      ctx.fillStyle = c["ink-3"]!;
      ctx.fillText(label, left + 16 * ratio, top + 12 * ratio);
    }
  }
  if (facts.settle > facts.from) {
    const x = u.valToPos(facts.settle, "x", true);
    ctx.fillStyle = fade(c["ink-3"]!, 0.09);
    ctx.fillRect(x, top, left + width - x, height);
  }
  ctx.restore();
}

function hatch(ctx: CanvasRenderingContext2D, x: number, y: number, w: number, h: number, colour: string): void {
  ctx.save();
  ctx.beginPath();
  ctx.rect(x, y, w, h);
  ctx.clip();
  ctx.strokeStyle = colour;
  ctx.lineWidth = 1;
  ctx.beginPath();
  const gap = 9 * devicePixelRatio;
  for (let d = -h; d < w; d += gap) {
    ctx.moveTo(x + d, y + h);
    ctx.lineTo(x + d + h, y);
  }
  ctx.stroke();
  ctx.restore();
}
