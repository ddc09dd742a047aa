// The order of rows, as the query language says it: bytes, bytes:a, tstart:d.

export interface Order {
  name: string;
  ascending: boolean;
}

/** Reads an order; "" is usual, which is descending unless it says otherwise. */
export function parseOrder(order: string, usual: string): Order {
  const [name, direction] = (order || usual).split(":") as [string, string | undefined];
  // Times alone go up when nothing is said.
  return { name, ascending: direction ? direction === "a" : name === "tstart" || name === "tend" };
}

/** What a click on a heading makes of the order: down first, then up. */
export function nextOrder(now: Order, name: string, usual: string): string {
  const up = now.name === name && !now.ascending;
  const next = name + (up ? ":a" : name === "tstart" || name === "tend" ? ":d" : "");
  return next === usual ? "" : next;
}
