// A card of the largest keys: a bar and a value each, every name a link into Flows.

import type { Cell, NowAnswer, Top } from "../../api/types.ts";
import { Icon, ViewLink } from "../../parts/parts.tsx";
import { addTerm, keyColumns } from "../../query/terms.ts";
import { empty, type View } from "../../state/address.ts";
import { usePreferences } from "../../state/store.ts";
import { exact, percent, rate, text, unknown } from "../../text/format.ts";
import { direction, protocol, service } from "../../text/names.ts";

const titles: Record<string, string> = {
  sources: "Sources", destinations: "Destinations", ports: "Ports", protocols: "Protocols",
  "source AS": "Source AS", "destination AS": "Destination AS", exporters: "Exporters", "input interfaces": "Input interfaces",
};

/** What to do when a card has nothing to show though there is traffic. */
const missing: Record<string, string> = {
  "source AS": "These flows carry no AS numbers. Routers send them when told to (ip flow-export … origin-as).",
  "destination AS": "These flows carry no AS numbers. Routers send them when told to (ip flow-export … peer-as).",
  exporters: "All flows were metered here. Routers send theirs to UDP port 2055.",
  "input interfaces": "These flows do not say on which interface they came in.",
};

const rowCount = 6;

export function Card({ top, answer, view, seconds }: { top: Top; answer: NowAnswer; view: View; seconds: number }) {
  const { unit } = usePreferences();
  const bytesAt = top.columns.indexOf("bytes");
  const rows = top.rows.map((row, i) => ({ row, bytes: Number(row[bytesAt] ?? 0), filter: top.filters[i] ?? "", ...names(top, row, answer) }));
  const known = rows.some((r) => r.known);
  const largest = Math.max(...rows.map((r) => r.bytes), 1);
  const target: View = { ...empty, page: "flows", range: view.from || view.to ? "" : answer.range, from: view.from, to: view.to, filter: view.filter };
  return (
    <section class="card panel" data-card={top.name}>
      <header>
        <h2>{titles[top.name] ?? top.name}</h2>
        {known && <ViewLink to={{ ...target, by: top.stat, order: "bytes" }} class="more" title="The whole list, under Flows">All<Icon name="right" /></ViewLink>}
      </header>
      {known ? (
        <ol>
          {rows.map((r) => (
            <li key={r.name + r.hint} title={`${r.full}: ${exact(r.bytes)} bytes in ${exact(seconds)} s`}>
              <span class="bar-fill" style={{ width: `${(100 * r.bytes) / largest}%` }} />
              <span class="name">
                {r.filter ? <ViewLink to={{ ...target, filter: addTerm(view.filter, r.filter) }}>{r.name}</ViewLink> : <span class="muted">{r.name}</span>}
                {r.hint && <span class="hint">{r.hint}</span>}
              </span>
              <span class="share">{percent(r.bytes, answer.series!.total.bytes)}</span>
              <span class="amount">{text(rate(r.bytes / seconds, unit))}</span>
            </li>
          ))}
          {Array.from({ length: Math.max(0, rowCount - rows.length) }, (_, i) => <li key={"empty" + i} class="blank" aria-hidden="true" />)}
        </ol>
      ) : (
        <p class="nothing">{rows.length === 0 ? "Nothing in this time." : missing[top.name] ?? "Nothing in this time."}</p>
      )}
    </section>
  );
}

/** How a row's keys are called on the screen. */
function names(top: Top, row: Cell[], answer: NowAnswer): { name: string; hint: string; full: string; known: boolean } {
  const keys = keyColumns(top.columns);
  const value = (column: string): Cell => {
    const i = top.columns.indexOf(column);
    return i < 0 ? null : (row[i] ?? null);
  };
  const proto = value("proto");
  const main = keys.find((k) => top.columns[k] !== "proto" && (top.columns[k] !== "exporter" || keys.length === 1)) ?? keys[0];
  const column = main === undefined ? "" : top.columns[main]!;
  const v = main === undefined ? null : (row[main] ?? null);
  if (v === null) return { name: "unknown", hint: "", full: "flows that do not say", known: false };
  switch (column) {
    case "proto":
      return { name: protocol(v), hint: "", full: `protocol ${v}`, known: true };
    case "port":
    case "sport":
    case "dport":
      return { name: proto === null ? String(v) : `${v}/${protocol(proto)}`, hint: service(v, proto ?? undefined), full: `port ${v}`, known: true };
    case "as":
    case "src_as":
    case "dst_as":
      return { name: `AS${v}`, hint: v === 0 ? "own network, or unknown" : "", full: `AS ${v}`, known: true };
    case "exporter": {
      const e = answer.exporters.find((x) => x.address === v);
      return { name: String(v), hint: e?.name ?? "", full: `exporter ${v}`, known: true };
    }
    case "input":
    case "output":
    case "if": {
      const exporter = value("exporter");
      const here = exporter === null || /^(127\.|::1$)/.test(String(exporter));
      const name = answer.interfaces.find((x) => x.index === v && (x.exporter ? x.exporter === exporter : here))?.name ?? "";
      const at = answer.exporters.find((x) => x.address === exporter)?.name || (exporter === null ? "" : String(exporter));
      return { name: name || `if ${v}`, hint: at, full: `interface ${v}${at ? " of " + at : ""}`, known: true };
    }
    case "direction":
      return { name: direction(v), hint: "", full: `direction ${v}`, known: true };
  }
  return { name: String(v), hint: "", full: String(v) || unknown, known: true };
}
