package meter

import (
	"net/netip"

	"github.com/gaissmai/bart"

	"weir/flow"
)

// Prefixes are networks. A packet is in them if its source or its destination
// is; of IPv4, only in those of IPv4: ::/0 does not hold it. They may be asked
// from any goroutine.
type Prefixes struct{ table bart.Lite }

// NewPrefixes makes Prefixes of a list, in any order, in which any may overlap.
func NewPrefixes(list []netip.Prefix) *Prefixes {
	p := new(Prefixes)
	for _, n := range list {
		p.table.Insert(n)
	}
	return p
}

// Has says whether a packet's source or destination is in the networks.
func (p *Prefixes) Has(k *flow.Key) bool {
	return p.table.Contains(k.Src.Netip()) || p.table.Contains(k.Dst.Netip())
}

// PrefixesByInterface is a choice for interfaces that have lists of their own,
// by ifIndex; all is chosen at those that have none.
type PrefixesByInterface map[uint32]*Prefixes

// Has says whether a packet is to be metered at the interface it was seen at.
func (m PrefixesByInterface) Has(k *flow.Key) bool {
	p := m[k.Input&^flow.KeyEgress]
	return p == nil || p.Has(k)
}
