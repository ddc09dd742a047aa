// Small parts of which the screens are made.

import type { ComponentChildren, JSX } from "preact";
import { useCallback, useState } from "preact/hooks";
import { useDismiss } from "../state/hooks.ts";
import { go, plainClick } from "../state/store.ts";
import { formatView, type View } from "../state/address.ts";
import type { Quantity } from "../text/format.ts";

/** A link to a view: a real address, followed without loading the page anew. */
export function ViewLink({ to, class: c, title, children, current }: { to: View; class?: string; title?: string; children: ComponentChildren; current?: boolean }) {
  return (
    <a
      href={formatView(to)}
      class={c}
      title={title}
      aria-current={current ? "page" : undefined}
      onClick={(e) => {
        if (!plainClick(e)) return;
        e.preventDefault();
        go(to);
      }}
    >
      {children}
    </a>
  );
}

/** One choice of a few, all visible. */
export function Segmented<T extends string>({ label, value, options, onChoose }: {
  label: string;
  value: T;
  options: { value: T; label: string; title?: string }[];
  onChoose: (v: T) => void;
}) {
  return (
    <div class="segmented" role="group" aria-label={label}>
      {options.map((o) => (
        <button type="button" key={o.value} aria-pressed={o.value === value} title={o.title} onClick={() => onChoose(o.value)}>
          {o.label}
        </button>
      ))}
    </div>
  );
}

/** A button that opens a panel below it. */
export function Menu({ label, title, class: c, align, children, name }: {
  label: ComponentChildren;
  title?: string;
  class?: string;
  align?: "right";
  name: string;
  children: (close: () => void) => ComponentChildren;
}) {
  const [open, setOpen] = useState(false);
  const close = useCallback(() => setOpen(false), []);
  const ref = useDismiss<HTMLDivElement>(open, close);
  return (
    <div class={"menu " + (c ?? "")} ref={ref} data-menu={name}>
      <button type="button" class="button" aria-expanded={open} aria-haspopup="dialog" title={title} onClick={() => setOpen(!open)}>
        {label}
        <Icon name="down" />
      </button>
      {open && <div class={"popover" + (align === "right" ? " end" : "")} role="dialog" aria-label={title ?? name}>{children(close)}</div>}
    </div>
  );
}

/** A number with its unit, the unit smaller. */
export function Figure({ q, title }: { q: Quantity; title?: string }) {
  return (
    <span class="figure" title={title}>
      <span class="value">{q.value}</span> <span class="unit">{q.unit}</span>
    </span>
  );
}

/** A statement in a panel where data would be: what is missing and what to do. */
export function Notice({ title, children, tone }: { title: string; children?: ComponentChildren; tone?: "bad" }) {
  return (
    <div class={"notice " + (tone ?? "")} role={tone ? "alert" : "status"}>
      <strong>{title}</strong>
      {children}
    </div>
  );
}

export function Code({ children }: { children: string }) {
  const [copied, setCopied] = useState(false);
  return (
    <span class="command">
      <code>{children}</code>
      <button
        type="button"
        class="icon-button"
        title="Copy"
        aria-label="Copy"
        onClick={() => {
          void copy(children).then((ok) => {
            setCopied(ok);
            window.setTimeout(() => setCopied(false), 1500);
          });
        }}
      >
        <Icon name={copied ? "check" : "copy"} />
      </button>
    </span>
  );
}

/** Copies text; false where the browser does not let us. */
export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

const paths = {
  down: "M4 6l4 4 4-4",
  right: "M6 4l4 4-4 4",
  check: "M3.500 8.500l3 3 6-7",
  copy: "M5.500 5.500v-3h8v8h-3M2.500 5.500h8v8h-8z",
  close: "M4 4l8 8M12 4l-8 8",
  sun: "M8 5.200a2.800 2.800 0 100 5.600 2.800 2.800 0 000-5.600zM8 1v1.600M8 13.400V15M1 8h1.600M13.400 8H15M3 3l1.200 1.200M11.800 11.800L13 13M13 3l-1.200 1.200M4.200 11.800L3 13",
  moon: "M13 9.600A5.600 5.600 0 016.400 3a5.600 5.600 0 106.600 6.600z",
  auto: "M8 2a6 6 0 100 12A6 6 0 008 2zM8 2v12M8 5.500h4.800M8 8h6M8 10.500h4.800",
  pause: "M5.500 3.500v9M10.500 3.500v9",
  play: "M5 3.500l7 4.500-7 4.500z",
  refresh: "M13 8a5 5 0 11-1.500-3.600M13 2v3h-3",
  download: "M8 2.500v8M4.500 7.500L8 11l3.500-3.500M3 13.500h10",
  columns: "M2.500 3h11v10h-11zM6.200 3v10M9.800 3v10",
  clock: "M8 2a6 6 0 100 12A6 6 0 008 2zM8 4.800V8l2.200 1.400",
  terminal: "M2.500 3h11v10h-11zM5 6l2 2-2 2M8.500 10.500H11",
  help: "M8 2a6 6 0 100 12A6 6 0 008 2zM6.300 6.400c0-1 .8-1.600 1.700-1.600s1.700.6 1.700 1.500c0 1.200-1.700 1.300-1.700 2.500M8 11v.3",
  warn: "M8 2.500l6 10.800H2zM8 6.500v3.300M8 11.400v.3",
  out: "M9.500 2.500h4v4M13.500 2.500L8 8M12 9v4.500H2.500V4H7",
};

export type IconName = keyof typeof paths;

export function Icon({ name }: { name: IconName }): JSX.Element {
  return (
    <svg class="icon" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" focusable="false">
      <path d={paths[name]} fill="none" stroke="currentColor" stroke-width="1.4" stroke-linecap="round" stroke-linejoin="round" />
    </svg>
  );
}
