package query

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"weir/flow"
)

// key is what rows are grouped by.
type key struct {
	name  string // of the result's column
	title string // nfdump's heading
	cols  []column
	addr  bool
	// A network instead of the address: of so many bits of IPv4 and of IPv6 (0:
	// the whole address), or with ownMask as the record's own mask says.
	net          bool
	bits4, bits6 int
	mask         column // with ownMask
	ownMask      bool
}

func addrKey(name, title string, cols ...column) key {
	return key{name: name, title: title, cols: cols, addr: true}
}

func numKey(name, title string, cols ...column) key {
	return key{name: name, title: title, cols: cols}
}

// text of an address or a network. own is the length of the record's mask.
func (k *key) text(a flow.Addr, own int) string {
	ip := a.Netip()
	n := ip.BitLen()
	switch {
	case !k.net:
		return ip.String()
	case k.ownMask:
		n = min(own, n)
	case ip.Is4():
		n = orAll(k.bits4, 32)
	default:
		n = orAll(k.bits6, 128)
	}
	if n == ip.BitLen() && !k.ownMask {
		return ip.String()
	}
	return netip.PrefixFrom(ip, n).String()
}

// keys are the names of -s and -A: nfdump's, then weir's columns.
var keyTable = func() map[string]key {
	t := map[string]key{
		"srcip":   addrKey("src", "Src IP Addr", colSrc),
		"dstip":   addrKey("dst", "Dst IP Addr", colDst),
		"ip":      addrKey("ip", "IP Addr", colSrc, colDst),
		"nhip":    addrKey("next_hop", "Nexthop IP", colNextHop),
		"nhbip":   addrKey("bgp_next_hop", "Nexthop BGP IP", colBGPNextHop),
		"router":  addrKey("exporter", "Router IP", colExporter),
		"srcport": numKey("sport", "Src Port", colSrcPort),
		"dstport": numKey("dport", "Dst Port", colDstPort),
		"port":    numKey("port", "Port", colSrcPort, colDstPort),
		"proto":   numKey("proto", "Protocol", colProto),
		"srcas":   numKey("src_as", "Src AS", colSrcAS),
		"dstas":   numKey("dst_as", "Dst AS", colDstAS),
		"as":      numKey("as", "AS", colSrcAS, colDstAS),
		"inif":    numKey("input", "Input If", colInput),
		"outif":   numKey("output", "Output If", colOutput),
		"if":      numKey("if", "In/Out If", colInput, colOutput),
		"srcmask": numKey("src_mask", "Src Mask", colSrcMask),
		"dstmask": numKey("dst_mask", "Dst Mask", colDstMask),
		"mask":    numKey("mask", "Mask", colSrcMask, colDstMask),
		"vlan":    numKey("vlan", "Vlan", colVLAN),
		"tos":     numKey("tos", "Tos", colTOS),
		"dir":     numKey("direction", "Dir", colDirection),
		"flags":   numKey("tcp_flags", "TCP flags", colTCPFlags),
		"odid":    numKey("domain", "obs domainID", colDomain),
		"fwdstat": numKey("forwarding_status", "Fwd Status", colForwardingStatus),
		"srcnet":  {name: "src", title: "Src Network", cols: []column{colSrc}, addr: true, net: true, mask: colSrcMask, ownMask: true},
		"dstnet":  {name: "dst", title: "Dst Network", cols: []column{colDst}, addr: true, net: true, mask: colDstMask, ownMask: true},
	}
	for alias, name := range map[string]string{
		"srcvlan": "vlan", "srctos": "tos", "next": "nhip", "bgpnext": "nhbip", "exporter": "router", "exp": "router",
	} {
		t[alias] = t[name]
	}
	for _, k := range slices.Collect(maps.Values(t)) {
		if len(k.cols) == 1 && !k.net {
			t[k.name] = k
		}
	}
	for _, c := range []column{colSampling, colEndReason, colVersion, colICMPType, colICMPCode, colIPVersion, colFragment} {
		t[c.String()] = numKey(c.String(), c.String(), c)
	}
	return t
}()

// keysNotStored are nfdump's names for what weir has no column of.
var keysNotStored = []string{
	"tunproto", "srcasn", "dstasn", "asn", "prevas", "nextas", "srcvlan2", "dstvlan", "insrcmac", "outdstmac", "indstmac",
	"outsrcmac", "srcmac", "dstmac", "inmac", "outmac", "mac", "ethertype", "dsttos", "srcgeo", "dstgeo", "geo", "cl", "sl", "al",
	"nbar", "ja3", "ja4", "ja4s", "minttl", "maxttl", "opid", "ivrf", "evrf", "event", "xevent", "nat", "natsrcip", "natdstip",
	"natip", "natsrcport", "natdstport", "natport", "iacl", "eacl", "xsrcip", "xdstip", "xsrcport", "xdstport",
	"mpls1", "mpls2", "mpls3", "mpls4", "mpls5", "mpls6", "mpls7", "mpls8", "mpls9", "mpls10",
}

// fiveTuple is what -s record groups by.
var fiveTuple = []string{"proto", "srcip", "srcport", "dstip", "dstport"}

