// What stands in a cell of the flow table: short for the eye, exact in the title.

import type { Cell, Flow } from "../../api/types.ts";
import type { Column } from "../../query/columns.ts";
import { count, duration, exact, octets, perSecond, rate, stamp, text, type Unit, type Zone } from "../../text/format.ts";
import { direction, endReason, icmpType, protocol, service, tcpFlags, version } from "../../text/names.ts";

export interface CellText {
  text: string;
  /** A second, quieter word. */
  hint?: string;
  title: string;
  /** The value for a filter term; undefined where the language has none. */
  value?: Cell;
  mono?: boolean;
  /** The text is a number whose digits stand under each other, a hint beside it. */
  aligned?: boolean;
}

const blank: CellText = { text: "", title: "" };

function num(v: unknown): number | undefined {
  return typeof v === "number" ? v : undefined;
}

/** Seconds from the first packet to the last; undefined if either is unknown. */
export function flowSeconds(f: Flow): number | undefined {
  const a = typeof f["first"] === "string" ? instant(f["first"]) : NaN;
  const b = typeof f["last"] === "string" ? instant(f["last"]) : NaN;
  return Number.isNaN(a) || Number.isNaN(b) ? undefined : Math.max(0, b - a);
}

/** RFC 3339 to seconds, with the microseconds that Date drops. */
export function instant(iso: string): number {
  const m = /^(.*T\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)$/.exec(iso);
  return m ? Date.parse(m[1]! + m[3]!) / 1000 + Number(m[2] ?? 0) : NaN;
}

/** The cell of a flow under a column. */
export function flowCell(f: Flow, column: Column, unit: Unit, zone: Zone, today: Date): CellText {
  const v = f[column.name];
  switch (column.name) {
    case "duration": {
      const s = flowSeconds(f);
      return s === undefined ? blank : { text: duration(s), title: `${s.toFixed(6)} s` };
    }
    case "bps": {
      const s = flowSeconds(f);
      const b = num(f["bytes"]);
      return s === undefined || b === undefined || s === 0 ? blank : { text: text(rate(b / s, unit)), title: `${exact((8 * b) / s)} bit/s` };
    }
    case "elements":
      return v ? { text: `${Object.keys(v as object).length}`, title: JSON.stringify(v) } : blank;
    case "version":
      return { text: version(v), title: "" };
  }
  if (v === undefined || v === null || typeof v === "object") return blank;
  return cell(column.name, v, unit, zone, today, num(f["proto"]));
}

/** The cell of a value under a column's name. */
export function cell(name: string, v: Cell, unit: Unit, zone: Zone, today: Date, proto?: number): CellText {
  if (v === null) return { text: "unknown", title: "not in these records" };
  switch (name) {
    case "first":
    case "last":
    case "received":
      return { text: stamp(new Date(v), zone, today), title: String(v), mono: true };
    case "proto":
      return { text: protocol(v), title: `protocol ${v}`, value: v };
    case "sport":
    case "dport":
    case "port": {
      const s = service(v, proto);
      const icmp = (proto === 1 || proto === 58) && typeof v === "number" && name === "dport" ? icmpType(v >> 8, proto) : "";
      const hint = icmp || s;
      return { text: String(v), ...(hint ? { hint } : {}), title: hint ? `${v}: ${hint}` : String(v), value: v, mono: true, aligned: true };
    }
    case "src":
    case "dst":
    case "ip":
    case "next_hop":
    case "bgp_next_hop":
    case "exporter":
      return { text: String(v), title: String(v), value: v, mono: true };
    case "tcp_flags":
      return { text: proto === undefined || proto === 6 ? tcpFlags(v) : "", title: `TCP flags 0x${Number(v).toString(16).padStart(2, "0")}`, value: v, mono: true };
    case "packets":
    case "flows":
      return { text: count(Number(v)), title: exact(Number(v)) };
    case "bytes":
      return { text: text(octets(Number(v))), title: `${exact(Number(v))} bytes` };
    case "bps":
      return { text: text(rate(Number(v) / 8, unit)), title: `${exact(Number(v))} bit/s` };
    case "pps":
      return { text: text(perSecond(Number(v), "packets")), title: `${Number(v).toFixed(3)} packets/s` };
    case "bpp":
      return { text: `${exact(Number(v))}\u00a0B`, title: `${Number(v).toFixed(1)} bytes a packet` };
    case "direction":
      return { text: direction(v), title: `direction ${v}`, value: v };
    case "end_reason":
      return { text: endReason(v), title: `end reason ${v}` };
    case "icmp_type":
      return { text: String(v), hint: icmpType(v, proto), title: String(v), value: v };
    case "src_as":
    case "dst_as":
    case "as":
      return { text: String(v), title: `AS ${v}`, value: v };
    case "sampling":
      return { text: v === 1 ? "all" : `1:${v}`, title: v === 1 ? "every packet was looked at" : `one packet in ${v} was looked at` };
  }
  return { text: String(v), title: String(v), value: v };
}

/** Headings of the columns of an aggregated table. */
export const headings: Record<string, string> = {
  src: "Source", dst: "Destination", ip: "Address", sport: "Source port", dport: "Destination port", port: "Port", proto: "Protocol", src_as: "Source AS",
  dst_as: "Destination AS", as: "AS", input: "Input interface", output: "Output interface", if: "Interface", exporter: "Exporter", next_hop: "Next hop",
  bgp_next_hop: "BGP next hop", tos: "ToS", direction: "Direction", tcp_flags: "Flags", vlan: "VLAN", flows: "Flows", packets: "Packets", bytes: "Bytes",
  pps: "Packets/s", bps: "Rate", bpp: "B/packet", first: "First", last: "Last", src_mask: "Src mask", dst_mask: "Dst mask",
};
