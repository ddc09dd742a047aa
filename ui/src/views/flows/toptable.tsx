// Flows summed by a key: a row each, with its share of the whole.

import type { RowsAnswer } from "../../api/types.ts";
import { Icon } from "../../parts/parts.tsx";
import { nextOrder, parseOrder } from "../../query/order.ts";
import { addTerm, keyColumns, rowTerm, term } from "../../query/terms.ts";
import type { View } from "../../state/address.ts";
import { change, usePreferences } from "../../state/store.ts";
import { percent } from "../../text/format.ts";
import { cell, headings } from "./cells.ts";

const sortable = new Set(["flows", "packets", "bytes", "pps", "bps", "bpp"]);

export function TopTable({ answer, view, stale }: { answer: RowsAnswer; view: View; stale: boolean }) {
  const { unit, zone } = usePreferences();
  const today = new Date();
  const sorted = parseOrder(view.order, "bytes");
  const order = sorted.name;
  const keys = keyColumns(answer.columns);
  const share = ["flows", "packets", "bytes"].includes(order) ? (order as "flows" | "packets" | "bytes") : "bytes";
  const shareAt = answer.columns.indexOf(share);
  const proto = answer.columns.indexOf("proto");
  const whole = answer.total[share];
  return (
    <div class={"scroll table-box" + (stale ? " stale" : "")}>
      <table class="flows top">
        <thead>
          <tr>
            {answer.columns.map((c, i) => (
              <th key={c} class={keys.includes(i) || c === "first" || c === "last" ? "" : "right"} aria-sort={c === order ? (sorted.ascending ? "ascending" : "descending") : undefined} data-column={c}>
                {sortable.has(c) ? (
                  <button type="button" onClick={() => change({ order: nextOrder(sorted, c, "bytes") })}>
                    {headings[c] ?? c}
                    <span class={"sort" + (c === order ? (sorted.ascending ? " on up" : " on") : "")}><Icon name="down" /></span>
                  </button>
                ) : headings[c] ?? c}
              </th>
            ))}
            <th class="share-head">Share of {share}</th>
            <th class="right"><span class="sr">Flows</span></th>
          </tr>
        </thead>
        <tbody>
          {answer.rows.map((row, i) => {
            const p = proto >= 0 && typeof row[proto] === "number" ? (row[proto] as number) : undefined;
            const select = rowTerm(answer.columns, row, keys);
            const part = Number(row[shareAt] ?? 0);
            return (
              <tr key={i}>
                {answer.columns.map((c, j) => {
                  const t = cell(c, row[j] ?? null, unit, zone, today, p);
                  const key = keys.includes(j);
                  const only = key && t.value !== undefined ? term(c, t.value) : "";
                  const body = <>{t.aligned ? <span class="number">{t.text}</span> : t.text}{t.hint && <span class="hint"> {t.hint}</span>}</>;
                  return (
                    <td key={c} class={(key || c === "first" || c === "last" ? "" : "right") + (t.mono ? " mono" : "") + (row[j] === null ? " muted" : "")} title={t.title} data-column={c}>
                      {only ? (
                        <button type="button" class="value" title={`${t.title}\nClick: only this. Alt-click: not this.`} onClick={(e) => change({ filter: addTerm(view.filter, only, e.altKey) })}>{body}</button>
                      ) : body}
                    </td>
                  );
                })}
                <td class="share-cell">
                  <span class="meter"><span style={{ width: `${whole > 0 ? Math.min(100, (100 * part) / whole) : 0}%` }} /></span>
                  <span class="percent">{percent(part, whole)}</span>
                </td>
                <td class="right">
                  {select && (
                    <button type="button" class="link" title="The single flows of this row" onClick={() => change({ by: "", order: "", limit: 0, filter: addTerm(view.filter, select) })}>
                      flows<Icon name="right" />
                    </button>
                  )}
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}
