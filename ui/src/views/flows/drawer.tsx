// All of one flow: every column, every element, each a way to filter.

import { useEffect, useRef } from "preact/hooks";
import type { Flow } from "../../api/types.ts";
import { Icon } from "../../parts/parts.tsx";
import { columns } from "../../query/columns.ts";
import { addTerm, term } from "../../query/terms.ts";
import type { View } from "../../state/address.ts";
import { change, usePreferences } from "../../state/store.ts";
import { flowCell, type CellText } from "./cells.ts";

const long: Record<string, string> = {
  sport: "Source port", dport: "Destination port", src: "Source", dst: "Destination", tcp_flags: "TCP flags", input: "Input interface", output: "Output interface",
  direction: "Direction", src_as: "Source AS", dst_as: "Destination AS", proto: "Protocol", bps: "Rate", src_mask: "Source prefix", dst_mask: "Destination prefix", tos: "Type of service",
};

/** Whether the title says more than the text beside it. */
function says(cell: CellText): boolean {
  const number = (s: string) => s.replace(/[\s,]/g, "").match(/^[\d.]+/)?.[0];
  return cell.title !== "" && !cell.hint && cell.title !== cell.text && (number(cell.title) === undefined || number(cell.title) !== number(cell.text));
}

export function Drawer({ flow, view, close }: { flow: Flow; view: View; close: () => void }) {
  const { unit, zone } = usePreferences();
  const button = useRef<HTMLButtonElement>(null);
  const today = new Date();
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    button.current?.focus({ preventScroll: true });
    const key = (e: KeyboardEvent) => e.key === "Escape" && close();
    document.addEventListener("keydown", key);
    return () => {
      document.removeEventListener("keydown", key);
      before?.focus({ preventScroll: true });
    };
  }, [close]);

  const fields = columns.filter((c) => c.name !== "elements").map((c) => ({ c, cell: flowCell(flow, c, unit, zone, today) })).filter((x) => x.cell.text !== "");
  const absent = columns.filter((c) => c.name !== "elements" && !fields.some((x) => x.c === c)).map((c) => long[c.name] ?? c.label);
  const elements = Object.entries((flow["elements"] ?? {}) as Record<string, unknown>);
  const filter = (t: string, not: boolean) => {
    change({ filter: addTerm(view.filter, t, not) });
    close();
  };
  return (
    <section class="drawer" role="dialog" aria-label="Flow">
      <header>
        <h2>Flow</h2>
        <button type="button" class="icon-button" aria-label="Close" title="Close (Esc)" ref={button} onClick={close}><Icon name="close" /></button>
      </header>
      <div class="drawer-body">
        <dl>
          {fields.map(({ c, cell }) => {
            const t = cell.value === undefined ? "" : term(c.name, cell.value);
            return (
              <div key={c.name} data-field={c.name}>
                <dt title={c.help}>{long[c.name] ?? c.label}</dt>
                <dd class={cell.mono ? "mono" : ""} title={cell.title}>
                  {cell.text}
                  {cell.hint && <span class="hint">{cell.hint}</span>}
                  {says(cell) && <span class="exact">{cell.title}</span>}
                </dd>
                <dd class="actions">
                  {t && (
                    <>
                      <button type="button" title={`Only: ${t}`} aria-label={`Only ${t}`} onClick={() => filter(t, false)}>=</button>
                      <button type="button" title={`Not: ${t}`} aria-label={`Not ${t}`} onClick={() => filter(t, true)}>≠</button>
                    </>
                  )}
                </dd>
              </div>
            );
          })}
        </dl>
        {elements.length > 0 && (
          <>
            <h3>Information elements</h3>
            <dl>
              {elements.map(([name, v]) => (
                <div key={name} data-element={name}>
                  <dt class="mono">{name}</dt>
                  <dd class="mono wide">{typeof v === "string" ? v : JSON.stringify(v)}</dd>
                </div>
              ))}
            </dl>
          </>
        )}
        <p class="muted absent">Not in this record: {absent.join(", ")}.</p>
      </div>
    </section>
  );
}
