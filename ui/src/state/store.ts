// State that outlives a component: the address, and what the reader prefers.

import { useEffect, useState } from "preact/hooks";
import type { Unit, Zone } from "../text/format.ts";
import { formatView, parseView, type View } from "./address.ts";

/** A value that components can watch. */
class Watched<T> {
  private watchers = new Set<(v: T) => void>();
  value: T;
  constructor(value: T) {
    this.value = value;
  }
  set(value: T): void {
    this.value = value;
    for (const w of [...this.watchers]) w(value);
  }
  use(): T {
    const [v, set] = useState(this.value);
    useEffect(() => {
      set(this.value);
      this.watchers.add(set);
      return () => void this.watchers.delete(set);
    }, []);
    return v;
  }
}

const view = new Watched<View>(parseView(location.pathname, location.search));
window.addEventListener("popstate", () => view.set(parseView(location.pathname, location.search)));

export const useView = (): View => view.use();

/** Goes to a view; replace leaves no step in the history. */
export function go(next: View, replace = false): void {
  const address = formatView(next);
  if (address === location.pathname + location.search) replace = true;
  if (replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  if (next.page !== view.value.page) window.scrollTo(0, 0);
  view.set(next);
}

/** Changes parts of the present view. */
export function change(part: Partial<View>, replace = false): void {
  go({ ...view.value, ...part }, replace);
}

export type Theme = "auto" | "light" | "dark";

export interface Preferences {
  theme: Theme;
  unit: Unit;
  zone: Zone;
}

const key = "weir.preferences";

function load(): Preferences {
  const p: Preferences = { theme: "auto", unit: "bit", zone: "local" };
  try {
    const s = JSON.parse(localStorage.getItem(key) ?? "{}") as Partial<Preferences>;
    if (s.theme === "light" || s.theme === "dark") p.theme = s.theme;
    if (s.unit === "byte") p.unit = "byte";
    if (s.zone === "utc") p.zone = "utc";
  } catch {
    // storage is off or holds something else: the defaults will do
  }
  return p;
}

const preferences = new Watched<Preferences>(load());

export const usePreferences = (): Preferences => preferences.use();

export function prefer(part: Partial<Preferences>): void {
  preferences.set({ ...preferences.value, ...part });
  applyTheme();
  try {
    localStorage.setItem(key, JSON.stringify(preferences.value));
  } catch {
    // kept for this visit only
  }
}

/** Puts the theme on the page. */
export function applyTheme(): void {
  const { theme } = preferences.value;
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

export const currentPreferences = (): Preferences => preferences.value;

/** Whether a link was clicked to go there in this tab. */
export function plainClick(e: MouseEvent): boolean {
  return e.button === 0 && !e.ctrlKey && !e.metaKey && !e.shiftKey && !e.altKey;
}
