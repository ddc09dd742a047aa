// Numbers, rates and times for people. Decimal prefixes throughout; what is
// shortened on the screen stands in full in its title.

export type Unit = "bit" | "byte";
export type Zone = "utc" | "local";

const prefixes = ["", "k", "M", "G", "T", "P", "E"];
export const unknown = "–";
/** Between a number and its unit: they never part. */
const nbsp = "\u00a0";

/** Shortens n to three significant digits: its number and prefix. */
export function scale(n: number): [string, string] {
  if (!Number.isFinite(n)) return [unknown, ""];
  let a = Math.abs(n);
  let i = 0;
  // 999.5 would be printed as 1000.
  while (a >= 999.5 && i < prefixes.length - 1) {
    a /= 1000;
    i++;
  }
  const digits = a >= 99.95 || (i === 0 && Number.isInteger(a)) ? 0 : a >= 9.995 ? 1 : 2;
  const text = a === 0 ? "0" : a < 0.005 ? "<0.01" : a.toFixed(digits);
  return [(n < 0 ? "−" : "") + text, prefixes[i]!];
}

/** Number and unit apart, for large figures. */
export interface Quantity {
  value: string;
  unit: string;
}

/** Octets a second, as bit/s or B/s. */
export function rate(bytesPerSecond: number, unit: Unit): Quantity {
  const [value, p] = scale(unit === "bit" ? bytesPerSecond * 8 : bytesPerSecond);
  return { value, unit: p + (unit === "bit" ? "bit/s" : "B/s") };
}

export function perSecond(n: number, what: string): Quantity {
  const [value, p] = scale(n);
  return { value, unit: (p ? p + nbsp : "") + what + "/s" };
}

export function octets(n: number): Quantity {
  const [value, p] = scale(n);
  return { value, unit: p + "B" };
}

export function text(q: Quantity): string {
  return q.value === unknown ? unknown : q.value + nbsp + q.unit;
}

/** For an axis, whose marks are round: without zeros after the point. */
export function brief(q: Quantity): string {
  return text({ ...q, value: q.value.replace(/\.0+$/, "") });
}

export function count(n: number): string {
  const [value, p] = scale(n);
  return value + (p ? nbsp + p : "");
}

/** Every digit, in groups of three. */
export function exact(n: number): string {
  const s = String(Math.round(n));
  return s.replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

export function percent(part: number, whole: number): string {
  if (!(whole > 0)) return unknown;
  const p = (100 * part) / whole;
  return (p === 0 ? "0" : p < 0.1 ? "<0.1" : p < 9.95 ? p.toFixed(1) : p.toFixed(0)) + nbsp + "%";
}

/** One with its noun, or many. */
export function plural(n: number, one: string, many = one + "s"): string {
  return count(n) + nbsp + (n === 1 ? one : many);
}

export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return unknown;
  const s = Math.max(0, seconds);
  if (s === 0) return "0" + nbsp + "s";
  if (s < 0.001) return (s * 1e6).toFixed(0) + nbsp + "µs";
  if (s < 1) return (s * 1e3).toFixed(s < 0.01 ? 1 : 0) + nbsp + "ms";
  if (s < 60 && Number.isInteger(s)) return s + nbsp + "s";
  if (s < 60) return s.toFixed(s < 10 ? 2 : 1) + nbsp + "s";
  const whole = Math.round(s);
  const [d, h, m, r] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
  if (d > 0) return `${d}${nbsp}d${nbsp}${h}${nbsp}h`;
  if (h > 0) return `${h}${nbsp}h${nbsp}${m}${nbsp}min`;
  return `${m}${nbsp}min${nbsp}${r}${nbsp}s`;
}

/** How long ago, roughly. */
export function ago(seconds: number): string {
  const s = Math.max(0, Math.floor(seconds));
  return (s < 120 ? `${s}${nbsp}s` : duration(s)) + " ago";
}

function pad(n: number, width = 2): string {
  return String(n).padStart(width, "0");
}

interface Parts {
  date: string;
  time: string;
  ms: string;
}

function parts(at: Date, zone: Zone): Parts {
  const utc = zone === "utc";
  const y = utc ? at.getUTCFullYear() : at.getFullYear();
  const mo = (utc ? at.getUTCMonth() : at.getMonth()) + 1;
  const d = utc ? at.getUTCDate() : at.getDate();
  const h = utc ? at.getUTCHours() : at.getHours();
  const mi = utc ? at.getUTCMinutes() : at.getMinutes();
  const s = utc ? at.getUTCSeconds() : at.getSeconds();
  return { date: `${pad(y, 4)}-${pad(mo)}-${pad(d)}`, time: `${pad(h)}:${pad(mi)}:${pad(s)}`, ms: pad(at.getUTCMilliseconds(), 3) };
}

/** A date and time to the second. */
export function dateTime(at: Date, zone: Zone): string {
  if (Number.isNaN(at.getTime())) return unknown;
  const p = parts(at, zone);
  return p.date + " " + p.time;
}

/** The time of day to the millisecond; with the date unless it is today's. */
export function stamp(at: Date, zone: Zone, today: Date): string {
  if (Number.isNaN(at.getTime())) return unknown;
  const p = parts(at, zone);
  const time = p.time + "." + p.ms;
  return p.date === parts(today, zone).date ? time : p.date.slice(5) + " " + time;
}

/** The label of a tick: as fine as its distance to the next. */
export function tick(at: Date, zone: Zone, step: number): string {
  const p = parts(at, zone);
  if (step >= 86400) return p.date.slice(5);
  if (p.time === "00:00:00") return p.date.slice(5);
  return step < 60 ? p.time : p.time.slice(0, 5);
}

export function zoneName(zone: Zone, at: Date): string {
  if (zone === "utc") return "UTC";
  const m = -at.getTimezoneOffset();
  const a = Math.abs(m);
  return "UTC" + (m < 0 ? "−" : "+") + pad(Math.floor(a / 60)) + ":" + pad(a % 60);
}

/** For a datetime-local field. */
export function toField(iso: string, zone: Zone): string {
  const at = new Date(iso);
  if (Number.isNaN(at.getTime())) return "";
  const p = parts(at, zone);
  return p.date + "T" + p.time;
}

/** From a datetime-local field to RFC 3339 in UTC; "" if it is no time. */
export function fromField(field: string, zone: Zone): string {
  const at = new Date(zone === "utc" ? field + "Z" : field);
  return Number.isNaN(at.getTime()) ? "" : iso(at);
}

/** RFC 3339 in UTC, to the second. */
export function iso(at: Date): string {
  return at.toISOString().replace(/\.\d+Z$/, "Z");
}
