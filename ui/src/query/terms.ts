// The filter language as the screens write it: a value of a column becomes a
// term, terms are added to a filter. The same table stands in
// console/terms.go; a test keeps both equal.

import type { Cell } from "../api/types.ts";

export const terms: Record<string, string> = {
  src: "src ip %s", dst: "dst ip %s", ip: "ip %s",
  sport: "src port %s", dport: "dst port %s", port: "port %s",
  proto: "proto %s",
  src_as: "src as %s", dst_as: "dst as %s", as: "as %s",
  input: "in if %s", output: "out if %s", if: "if %s",
  exporter: "exporter ip %s", next_hop: "next ip %s", bgp_next_hop: "bgp next ip %s",
  tos: "tos %s", tcp_flags: "flags = %s", vlan: "vlan %s",
  src_mask: "src mask %s", dst_mask: "dst mask %s",
  icmp_type: "icmp type %s", icmp_code: "icmp code %s",
  packets: "packets = %s", bytes: "bytes = %s", duration: "duration = %s",
  forwarding_status: "fwdstat = %s", domain: "observation domain id %s",
  first: "first seen = %s", last: "last seen = %s",
  direction: "flowdir %s",
};

const address = /^[0-9a-fA-F:.]+$/;
const prefix = /^[0-9a-fA-F:.]+\/\d{1,3}$/;

/** Says in the filter language that column has value; "" when it cannot. */
export function term(column: string, value: Cell | undefined): string {
  let form = terms[column];
  if (form === undefined || value === null || value === undefined || (typeof value === "number" && !Number.isInteger(value))) return "";
  const text = String(value);
  if (form.includes("ip %s")) {
    if (prefix.test(text)) form = form.replace("ip %s", "net %s");
    else if (!address.test(text) || !/[.:]/.test(text)) return "";
  }
  return form.replace("%s", () => text);
}

/** The terms of an aggregated row, joined; "" when one of its keys has none. */
export function rowTerm(columns: string[], row: Cell[], keys: number[]): string {
  const all = keys.map((k) => term(columns[k]!, row[k]));
  return all.includes("") ? "" : all.join(" and ");
}

const measures = new Set(["time", "flows", "packets", "bytes", "pps", "bps", "bpp", "first", "last"]);

/** The columns of an aggregated row that are its keys. */
export function keyColumns(columns: string[]): number[] {
  return columns.flatMap((c, i) => (measures.has(c) ? [] : [i]));
}

/** A token of a filter, with its place. */
interface Token {
  text: string;
  depth: number;
}

/** Splits a filter so far as it takes to join filters: words, signs and brackets. */
function scan(filter: string): { tokens: Token[]; comment: boolean } {
  const tokens: Token[] = [];
  let depth = 0;
  let comment = false;
  for (let i = 0; i < filter.length; ) {
    const c = filter[i]!;
    if (/\s/.test(c)) {
      i++;
    } else if (c === "#") {
      comment = true;
      const end = filter.indexOf("\n", i);
      i = end < 0 ? filter.length : end;
    } else if (c === '"' || c === "'") {
      const end = filter.indexOf(c, i + 1);
      const stop = end < 0 ? filter.length : end + 1;
      tokens.push({ text: filter.slice(i, stop), depth });
      i = stop;
    } else if (c === "(") {
      tokens.push({ text: c, depth });
      depth++;
      i++;
    } else if (c === ")") {
      depth--;
      tokens.push({ text: c, depth });
      i++;
    } else {
      let j = i + 1;
      while (j < filter.length && !/[\s()#"']/.test(filter[j]!)) j++;
      tokens.push({ text: filter.slice(i, j), depth });
      i = j;
    }
  }
  return { tokens, comment };
}

/** The parts that a filter joins with "and" at its top; none if "or" stands there. */
function conjuncts(filter: string): string[] | undefined {
  const { tokens, comment } = scan(filter);
  if (comment || tokens.some((t) => t.depth === 0 && t.text.toLowerCase() === "or")) return undefined;
  const parts: string[][] = [[]];
  for (const t of tokens) {
    if (t.depth === 0 && t.text.toLowerCase() === "and") parts.push([]);
    else parts[parts.length - 1]!.push(t.text);
  }
  return parts.map((p) => p.join(" ").toLowerCase());
}

function bracket(filter: string): string {
  const { comment } = scan(filter);
  return "(" + filter + (comment ? "\n" : "") + ")";
}

/** Adds a term to a filter so that both must hold. */
export function addTerm(filter: string, add: string, not = false): string {
  const text = not ? "not " + (/ and | or /.test(add) ? "(" + add + ")" : add) : add;
  const old = filter.trim();
  if (old === "") return text;
  const parts = conjuncts(old);
  if (!parts) return bracket(old) + " and " + text;
  const wanted = text.toLowerCase().split(" and ");
  if (wanted.every((w) => parts.includes(w))) return old;
  // A term that says the opposite of one that is there takes its place.
  const opposite = not ? add.toLowerCase() : "not " + add.toLowerCase();
  if (parts.includes(opposite) && !old.includes("(")) {
    const kept = old.split(/\s+and\s+/i).filter((p) => p.replace(/\s+/g, " ").toLowerCase() !== opposite);
    return [...kept, text].join(" and ");
  }
  return old + " and " + text;
}

/** Quotes a word for a POSIX shell where it needs that. */
export function shell(word: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : "'" + word.replace(/'/g, "'\\''") + "'";
}

export interface Command {
  store: string;
  from: string;
  to: string;
  filter: string;
  by: string;
  order: string;
  limit: number;
}

/** The command line that answers the same question. */
export function commandLine(c: Command): string {
  const words = ["weir", "query"];
  if (c.store) words.push("--store", c.store);
  if (c.from || c.to) words.push("-t", c.to ? c.from + "/" + c.to : c.from);
  if (c.by) words.push("-s", c.order ? c.by + "/" + c.order : c.by);
  else if (c.order) words.push("-O", c.order);
  if (c.limit) words.push("-n", String(c.limit));
  if (c.filter) words.push(c.filter);
  return words.map(shell).join(" ");
}
