// The time range: so long before now, or from a time to a time.

import { useEffect, useState } from "preact/hooks";
import { Icon, Menu } from "../../parts/parts.tsx";
import { defaultRange, seconds, type View } from "../../state/address.ts";
import { change, usePreferences } from "../../state/store.ts";
import { dateTime, fromField, iso, toField, zoneName } from "../../text/format.ts";

const presets: [string, string][] = [
  ["5m", "5 minutes"], ["15m", "15 minutes"], ["1h", "1 hour"], ["3h", "3 hours"], ["6h", "6 hours"], ["24h", "24 hours"], ["2d", "2 days"], ["7d", "7 days"], ["30d", "30 days"],
];

export function RangePicker({ view }: { view: View }) {
  const { zone } = usePreferences();
  const range = view.range || defaultRange;
  const fixed = view.from !== "" || view.to !== "";
  const label = fixed
    ? `${view.from ? dateTime(new Date(view.from), zone) : "the beginning"} – ${view.to ? dateTime(new Date(view.to), zone) : "now"}`
    : "Last " + (presets.find(([r]) => r === range)?.[1] ?? range);
  return (
    <Menu name="range" align="right" title="Time range" label={<><Icon name="clock" /><span>{label}</span></>}>
      {(close) => (
        <div class="range">
          <ul>
            {presets.map(([r, name]) => (
              <li key={r}>
                <button type="button" aria-pressed={!fixed && r === range} onClick={() => { change({ range: r, from: "", to: "" }); close(); }}>Last {name}</button>
              </li>
            ))}
          </ul>
          <Absolute view={view} close={close} />
        </div>
      )}
    </Menu>
  );
}

function Absolute({ view, close }: { view: View; close: () => void }) {
  const { zone } = usePreferences();
  const span = seconds(view.range || defaultRange) * 1000;
  const begin = view.from || iso(new Date(Date.now() - span));
  const end = view.to || iso(new Date());
  const [from, setFrom] = useState(toField(begin, zone));
  const [to, setTo] = useState(toField(end, zone));
  useEffect(() => {
    setFrom(toField(begin, zone));
    setTo(toField(end, zone));
  }, [zone]);
  const a = fromField(from, zone);
  const b = fromField(to, zone);
  const wrong = a && b && a >= b ? "From must be before to" : "";
  return (
    <form
      onSubmit={(e) => {
        e.preventDefault();
        if (wrong || !a || !b) return;
        change({ range: "", from: a, to: b });
        close();
      }}
    >
      <label>From<input type="datetime-local" step="1" value={from} onInput={(e) => setFrom(e.currentTarget.value)} /></label>
      <label>To<input type="datetime-local" step="1" value={to} onInput={(e) => setTo(e.currentTarget.value)} /></label>
      <p class={wrong ? "bad" : "muted"}>{wrong || `Times in ${zoneName(zone, new Date())}`}</p>
      <button type="submit" class="button primary" disabled={!a || !b || wrong !== ""}>Show</button>
    </form>
  );
}
