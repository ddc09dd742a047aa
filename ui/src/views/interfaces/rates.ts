// What the Interfaces screen reckons from counters.

import type { Interface } from "../../api/types.ts";

/** An answer, and when it came: ms. */
export interface Noted {
  at: number;
  list: Interface[];
}

export interface Rates {
  packetsIn: number;
  bytesIn: number;
  packetsOut: number;
  bytesOut: number;
}

/** Rates of an interface between the last two answers; none, if it was not in both, or its counters began anew. */
export function between(notes: Noted[], i: Interface): Rates | undefined {
  const [a, b] = [notes[notes.length - 2], notes[notes.length - 1]];
  const before = a?.list.find((x) => x.index === i.index && x.mode);
  const after = b?.list.find((x) => x.index === i.index && x.mode);
  const seconds = a && b ? (b.at - a.at) / 1000 : 0;
  if (!before || !after || seconds <= 0 || after.packets_in < before.packets_in || after.packets_out < before.packets_out) return undefined;
  const of = (n: number, m: number) => Math.max(0, m - n) / seconds;
  return {
    packetsIn: of(before.packets_in, after.packets_in),
    bytesIn: of(before.bytes_in, after.bytes_in),
    packetsOut: of(before.packets_out, after.packets_out),
    bytesOut: of(before.bytes_out, after.bytes_out),
  };
}

/** What became of what came in: "lost" is counted where it leaves, and is no part of that. */
export function fates(i: Interface): { forwarded: number; slow: number; share: number; reasons: { name: string; count: number }[] } {
  const reasons = [...(i.slow ?? [])].sort((a, b) => b.count - a.count);
  const forwarded = i.forwarded ?? 0;
  const slow = reasons.reduce((n, c) => n + (c.name === "lost" ? 0 : c.count), 0);
  return { forwarded, slow, share: forwarded + slow > 0 ? forwarded / (forwarded + slow) : 0, reasons };
}

/** A share in tenths of a percent, which is all only if nothing is missing. */
export function portion(share: number): string {
  const tenths = share < 1 ? Math.min(999, Math.round(1000 * share)) : 1000;
  return (tenths / 10).toFixed(1) + "\u00a0%";
}
