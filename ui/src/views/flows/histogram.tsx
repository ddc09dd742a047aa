// The matching traffic over time, above the table; drag over it to zoom.

import { useCallback, useMemo, useState } from "preact/hooks";
import uPlot from "uplot";
import type { SeriesAnswer } from "../../api/types.ts";
import { fade, palette, Plot, plotFont } from "../../parts/plot.tsx";
import { shade, type Facts } from "../../parts/shade.ts";
import { useMedia } from "../../state/hooks.ts";
import { change, usePreferences } from "../../state/store.ts";
import { marks } from "../../text/marks.ts";
import { brief, dateTime, exact, iso, rate, text, tick } from "../../text/format.ts";

const height = 108;

export function Histogram({ series, stale, oldest }: { series: SeriesAnswer; stale: boolean; oldest: number }) {
  const { unit, zone, theme } = usePreferences();
  const dark = useMedia("(prefers-color-scheme: dark)");
  const [at, setAt] = useState<number>();
  const line = series.lines[0];
  const bytes = line?.bytes ?? [];
  const end = (series.time[series.time.length - 1] ?? 0) + series.bin_seconds;
  const data = useMemo<uPlot.AlignedData>(
    () => [[...series.time, end], [...bytes.map((b) => b / series.bin_seconds), 0]],
    [series],
  );
  const facts = useMemo<Facts>(() => ({ from: 0, to: 1, begin: 0, settle: 0 }), []);
  Object.assign(facts, { from: series.time[0] ?? 0, to: end, begin: oldest });
  const make = useCallback(() => options(unit, zone, facts, setAt), [unit, zone, facts]);
  const i = at !== undefined && at < series.time.length ? at : undefined;
  return (
    <figure class={"histogram" + (stale ? " stale" : "")}>
      <p class="readout muted" aria-live="off">
        {i === undefined
          ? "Drag to zoom into a time"
          : `${dateTime(new Date(series.time[i]! * 1000), zone)}   ${text(rate(bytes[i]! / series.bin_seconds, unit))}   ${exact(line!.flows[i]!)} flows   ${exact(line!.packets[i]!)} packets`}
      </p>
      <Plot make={make} data={data} height={height} version={`${unit} ${zone} ${theme} ${dark}`} label={`Matching traffic over time, ${series.time.length} bins of ${series.bin_seconds} s`} />
    </figure>
  );
}

function options(unit: "bit" | "byte", zone: "utc" | "local", facts: Facts, hover: (i: number | undefined) => void): Omit<uPlot.Options, "width" | "height"> {
  const c = palette(["in", "line", "line-2", "ink-3", "paper"]);
  return {
    legend: { show: false },
    padding: [6, 24, 0, 0],
    cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false, dist: 5 } },
    scales: { x: { time: true, range: () => [facts.from, facts.to] }, y: { range: (_, __, max) => [0, max > 0 ? max * 1.06 : 1] } },
    series: [{}, { label: "rate", stroke: c["in"]!, fill: fade(c["in"]!, 0.35), width: 1, paths: uPlot.paths.stepped!({ align: 1 }), points: { show: false } }],
    axes: [
      { font: plotFont, stroke: c["ink-3"]!, size: 24, gap: 4, space: 70, grid: { show: false }, ticks: { stroke: c["line"]!, width: 1, size: 4 },
        values: (_, splits, __, ___, step) => splits.map((s) => tick(new Date(s * 1000), zone, step)) },
      { font: plotFont, stroke: c["ink-3"]!, size: 74, gap: 6, space: 30, grid: { stroke: c["line"]!, width: 1 }, ticks: { show: false },
        splits: (_, __, min, max) => marks(min, max, 2.5, unit === "bit" ? 8 : 1),
        values: (_, splits) => splits.map((v) => (v === 0 ? "0" : brief(rate(v, unit)))) },
    ],
    tzDate: (ts) => (zone === "utc" ? uPlot.tzDate(new Date(ts * 1000), "Etc/UTC") : new Date(ts * 1000)),
    hooks: {
      drawClear: [(u) => shade(u, facts, c)],
      setCursor: [(u) => {
        const left = u.cursor.left ?? -1;
        if (left < 0) return hover(undefined);
        const t = u.posToVal(left, "x");
        const times = u.data[0];
        let i = u.cursor.idx ?? 0;
        if (times[i] !== undefined && times[i]! > t) i--;
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