// parseKey reads one key, as srcip, srcip4/24 or dst_as.
func parseKey(text string) (key, error) {
	name, length, slash := strings.Cut(strings.ToLower(strings.TrimSpace(text)), "/")
	for _, side := range []string{"src", "dst"} {
		for family, width := range map[string]int{"4": 32, "6": 128} {
			if name != side+"ip"+family {
				continue
			}
			n, err := strconv.ParseUint(length, 10, 8)
			if !slash || err != nil || n < 1 || int(n) > width {
				return key{}, fmt.Errorf("key %q: expected %s/LENGTH with a length of 1 to %d", text, name, width)
			}
			k := keyTable[side+"ip"]
			k.net = true
			if family == "4" {
				k.bits4 = int(n)
			} else {
				k.bits6 = int(n)
			}
			return k, nil
		}
	}
	if k, ok := keyTable[name]; ok {
		if slash {
			return key{}, fmt.Errorf("key %q: a prefix length goes with srcip4, srcip6, dstip4 and dstip6 alone", text)
		}
		return k, nil
	}
	if slices.Contains(keysNotStored, name) {
		return key{}, fmt.Errorf("key %q: weir does not store that", text)
	}
	all := append(slices.Sorted(maps.Keys(keyTable)), "srcip4/24", "srcip6/64", "dstip4/24", "dstip6/64")
	err := fmt.Errorf("unknown key %q; expected one of %s", text, strings.Join(all, ", "))
	if c := closest(name, all); c != "" {
		err = fmt.Errorf("%w (did you mean %q?)", err, c)
	}
	return key{}, err
}

// parseKeys reads the keys of -A. Prefixes of both families of one side are one
// key.
func parseKeys(texts []string) ([]key, error) {
	var out []key
	for _, text := range texts {
		for part := range strings.SplitSeq(text, ",") {
			k, err := parseKey(part)
			if err != nil {
				return nil, err
			}
			if len(k.cols) > 1 {
				return nil, fmt.Errorf("key %q: it is of both sides; it goes with -s alone", part)
			}
			at := slices.IndexFunc(out, func(o key) bool { return o.name == k.name })
			switch {
			case at < 0:
				out = append(out, k)
			case k.net && !k.ownMask && out[at].net && !out[at].ownMask && (k.bits4 == 0) != (out[at].bits4 == 0):
				out[at].bits4 += k.bits4
				out[at].bits6 += k.bits6
			default:
				return nil, fmt.Errorf("key %q: %s is there already", part, k.name)
			}
		}
	}
	return out, nil
}

// ordering is what rows are sorted by.
type ordering struct {
	name string
	asc  bool
}

// orderNames map nfdump's names to columns of an aggregate; i… are the counters
// that weir has, output counters are not stored.
var orderNames = map[string]string{
	"flows": "flows", "packets": "packets", "ipkg": "packets", "ipackets": "packets", "bytes": "bytes", "ibyte": "bytes",
	"ibytes": "bytes", "pps": "pps", "ipps": "pps", "bps": "bps", "ibps": "bps", "bpp": "bpp", "ibpp": "bpp",
	"tstart": "first", "tend": "last", "duration": "duration",
}

func parseOrder(text string) (ordering, error) {
	name, direction, has := strings.Cut(strings.ToLower(strings.TrimSpace(text)), ":")
	col, ok := orderNames[name]
	if !ok {
		if alt, isOut := strings.CutPrefix(name, "o"); isOut && orderNames["i"+alt] != "" {
			return ordering{}, fmt.Errorf("order %q: weir does not store output counters", text)
		}
		names := slices.Sorted(maps.Keys(orderNames))
		err := fmt.Errorf("unknown order %q; expected one of %s", text, strings.Join(names, ", "))
		if c := closest(name, names); c != "" {
			err = fmt.Errorf("%w (did you mean %q?)", err, c)
		}
		return ordering{}, err
	}
	o := ordering{name: col, asc: col == "first" || col == "last"}
	if has {
		switch direction {
		case "a":
			o.asc = true
		case "d":
			o.asc = false
		default:
			return ordering{}, fmt.Errorf("order %q: after the colon expected a (ascending) or d (descending)", text)
		}
	}
	return o, nil
}

// stat is a parsed -s.
type stat struct {
	name   string // as given: srcip, record, …
	keys   []key
	proto  bool // split by protocol
	orders []ordering
}

// parseStat reads STAT[:p][/ORDER[:a|:d]]….
func parseStat(text string) (stat, error) {
	parts := strings.Split(text, "/")
	name, p, has := strings.Cut(strings.ToLower(strings.TrimSpace(parts[0])), ":")
	s := stat{name: name}
	if has {
		if p != "p" {
			return s, fmt.Errorf("statistic %q: after the colon expected p (split by protocol)", text)
		}
		s.proto = true
	}
	parts = parts[1:]
	if len(parts) > 0 && (strings.HasSuffix(name, "ip4") || strings.HasSuffix(name, "ip6")) {
		name += "/" + parts[0]
		parts = parts[1:]
	}
	if name == "record" {
		s.keys, _ = parseKeys(fiveTuple)
		s.proto = false // it is a key
	} else {
		k, err := parseKey(name)
		if err != nil {
			return s, fmt.Errorf("statistic %q: %w", text, err)
		}
		s.keys = []key{k}
		if k.name == "proto" {
			s.proto = false
		}
	}
	for _, part := range parts {
		o, err := parseOrder(part)
		if err != nil {
			return s, fmt.Errorf("statistic %q: %w", text, err)
		}
		s.orders = append(s.orders, o)
	}
	return s, nil
}

// SplitStat gives one statistic for each order of a -s that names several
// (srcip/flows/bytes), as nfdump prints a table for each.
func SplitStat(text string) []string {
	parts := strings.Split(text, "/")
	head := parts[0]
	parts = parts[1:]
	if name := strings.ToLower(head); len(parts) > 0 && (strings.HasSuffix(name, "ip4") || strings.HasSuffix(name, "ip6")) {
		head += "/" + parts[0]
		parts = parts[1:]
	}
	if len(parts) < 2 {
		return []string{text}
	}
	var out []string
	for _, order := range parts {
		out = append(out, head+"/"+order)
	}
	return out
}
