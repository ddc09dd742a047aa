// Round numbers for the marks of an axis.

/** About n marks from min to max, at 1, 2 or 5 times a power of ten of v*factor. */
export function marks(min: number, max: number, n: number, factor = 1): number[] {
  if (!(max > min)) return [];
  const raw = ((max - min) * factor) / n;
  const p = 10 ** Math.floor(Math.log10(raw));
  const m = raw / p;
  const width = ((m <= 1 ? 1 : m <= 2 ? 2 : m <= 5 ? 5 : 10) * p) / factor;
  const all: number[] = [];
  for (let k = Math.ceil(min / width); k * width <= max; k++) all.push(k * width || 0);
  return all;
}
