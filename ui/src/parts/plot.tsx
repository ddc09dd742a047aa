// A uPlot as a component: made once for its options, fed with data after.

import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import uPlot from "uplot";

/** The colours of the theme, as the page has them now. */
export function palette(names: string[]): Record<string, string> {
  const probe = document.createElement("span");
  document.body.append(probe);
  const colours: Record<string, string> = {};
  for (const name of names) {
    probe.style.color = `var(--${name})`;
    colours[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return colours;
}

/** c with an opacity. */
export function fade(c: string, opacity: number): string {
  return c.replace(/^rgb\((.*)\)$/, (_, v: string) => `rgba(${v}, ${opacity})`);
}

export const plotFont = "11px system-ui, sans-serif";

export function Plot({ make, data, height, label, version }: {
  /** Options; asked for again when version changes. */
  make: () => Omit<uPlot.Options, "width" | "height">;
  data: uPlot.AlignedData;
  height: number;
  label: string;
  version: string;
}) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | undefined>(undefined);
  const latest = useRef(data);
  latest.current = data;

  useLayoutEffect(() => {
    const el = box.current!;
    const p = new uPlot({ ...make(), width: Math.max(el.clientWidth, 100), height }, latest.current, el);
    plot.current = p;
    const sizes = new ResizeObserver(() => {
      if (el.clientWidth > 0 && el.clientWidth !== p.width) p.setSize({ width: el.clientWidth, height });
    });
    sizes.observe(el);
    return () => {
      sizes.disconnect();
      p.destroy();
      plot.current = undefined;
    };
  }, [version, height]);

  useEffect(() => plot.current?.setData(data), [data]);

  return <div class="plot" ref={box} role="img" aria-label={label} style={{ height: height + "px" }} />;
}
