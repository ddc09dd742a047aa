// The Guard screen: what attacks whom, how we know, and what is done about it.

import { useEffect, useState } from "preact/hooks";
import { ApiError, apiURL, send, useApi } from "../../api/client.ts";
import type { GuardAction, GuardAnswer, GuardAttack, GuardEvidence, GuardShare } from "../../api/types.ts";
import { Code, Icon, Notice, ViewLink } from "../../parts/parts.tsx";
import { empty } from "../../state/address.ts";
import { useClock } from "../../state/hooks.ts";
import { usePreferences } from "../../state/store.ts";
import { ago, count, dateTime, duration, exact, percent, perSecond, rate, text } from "../../text/format.ts";
import { protocol } from "../../text/names.ts";
import { openStates, secondsLeft, targetFilter, tone } from "./logic.ts";

/** The guard looks once a second; so does this screen, every other one. */
const period = 2000;

export function Guard() {
  const { data, asOf, error, again } = useApi<GuardAnswer>(apiURL("guard"), period);
  const [failed, setFailed] = useState("");
  const now = useClock(1000);

  useEffect(() => {
    const key = (e: KeyboardEvent) => {
      if (e.key === "r" && !e.ctrlKey && !e.metaKey && !e.altKey && !/^(INPUT|TEXTAREA|SELECT)$/.test((e.target as HTMLElement).tagName)) again();
    };
    document.addEventListener("keydown", key);
    return () => document.removeEventListener("keydown", key);
  }, [again]);

  const act = async (what: "approve" | "lift", id: number) => {
    setFailed("");
    try {
      await send("guard", { do: what, id });
    } catch (e) {
      setFailed(e instanceof ApiError ? e.message : String(e));
    }
    again();
  };

  return (
    <div class="guard">
      <div class="page-head">
        <h1>Guard</h1>
        {data && <span class={"badge " + (data.on ? "ok" : "bad")}>{data.on ? "on" : "off: nothing is in force"}</span>}
        <span class="spring" />
        {asOf > 0 && (
          <span class={"freshness" + (error ? " old" : "")}>
            {!error && <i class="pulse" />}
            data as of {ago((now - asOf) / 1000)}
          </span>
        )}
      </div>
      {failed && <Notice tone="bad" title={failed} />}
      {error?.status === 404 ? (
        <section class="panel">
          <Notice title="No guard runs here">
            <p>It finds floods, says what could be done about them, and does nothing by itself until it is told to. Anything under <code>guard:</code> in the configuration switches it on:</p>
            <Code>{"guard: {mode: observe}"}</Code>
          </Notice>
        </section>
      ) : error && !data ? (
        <Notice tone="bad" title={error.message} />
      ) : data ? (
        <Picture data={data} asOf={asOf} act={act} />
      ) : (
        <section class="panel skeleton" style={{ height: "220px" }} />
      )}
    </div>
  );
}

type Act = (what: "approve" | "lift", id: number) => void;

function Picture({ data, asOf, act }: { data: GuardAnswer; asOf: number; act: Act }) {
  const going = data.attacks.filter((a) => !a.ended);
  const over = data.attacks.filter((a) => a.ended).slice(0, 50);
  const of = (id: number) => data.actions.filter((x) => x.attack === id);
  const own = data.actions.filter((x) => openStates.has(x.state) && !going.some((a) => a.id === x.attack));
  return (
    <>
      <Groups data={data} />
      <Limits data={data} />
      {!data.on && (
        <Notice tone="bad" title="The kill switch is off">
          <p>Attacks are found and told of, but nothing is dropped, policed or announced.</p>
          <Code>weir guard on</Code>
        </Notice>
      )}
      {going.length === 0 && own.length === 0 && (
        <section class="panel">
          <Notice title="No attack now">
            <p>Every address keeps to its thresholds{over.length > 0 ? "; the last attacks are below" : ""}.</p>
          </Notice>
        </section>
      )}
      {going.map((a) => (
        <Attack key={a.id} attack={a} actions={of(a.id)} data={data} asOf={asOf} act={act} />
      ))}
      {own.length > 0 && (
        <section class="panel attack">
          <header><h2>Actions without an attack</h2></header>
          {own.map((x) => <Action key={x.id} action={x} data={data} asOf={asOf} act={act} />)}
        </section>
      )}
      {over.length > 0 && <Past attacks={over} data={data} />}
    </>
  );
}

