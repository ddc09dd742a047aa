// What the Guard screen works out, without a browser.

import type { GuardAction, GuardAttack } from "../../api/types.ts";

/** States in which an action is, or may come to be, in force. */
export const openStates = new Set(["observed", "proposed", "active"]);

/** How a state is coloured. */
export function tone(state: string): "bad" | "warn" | "plain" {
  return state === "active" ? "bad" : state === "proposed" ? "warn" : "plain";
}

/** Seconds until an action's end, counted down by this browser's clock since the answer. */
export function secondsLeft(x: Pick<GuardAction, "left">, asOf: number, now: number): number {
  return Math.max(0, Math.round(x.left - (now - asOf) / 1000));
}

/** The filter of a target's flows, in nfdump's language; "" if there is none. */
export function targetFilter(a: Pick<GuardAttack, "scope" | "target">): string {
  const side = a.scope === "source" || a.scope === "outgoing" ? "src" : "dst";
  if (a.scope === "group") return "";
  return a.target.includes("/") ? `${side} net ${a.target}` : `${side} ip ${a.target}`;
}
