// The Now screen: what flows through, who moves it, and whether the numbers are whole.

import { useEffect, useState } from "preact/hooks";
import { apiURL, useApi } from "../../api/client.ts";
import type { NowAnswer } from "../../api/types.ts";
import { Code, Figure, Icon, Notice, Segmented, ViewLink } from "../../parts/parts.tsx";
import { empty, type View } from "../../state/address.ts";
import { useClock } from "../../state/hooks.ts";
import { change, usePreferences } from "../../state/store.ts";
import { ago, count, dateTime, duration, exact, octets, percent, perSecond, plural, rate, text, zoneName } from "../../text/format.ts";
import { Card } from "./card.tsx";
import { Ledger } from "./ledger.tsx";
import { RateChart } from "./ratechart.tsx";
import { byStage, figures, lossAmount } from "./rates.ts";

const ranges = [
  { value: "5m", label: "5 min" }, { value: "15m", label: "15 min" }, { value: "1h", label: "1 h" }, { value: "6h", label: "6 h" }, { value: "24h", label: "24 h" },
];

/** How often to ask: the server shares an answer for two seconds, longer when it was dear. */
const period = 3000;

export function Now({ view }: { view: View }) {
  const fixed = view.from !== "" || view.to !== "";
  const [paused, setPaused] = useState(false);
  const url = apiURL("now", fixed ? { from: view.from, to: view.to, filter: view.filter } : { range: ranges.some((r) => r.value === view.range) ? view.range : "", filter: view.filter });
  const { data, asOf, error, again } = useApi<NowAnswer>(url, fixed || paused ? 0 : period);
  const { zone } = usePreferences();

  useEffect(() => {
    const key = (e: KeyboardEvent) => {
      if (e.key === "r" && !e.ctrlKey && !e.metaKey && !e.altKey && !/^(INPUT|TEXTAREA|SELECT)$/.test((e.target as HTMLElement).tagName)) again();
    };
    document.addEventListener("keydown", key);
    return () => document.removeEventListener("keydown", key);
  }, [again]);

  const range = fixed ? "" : data && !view.range ? data.range : view.range;
  return (
    <div class="now">
      <div class="page-head">
        <h1>Now</h1>
        <Segmented label="Time range" value={range} options={ranges} onChoose={(v) => change({ range: v, from: "", to: "" })} />
        {fixed && (
          <span class="chip">
            <Icon name="clock" />
            {dateTime(new Date(view.from || (data?.from ?? "")), zone)} – {view.to ? dateTime(new Date(view.to), zone) : "now"}
            <button type="button" class="icon-button" aria-label="Back to now" title="Back to now" onClick={() => change({ range: "", from: "", to: "" })}><Icon name="close" /></button>
          </span>
        )}
        {view.filter && (
          <span class="chip mono" title={view.filter}>
            <span class="cut">{view.filter}</span>
            <button type="button" class="icon-button" aria-label="Remove the filter" title="Remove the filter" onClick={() => change({ filter: "" })}><Icon name="close" /></button>
          </span>
        )}
        <span class="spring" />
        <Freshness asOf={asOf} fixed={fixed} paused={paused} failed={error !== undefined} took={data?.took_ms} />
        {!fixed && (
          <button type="button" class="icon-button" aria-pressed={paused} title={paused ? "Go on" : "Hold this picture"} aria-label={paused ? "Go on" : "Hold this picture"} onClick={() => setPaused(!paused)}>
            <Icon name={paused ? "play" : "pause"} />
          </button>
        )}
      </div>
      {error && (
        <Notice tone="bad" title={error.message}>
          {error.detail.column ? <pre>{view.filter + "\n" + " ".repeat(error.detail.column - 1) + "^"}</pre> : null}
          {data && <p>What is shown below is older.</p>}
        </Notice>
      )}
      {data ? <Picture data={data} view={view} live={!fixed} /> : !error && <Skeleton />}
    </div>
  );
}

function Freshness({ asOf, fixed, paused, failed, took }: { asOf: number; fixed: boolean; paused: boolean; failed: boolean; took: number | undefined }) {
  const now = useClock(1000);
  if (!asOf) return <span class="freshness muted">loading …</span>;
  const age = (now - asOf) / 1000;
  return (
    <span class={"freshness" + (failed || age > 30 ? " old" : "")} title={took === undefined ? "" : `The answer took ${took} ms`}>
      {!fixed && !paused && !failed && <i class="pulse" />}
      data as of {ago(age)}
    </span>
  );
}

