// The screens' plain logic, tried without a browser: node --test.

import assert from "node:assert/strict";
import { test } from "node:test";
import { empty, formatView, parseView, seconds, timeParams, type View } from "./state/address.ts";
import { addTerm, commandLine, keyColumns, rowTerm, shell, term } from "./query/terms.ts";
import * as f from "./text/format.ts";
import { marks } from "./text/marks.ts";
import { icmpType, protocol, service, tcpFlags, version } from "./text/names.ts";
import { instant, flowSeconds } from "./views/flows/cells.ts";
import { begin, byStage, covered, figures, lossAmount, rates, stageSums } from "./views/now/rates.ts";
import { secondsLeft, targetFilter, tone } from "./views/guard/logic.ts";
import { between, fates, portion } from "./views/interfaces/rates.ts";
import { nextOrder, parseOrder } from "./query/order.ts";
import { shown } from "./query/columns.ts";
import type { LossLine, NowAnswer, SeriesAnswer } from "./api/types.ts";

const nb = "\u00a0";

test("an address is read back as it was written", () => {
  const views: View[] = [
    empty,
    { ...empty, range: "15m" },
    { ...empty, page: "flows" },
    { ...empty, page: "flows", from: "2026-11-22T10:00:00Z", to: "2026-11-22T11:00:00Z", filter: `src ip 10.0.0.1 and (port 80 or port 443) # "x" & y=1 + ü` },
    { ...empty, page: "flows", range: "3h", by: "dstport:p", order: "packets", limit: 250, columns: ["src", "bytes"] },
  ];
  for (const v of views) {
    const [path, search] = formatView(v).split("?") as [string, string | undefined];
    assert.deepEqual(parseView(path, search ? "?" + search : ""), v);
  }
});

test("an address that makes no sense is read as far as it does", () => {
  const v = parseView("/flows", "?range=soon&limit=-3&by=%3Cimg%3E&from=yesterday&columns=src,%22x,bytes&order=a%20b");
  assert.deepEqual(v, { ...empty, page: "flows", columns: ["src", "bytes"] });
  assert.equal(parseView("/elsewhere", "").page, "now");
  assert.equal(parseView("/flows", "?limit=99999999").limit, 10000);
  // Given ends win over a range.
  assert.equal(parseView("/", "?range=5m&from=2026-11-22T10:00:00Z").range, "");
});

test("ranges and what is asked of the API for them", () => {
  assert.equal(seconds("90s"), 90);
  assert.equal(seconds("24h"), 86400);
  assert.equal(seconds("1y"), 0);
  assert.deepEqual(timeParams({ ...empty, range: "15m" }), { from: "-15m" });
  assert.deepEqual(timeParams(empty), { from: "-1h" });
  assert.deepEqual(timeParams({ ...empty, from: "2026-11-22T10:00:00Z" }), { from: "2026-11-22T10:00:00Z" });
});

test("numbers have three digits and a prefix", () => {
  const cases: [number, string][] = [
    [0, "0"], [1, "1"], [7, "7"], [0.5, "0.50"], [0.001, "<0.01"], [9.996, "10.0"], [99.96, "100"], [999, "999"], [999.4, "999"], [999.5, "1.00 k"], [1000, "1.00 k"],
    [12345, "12.3 k"], [999499, "999 k"], [999500, "1.00 M"], [1.5e9, "1.50 G"], [2 ** 53, "9.01 P"], [-1500, "−1.50 k"],
  ];
  for (const [n, want] of cases) assert.equal(f.count(n), want.replace(" ", nb), String(n));
  assert.equal(f.count(NaN), f.unknown);
  assert.equal(f.exact(1234567890), "1,234,567,890");
  assert.equal(f.exact(999), "999");
});

test("rates in bits and in bytes", () => {
  assert.equal(f.text(f.rate(125e6, "bit")), `1.00${nb}Gbit/s`);
  assert.equal(f.text(f.rate(125e6, "byte")), `125${nb}MB/s`);
  assert.equal(f.text(f.rate(0, "bit")), `0${nb}bit/s`);
  assert.equal(f.text(f.perSecond(178_400, "packets")), `178${nb}k${nb}packets/s`);
  assert.equal(f.text(f.octets(1500)), `1.50${nb}kB`);
  assert.equal(f.brief(f.rate(125e6, "bit")), `1${nb}Gbit/s`);
  assert.equal(f.brief(f.rate(187.5e3, "bit")), `1.50${nb}Mbit/s`);
  assert.equal(f.percent(1, 8), `13${nb}%`);
  assert.equal(f.percent(1, 20000), `<0.1${nb}%`);
  assert.equal(f.percent(1, 0), f.unknown);
});