function Groups({ data }: { data: GuardAnswer }) {
  const { unit } = usePreferences();
  return (
    <section class="panel scroll groups">
      <table>
        <thead>
          <tr><th>Hostgroup</th><th>Mode</th><th class="right">Traffic</th><th class="right">Packets</th><th class="right">New flows</th><th class="right">Half-open</th><th class="right">Dropped</th><th class="wide-only">Thresholds of each host</th></tr>
        </thead>
        <tbody>
          {data.groups.map((g) => (
            <tr key={g.group}>
              <td><b>{g.group}</b><span class="hint">{g.networks === 0 ? "every address" : g.networks === 1 ? "1 network" : `${g.networks} networks`}</span></td>
              <td><span class={"badge mode-" + g.mode}>{g.mode}</span></td>
              <td class="right">{text(rate(g.bps / 8, unit))}</td>
              <td class="right">{text(perSecond(g.pps, "packets"))}</td>
              <td class="right">{text(perSecond(g.flows, "flows"))}</td>
              <td class="right" title="Share of new TCP flows that never got beyond their SYN">{percent(g.syn_ratio, 1)}</td>
              <td class={"right" + (g.dropped_pps > 0 ? " bad" : "")}>{text(perSecond(g.dropped_pps, "packets"))}</td>
              <td class="wide-only muted">{g.thresholds.join(", ")}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

/** Limits that hold without an attack; those of new flows once they have counted. */
function Limits({ data }: { data: GuardAnswer }) {
  const list = data.limits.filter((l) => l.name.startsWith("flows.") || l.beyond > 0);
  if (list.length === 0) return null;
  return (
    <section class="panel scroll groups">
      <table>
        <thead>
          <tr><th>Limit</th><th class="right">Beyond it</th><th class="right">Dropped</th><th class="right">Flows held</th></tr>
        </thead>
        <tbody>
          {list.map((l) => (
            <tr key={l.name}>
              <td><b>{l.name}</b></td>
              <td class="right" title={`${exact(l.beyond)} packets`}>{count(l.beyond)} packets</td>
              <td class={"right" + (l.dropped > 0 ? " bad" : "")} title={`${exact(l.dropped)} packets`}>{count(l.dropped)} packets</td>
              <td class="right">{l.name.startsWith("flows.") ? exact(l.held) : ""}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

const scopes: Record<string, string> = {
  host: "victim", network: "victim network", group: "hostgroup", source: "attacker", outgoing: "attacker of ours",
};

function Attack({ attack: a, actions, data, asOf, act }: { attack: GuardAttack; actions: GuardAction[]; data: GuardAnswer; asOf: number; act: Act }) {
  const { zone, unit } = usePreferences();
  const began = new Date(a.began);
  const filter = targetFilter(a);
  return (
    <section class="panel attack" data-attack={a.id}>
      <header>
        <span class="kind">{a.kind}</span>
        <h2>
          <span class="muted">{scopes[a.scope] ?? a.scope}</span> {a.target}
        </h2>
        <span class="muted">{a.group}{a.times > 1 ? `, attacked ${a.times} times lately` : ""}</span>
        <span class="spring" />
        {filter && <ViewLink to={{ ...empty, page: "flows", range: "15m", filter }} class="more" title="Its flows of the last 15 minutes">Flows<Icon name="right" /></ViewLink>}
      </header>
      <dl class="facts">
        <div><dt>Now</dt><dd><b>{a.rate}</b></dd><dd class="sub">peak {a.peak}</dd></div>
        <div><dt>Threshold</dt><dd>{a.threshold}</dd><dd class="sub">what fired</dd></div>
        <div><dt>Traffic</dt><dd>{text(rate(a.bps / 8, unit))}</dd><dd class="sub">{text(perSecond(a.pps, "packets"))}</dd></div>
        <div><dt>Since</dt><dd title={dateTime(began, zone)}>{duration(Math.max(0, Math.round((Date.parse(data.now) - began.getTime()) / 1000)))}</dd><dd class="sub">{dateTime(began, zone)}</dd></div>
        <div><dt>Sources</dt><dd>{a.evidence ? (a.evidence.sources >= 1000 ? "> " : "") + count(a.evidence.sources) : "–"}</dd><dd class="sub">in the sample</dd></div>
        <div><dt>Established</dt><dd>{a.evidence ? percent(a.evidence.established, 1) : "–"}</dd><dd class="sub">of the packets</dd></div>
      </dl>
      {a.note && <p class="footnote">{a.note}</p>}
      {actions.filter((x) => openStates.has(x.state)).map((x) => <Action key={x.id} action={x} data={data} asOf={asOf} act={act} />)}
      {actions.filter((x) => !openStates.has(x.state)).slice(0, 3).map((x) => (
        <p class="footnote" key={x.id}>Action {x.id} {x.state}: {x.what}{x.note ? ` (${x.note})` : ""}</p>
      ))}
      {a.evidence && <Evidence evidence={a.evidence} open={actions.some((x) => x.state === "proposed")} />}
    </section>
  );
}

function Action({ action: x, data, asOf, act }: { action: GuardAction; data: GuardAnswer; asOf: number; act: Act }) {
  const { zone } = usePreferences();
  const [sure, setSure] = useState(false);
  const now = useClock(1000);
  const left = secondsLeft(x, asOf, now);
  const waits = x.state === "proposed" || x.state === "observed";
  const command = waits ? `weir guard approve ${x.id}${x.state === "observed" ? " --override" : ""}` : x.undo;
  return (
    <div class={"action tone-" + tone(x.state)} data-action={x.id} data-state={x.state}>
      <span class={"badge " + tone(x.state)}>{x.state === "observed" ? "would be done" : x.state}</span>
      <span class="what mono">{x.what}</span>
      <span class="spring" />
      {x.state === "active" && (
        <span class="countdown" title={`until ${dateTime(new Date(x.ends ?? ""), zone)}; renewed while the attack goes on, if the hostgroup says so`}>
          <Icon name="clock" />{duration(left)}
        </span>
      )}
      {data.may_act && (x.state === "proposed" || x.state === "active") ? (
        <span class="buttons">
          {x.state === "proposed" && !sure && <button type="button" class="button primary" onClick={() => setSure(true)}>Approve …</button>}
          {x.state === "proposed" && sure && (
            <>
              <button type="button" class="button primary" onClick={() => { setSure(false); act("approve", x.id); }}>Yes, {x.what.split(":")[0]}</button>
              <button type="button" class="button" onClick={() => setSure(false)}>Not yet</button>
            </>
          )}
          {!sure && <button type="button" class="button" onClick={() => act("lift", x.id)}>{x.state === "active" ? "Lift" : "Deny"}</button>}
        </span>
      ) : (
        command && <Code>{command}</Code>
      )}
      <p class="because">
        {x.attack !== 0 && (
          <>
            hits <b>{percent(x.hit, 1)}</b> of the target's packets and <b class={x.innocent > 0.2 ? "bad" : ""}>{percent(x.innocent, 1)}</b> of its established traffic;{" "}
          </>
        )}
        by {x.by}; {x.why}
        {x.state === "active" && <>; dropped {exact(x.dropped_packets)} of {exact(x.packets)} packets</>}
        {x.state === "active" && !x.here && <span class="warn">; announced only, not enforced by this machine</span>}
        {x.note && <span class="warn">; {x.note}</span>}
      </p>
    </div>
  );
}

const lists: [keyof GuardEvidence, string][] = [
  ["top_sources", "Sources"], ["source_ports", "Source ports"], ["dest_ports", "Destination ports"], ["protocols", "Protocols"], ["sizes", "Packet sizes, octets"], ["tcp_flags", "TCP flags"],
];

function Evidence({ evidence: e, open }: { evidence: GuardEvidence; open: boolean }) {
  return (
    <details class="evidence" open={open}>
      <summary>Evidence <span class="muted">{exact(e.sampled)} sampled flows stand for {exact(e.packets)} packets of one second</span></summary>
      <div class="shares">
        {lists.map(([name, title]) => {
          const list = e[name] as GuardShare[];
          return list.length > 0 && (
            <div key={name}>
              <h3>{title}</h3>
              <ol>
                {list.slice(0, 6).map((s) => (
                  <li key={s.value}>
                    <span class="bar-fill" style={{ width: `${100 * s.share}%` }} />
                    <span class="name cut" title={s.value}>{s.value}</span>
                    <span class="share">{percent(s.share, 1)}</span>
                  </li>
                ))}
              </ol>
            </div>
          );
        })}
      </div>
      <div class="scroll">
        <table class="headers">
          <thead><tr><th>Source</th><th>Destination</th><th>Protocol</th><th>Flags</th><th>ToS</th><th class="right">Packets</th><th class="right">Octets each</th></tr></thead>
          <tbody class="mono">
            {e.headers.map((h, i) => (
              <tr key={i}>
                <td>{h.src}</td><td>{h.dst}</td><td>{protocol(h.proto)}{h.fragment ? " fragment" : ""}</td><td>{h.proto === 6 ? "0x" + h.tcp_flags.toString(16) : ""}</td><td>{h.tos}</td>
                <td class="right">{exact(h.packets)}</td><td class="right">{exact(h.bytes / Math.max(1, h.packets))}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </details>
  );
}

function Past({ attacks, data }: { attacks: GuardAttack[]; data: GuardAnswer }) {
  const { zone, unit } = usePreferences();
  return (
    <section class="panel scroll past">
      <header><h2>Over</h2></header>
      <table>
        <thead><tr><th>Began</th><th>Lasted</th><th>Target</th><th>Kind</th><th>Threshold</th><th class="right">Peak</th><th class="right">Traffic</th><th>What was done</th></tr></thead>
        <tbody>
          {attacks.map((a) => {
            const done = data.actions.find((x) => x.attack === a.id);
            return (
              <tr key={a.id}>
                <td>{dateTime(new Date(a.began), zone)}</td>
                <td>{duration(Math.round((Date.parse(a.seen) - Date.parse(a.began)) / 1000) + 1)}</td>
                <td>{a.target}</td>
                <td>{a.kind}</td>
                <td>{a.threshold}</td>
                <td class="right">{a.peak}</td>
                <td class="right">{text(rate(a.peak_bps / 8, unit))}</td>
                <td class="cut" title={done ? `${done.what}: ${done.note ?? ""}` : ""}>{done ? `${done.started ? "" : "nothing; "}${done.what}` : "nothing"}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </section>
  );
}