function Picture({ data, view, live }: { data: NowAnswer; view: View; live: boolean }) {
  const { unit } = usePreferences();
  const f = figures(data);
  return (
    <>
      <Health data={data} live={live} />
      {data.series && f ? (
        f.flows === 0 ? (
          <Empty data={data} view={view} />
        ) : (
          <>
            <section class="panel traffic">
              <dl class="figures">
                {f.in + f.out > 0 && <div class="in"><dt>In</dt><dd><Figure q={rate(f.in, unit)} title={`${exact(f.in * f.seconds)} bytes in ${exact(f.seconds)} s`} /></dd><dd class="sub">peak {text(rate(f.peakIn, unit))}</dd></div>}
                {f.in + f.out > 0 && <div class="out"><dt>Out</dt><dd><Figure q={rate(f.out, unit)} title={`${exact(f.out * f.seconds)} bytes in ${exact(f.seconds)} s`} /></dd><dd class="sub">peak {text(rate(f.peakOut, unit))}</dd></div>}
                {f.in + f.out > 0 && f.unknown > 0 && <div class="none"><dt>No direction</dt><dd><Figure q={rate(f.unknown, unit)} title={`${exact(f.unknown * f.seconds)} bytes in ${exact(f.seconds)} s, in records that do not say on which way they were observed`} /></dd></div>}
                <div data-figure="rate"><dt>{f.in + f.out > 0 ? "Sum" : "Traffic"}</dt><dd><Figure q={rate(f.mean, unit)} title={`${exact(f.bytes)} bytes in ${exact(f.seconds)} s`} /></dd><dd class="sub">peak {text(rate(f.peak, unit))}</dd></div>
                <div data-figure="packets"><dt>Packets</dt><dd><Figure q={perSecond(f.packets / f.seconds, "packets")} title={`${exact(f.packets)} packets`} /></dd><dd class="sub">{f.packets > 0 ? `${exact(f.bytes / f.packets)} B each` : ""}</dd></div>
                <div data-figure="flows"><dt>Flows</dt><dd><Figure q={perSecond(f.flows / f.seconds, "flows")} title={`${exact(f.flows)} flows`} /></dd><dd class="sub">{count(f.flows)} in all</dd></div>
                <div data-figure="volume"><dt>Volume</dt><dd><Figure q={octets(f.bytes)} title={`${exact(f.bytes)} bytes`} /></dd><dd class="sub">in {duration(f.seconds)}</dd></div>
              </dl>
              <RateChart answer={data} live={live} />
              {data.exporters.some((e) => e.sampling > 1) && <p class="footnote">Some exporters sample. Rates are as exported, not multiplied by the sampling rate.</p>}
            </section>
            <div class="cards">{data.tops.map((t) => <Card key={t.name} top={t} answer={data} view={view} seconds={f.seconds} />)}</div>
          </>
        )
      ) : (
        <section class="panel">
          <Notice title="No store here">
            <p>This process keeps no flows, so there is no traffic to show. Start one that does:</p>
            <Code>weir up</Code>
          </Notice>
        </section>
      )}
      {data.losses.length > 0 && <Ledger losses={data.losses} />}
      {data.interfaces.some((i) => i.mode) && <Interfaces data={data} />}
      <footer class="foot muted">
        <span>weir {data.status.version}</span>
        <span>up {duration(data.status.uptime_seconds)}</span>
        <a href="/api/v1/openapi.json">API</a>
        {data.status.parts.metrics && <a href="/metrics">Metrics</a>}
      </footer>
    </>
  );
}

/** One line that says whether all is well, and where to look when it is not. */
function Health({ data, live }: { data: NowAnswer; live: boolean }) {
  const { zone } = usePreferences();
  const growing = data.losses.filter((l) => l.recent > 0);
  const lost = data.losses.filter((l) => lossAmount(l).n > 0);
  const st = data.status;
  const newest = data.newest && typeof data.newest.last === "string" ? Date.parse(data.newest.last) : NaN;
  return (
    <ul class="health panel" aria-label="Health">
      {data.losses.length > 0 && (
        <li class={growing.length > 0 ? "warn" : "ok"} data-health="loss" title={growing.map((l) => `${l.stage}: ${l.reason}`).join("\n")}>
          <span class="what">Loss</span>
          <b>{growing.length > 0 ? `growing at ${growing.map((l) => byStage([l])[0]!.label.toLowerCase()).filter((x, i, all) => all.indexOf(x) === i).join(", ")}` : lost.length > 0 ? "none this minute" : "none"}</b>
        </li>
      )}
      {st.exporters && (
        <li class={st.exporters.late > 0 ? "warn" : "ok"} data-health="exporters" title={data.exporters.map((e) => `${e.address} ${e.name ?? ""} v${e.version}${e.late ? " late" : ""}`).join("\n")}>
          <span class="what">Exporters</span>
          <span><b>{st.exporters.up} up</b>, <b>{st.exporters.late} late</b></span>
        </li>
      )}
      {data.series && (
        <li class="ok" data-health="newest" title={Number.isNaN(newest) ? "" : `${dateTime(new Date(newest), zone)} ${zoneName(zone, new Date(newest))}`}>
          <span class="what">Newest record</span>
          <b>{Number.isNaN(newest) ? "none" : live ? ago((Date.parse(data.as_of) - newest) / 1000) : dateTime(new Date(newest), zone)}</b>
        </li>
      )}
      {st.cache && (
        <li class={st.cache.capacity > 0 && st.cache.entries > 0.75 * st.cache.capacity ? "warn" : "ok"} data-health="cache" title={`${exact(st.cache.entries)} of ${exact(st.cache.capacity)} entries\n` + st.cache.expired.map((e) => `${e.name}: ${exact(e.count)}`).join("\n")}>
          <span class="what">Cache</span>
          <span><b>{plural(st.cache.entries, "flow")}</b>{st.cache.capacity > 0 && <>, {percent(st.cache.entries, st.cache.capacity)} full</>}</span>
        </li>
      )}
      {st.store && (
        <li class={st.store.error ? "bad" : "ok"} data-health="store" title={st.store.error || `${st.store.path}\n${exact(st.store.records)} records in ${exact(st.store.segments)} files`}>
          <span class="what">Store</span>
          <span><b>{st.store.error ? "failing" : plural(st.store.records, "record")}</b>{!st.store.error && <>, {text(octets(st.store.bytes))}</>}</span>
        </li>
      )}
      {st.exports.length > 0 && (
        <li class={st.exports.some((e) => e.failed > 0) ? "warn" : "ok"} data-health="exports" title={st.exports.map((e) => `${e.address} v${e.version}: ${exact(e.records)} records, ${exact(e.failed)} failed`).join("\n")}>
          <span class="what">Exported</span>
          <span><b>{plural(st.exports.reduce((n, e) => n + e.records, 0), "record")}</b> to {st.exports.length}</span>
        </li>
      )}
    </ul>
  );
}

