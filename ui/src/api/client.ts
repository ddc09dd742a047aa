// Asking the API, and keeping an answer fresh.

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import type { Error as Failure } from "./types.ts";

/** What the API answered instead of data. */
export class ApiError extends Error {
  readonly status: number;
  readonly detail: Failure;
  constructor(status: number, detail: Failure) {
    super(detail.error);
    this.status = status;
    this.detail = detail;
  }
}

export type Params = Record<string, string | number | undefined>;

/** The address of a route with its parameters; empty ones are left out. */
export function apiURL(route: string, params: Params = {}): string {
  const q = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) if (value !== undefined && value !== "" && value !== 0) q.set(name, String(value));
  const text = q.toString();
  return "/api/v1/" + route + (text ? "?" + text : "");
}

export interface Got<T> {
  data: T;
  /** When the data was true, by this browser's clock, in ms. */
  asOf: number;
}

export async function get<T>(url: string, signal?: AbortSignal): Promise<Got<T>> {
  let response: Response;
  try {
    response = await fetch(url, { signal: signal ?? null, headers: { Accept: "application/json" } });
  } catch (e) {
    if (signal?.aborted) throw e;
    throw new ApiError(0, { error: "weir does not answer: is it still running?" });
  }
  const age = Number(response.headers.get("Age") ?? "0");
  if (!response.ok) {
    let detail: Failure = { error: `weir answered ${response.status}` };
    try {
      detail = (await response.json()) as Failure;
    } catch {
      // not ours: a proxy's page
    }
    throw new ApiError(response.status, detail);
  }
  return { data: (await response.json()) as T, asOf: Date.now() - age * 1000 };
}

/** Asks the API to do something. */
export async function send<T>(route: string, what: unknown): Promise<T> {
  let response: Response;
  try {
    response = await fetch("/api/v1/" + route, { method: "POST", headers: { "Content-Type": "application/json", Accept: "application/json" }, body: JSON.stringify(what) });
  } catch {
    throw new ApiError(0, { error: "weir does not answer: is it still running?" });
  }
  const answer = (await response.json()) as T | Failure;
  if (!response.ok) throw new ApiError(response.status, answer as Failure);
  return answer as T;
}

export interface Asked<T> {
  /** The last answer; stays while a newer one is on its way. */
  data: T | undefined;
  asOf: number;
  error: ApiError | undefined;
  loading: boolean;
  /** Whether data answers the present question. */
  current: boolean;
  again: () => void;
}

/**
 * Asks url, and again every so many ms after each answer (0: once), while the
 * page is visible. null asks nothing.
 */
export function useApi<T>(url: string | null, every = 0): Asked<T> {
  const [got, setGot] = useState<{ url: string; data: T; asOf: number }>();
  const [failed, setFailed] = useState<{ url: string; error: ApiError }>();
  const [loading, setLoading] = useState(false);
  const [turn, setTurn] = useState(0);
  const again = useCallback(() => setTurn((n) => n + 1), []);
  const period = useRef(every);
  period.current = every;

  useEffect(() => {
    if (url === null) return;
    const control = new AbortController();
    let timer = 0;
    const ask = async () => {
      setLoading(true);
      try {
        const { data, asOf } = await get<T>(url, control.signal);
        setGot({ url, data, asOf });
        setFailed(undefined);
      } catch (e) {
        if (control.signal.aborted) return;
        setFailed({ url, error: e instanceof ApiError ? e : new ApiError(0, { error: String(e) }) });
      }
      setLoading(false);
      schedule();
    };
    const schedule = () => {
      if (period.current > 0 && !document.hidden && !control.signal.aborted) timer = window.setTimeout(ask, period.current);
    };
    const shown = () => {
      window.clearTimeout(timer);
      if (!document.hidden && period.current > 0) void ask();
    };
    document.addEventListener("visibilitychange", shown);
    void ask();
    return () => {
      document.removeEventListener("visibilitychange", shown);
      window.clearTimeout(timer);
      control.abort();
    };
  }, [url, turn, every > 0]);

  return {
    data: got?.data,
    asOf: got?.asOf ?? 0,
    error: failed && failed.url === url ? failed.error : undefined,
    loading,
    current: got !== undefined && got.url === url,
    again,
  };
}
