// Small hooks that several screens use.

import { useEffect, useRef, useState } from "preact/hooks";

/** The time in ms, renewed every so many ms. */
export function useClock(every: number): number {
  const [now, set] = useState(Date.now());
  useEffect(() => {
    const id = window.setInterval(() => set(Date.now()), every);
    return () => window.clearInterval(id);
  }, [every]);
  return now;
}

/** Whether a media query holds. */
export function useMedia(query: string): boolean {
  const [matches, set] = useState(() => matchMedia(query).matches);
  useEffect(() => {
    const m = matchMedia(query);
    const changed = () => set(m.matches);
    changed();
    m.addEventListener("change", changed);
    return () => m.removeEventListener("change", changed);
  }, [query]);
  return matches;
}

/** Calls back on a click outside of an element, and on Escape. */
export function useDismiss<E extends HTMLElement>(open: boolean, dismiss: () => void) {
  const ref = useRef<E>(null);
  useEffect(() => {
    if (!open) return;
    const click = (e: PointerEvent) => {
      if (ref.current && !e.composedPath().includes(ref.current)) dismiss();
    };
    const key = (e: KeyboardEvent) => {
      if (e.key === "Escape") {
        e.stopPropagation();
        dismiss();
      }
    };
    document.addEventListener("pointerdown", click);
    document.addEventListener("keydown", key, true);
    return () => {
      document.removeEventListener("pointerdown", click);
      document.removeEventListener("keydown", key, true);
    };
  }, [open, dismiss]);
  return ref;
}
