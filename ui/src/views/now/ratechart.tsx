// Traffic over time: in above zero, out below, and what does not say on top of in.

import { useCallback, useMemo, useState } from "preact/hooks";
import uPlot from "uplot";
import type { NowAnswer } from "../../api/types.ts";
import { fade, palette, Plot, plotFont } from "../../parts/plot.tsx";
import { useMedia } from "../../state/hooks.ts";
import { change, usePreferences } from "../../state/store.ts";
import { brief, iso, rate, text, tick, zoneName, dateTime } from "../../text/format.ts";
import { shade } from "../../parts/shade.ts";
import { marks } from "../../text/marks.ts";
import { begin, rates } from "./rates.ts";

const chartHeight = 260;

/** Seconds before now in which records may still be on their way. */
function settling(a: NowAnswer): number {
  return (a.status.cache?.idle_seconds || 15) + 10;
}

export function RateChart({ answer, live }: { answer: NowAnswer; live: boolean }) {
  const { unit, zone, theme } = usePreferences();
  const dark = useMedia("(prefers-color-scheme: dark)");
  const series = answer.series!;
  const r = useMemo(() => rates(series), [series]);
  const [at, setAt] = useState<number>();
  const from = Date.parse(answer.from) / 1000;
  const to = Date.parse(answer.to) / 1000;

  const data = useMemo<uPlot.AlignedData>(() => [r.time, r.unknown, r.in, r.out], [r]);
  // What the drawing reads at its own time.
  const facts = useMemo(() => ({ from, to, begin: 0, settle: 0 }), []);
  Object.assign(facts, { from, to, begin: begin(answer) / 1000, settle: live ? to - settling(answer) : 0 });

  const make = useCallback(() => options(unit, zone, facts, (i) => setAt(i)), [unit, zone, facts]);
  const i = at !== undefined && at < series.time.length ? at : undefined;
  const total = (k: number) => r.unknown[k]! - r.out[k]!;
  return (
    <figure class="chart">
      <figcaption>
        <ul class="legend">
          {r.hasDirection && <li class="in"><i />In <b>{i === undefined ? "" : text(rate(r.in[i]!, unit))}</b></li>}
          {r.hasDirection && <li class="out"><i />Out <b>{i === undefined ? "" : text(rate(-r.out[i]!, unit))}</b></li>}
          {r.hasUnknown && (
            <li class="none" title="Flows whose records do not say on which way they were observed">
              <i />{r.hasDirection ? "No direction" : "Total"} <b>{i === undefined ? "" : text(rate(r.unknown[i]! - r.in[i]!, unit))}</b>
            </li>
          )}
          {i !== undefined && r.hasDirection && <li>Sum <b>{text(rate(total(i), unit))}</b></li>}
        </ul>
        <span class="muted when">
          {i === undefined
            ? `${zoneName(zone, new Date(to * 1000))}, bins of ${series.bin_seconds < 60 ? series.bin_seconds + " s" : series.bin_seconds / 60 + " min"}`
            : dateTime(new Date(series.time[i]! * 1000), zone)}
        </span>
      </figcaption>
      <Plot make={make} data={data} height={chartHeight} version={`${unit} ${zone} ${theme} ${dark}`} label="Traffic over time; the table that follows says the same" />
      <div class="sr">
      <table>
        <caption>Traffic over time</caption>
        <thead>
          <tr><th>Time</th><th>In</th><th>Out</th><th>No direction</th></tr>
        </thead>
        <tbody>
          {series.time.map((t, k) => (
            <tr key={t}>
              <td>{dateTime(new Date(t * 1000), zone)}</td>
              <td>{text(rate(r.in[k]!, unit))}</td>
              <td>{text(rate(-r.out[k]!, unit))}</td>
              <td>{text(rate(r.unknown[k]! - r.in[k]!, unit))}</td>
            </tr>
          ))}
        </tbody>
      </table>
      </div>
    </figure>
  );
}

function options(unit: "bit" | "byte", zone: "utc" | "local", facts: { from: number; to: number; begin: number; settle: number }, hover: (i: number | undefined) => void): Omit<uPlot.Options, "width" | "height"> {
  const c = palette(["in", "out", "none", "line", "line-2", "ink-3", "ink-2", "paper"]);
  const factor = unit === "bit" ? 8 : 1;
  const stepped = uPlot.paths.stepped!({ align: 1 });
  const line = (colour: string, label: string): uPlot.Series => ({
    label, stroke: colour, fill: fade(colour, 0.22), width: 1.5, paths: stepped, points: { show: false },
  });
  return {
    legend: { show: false },
    padding: [8, 24, 0, 0],
    cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false, dist: 5 } },
    select: { show: true, left: 0, top: 0, width: 0, height: 0 },
    scales: {
      x: { time: true, range: () => [facts.from, facts.to] },
      y: { range: (_, min, max) => bounds(min, max) },
    },
    series: [{}, line(c["none"]!, "unknown"), line(c["in"]!, "in"), line(c["out"]!, "out")],
    axes: [
      {
        font: plotFont, stroke: c["ink-3"]!, size: 26, gap: 4, space: 70,
        grid: { show: false }, ticks: { stroke: c["line"]!, width: 1, size: 4 },
        values: (_, splits, __, ___, step) => splits.map((s) => tick(new Date(s * 1000), zone, step)),
      },
      {
        font: plotFont, stroke: c["ink-3"]!, size: 74, gap: 6, space: 36,
        grid: { stroke: c["line"]!, width: 1 }, ticks: { show: false },
        splits: (_, __, min, max) => marks(min, max, 5, factor),
        values: (_, splits) => splits.map((v) => (v === 0 ? "0" : brief(rate(Math.abs(v), unit)))),
      },
    ],
    tzDate: (ts) => (zone === "utc" ? uPlot.tzDate(new Date(ts * 1000), "Etc/UTC") : new Date(ts * 1000)),
    hooks: {
      drawClear: [(u) => shade(u, facts, c)],
      draw: [(u) => zero(u, c["line-2"]!)],
      setCursor: [(u) => {
        const left = u.cursor.left ?? -1;
        if (left < 0) return hover(undefined);
        // The bin under the pointer, not the nearest beginning of one.
        const at = u.posToVal(left, "x");
        const times = u.data[0];
        let i = (u.cursor.idx ?? 0);
        if (times[i] !== undefined && times[i]! > at) i--;
        hover(i >= 0 && i < times.length - 1 ? i : undefined);
      }],
      setSelect: [(u) => {
        if (u.select.width < 5) return;
        const a = u.posToVal(u.select.left, "x");
        const b = u.posToVal(u.select.left + u.select.width, "x");
        u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        change({ range: "", from: iso(new Date(Math.floor(a) * 1000)), to: iso(new Date(Math.ceil(b) * 1000)) });
      }],
    },
  };
}

/** Room above and below, and never an empty scale. */
export function bounds(min: number, max: number): [number, number] {
  const top = Math.max(max ?? 0, 0);
  const bottom = Math.min(min ?? 0, 0);
  if (top === 0 && bottom === 0) return [0, 1000];
  return [bottom * 1.08, top * 1.08];
}

function zero(u: uPlot, colour: string): void {
  const y = Math.round(u.valToPos(0, "y", true)) + 0.5;
  u.ctx.save();
  u.ctx.strokeStyle = colour;
  u.ctx.lineWidth = devicePixelRatio;
  u.ctx.beginPath();
  u.ctx.moveTo(u.bbox.left, y);
  u.ctx.lineTo(u.bbox.left + u.bbox.width, y);
  u.ctx.stroke();
  u.ctx.restore();
}
