// The Flows screen: a filter, a time, and the flows that match, one by one or summed.

import { useCallback, useEffect, useState } from "preact/hooks";
import { apiURL, useApi, type Params } from "../../api/client.ts";
import type { FlowsAnswer, RowsAnswer, SeriesAnswer, StatusAnswer } from "../../api/types.ts";
import { copy, Icon, Menu, Notice, Segmented } from "../../parts/parts.tsx";
import { columns as allColumns, shown, statisticLabel, statistics } from "../../query/columns.ts";
import { parseOrder } from "../../query/order.ts";
import { commandLine } from "../../query/terms.ts";
import { defaultRange, timeParams, type View } from "../../state/address.ts";
import { change } from "../../state/store.ts";
import { count, exact, octets, plural, text } from "../../text/format.ts";
import { Drawer } from "./drawer.tsx";
import { FilterBar } from "./filterbar.tsx";
import { FlowTable } from "./flowtable.tsx";
import { Histogram } from "./histogram.tsx";
import { RangePicker } from "./rangepicker.tsx";
import { TopTable } from "./toptable.tsx";

const usualLimit = { flows: 100, top: 25 };
const limits = [25, 100, 250, 1000];

export function Flows({ view }: { view: View }) {
  const times = timeParams(view);
  const common: Params = { ...times, filter: view.filter };
  const summed = view.by !== "";
  const limit = view.limit || (summed ? usualLimit.top : usualLimit.flows);
  const columns = shown(view.columns);

  const rowsURL = summed
    ? apiURL("top", { ...common, stat: view.by, order: view.order || "bytes", limit })
    : apiURL("flows", { ...common, order: view.order, limit, total: "false" });
  const flows = useApi<FlowsAnswer>(summed ? null : rowsURL);
  const top = useApi<RowsAnswer>(summed ? rowsURL : null);
  const series = useApi<SeriesAnswer>(apiURL("series", common));
  const status = useApi<StatusAnswer>(apiURL("status"));
  const rows = summed ? top : flows;
  const [opened, setOpened] = useState<number>();
  const close = useCallback(() => setOpened(undefined), []);

  useEffect(close, [rowsURL]);
  const again = useCallback(() => {
    rows.again();
    series.again();
  }, [rows.again, series.again]);
  useEffect(() => {
    const key = (e: KeyboardEvent) => {
      if (e.key === "r" && !e.ctrlKey && !e.metaKey && !e.altKey && !/^(INPUT|TEXTAREA|SELECT)$/.test((e.target as HTMLElement).tagName)) again();
    };
    document.addEventListener("keydown", key);
    return () => document.removeEventListener("keydown", key);
  }, [again]);

  const failure = rows.error?.detail;
  const inFilter = failure?.column !== undefined;
  const total = series.data?.total;
  const listed = (summed ? top.data?.rows.length : flows.data?.rows.length) ?? 0;
  const cut = summed ? top.data?.truncated : flows.data?.truncated;
  const opening = !summed && opened !== undefined ? flows.data?.rows[opened] : undefined;

  return (
    <div class="flows-page">
      <div class="page-head">
        <h1 class="sr">Flows</h1>
        <FilterBar value={view.filter} answered={rows.current && !failure} onSubmit={(filter) => (filter === view.filter ? again() : change({ filter }))} failure={inFilter ? failure : undefined} />
        <RangePicker view={view} />
      </div>

      {!(inFilter && !series.data) && <section class="panel matching" aria-label="Matching traffic">
        <p class="summary" aria-live="polite">
          {total ? (
            <>
              <b data-total="flows" title={`${exact(total.flows)} flows`}>{plural(total.flows, "flow")}</b>
              <b data-total="packets" title={`${exact(total.packets)} packets`}>{plural(total.packets, "packet")}</b>
              <b data-total="bytes" title={`${exact(total.bytes)} bytes`}>{text(octets(total.bytes))}</b>
              <span class="muted wide-only">{rows.loading ? "asking …" : rows.data ? `${rows.data.took_ms} ms` : ""}</span>
            </>
          ) : (
            <span class="muted">{series.error ? "" : "asking …"}</span>
          )}
          <span class="spring" />
          {(view.from || view.to) && (
            <button type="button" class="link" onClick={() => change({ from: "", to: "", range: defaultRange })}>Zoom out</button>
          )}
          <button type="button" class="icon-button" title="Ask again (key: r)" aria-label="Ask again" onClick={again}><Icon name="refresh" /></button>
        </p>
        {series.data ? <Histogram series={series.data} stale={!series.current} oldest={view.filter ? 0 : oldest(status.data, series.data)} /> : <div class="histogram blank" />}
      </section>}

      <section class="panel listing">
        <div class="toolbar">
          <Segmented
            label="Rows"
            value={summed ? "top" : "flows"}
            options={[{ value: "flows", label: "Flows", title: "Single flow records" }, { value: "top", label: "Top", title: "Flows summed by a key" }]}
            onChoose={(v) => change({ by: v === "top" ? "srcip" : "", order: "", limit: 0 })}
          />
          {summed && <StatMenu by={view.by} />}
          <label class="select" title="Rows at most">
            <span class="sr">Rows at most</span>
            <select value={limit} onChange={(e) => change({ limit: Number(e.currentTarget.value) })}>
              {[...new Set([...limits, limit])].sort((a, b) => a - b).map((n) => <option key={n} value={n}>{n} rows</option>)}
            </select>
          </label>
          <span class="spring" />
          {!summed && <ColumnMenu chosen={columns.map((c) => c.name)} />}
          <ExportMenu view={view} common={common} summed={summed} limit={limit} store={status.data?.store?.path ?? ""} total={total?.flows} />
        </div>
        {failure && !inFilter ? (
          <Notice tone="bad" title={failure.error}>{rows.error?.status === 404 && <p>Start weir with a store: <code>weir up</code></p>}</Notice>
        ) : inFilter && !rows.data ? (
          <Notice title="The filter cannot be read">
            <p>{failure!.accepted && failure!.accepted.length > 0 ? <>At column {failure!.column} may stand: <span class="mono">{failure!.accepted.join("  ")}</span></> : failure!.error}</p>
          </Notice>
        ) : !failure && rows.data && listed === 0 && rows.current ? (
          <Nothing view={view} />
        ) : summed ? (
          top.data && <TopTable answer={top.data} view={view} stale={!top.current} />
        ) : (
          flows.data && <FlowTable rows={flows.data.rows} columns={columns} view={view} stale={!flows.current} onOpen={setOpened} opened={opened} />
        )}
        {!rows.data && !failure && <div class="table-blank" aria-hidden="true" />}
        {rows.data && listed > 0 && !failure && (
          <p class="footnote" data-rows={listed}>
            {cut
              ? `The ${orderName(summed ? view.order || "bytes" : view.order)} ${exact(listed)}${!summed && total ? ` of ${exact(total.flows)}` : ""} are shown; there are more.`
              : `All ${plural(listed, summed ? "row" : "flow")}.`}
            {cut && limit < 1000 && <button type="button" class="link" onClick={() => change({ limit: limits.find((n) => n > limit) ?? 1000 })}>Show more</button>}
          </p>
        )}
      </section>
      {opening && <Drawer flow={opening} view={view} close={close} />}
    </div>
  );
}