function Interfaces({ data }: { data: NowAnswer }) {
  return (
    <section class="panel metered">
      <header>
        <h2>Metered here</h2>
        <p class="muted">Counters since weir started, exact; flows come from these packets once they leave the cache.</p>
      </header>
      <div class="scroll">
        <table>
          <thead><tr><th>Interface</th><th>By</th><th class="right">Packets in</th><th class="right">Bytes in</th><th class="right">Packets out</th><th class="right">Bytes out</th><th class="right">Dropped by the kernel</th></tr></thead>
          <tbody>
            {data.interfaces.filter((i) => i.mode).map((i) => (
              <tr key={i.index + i.name}>
                <td>{i.name} <span class="hint">{i.alias || `if ${i.index}`}</span></td>
                <td>{i.mode}</td>
                <td class="right" title={exact(i.packets_in)}>{count(i.packets_in)}</td>
                <td class="right" title={exact(i.bytes_in)}>{text(octets(i.bytes_in))}</td>
                <td class="right" title={exact(i.packets_out)}>{count(i.packets_out)}</td>
                <td class="right" title={exact(i.bytes_out)}>{text(octets(i.bytes_out))}</td>
                <td class={"right" + (i.dropped > 0 ? " warn" : "")} title={exact(i.dropped)}>{count(i.dropped)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

/** No flows in this time: why that may be, and what to do next. */
function Empty({ data, view }: { data: NowAnswer; view: View }) {
  const metered = data.interfaces.filter((i) => i.mode);
  const oldest = Date.parse(data.status.store?.oldest ?? "");
  const waiting = metered.reduce((n, i) => n + i.packets_in + i.packets_out, 0);
  return (
    <section class="panel empty">
      <Notice title={view.filter ? "No flow of this time passes the filter" : "No flows in this time"}>
        {view.filter && <p><ViewLink to={{ ...view, filter: "" }}>Remove the filter</ViewLink></p>}
        {oldest > 0 && (
          <p>The store has flows from {dateTime(new Date(oldest), "utc")} UTC on. <ViewLink to={{ ...empty, range: "24h" }}>Show the last 24 hours</ViewLink></p>
        )}
        {metered.length > 0 && (
          <p>
            {metered.map((i) => i.name).join(", ")} {metered.length === 1 ? "is" : "are"} metered: {plural(waiting, "packet")} so far
            {data.status.cache ? `, ${plural(data.status.cache.entries, "flow")} in the cache` : ""}. A flow appears here when it has been idle for {duration(data.status.cache?.idle_seconds ?? 15)}.
          </p>
        )}
        {data.status.parts.collector && (
          <>
            <p>Point a router's NetFlow or IPFIX at UDP port 2055 of this machine, or try with a datagram of each format:</p>
            <Code>weir export-test udp://127.0.0.1:2055</Code>
          </>
        )}
        <p>To see weir at work on a network of its own making:</p>
        <Code>weir demo</Code>
      </Notice>
    </section>
  );
}

/** The shape of the page before the first answer. */
function Skeleton() {
  return (
    <>
      <div class="panel health skeleton" aria-hidden="true" />
      <div class="panel traffic skeleton" aria-hidden="true" />
      <div class="cards" aria-hidden="true">{Array.from({ length: 8 }, (_, i) => <div key={i} class="panel card skeleton" />)}</div>
    </>
  );
}
