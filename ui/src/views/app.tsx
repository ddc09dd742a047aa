// The frame of every screen: the bar with navigation and preferences, and the keys.

import { useEffect, useState } from "preact/hooks";
import { Icon, Segmented, ViewLink } from "../parts/parts.tsx";
import { empty, type View } from "../state/address.ts";
import { currentPreferences, go, prefer, usePreferences, useView, type Theme } from "../state/store.ts";
import { zoneName } from "../text/format.ts";
import { Flows } from "./flows/flows.tsx";
import { Guard } from "./guard/guard.tsx";
import { Interfaces } from "./interfaces/interfaces.tsx";
import { Now } from "./now/now.tsx";

/** The same time range and filter on another page. */
function elsewhere(v: View, page: View["page"]): View {
  return { ...empty, page, range: v.range, from: v.from, to: v.to, filter: v.filter };
}

const titles: Record<View["page"], string> = { now: "Now", flows: "Flows", interfaces: "Interfaces", guard: "Guard" };

const themes: Theme[] = ["auto", "light", "dark"];

export function App() {
  const view = useView();
  const { theme, unit, zone } = usePreferences();
  const [help, setHelp] = useState(false);

  useEffect(() => {
    document.title = titles[view.page] + " – weir";
  }, [view.page]);

  useEffect(() => {
    let prefix = "";
    const key = (e: KeyboardEvent) => {
      const target = e.target as HTMLElement;
      if (e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) return;
      const chord = prefix + e.key;
      prefix = "";
      const p = currentPreferences();
      switch (chord) {
        case "g":
          prefix = "g";
          return;
        case "gn":
          return go(elsewhere(view, "now"));
        case "gf":
          return go(elsewhere(view, "flows"));
        case "gi":
          return go(elsewhere(view, "interfaces"));
        case "gg":
          return go(elsewhere(view, "guard"));
        case "u":
          return prefer({ unit: p.unit === "bit" ? "byte" : "bit" });
        case "z":
          return prefer({ zone: p.zone === "utc" ? "local" : "utc" });
        case "t":
          return prefer({ theme: themes[(themes.indexOf(p.theme) + 1) % 3]! });
        case "?":
          return setHelp((h) => !h);
        case "Escape":
          return setHelp(false);
      }
    };
    document.addEventListener("keydown", key);
    return () => document.removeEventListener("keydown", key);
  }, [view]);

  return (
    <>
      <header class="bar">
        <ViewLink to={{ ...empty }} class="brand" title="weir: Now">
          <svg viewBox="0 0 32 32" width="22" height="22" aria-hidden="true">
            <path class="blade" d="M4 7h7l5 9 5-9h7v5h-4.200L16 28 8.200 12H4z" />
            <path class="water" d="M4 15.500h3l6.800 12.500H4zM28 15.500h-3L18.200 28H28z" />
          </svg>
          weir
        </ViewLink>
        <nav aria-label="Screens">
          <ViewLink to={elsewhere(view, "now")} current={view.page === "now"} title="Keys: g n">Now</ViewLink>
          <ViewLink to={elsewhere(view, "flows")} current={view.page === "flows"} title="Keys: g f">Flows</ViewLink>
          <ViewLink to={elsewhere(view, "interfaces")} current={view.page === "interfaces"} title="Keys: g i">Interfaces</ViewLink>
          <ViewLink to={elsewhere(view, "guard")} current={view.page === "guard"} title="Keys: g g">Guard</ViewLink>
        </nav>
        <div class="preferences">
          <Segmented
            label="Unit of rates"
            value={unit}
            options={[{ value: "bit", label: "bit/s", title: "Rates in bits a second (key: u)" }, { value: "byte", label: "B/s", title: "Rates in bytes a second (key: u)" }]}
            onChoose={(v) => prefer({ unit: v })}
          />
          <Segmented
            label="Time zone"
            value={zone}
            options={[{ value: "utc", label: "UTC", title: "Times in UTC (key: z)" }, { value: "local", label: "Local", title: `Times of this browser: ${zoneName("local", new Date())} (key: z)` }]}
            onChoose={(v) => prefer({ zone: v })}
          />
          <button
            type="button"
            class="icon-button"
            data-name="theme"
            title={`Theme: ${theme} (key: t)`}
            aria-label={`Theme: ${theme}. Change it`}
            onClick={() => prefer({ theme: themes[(themes.indexOf(theme) + 1) % 3]! })}
          >
            <Icon name={theme === "auto" ? "auto" : theme === "light" ? "sun" : "moon"} />
          </button>
          <button type="button" class="icon-button wide-only" title="Keys (key: ?)" aria-label="Keys" onClick={() => setHelp(true)}>
            <Icon name="help" />
          </button>
        </div>
      </header>
      <main>{view.page === "now" ? <Now view={view} /> : view.page === "interfaces" ? <Interfaces /> : view.page === "guard" ? <Guard /> : <Flows view={view} />}</main>
      {help && <Keys close={() => setHelp(false)} />}
    </>
  );
}

const keys: [string, string][] = [
  ["g n", "Now"],
  ["g f", "Flows"],
  ["g i", "Interfaces"],
  ["g g", "Guard"],
  ["/", "The filter"],
  ["r", "Ask again"],
  ["↑ ↓", "Move through the rows"],
  ["Enter", "A row's details"],
  ["u", "bit/s or B/s"],
  ["z", "UTC or local time"],
  ["t", "Theme: auto, light, dark"],
  ["Esc", "Close what is open"],
];

function Keys({ close }: { close: () => void }) {
  return (
    <div class="veil" onClick={close}>
      <div class="dialog" role="dialog" aria-label="Keys" onClick={(e) => e.stopPropagation()}>
        <header>
          <h2>Keys</h2>
          <button type="button" class="icon-button" aria-label="Close" onClick={close} ref={(b) => b?.focus()}>
            <Icon name="close" />
          </button>
        </header>
        <dl class="keys">
          {keys.map(([k, what]) => (
            <div key={k}>
              <dt>{k.split(" ").map((part) => <kbd key={part}>{part}</kbd>)}</dt>
              <dd>{what}</dd>
            </div>
          ))}
        </dl>
        <p class="muted">Click a value to filter by it; with Alt to leave it out. Drag over a chart to zoom.</p>
      </div>
    </div>
  );
}