/** When the store's data begins, in Unix seconds; 0 if that is not known. */
function oldest(status: StatusAnswer | undefined, series: SeriesAnswer): number {
  const a = Date.parse(status?.store?.oldest ?? "") / 1000;
  const b = Date.parse(series.total.first ?? "") / 1000;
  return a > 0 ? Math.min(a, b || a) : 0;
}

/** What the rows shown are among all, by their order. */
function orderName(order: string): string {
  const { name, ascending } = parseOrder(order, "tend:d");
  switch (name) {
    case "tend": return ascending ? "oldest" : "newest";
    case "tstart": return ascending ? "first begun" : "last begun";
    case "duration": return ascending ? "shortest" : "longest";
    case "bps": case "pps": return ascending ? "slowest" : "fastest";
  }
  return ascending ? "smallest" : "largest";
}

function Nothing({ view }: { view: View }) {
  return (
    <Notice title={view.filter ? "No flow of this time passes the filter" : "No flows in this time"}>
      <p class="actions">
        {view.filter && <button type="button" class="button" onClick={() => change({ filter: "" })}>Remove the filter</button>}
        <button type="button" class="button" onClick={() => change({ range: "24h", from: "", to: "" })}>Look at the last 24 hours</button>
      </p>
      {!view.filter && <p class="muted">A flow is listed when it has ended or has been idle for a while, and a few seconds more until it is stored.</p>}
    </Notice>
  );
}

