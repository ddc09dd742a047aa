// The table of single flows: click a value to filter by it, a row for all of it.

import type { Flow } from "../../api/types.ts";
import { Icon } from "../../parts/parts.tsx";
import type { Column } from "../../query/columns.ts";
import { nextOrder, parseOrder } from "../../query/order.ts";
import { addTerm, term } from "../../query/terms.ts";
import type { View } from "../../state/address.ts";
import { useMedia } from "../../state/hooks.ts";
import { change, usePreferences } from "../../state/store.ts";
import { flowCell, type CellText } from "./cells.ts";

export function FlowTable({ rows, columns, view, stale, onOpen, opened }: {
  rows: Flow[];
  columns: Column[];
  view: View;
  stale: boolean;
  onOpen: (i: number) => void;
  opened: number | undefined;
}) {
  const { unit, zone } = usePreferences();
  const narrow = useMedia("(max-width: 699px)");
  const today = new Date();
  if (narrow) return <FlowList rows={rows} onOpen={onOpen} stale={stale} />;
  const order = parseOrder(view.order, "tend:d");
  const move = (e: KeyboardEvent, i: number) => {
    const row = e.currentTarget as HTMLElement;
    if (e.target !== row) return;
    if (e.key === "Enter") onOpen(i);
    else if (e.key === "ArrowDown" || e.key === "ArrowUp") {
      e.preventDefault();
      const next = e.key === "ArrowDown" ? row.nextElementSibling : row.previousElementSibling;
      (next as HTMLElement | null)?.focus();
    }
  };
  return (
    <div class={"scroll table-box" + (stale ? " stale" : "")}>
      <table class="flows">
        <thead>
          <tr>
            {columns.map((c) => (
              <th key={c.name} class={c.right ? "right" : ""} title={c.help} aria-sort={c.order === order.name ? (order.ascending ? "ascending" : "descending") : undefined} data-column={c.name}>
                {c.order ? (
                  <button type="button" onClick={() => change({ order: nextOrder(order, c.order!, "tend:d") })}>
                    {c.label}
                    <span class={"sort" + (c.order === order.name ? (order.ascending ? " on up" : " on") : "")}><Icon name="down" /></span>
                  </button>
                ) : c.label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((f, i) => (
            <tr
              key={i}
              tabIndex={0}
              class={i === opened ? "opened" : ""}
              onClick={(e) => !(e.target as HTMLElement).closest("button") && !hasSelection() && onOpen(i)}
              onKeyDown={(e) => move(e, i)}
            >
              {columns.map((c) => <FlowCell key={c.name} column={c} cell={flowCell(f, c, unit, zone, today)} view={view} />)}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** Marking text in the table is not a click on it. */
function hasSelection(): boolean {
  return (getSelection()?.toString() ?? "") !== "";
}

function FlowCell({ column, cell, view }: { column: Column; cell: CellText; view: View }) {
  const t = cell.value === undefined ? "" : term(column.name, cell.value);
  const body = (
    <>
      {cell.aligned ? <span class="number">{cell.text}</span> : cell.text}
      {cell.hint && <span class="hint"> {cell.hint}</span>}
    </>
  );
  return (
    <td class={(column.right ? "right" : "") + (cell.mono ? " mono" : "")} title={cell.title} data-column={column.name}>
      {t ? (
        <button
          type="button"
          tabIndex={-1}
          class="value"
          title={`${cell.title}\nClick: only this. Alt-click: not this.`}
          onClick={(e) => change({ filter: addTerm(view.filter, t, e.altKey) })}
        >
          {body}
        </button>
      ) : body}
    </td>
  );
}

/** The same on a narrow screen: two lines a flow. */
function FlowList({ rows, onOpen, stale }: { rows: Flow[]; onOpen: (i: number) => void; stale: boolean }) {
  const { unit, zone } = usePreferences();
  const today = new Date();
  const show = (f: Flow, name: string) => flowCell(f, { name, label: "", help: "" }, unit, zone, today);
  return (
    <ol class={"flow-list" + (stale ? " stale" : "")}>
      {rows.map((f, i) => (
        <li key={i}>
          <button type="button" onClick={() => onOpen(i)}>
            <span class="ends mono">
              <span class="end">{endpoint(f, "src", "sport")}</span>
              <span class="arrow">→</span>
              <span class="end">{endpoint(f, "dst", "dport")}</span>
            </span>
            <span class="facts">
              <span>{show(f, "proto").text}</span>
              <span class="mono">{show(f, "last").text}</span>
              <span>{show(f, "packets").text}{"\u00a0"}pkt</span>
              <b>{show(f, "bytes").text}</b>
            </span>
          </button>
        </li>
      ))}
    </ol>
  );
}

function endpoint(f: Flow, address: string, port: string): string {
  const a = String(f[address] ?? "?");
  const p = f[port];
  if (p === undefined || p === 0) return a;
  return a.includes(":") ? `[${a}]:${p}` : `${a}:${p}`;
}