test("durations", () => {
  const cases: [number, string][] = [[0, "0 s"], [0.0004, "400 µs"], [0.0123, "12 ms"], [1.5, "1.50 s"], [15, "15 s"], [12.34, "12.3 s"], [200, "3 min 20 s"], [3600, "1 h 0 min"], [90000, "1 d 1 h"]];
  for (const [s, want] of cases) assert.equal(f.duration(s), want.replaceAll(" ", nb), String(s));
  assert.equal(f.ago(12.9), `12${nb}s ago`);
  assert.equal(f.ago(-3), `0${nb}s ago`);
});

test("times in UTC", () => {
  const at = new Date("2026-11-22T09:08:07.065Z");
  assert.equal(f.dateTime(at, "utc"), "2026-11-22 09:08:07");
  assert.equal(f.stamp(at, "utc", at), "09:08:07.065");
  assert.equal(f.stamp(at, "utc", new Date("2026-11-23T00:00:00Z")), "11-22 09:08:07.065");
  assert.equal(f.tick(at, "utc", 30), "09:08:07");
  assert.equal(f.tick(at, "utc", 300), "09:08");
  assert.equal(f.tick(new Date("2026-11-22T00:00:00Z"), "utc", 3600), "11-22");
  assert.equal(f.fromField("2026-11-22T09:08:07", "utc"), "2026-11-22T09:08:07Z");
  assert.equal(f.fromField("", "utc"), "");
  assert.equal(f.toField("2026-11-22T09:08:07Z", "utc"), "2026-11-22T09:08:07");
  // Local time goes through the field unharmed, whatever the zone.
  assert.equal(f.fromField(f.toField("2026-07-01T22:33:44Z", "local"), "local"), "2026-07-01T22:33:44Z");
});

test("a value becomes a term", () => {
  assert.equal(term("src", "10.0.0.1"), "src ip 10.0.0.1");
  assert.equal(term("src", "10.0.0.0/24"), "src net 10.0.0.0/24");
  assert.equal(term("dst", "2001:db8::1"), "dst ip 2001:db8::1");
  assert.equal(term("exporter", "2001:db8::/32"), "exporter net 2001:db8::/32");
  assert.equal(term("proto", 6), "proto 6");
  assert.equal(term("direction", 1), "flowdir 1");
  assert.equal(term("bps", 1), "");
  assert.equal(term("src", null), "");
  assert.equal(term("src", "10.0.0.1 or any"), "", "no text of a record gets into a filter");
  assert.equal(term("src", "dead"), "", "a word of hex digits is no address");
  assert.equal(rowTerm(["port", "proto", "flows"], [443, 6, 1], [0, 1]), "port 443 and proto 6");
  assert.equal(rowTerm(["port", "proto"], [443, null], [0, 1]), "");
  assert.deepEqual(keyColumns(["time", "src", "proto", "flows", "bytes", "last"]), [1, 2]);
});

test("terms are added to a filter", () => {
  const cases: [string, string, boolean, string][] = [
    ["", "proto 6", false, "proto 6"],
    ["", "proto 6", true, "not proto 6"],
    ["src port 443", "proto 6", false, "src port 443 and proto 6"],
    ["proto 6 and src port 443", "proto 6", false, "proto 6 and src port 443"],
    ["PROTO   6 and src port 443", "proto 6", false, "PROTO   6 and src port 443"],
    ["proto 6 or proto 17", "src port 53", false, "(proto 6 or proto 17) and src port 53"],
    ["(proto 6 or proto 17)", "src port 53", false, "(proto 6 or proto 17) and src port 53"],
    ["proto 6 # a comment", "src port 53", false, "(proto 6 # a comment\n) and src port 53"],
    ["port 443", "port 53 and proto 17", true, "port 443 and not (port 53 and proto 17)"],
    ["port 443 and not proto 6", "proto 6", false, "port 443 and proto 6"],
    ["proto 6 and port 443", "proto 6", true, "port 443 and not proto 6"],
    ["ident 'a or b'", "proto 6", false, "ident 'a or b' and proto 6"],
  ];
  for (const [old, add, not, want] of cases) assert.equal(addTerm(old, add, not), want, `${old} + ${not ? "not " : ""}${add}`);
});

