// The address is the state: what a screen shows is a function of its path and
// query string, so a link is a bookmark, and back and forward work.

export type Page = "now" | "flows" | "interfaces" | "guard";

export interface View {
  page: Page;
  /** A range that ends now, as "15m"; "" when from and to are given, or by default. */
  range: string;
  /** RFC 3339, or "". */
  from: string;
  to: string;
  filter: string;
  /** Statistic of the top table, as query's -s without its order; "": single flows. */
  by: string;
  order: string;
  /** Rows; 0: the default. */
  limit: number;
  /** Columns shown; none: the default ones. */
  columns: string[];
}

const paths: Record<Page, string> = { now: "/", flows: "/flows", interfaces: "/interfaces", guard: "/guard" };

export const empty: View = { page: "now", range: "", from: "", to: "", filter: "", by: "", order: "", limit: 0, columns: [] };

/** Reads an address; what makes no sense in it is left out. */
export function parseView(path: string, search: string): View {
  const q = new URLSearchParams(search);
  const range = q.get("range") ?? "";
  const from = time(q.get("from"));
  const to = time(q.get("to"));
  const limit = Number(q.get("limit") ?? "0");
  return {
    page: path === "/flows" ? "flows" : path === "/interfaces" ? "interfaces" : path === "/guard" ? "guard" : "now",
    range: seconds(range) > 0 && !from && !to ? range : "",
    from,
    to,
    filter: q.get("filter") ?? "",
    by: word(q.get("by")),
    order: word(q.get("order")),
    limit: Number.isInteger(limit) && limit > 0 ? Math.min(limit, 10000) : 0,
    columns: (q.get("columns") ?? "").split(",").map(word).filter((c) => c !== ""),
  };
}

/** Writes the address of a view; parseView reads it back. */
export function formatView(v: View): string {
  const q = new URLSearchParams();
  if (v.from) q.set("from", v.from);
  if (v.to) q.set("to", v.to);
  if (!v.from && !v.to && v.range) q.set("range", v.range);
  if (v.filter) q.set("filter", v.filter);
  if (v.page === "flows") {
    if (v.by) q.set("by", v.by);
    if (v.order) q.set("order", v.order);
    if (v.limit) q.set("limit", String(v.limit));
    if (v.columns.length > 0) q.set("columns", v.columns.join(","));
  }
  // These signs stand for themselves in a query; links stay readable.
  const text = q.toString().replace(/%2C/g, ",").replace(/%3A/g, ":").replace(/%2F/g, "/");
  return paths[v.page] + (text ? "?" + text : "");
}

function word(s: string | null): string {
  return s && /^[A-Za-z0-9_:/]{1,40}$/.test(s) ? s : "";
}

function time(s: string | null): string {
  return s && /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?Z$/.test(s) && !Number.isNaN(Date.parse(s)) ? s : "";
}

const units: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86400 };

/** Seconds of a range as "15m"; 0 if it is none. */
export function seconds(range: string): number {
  const m = /^(\d{1,5})([smhd])$/.exec(range);
  return m ? Number(m[1]) * (units[m[2]!] ?? 0) : 0;
}

/** The default range of the flows screen. */
export const defaultRange = "1h";

/** The time parameters of an API call for v. */
export function timeParams(v: View): Record<string, string> {
  if (v.from || v.to) return { ...(v.from ? { from: v.from } : {}), ...(v.to ? { to: v.to } : {}) };
  return { from: "-" + (v.range || defaultRange) };
}
