// The filters this browser used, newest first.

const key = "weir.filters";
const most = 30;

export function past(): string[] {
  try {
    const all: unknown = JSON.parse(localStorage.getItem(key) ?? "[]");
    return Array.isArray(all) ? all.filter((f): f is string => typeof f === "string") : [];
  } catch {
    return [];
  }
}

export function remember(filter: string): void {
  try {
    localStorage.setItem(key, JSON.stringify([filter, ...past().filter((f) => f !== filter)].slice(0, most)));
  } catch {
    // no storage, no history
  }
}
