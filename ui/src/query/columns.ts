// The columns of the flow table: what stands under them and what they sort by.

export interface Column {
  name: string;
  label: string;
  /** What the column means, for its title. */
  help: string;
  right?: boolean;
  /** The order of the query language, where there is one. */
  order?: string;
  /** Shown unless the address says otherwise. */
  usual?: boolean;
}

export const columns: Column[] = [
  { name: "first", label: "Start", help: "First packet of the flow", order: "tstart" },
  { name: "last", label: "End", help: "Last packet of the flow", order: "tend", usual: true },
  { name: "duration", label: "Duration", help: "From the first packet to the last", order: "duration", right: true, usual: true },
  { name: "proto", label: "Proto", help: "Protocol", usual: true },
  { name: "src", label: "Source", help: "Source address", usual: true },
  { name: "sport", label: "Port", help: "Source port", usual: true },
  { name: "dst", label: "Destination", help: "Destination address", usual: true },
  { name: "dport", label: "Port", help: "Destination port", usual: true },
  { name: "tcp_flags", label: "Flags", help: "TCP flags: CWR ECE URG ACK PSH RST SYN FIN", usual: true },
  { name: "packets", label: "Packets", help: "Packets, as metered", order: "packets", right: true, usual: true },
  { name: "bytes", label: "Bytes", help: "Octets from the IP header on, as metered", order: "bytes", right: true, usual: true },
  { name: "bps", label: "Rate", help: "Bytes over the flow's duration", order: "bps", right: true, usual: true },
  { name: "input", label: "In if", help: "Input interface, by its index", right: true },
  { name: "output", label: "Out if", help: "Output interface, by its index", right: true },
  { name: "direction", label: "Dir", help: "Observed on the way in or out", usual: true },
  { name: "end_reason", label: "Ended by", help: "Why the record left the cache" },
  { name: "src_as", label: "Src AS", help: "Source AS number", right: true },
  { name: "dst_as", label: "Dst AS", help: "Destination AS number", right: true },
  { name: "tos", label: "ToS", help: "Type of service or traffic class", right: true },
  { name: "vlan", label: "VLAN", help: "Outermost VLAN id", right: true },
  { name: "icmp_type", label: "ICMP type", help: "ICMP type", right: true },
  { name: "icmp_code", label: "ICMP code", help: "ICMP code", right: true },
  { name: "src_mask", label: "Src mask", help: "Length of the source's prefix", right: true },
  { name: "dst_mask", label: "Dst mask", help: "Length of the destination's prefix", right: true },
  { name: "next_hop", label: "Next hop", help: "Next hop's address" },
  { name: "bgp_next_hop", label: "BGP next hop", help: "BGP next hop's address" },
  { name: "sampling", label: "Sampling", help: "One packet in so many was looked at", right: true },
  { name: "forwarding_status", label: "Forwarding", help: "Forwarding status (IE 89)", right: true },
  { name: "exporter", label: "Exporter", help: "Who sent the record" },
  { name: "domain", label: "Domain", help: "Observation domain", right: true },
  { name: "version", label: "Version", help: "Export protocol" },
  { name: "received", label: "Received", help: "When the collector had the record" },
  { name: "elements", label: "Elements", help: "Information elements without a column of their own" },
];

export function columnByName(name: string): Column | undefined {
  return columns.find((c) => c.name === name);
}

/** The columns to show: those named, in the table's order, or the usual ones. */
export function shown(names: string[]): Column[] {
  const some = columns.filter((c) => names.includes(c.name));
  return some.length > 0 ? some : columns.filter((c) => c.usual);
}

/** The statistics that flows can be summed by. */
export const statistics: { name: string; label: string; group: string }[] = [
  { name: "srcip", label: "Source address", group: "Hosts" },
  { name: "dstip", label: "Destination address", group: "Hosts" },
  { name: "ip", label: "Address, either side", group: "Hosts" },
  { name: "srcport:p", label: "Source port", group: "Services" },
  { name: "dstport:p", label: "Destination port", group: "Services" },
  { name: "port:p", label: "Port, either side", group: "Services" },
  { name: "proto", label: "Protocol", group: "Services" },
  { name: "tos", label: "Type of service", group: "Services" },
  { name: "srcas", label: "Source AS", group: "Routing" },
  { name: "dstas", label: "Destination AS", group: "Routing" },
  { name: "as", label: "AS, either side", group: "Routing" },
  { name: "nhip", label: "Next hop", group: "Routing" },
  { name: "router", label: "Exporter", group: "Observation" },
  { name: "inif", label: "Input interface", group: "Observation" },
  { name: "outif", label: "Output interface", group: "Observation" },
  { name: "dir", label: "Direction", group: "Observation" },
];

export function statisticLabel(name: string): string {
  return statistics.find((s) => s.name === name)?.label ?? name;
}