test("the command line survives a shell", () => {
  assert.equal(shell("plain-1.2"), "plain-1.2");
  assert.equal(shell("it's $HOME"), `'it'\\''s $HOME'`);
  assert.equal(
    commandLine({ store: "/var/lib/weir", from: "-1h", to: "", filter: "dst port 443 and bytes > 1M", by: "srcip", order: "bytes", limit: 10 }),
    "weir query --store /var/lib/weir -t -1h -s srcip/bytes -n 10 'dst port 443 and bytes > 1M'",
  );
  assert.equal(commandLine({ store: "", from: "2026-11-22T10:00:00Z", to: "2026-11-22T11:00:00Z", filter: "", by: "", order: "bytes", limit: 0 }),
    "weir query -t 2026-11-22T10:00:00Z/2026-11-22T11:00:00Z -O bytes");
});

test("names of numbers", () => {
  assert.equal(protocol(6), "tcp");
  assert.equal(protocol(253), "253");
  assert.equal(service(443, 6), "https");
  assert.equal(service(443, 17), "quic");
  assert.equal(service(53), "domain");
  assert.equal(service(6, 1), "");
  assert.equal(tcpFlags(0x12), "···A··S·");
  assert.equal(tcpFlags(0xff), "CEUAPRSF");
  assert.equal(icmpType(8, 1), "echo request");
  assert.equal(icmpType(128, 58), "echo request");
  assert.equal(version("10"), "IPFIX");
  assert.equal(version(undefined), "metered here");
});

test("flows last as long as their microseconds say", () => {
  assert.equal(instant("2026-11-22T10:00:00.000001Z"), Date.parse("2026-11-22T10:00:00Z") / 1000 + 0.000001);
  assert.ok(Number.isNaN(instant("now")));
  const s = flowSeconds({ first: "2026-11-22T10:00:00.000250Z", last: "2026-11-22T10:00:01.000500Z" })!;
  assert.ok(Math.abs(s - 1.00025) < 1e-6);
  assert.equal(flowSeconds({ last: "2026-11-22T10:00:00Z" }), undefined);
});

test("marks of an axis are round", () => {
  assert.deepEqual(marks(0, 10, 5), [0, 2, 4, 6, 8, 10]);
  assert.deepEqual(marks(-2.6, 2.6, 5), [-2, 0, 2]);
  assert.deepEqual(marks(5, 5, 5), []);
  // Round in bits though the values are octets.
  assert.deepEqual(marks(0, 250e3, 2, 8).map((v) => v * 8), [0, 1e6, 2e6]);
});

const series: SeriesAnswer = {
  bin_seconds: 10, time: [100, 110, 120], took_ms: 1, total: { flows: 6, packets: 60, bytes: 6000, first: "2026-11-22T10:00:00Z" },
  lines: [
    { name: "in", filter: "", flows: [1, 1, 0], packets: [10, 10, 0], bytes: [1000, 2000, 0] },
    { name: "out", filter: "", flows: [1, 0, 1], packets: [10, 0, 10], bytes: [500, 0, 1500] },
    { name: "unknown", filter: "", flows: [0, 1, 1], packets: [0, 10, 10], bytes: [0, 400, 600] },
  ],
};

test("a series becomes mirrored rates that sum to it", () => {
  const r = rates(series);
  assert.deepEqual(r.time, [100, 110, 120, 130]);
  assert.deepEqual(r.in, [100, 200, 0, 0]);
  assert.deepEqual(r.out, [-50, 0, -150, -150]);
  assert.deepEqual(r.unknown, [100, 240, 60, 60], "unknown stands on top of in");
  const sum = [0, 1, 2].reduce((n, i) => n + (r.unknown[i]! - r.out[i]!) * series.bin_seconds, 0);
  assert.equal(sum, series.total.bytes);
  assert.deepEqual(rates({ ...series, time: [], lines: [] }).time, []);
});

test("figures are means over the time that has data", () => {
  const a = {
    from: "2026-11-22T09:50:00Z", to: "2026-11-22T10:01:00Z", series,
    status: { store: { oldest: "2026-11-22T10:00:00Z" } },
  } as unknown as NowAnswer;
  assert.equal(begin(a), Date.parse("2026-11-22T10:00:00Z"));
  assert.equal(covered(a), 60);
  const g = figures(a)!;
  assert.equal(g.mean, 100);
  assert.ok(Math.abs(g.in + g.out + g.unknown - g.mean) < 1e-9);
  assert.equal(g.peak, 240);
  assert.equal(g.peakIn, 200);
  // Go's zero time means that nobody knows.
  const b = { ...a, status: { store: { oldest: "0001-01-01T00:00:00Z" } } } as unknown as NowAnswer;
  assert.equal(covered(b), 660);
});

