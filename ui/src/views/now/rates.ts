// From the sums of a series to the lines of the chart and the figures above it.

import type { LossLine, NowAnswer, SeriesAnswer } from "../../api/types.ts";

export interface Rates {
  /** Unix seconds; one more than there are bins, so that the last has a width. */
  time: number[];
  /** Octets a second. out is below zero; unknown stands on top of in. */
  in: number[];
  out: number[];
  unknown: number[];
  hasDirection: boolean;
  hasUnknown: boolean;
}

/** Lines for the chart: octets a second in each bin. */
export function rates(s: SeriesAnswer): Rates {
  const line = (name: string) => s.lines.find((l) => l.name === name)?.bytes ?? s.time.map(() => 0);
  const [i, o, n] = [line("in"), line("out"), line("unknown")];
  const per = (v: number) => v / s.bin_seconds;
  const some = (l: number[]) => l.some((v) => v > 0);
  const last = <T>(l: T[]): T[] => (l.length > 0 ? [...l, l[l.length - 1]!] : l);
  return {
    time: s.time.length > 0 ? [...s.time, s.time[s.time.length - 1]! + s.bin_seconds] : [],
    in: last(i.map(per)),
    out: last(o.map((v) => (v > 0 ? -per(v) : 0))),
    unknown: last(n.map((v, k) => per(v + (i[k] ?? 0)))),
    hasDirection: some(i) || some(o),
    hasUnknown: some(n),
  };
}

export interface Figures {
  seconds: number;
  bytes: number;
  packets: number;
  flows: number;
  /** Octets a second. */
  mean: number;
  in: number;
  out: number;
  unknown: number;
  peak: number;
  peakIn: number;
  peakOut: number;
}

/** What the figures above the chart say: means over the time that has data. */
export function figures(a: NowAnswer): Figures | undefined {
  const s = a.series;
  if (!s) return undefined;
  const seconds = covered(a);
  const sum = (name: string) => s.lines.filter((l) => l.name === name).reduce((n, l) => n + l.bytes.reduce((x, y) => x + y, 0), 0);
  const peak = (name: string) => Math.max(0, ...s.lines.filter((l) => l.name === name).flatMap((l) => l.bytes)) / s.bin_seconds;
  const all = s.time.map((_, i) => s.lines.reduce((n, l) => n + (l.bytes[i] ?? 0), 0));
  return {
    seconds,
    bytes: s.total.bytes,
    packets: s.total.packets,
    flows: s.total.flows,
    mean: s.total.bytes / seconds,
    in: sum("in") / seconds,
    out: sum("out") / seconds,
    unknown: sum("unknown") / seconds,
    peak: Math.max(0, ...all) / s.bin_seconds,
    peakIn: peak("in"),
    peakOut: peak("out"),
  };
}

/** Seconds of the range for which there can be data: not those before the store began. */
export function covered(a: NowAnswer): number {
  const from = Date.parse(a.from);
  const to = Date.parse(a.to);
  return Math.max(1, (to - Math.max(from, Math.min(begin(a), to))) / 1000);
}

/** When the data begins, in ms; 0 if that is not known. */
export function begin(a: NowAnswer): number {
  const oldest = Date.parse(a.status.store?.oldest ?? "");
  const first = Date.parse(a.series?.total.first ?? "");
  // The store's zero time is year 1.
  if (oldest > 0) return Number.isNaN(first) ? oldest : Math.min(oldest, first);
  return 0;
}

export interface Stage {
  name: string;
  label: string;
  lines: LossLine[];
}

/** The stages in the order of the data's way; unknown ones come last. */
const stages: [string, string][] = [
  ["capture", "Capture"], ["packet", "Parse"], ["cache", "Cache"], ["export", "Export"], ["wire", "Decode"], ["collect", "Collect"], ["enrich", "Enrich"],
  ["store", "Store"], ["query", "Query"],
];

export function byStage(losses: LossLine[]): Stage[] {
  const names = [...new Set([...stages.map(([n]) => n), ...losses.map((l) => l.stage)])];
  return names
    .map((name) => ({ name, label: stages.find(([n]) => n === name)?.[1] ?? name, lines: losses.filter((l) => l.stage === name) }))
    .filter((s) => s.lines.length > 0);
}

export type LossUnit = "records" | "packets" | "datagrams" | "bytes";

/** A loss in the unit it is known in; 0 records when nothing was lost. */
export function lossAmount(l: LossLine): { n: number; unit: LossUnit } {
  for (const unit of ["records", "packets", "datagrams", "bytes"] as const) if (l[unit] > 0) return { n: l[unit], unit };
  return { n: 0, unit: "records" };
}

/** Sums of a stage's losses, by unit; none if nothing was lost. */
export function stageSums(lines: LossLine[]): { n: number; unit: LossUnit }[] {
  const sums = new Map<LossUnit, number>();
  for (const l of lines) {
    const { n, unit } = lossAmount(l);
    if (n > 0) sums.set(unit, (sums.get(unit) ?? 0) + n);
  }
  return [...sums].map(([unit, n]) => ({ n, unit }));
}
