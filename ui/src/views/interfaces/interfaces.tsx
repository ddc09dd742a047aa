// The Interfaces screen: how each is metered, what passes now, and how much of it the
// flow cache forwards.

import { useEffect, useRef } from "preact/hooks";
import { apiURL, useApi } from "../../api/client.ts";
import type { Interface, InterfacesAnswer } from "../../api/types.ts";
import { Code, Notice } from "../../parts/parts.tsx";
import { useClock } from "../../state/hooks.ts";
import { usePreferences } from "../../state/store.ts";
import { ago, count, exact, octets, perSecond, rate, text } from "../../text/format.ts";
import { between, fates, portion, type Noted } from "./rates.ts";

const period = 2000;

export function Interfaces() {
  const { data, asOf, error, again } = useApi<InterfacesAnswer>(apiURL("interfaces"), period);
  const now = useClock(1000);
  const notes = useRef<Noted[]>([]);
  if (data && notes.current[notes.current.length - 1]?.at !== asOf) {
    notes.current = [...notes.current.slice(-1), { at: asOf, list: data.interfaces }];
  }
  useEffect(() => {
    const key = (e: KeyboardEvent) => {
      if (e.key === "r" && !e.ctrlKey && !e.metaKey && !e.altKey && !/^(INPUT|TEXTAREA|SELECT)$/.test((e.target as HTMLElement).tagName)) again();
    };
    document.addEventListener("keydown", key);
    return () => document.removeEventListener("keydown", key);
  }, [again]);

  const here = data?.interfaces.filter((i) => i.mode) ?? [];
  const told = data?.interfaces.filter((i) => !i.mode) ?? [];
  const forwards = here.filter((i) => i.forwarded !== undefined);
  return (
    <div class="interfaces">
      <div class="page-head">
        <h1>Interfaces</h1>
        <span class="spring" />
        {asOf > 0 && (
          <span class={"freshness" + (error ? " old" : "")}>
            {!error && <i class="pulse" />}
            data as of {ago((now - asOf) / 1000)}
          </span>
        )}
      </div>
      {error && !data && <Notice tone="bad" title={error.message} />}
      {!data && !error && <section class="panel skeleton" style={{ height: "220px" }} />}
      {data && here.length === 0 && (
        <section class="panel">
          <Notice title="No interface is metered here">
            <p>This weir collects from others. To meter this machine, as root:</p>
            <Code>weir up</Code>
          </Notice>
        </section>
      )}
      {here.length > 0 && <Metered list={here} notes={notes.current} />}
      {forwards.length > 0 && <Forwarded list={forwards} />}
      {told.length > 0 && <Told list={told} />}
    </div>
  );
}

function Metered({ list, notes }: { list: Interface[]; notes: Noted[] }) {
  const { unit } = usePreferences();
  return (
    <section class="panel scroll">
      <header>
        <h2>Metered here</h2>
        <p class="muted">Each packet is counted once where it is seen; sums are since the flow table was made.</p>
      </header>
      <table>
        <thead>
          <tr><th>Interface</th><th>By</th><th class="right">In</th><th class="right">Out</th><th class="right">Packets in</th><th class="right">Packets out</th><th class="right">In no flow</th><th class="right">Dropped by the kernel</th></tr>
        </thead>
        <tbody>
          {list.map((i) => {
            const r = between(notes, i);
            const ignored = (i.ignored ?? []).reduce((n, c) => n + c.count, 0);
            return (
              <tr key={i.index} data-interface={i.name}>
                <td><b>{i.name}</b> <span class="hint">{i.alias || `if ${i.index}`}</span></td>
                <td><span class="badge">{i.mode}</span> <span class="muted wide-only">{i.why}</span></td>
                <td class="right">{r ? <>{text(rate(r.bytesIn, unit))} <span class="hint">{text(perSecond(r.packetsIn, "packets"))}</span></> : "–"}</td>
                <td class="right">{r ? <>{text(rate(r.bytesOut, unit))} <span class="hint">{text(perSecond(r.packetsOut, "packets"))}</span></> : "–"}</td>
                <td class="right" title={`${exact(i.packets_in)} packets, ${exact(i.bytes_in)} octets`}>{count(i.packets_in)} <span class="hint">{text(octets(i.bytes_in))}</span></td>
                <td class="right" title={`${exact(i.packets_out)} packets, ${exact(i.bytes_out)} octets`}>{count(i.packets_out)} <span class="hint">{text(octets(i.bytes_out))}</span></td>
                <td class="right" title={(i.ignored ?? []).map((c) => `${c.name}: ${exact(c.count)}`).join("\n")}>{count(ignored)}</td>
                <td class={"right" + (i.dropped > 0 ? " warn" : "")} title={exact(i.dropped)}>{count(i.dropped)}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </section>
  );
}

function Forwarded({ list }: { list: Interface[] }) {
  return (
    <section class="panel scroll">
      <header>
        <h2>Forwarded from the flow cache</h2>
        <p class="muted">Of what came in; the rest went to the kernel, for these reasons.</p>
      </header>
      <table class="fast">
        <thead><tr><th>Interface</th><th>Share</th><th class="right">Forwarded</th><th class="right">To the kernel</th><th>Why</th></tr></thead>
        <tbody>
          {list.map((i) => {
            const f = fates(i);
            return (
              <tr key={i.index} data-forwards={i.name}>
                <td><b>{i.name}</b></td>
                <td class="share">
                  <span class="meter" role="img" aria-label={`${portion(f.share)} forwarded`}><i style={{ width: `${100 * f.share}%` }} /></span>
                  <b>{f.forwarded + f.slow > 0 ? portion(f.share) : "–"}</b>
                </td>
                <td class="right" title={exact(f.forwarded)}>{count(f.forwarded)}</td>
                <td class="right" title={exact(f.slow)}>{count(f.slow)}</td>
                <td class="reasons">
                  {f.reasons.length === 0 ? <span class="muted">nothing did</span> : f.reasons.map((c) => (
                    <span key={c.name} class={"reason" + (c.name === "lost" || c.name === "urpf" ? " warn" : "")} title={exact(c.count)}>{c.name} <b>{count(c.count)}</b></span>
                  ))}
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </section>
  );
}

function Told({ list }: { list: Interface[] }) {
  return (
    <section class="panel scroll">
      <header><h2>Named by exporters</h2></header>
      <table>
        <thead><tr><th>Exporter</th><th class="right">Index</th><th>Name</th><th>Description</th></tr></thead>
        <tbody>
          {list.slice(0, 500).map((i) => (
            <tr key={(i.exporter ?? "") + " " + i.index}><td>{i.exporter}</td><td class="right">{i.index}</td><td>{i.name}</td><td>{i.alias}</td></tr>
          ))}
        </tbody>
      </table>
      {list.length > 500 && <p class="footnote">The first 500 of {exact(list.length)}; <code>weir show interfaces -o csv</code> has all.</p>}
    </section>
  );
}
