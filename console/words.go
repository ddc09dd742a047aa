package console

import "strings"

// follow lists the words that may come after a word of the filter language.
// "" stands for the beginning of a term.
var follow = map[string][]Completion{
	"": {
		{"src", "the source side"},
		{"dst", "the destination side"},
		{"ip", "address, either side"},
		{"net", "network, either side"},
		{"port", "port, either side"},
		{"proto", "protocol by name or number"},
		{"as", "AS number, either side"},
		{"flags", "TCP flags that are all set"},
		{"bytes", "octets of the flow"},
		{"packets", "packets of the flow"},
		{"duration", "milliseconds"},
		{"bps", "bit/s"},
		{"pps", "packets/s"},
		{"bpp", "octets a packet"},
		{"in", "input interface"},
		{"out", "output interface"},
		{"if", "interface, either way"},
		{"exporter", "who sent the record"},
		{"next", "next hop"},
		{"bgp", "BGP next hop"},
		{"vlan", "VLAN id"},
		{"mask", "prefix length"},
		{"tos", "type of service"},
		{"icmp", "ICMP type or code"},
		{"first", "start of the flow"},
		{"last", "end of the flow"},
		{"flowdir", "direction"},
		{"fwdstat", "forwarding status"},
		{"ipv4", "IPv4 flows"},
		{"ipv6", "IPv6 flows"},
		{"not", "the opposite"},
		{"any", "everything"},
	},
	"src":      sides,
	"dst":      sides,
	"ip":       {inList},
	"host":     {inList},
	"port":     append([]Completion{inList}, comparators...),
	"as":       append([]Completion{inList}, comparators...),
	"exporter": {{"ip", "its address"}},
	"router":   {{"ip", "its address"}},
	"next":     {{"ip", "its address"}},
	"bgp":      {{"next", "next hop"}},
	"in":       {{"if", "interface by its index"}},
	"out":      {{"if", "interface by its index"}},
	"proto": {
		{"tcp", "6"},
		{"udp", "17"},
		{"icmp", "1"},
		{"icmp6", "58"},
		{"gre", "47"},
		{"esp", "50"},
		{"ah", "51"},
		{"sctp", "132"},
		{"ospf", "89"},
		{"igmp", "2"},
		{"ipip", "4"},
	},
	"flowdir":  {{"ingress", "in"}, {"egress", "out"}},
	"icmp":     {{"type", "ICMP type"}, {"code", "ICMP code"}},
	"first":    {{"seen", "a time as 2026-11-22T10:00"}},
	"last":     {{"seen", "a time as 2026-11-22T10:00"}},
	"flags":    {{"S", "SYN"}, {"A", "ACK"}, {"F", "FIN"}, {"R", "RST"}, {"P", "PSH"}, {"U", "URG"}},
	"bytes":    comparators,
	"packets":  comparators,
	"duration": comparators,
	"bps":      comparators,
	"pps":      comparators,
	"bpp":      comparators,
	"tos":      comparators,
	"seen":     comparators,
	"type":     comparators,
	"code":     comparators,
}

var (
	inList = Completion{"in", "one of a list: in [ … ]"}
	sides  = []Completion{
		{"ip", "address"},
		{"net", "network: 10.0.0.0/8"},
		{"port", "port"},
		{"as", "AS number"},
		{"mask", "prefix length"},
	}
	comparators = []Completion{{">", "more than"}, {"<", "less than"}, {">=", "at least"}, {"<=", "at most"}, {"=", "equal"}}
	joiners     = []Completion{{"and", "both"}, {"or", "either"}}
)

// wordsAfter lists the words that may stand after text.
func wordsAfter(text string) []Completion {
	tokens, open := scan(text)
	if open {
		return nil // a list, a comment or a quoted string
	}
	last := ""
	if len(tokens) > 0 {
		last = tokens[len(tokens)-1]
	}
	switch last {
	case "", "and", "or", "not", "!", "(":
		return follow[""]
	case "in":
		// "port in" and "ip in" begin a list, else an interface follows.
		if len(tokens) > 1 {
			switch tokens[len(tokens)-2] {
			case "port", "ip", "host", "as":
				return nil
			}
		}
	case ">", "<", "=", "==", ">=", "<=", "eq", "gt", "lt", "ge", "le":
		return nil
	case "tcp", "udp", "icmp6": // values of proto, and of nothing else
		return joiners
	}
	if last == "icmp" && len(tokens) > 1 && tokens[len(tokens)-2] == "proto" {
		return joiners
	}
	if words, ok := follow[last]; ok {
		return words
	}
	switch last {
	case "net", "if", "vlan", "mask", "fwdstat", "host":
		return nil // a value follows
	}
	if checkFilter(text) == nil {
		return joiners
	}
	return nil
}

// scan splits text into lower-case words and signs; open says that it ends
// inside a list, a string or a comment.
func scan(text string) (tokens []string, open bool) {
	list := false
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == ',':
			i++
		case c == '#':
			end := strings.IndexByte(text[i:], '\n')
			if end < 0 {
				return tokens, true
			}
			i += end
		case c == '"' || c == '\'':
			end := strings.IndexByte(text[i+1:], c)
			if end < 0 {
				return tokens, true
			}
			tokens = append(tokens, "value")
			i += end + 2
		case c == '[':
			list = true
			i++
		case c == ']':
			list = false
			tokens = append(tokens, "value")
			i++
		case strings.IndexByte("()!", c) >= 0:
			if !list {
				tokens = append(tokens, string(c))
			}
			i++
		case strings.IndexByte("<>=", c) >= 0:
			j := i + 1
			if j < len(text) && text[j] == '=' {
				j++
			}
			tokens = append(tokens, text[i:j])
			i = j
		default:
			j := i + 1
			for j < len(text) && strings.IndexByte(" \t\r\n,#\"'[]()!<>=", text[j]) < 0 {
				j++
			}
			if !list {
				tokens = append(tokens, strings.ToLower(text[i:j]))
			}
			i = j
		}
	}
	return tokens, list
}