function StatMenu({ by }: { by: string }) {
  const groups = [...new Set(statistics.map((s) => s.group))];
  return (
    <Menu name="statistic" title="Sum by" label={<span>{statisticLabel(by)}</span>}>
      {(close) => (
        <div class="choices">
          {groups.map((g) => (
            <div key={g}>
              <h3>{g}</h3>
              <ul>
                {statistics.filter((s) => s.group === g).map((s) => (
                  <li key={s.name}>
                    <button type="button" aria-pressed={s.name === by} onClick={() => { change({ by: s.name }); close(); }}>{s.label}</button>
                  </li>
                ))}
              </ul>
            </div>
          ))}
        </div>
      )}
    </Menu>
  );
}

function ColumnMenu({ chosen }: { chosen: string[] }) {
  const toggle = (name: string) => {
    const next = chosen.includes(name) ? chosen.filter((c) => c !== name) : [...chosen, name];
    const usual = allColumns.filter((c) => c.usual).map((c) => c.name);
    change({ columns: next.length === usual.length && usual.every((c) => next.includes(c)) ? [] : next }, true);
  };
  return (
    <Menu name="columns" class="wide-only" align="right" title="Columns" label={<><Icon name="columns" /><span class="wide-only">Columns</span></>}>
      {() => (
        <div class="checks">
          {allColumns.map((c) => (
            <label key={c.name} title={c.help}>
              <input type="checkbox" checked={chosen.includes(c.name)} onChange={() => toggle(c.name)} />
              {c.name === "sport" ? "Source port" : c.name === "dport" ? "Destination port" : c.label}
            </label>
          ))}
          <button type="button" class="link" onClick={() => change({ columns: [] }, true)}>The usual ones</button>
        </div>
      )}
    </Menu>
  );
}

/** The same answer elsewhere: as a file, on the command line, from the API. */
function ExportMenu({ view, common, summed, limit, store, total }: { view: View; common: Params; summed: boolean; limit: number; store: string; total: number | undefined }) {
  const [copied, setCopied] = useState("");
  const times = timeParams(view);
  const command = commandLine({
    store, from: times["from"] ?? "", to: times["to"] ?? "", filter: view.filter, by: view.by, order: summed ? view.order || "bytes" : view.order, limit,
  });
  const params: Params = summed ? { ...common, stat: view.by, order: view.order || "bytes", limit } : { ...common, order: view.order };
  const route = summed ? "top" : "flows";
  const api = location.origin + apiURL(route, { ...params, limit });
  const take = (what: string, t: string) =>
    void copy(t).then((ok) => {
      setCopied(ok ? what : "");
      window.setTimeout(() => setCopied(""), 1500);
    });
  return (
    <Menu name="export" align="right" title="Take this answer elsewhere" label={<><Icon name="out" /><span class="wide-only">Export</span></>}>
      {() => (
        <div class="export">
          <a class="button" href={apiURL(route, { ...params, format: "csv" })} download data-export="csv"><Icon name="download" />CSV{!summed && total !== undefined ? ` of ${count(total)} flows` : ""}</a>
          <a class="button" href={apiURL(route, { ...params, format: "ndjson" })} download><Icon name="download" />NDJSON</a>
          {!summed && total !== undefined && total > 1_000_000 && <p class="muted">A file holds the first 1,000,000 rows. The command below gives all.</p>}
          {[["Command line", command], ["API", api]].map(([name, line]) => (
            <div key={name}>
              <h3>{name}</h3>
              <p class="line mono" data-export={name}>{line}</p>
              <button type="button" class="button" onClick={() => take(name!, line!)}><Icon name={copied === name ? "check" : "copy"} />{copied === name ? "Copied" : "Copy"}</button>
            </div>
          ))}
        </div>
      )}
    </Menu>
  );
}
