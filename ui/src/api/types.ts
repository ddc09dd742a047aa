// What the API answers. Made from the Go types: go test ./console -run ScreensTypes -update

/** A cell of a table. */
export type Cell = string | number | null;

/** A flow record by its columns; what is unknown is missing. */
export type Flow = { [column: string]: Cell | { [element: string]: unknown } | undefined };

export interface Total {
  flows: number;
  packets: number;
  bytes: number;
  first?: string;
  last?: string;
}

export interface FlowsAnswer {
  columns: string[];
  rows: Flow[];
  total: Total;
  took_ms: number;
  truncated: boolean;
}

export interface RowsAnswer {
  columns: string[];
  rows: Cell[][];
  filters: string[];
  total: Total;
  took_ms: number;
  segments: number;
  truncated: boolean;
}

export interface Line {
  name: string;
  filter: string;
  flows: number[];
  packets: number[];
  bytes: number[];
}

export interface SeriesAnswer {
  bin_seconds: number;
  time: number[];
  lines: Line[];
  total: Total;
  took_ms: number;
}

export interface Top {
  name: string;
  stat: string;
  columns: string[];
  rows: Cell[][];
  filters: string[];
  total: Total;
  took_ms: number;
  segments: number;
  truncated: boolean;
}

export interface LossLine {
  stage: string;
  reason: string;
  records: number;
  packets: number;
  bytes: number;
  datagrams: number;
  help: string;
  recent: number;
}

export interface Exporter {
  address: string;
  name?: string;
  version: string;
  domain: number;
  datagrams: number;
  records: number;
  sequence_gaps: number;
  sequence_lost: number;
  sequence_unit: string;
  last_seen: string;
  late: boolean;
  sampling: number;
  skew_seconds: number;
  templates: number;
  misses: number;
}

export interface Count {
  name: string;
  count: number;
}

export interface Interface {
  exporter?: string;
  index: number;
  name: string;
  alias?: string;
  mode?: string;
  why?: string;
  speed?: number;
  packets_in: number;
  bytes_in: number;
  packets_out: number;
  bytes_out: number;
  dropped: number;
  ignored?: Count[];
  forwarded?: number | null;
  slow?: Count[];
}

export interface Parts {
  query: boolean;
  cache: boolean;
  collector: boolean;
  interfaces: boolean;
  exports: boolean;
  store: boolean;
  losses: boolean;
  metrics: boolean;
}

export interface Cache {
  entries: number;
  peak: number;
  capacity: number;
  memory: number;
  aggregates: number;
  refused: number;
  sweeps: number;
  created: number;
  packets: number;
  bytes: number;
  expired: Count[];
  idle_seconds: number;
  active_seconds: number;
}

export interface Store {
  kind: string;
  path: string;
  records: number;
  bytes: number;
  segments: number;
  oldest: string;
  newest: string;
  free: number;
  error?: string;
}

export interface Destination {
  address: string;
  version: string;
  records: number;
  datagrams: number;
  bytes: number;
  failed: number;
}

export interface ExporterCount {
  up: number;
  late: number;
}

export interface StatusAnswer {
  version: string;
  started: string;
  uptime_seconds: number;
  parts: Parts;
  cache: Cache | null;
  store: Store | null;
  exports: Destination[];
  exporters: ExporterCount | null;
}

export interface NowAnswer {
  as_of: string;
  took_ms: number;
  range: string;
  from: string;
  to: string;
  filter: string;
  series: SeriesAnswer | null;
  tops: Top[];
  newest: Flow | null;
  losses: LossLine[];
  exporters: Exporter[];
  interfaces: Interface[];
  status: StatusAnswer;
}

export interface CheckAnswer {
  ok: boolean;
  canonical: string;
  message: string;
  line: number;
  column: number;
  width: number;
  accepted: string[];
  suggestion: string;
}

export interface Completion {
  word: string;
  help: string;
}

export interface CompleteAnswer {
  from: number;
  to: number;
  words: Completion[];
}

export interface LossesAnswer {
  losses: LossLine[];
}

export interface ExportersAnswer {
  exporters: Exporter[];
}

export interface InterfacesAnswer {
  interfaces: Interface[];
}

export interface GuardGroup {
  group: string;
  mode: string;
  networks: number;
  pps: number;
  bps: number;
  flows: number;
  syn_ratio: number;
  dropped_pps: number;
  thresholds: string[];
}

export interface GuardShare {
  value: string;
  share: number;
}

export interface GuardHeader {
  src: string;
  dst: string;
  proto: number;
  tcp_flags: number;
  tos: number;
  fragment: boolean;
  packets: number;
  bytes: number;
}

export interface GuardEvidence {
  at: string;
  sampled: number;
  packets: number;
  sources: number;
  established: number;
  top_sources: GuardShare[];
  protocols: GuardShare[];
  source_ports: GuardShare[];
  dest_ports: GuardShare[];
  sizes: GuardShare[];
  tcp_flags: GuardShare[];
  headers: GuardHeader[];
}

export interface GuardAttack {
  id: number;
  group: string;
  scope: string;
  target: string;
  kind: string;
  threshold: string;
  rate: string;
  peak: string;
  pps: number;
  bps: number;
  peak_pps: number;
  peak_bps: number;
  syn_ratio: number;
  began: string;
  seen: string;
  ended?: string;
  times: number;
  note?: string;
  evidence: GuardEvidence | null;
}

export interface GuardAction {
  id: number;
  attack: number;
  group: string;
  what: string;
  state: string;
  by: string;
  why: string;
  note?: string;
  created: string;
  started?: string;
  ends?: string;
  left: number;
  hold_seconds: number;
  hit: number;
  innocent: number;
  packets: number;
  dropped_packets: number;
  dropped_bytes: number;
  undo?: string;
  here: boolean;
}

export interface GuardLimit {
  name: string;
  beyond: number;
  dropped: number;
  held: number;
}

export interface GuardAnswer {
  on: boolean;
  may_act: boolean;
  now: string;
  groups: GuardGroup[];
  attacks: GuardAttack[];
  actions: GuardAction[];
  limits: GuardLimit[];
}

export interface Error {
  error: string;
  line?: number;
  column?: number;
  width?: number;
  accepted?: string[];
  suggestion?: string;
}
