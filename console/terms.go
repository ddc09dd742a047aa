package console

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// terms gives the filter term for a value of a column; %s is the value. The
// screens hold the same table (ui/src/query/terms.ts); a test keeps both equal.
var terms = map[string]string{
	"src": "src ip %s", "dst": "dst ip %s", "ip": "ip %s",
	"sport": "src port %s", "dport": "dst port %s", "port": "port %s",
	"proto":  "proto %s",
	"src_as": "src as %s", "dst_as": "dst as %s", "as": "as %s",
	"input": "in if %s", "output": "out if %s", "if": "if %s",
	"exporter": "exporter ip %s", "next_hop": "next ip %s", "bgp_next_hop": "bgp next ip %s",
	"tos": "tos %s", "tcp_flags": "flags = %s", "vlan": "vlan %s",
	"src_mask": "src mask %s", "dst_mask": "dst mask %s",
	"icmp_type": "icmp type %s", "icmp_code": "icmp code %s",
	"packets": "packets = %s", "bytes": "bytes = %s", "duration": "duration = %s",
	"forwarding_status": "fwdstat = %s", "domain": "observation domain id %s",
	"first": "first seen = %s", "last": "last seen = %s",
	"direction": "flowdir %s",
}

// term says in the filter language that column has value; "" when it cannot.
func term(column string, value any) string {
	form, ok := terms[column]
	if !ok || value == nil {
		return ""
	}
	var text string
	switch v := jsonValue(value).(type) {
	case string:
		text = v
	case int64:
		text = strconv.FormatInt(v, 10)
	case uint64:
		text = strconv.FormatUint(v, 10)
	default:
		return ""
	}
	if strings.Contains(form, "ip %s") {
		if _, err := netip.ParsePrefix(text); err == nil {
			form = strings.Replace(form, "ip %s", "net %s", 1)
		} else if _, err := netip.ParseAddr(text); err != nil {
			return ""
		}
	}
	return fmt.Sprintf(form, text)
}

// measures are the columns of an aggregated row that are not keys.
var measures = map[string]bool{
	"time": true, "flows": true, "packets": true, "bytes": true, "pps": true, "bps": true, "bpp": true, "first": true, "last": true,
}

func keyColumns(columns []string) []int {
	var keys []int
	for i, c := range columns {
		if !measures[c] {
			keys = append(keys, i)
		}
	}
	return keys
}

// rowFilter selects the flows that a row sums; "" when a key has no term.
func rowFilter(columns []string, row []any, keys []int) string {
	parts := make([]string, 0, len(keys))
	for _, k := range keys {
		t := term(columns[k], row[k])
		if t == "" {
			return ""
		}
		parts = append(parts, t)
	}
	return strings.Join(parts, " and ")
}
