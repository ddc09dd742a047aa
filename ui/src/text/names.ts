// Names of numbers: protocols, services, TCP flags, end reasons. Hints for
// people: the number is what counts and always stands beside or in the title.

const protocols: Record<number, string> = {
  0: "hopopt", 1: "icmp", 2: "igmp", 4: "ipip", 6: "tcp", 8: "egp", 17: "udp", 27: "rdp", 33: "dccp", 41: "ipv6", 43: "ipv6-route",
  44: "ipv6-frag", 46: "rsvp", 47: "gre", 50: "esp", 51: "ah", 58: "icmp6", 59: "ipv6-nonxt", 60: "ipv6-opts", 88: "eigrp", 89: "ospf",
  94: "ipip", 97: "etherip", 98: "encap", 103: "pim", 108: "ipcomp", 112: "vrrp", 115: "l2tp", 124: "isis", 132: "sctp", 133: "fc",
  135: "mobility", 136: "udplite", 137: "mpls-in-ip", 139: "hip", 140: "shim6", 142: "rohc", 143: "ethernet",
};

export function protocol(n: unknown): string {
  return typeof n === "number" ? (protocols[n] ?? String(n)) : "";
}

const both: Record<number, string> = {
  7: "echo", 13: "daytime", 19: "chargen", 37: "time", 53: "domain", 88: "kerberos", 111: "sunrpc", 123: "ntp", 135: "epmap", 137: "netbios-ns",
  138: "netbios-dgm", 139: "netbios-ssn", 161: "snmp", 162: "snmptrap", 389: "ldap", 443: "https", 464: "kpasswd", 500: "isakmp", 514: "syslog",
  636: "ldaps", 853: "domain-s", 1194: "openvpn", 1701: "l2tp", 1812: "radius", 1813: "radius-acct", 2049: "nfs", 2055: "netflow", 3478: "stun",
  3784: "bfd", 4500: "ipsec-nat-t", 4739: "ipfix", 4789: "vxlan", 5060: "sip", 5061: "sips", 5349: "stuns", 5353: "mdns", 5355: "llmnr", 6081: "geneve",
  6343: "sflow", 9995: "netflow", 11211: "memcached", 51820: "wireguard",
};

const tcp: Record<number, string> = {
  20: "ftp-data", 21: "ftp", 22: "ssh", 23: "telnet", 25: "smtp", 43: "whois", 49: "tacacs", 70: "gopher", 79: "finger", 80: "http", 109: "pop2", 110: "pop3",
  113: "ident", 119: "nntp", 143: "imap", 179: "bgp", 194: "irc", 445: "smb", 465: "submissions", 515: "printer", 543: "klogin", 554: "rtsp", 563: "nntps",
  587: "submission", 631: "ipp", 646: "ldp", 873: "rsync", 989: "ftps-data", 990: "ftps", 993: "imaps", 995: "pop3s", 1080: "socks", 1433: "ms-sql",
  1521: "oracle", 1723: "pptp", 1883: "mqtt", 2181: "zookeeper", 2375: "docker", 2376: "docker-s", 2379: "etcd", 2380: "etcd-peer", 3128: "squid",
  3260: "iscsi", 3268: "ldap-gc", 3306: "mysql", 3389: "rdp", 4317: "otlp", 5000: "upnp", 5201: "iperf3", 5222: "xmpp", 5432: "postgresql", 5672: "amqp", 5900: "vnc",
  5938: "teamviewer", 5985: "winrm", 6379: "redis", 6443: "kubernetes", 6667: "irc", 6881: "bittorrent", 8080: "http-alt", 8081: "http-alt", 8443: "https-alt",
  8642: "weir", 8883: "mqtts", 9000: "http-alt", 9090: "prometheus", 9092: "kafka", 9100: "node-exporter", 9200: "elasticsearch", 10250: "kubelet",
  27017: "mongodb",
};

const udp: Record<number, string> = {
  67: "dhcp", 68: "dhcp-client", 69: "tftp", 80: "quic", 177: "xdmcp", 443: "quic", 520: "rip", 521: "ripng", 546: "dhcp6-client", 547: "dhcp6", 1900: "ssdp",
  3222: "glbp", 1985: "hsrp", 3389: "rdp", 4433: "quic", 5004: "rtp", 5201: "iperf3", 6881: "bittorrent", 27015: "steam",
};

/** The usual service at a port; "" if none is known. */
export function service(port: unknown, proto?: unknown): string {
  if (typeof port !== "number") return "";
  if (proto === 6) return tcp[port] ?? both[port] ?? "";
  if (proto === 17) return udp[port] ?? both[port] ?? "";
  if (proto === undefined) return both[port] ?? tcp[port] ?? udp[port] ?? "";
  return proto === 132 || proto === 33 ? (both[port] ?? "") : "";
}

/** TCP flags as CEUAPRSF, a dot for each that is not set. */
export function tcpFlags(n: unknown): string {
  if (typeof n !== "number") return "";
  let s = "";
  for (let i = 7; i >= 0; i--) s += n & (1 << i) ? "FSRPAUEC"[i] : "·";
  return s;
}

const reasons = ["unknown", "idle", "active", "end seen", "forced", "resources"];

export function endReason(n: unknown): string {
  return typeof n === "number" ? (reasons[n] ?? String(n)) : "";
}

export function direction(n: unknown): string {
  return n === 0 ? "in" : n === 1 ? "out" : n === undefined || n === null ? "" : String(n);
}

const icmp: Record<number, string> = {
  0: "echo reply", 3: "unreachable", 4: "source quench", 5: "redirect", 8: "echo request", 9: "router advertisement", 10: "router solicitation",
  11: "time exceeded", 12: "parameter problem", 13: "timestamp", 14: "timestamp reply",
};
const icmp6: Record<number, string> = {
  1: "unreachable", 2: "packet too big", 3: "time exceeded", 4: "parameter problem", 128: "echo request", 129: "echo reply", 130: "listener query",
  131: "listener report", 132: "listener done", 133: "router solicitation", 134: "router advertisement", 135: "neighbour solicitation",
  136: "neighbour advertisement", 143: "listener report v2",
};

/** What an ICMP type means, for protocol 1 or 58. */
export function icmpType(type: unknown, proto: unknown): string {
  if (typeof type !== "number") return "";
  return (proto === 58 ? icmp6 : icmp)[type] ?? "";
}

const versions: Record<string, string> = { "9": "NetFlow v9", "10": "IPFIX", sflow: "sFlow" };

export function version(v: unknown): string {
  if (v === undefined || v === null || v === "") return "metered here";
  return versions[String(v)] ?? "NetFlow v" + String(v);
}