test("losses are grouped in the order of the data's way", () => {
  const loss = (stage: string, reason: string, n: Partial<LossLine>): LossLine => ({ stage, reason, records: 0, packets: 0, bytes: 0, datagrams: 0, help: "", recent: 0, ...n });
  const all = [loss("store", "no-room", { records: 2 }), loss("capture", "drops", { packets: 3, bytes: 900 }), loss("wire", "bad", { datagrams: 1 }), loss("mars", "dust", {}), loss("wire", "gone", { records: 4 })];
  assert.deepEqual(byStage(all).map((s) => s.name), ["capture", "wire", "store", "mars"]);
  assert.equal(byStage(all).flatMap((s) => s.lines).length, all.length);
  assert.deepEqual(lossAmount(all[1]!), { n: 3, unit: "packets" });
  assert.deepEqual(stageSums(byStage(all)[1]!.lines), [{ unit: "datagrams", n: 1 }, { unit: "records", n: 4 }]);
  assert.deepEqual(stageSums([all[3]!]), []);
});

test("a click on a heading sorts down, then up", () => {
  assert.deepEqual(parseOrder("", "tend:d"), { name: "tend", ascending: false });
  assert.deepEqual(parseOrder("tstart", "tend:d"), { name: "tstart", ascending: true });
  assert.deepEqual(parseOrder("bytes:a", "tend:d"), { name: "bytes", ascending: true });
  let order = "";
  const click = (name: string) => (order = nextOrder(parseOrder(order, "tend:d"), name, "tend:d"));
  assert.equal(click("bytes"), "bytes");
  assert.equal(click("bytes"), "bytes:a");
  assert.equal(click("bytes"), "bytes");
  assert.equal(click("tstart"), "tstart:d");
  assert.equal(click("tstart"), "tstart:a");
  assert.equal(click("tend"), "");
  assert.equal(click("tend"), "tend:a");
});

test("columns are shown in the table's order", () => {
  assert.deepEqual(shown(["bytes", "src", "nonsense"]).map((c) => c.name), ["src", "bytes"]);
  assert.ok(shown([]).length > 5);
});

test("an action counts down between answers, and never below nothing", () => {
  assert.equal(secondsLeft({ left: 60 }, 1000, 1000), 60);
  assert.equal(secondsLeft({ left: 60 }, 1000, 11_000), 50);
  assert.equal(secondsLeft({ left: 5 }, 1000, 60_000), 0);
  assert.equal(tone("active"), "bad");
  assert.equal(tone("ended"), "plain");
});

test("an attack's target leads to its flows", () => {
  assert.equal(targetFilter({ scope: "host", target: "192.0.2.1" }), "dst ip 192.0.2.1");
  assert.equal(targetFilter({ scope: "network", target: "2001:db8::/64" }), "dst net 2001:db8::/64");
  assert.equal(targetFilter({ scope: "source", target: "203.0.113.9" }), "src ip 203.0.113.9");
  assert.equal(targetFilter({ scope: "group", target: "web" }), "");
  assert.equal(formatView(parseView("/guard", "")), "/guard");
});

test("interfaces: rates between two answers, shares of what came in", () => {
  const i = (packets_in: number, more: object = {}) => ({ index: 2, name: "eth0", mode: "xdp", packets_in, bytes_in: 10 * packets_in, packets_out: 0, bytes_out: 0, dropped: 0, ...more });
  const notes = [{ at: 1000, list: [i(100)] }, { at: 3000, list: [i(300)] }];
  assert.deepEqual(between(notes, i(300)), { packetsIn: 100, bytesIn: 1000, packetsOut: 0, bytesOut: 0 });
  assert.equal(between(notes.slice(1), i(300)), undefined);
  assert.equal(between([...notes, { at: 4000, list: [i(5)] }], i(5)), undefined);
  const f = fates(i(0, { forwarded: 99, slow: [{ name: "ttl", count: 1 }, { name: "lost", count: 50 }] }));
  assert.equal(f.share, 0.99);
  assert.deepEqual(f.reasons.map((c) => c.name), ["lost", "ttl"]);
  assert.equal(fates(i(0, { forwarded: 0 })).share, 0);
  assert.equal(portion(1), "100.0\u00a0%");
  assert.equal(portion(0.99996), "99.9\u00a0%");
});
