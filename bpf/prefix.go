package bpf

import (
	"net/netip"

	"github.com/cilium/ebpf"
)

// SetPrefixes makes the map `prefixes` hold list and nothing else. A packet whose
// source and destination were in the list before and are in it now is metered
// throughout.
func SetPrefixes(m *ebpf.Map, list []netip.Prefix) error { return nil }
