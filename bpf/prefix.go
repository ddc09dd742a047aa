package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"weir/flow"
)

// MaxPrefixes is how many a list may have.
const MaxPrefixes = 1 << 20

// prefixMapEntries is what the kernel's map holds: a list, the one before it
// while they change places, and what list leaves out.
const prefixMapEntries = 2*MaxPrefixes + 1

// prefixBatch is how many are told to the kernel at a time.
const prefixBatch = 1 << 14

// prefixKey is struct prefix of maps.h.
type prefixKey struct {
	Bits uint32
	Addr flow.Addr
}

// allOfIPv4 holds all of IPv4, and nothing else.
var allOfIPv4 = prefixKey{Bits: 96, Addr: flow.AddrFrom4([4]byte{})}

// prefixKeyOf is the key of a prefix, and prefix gives it back.
func prefixKeyOf(p netip.Prefix) prefixKey {
	p = p.Masked()
	k := prefixKey{uint32(p.Bits()), flow.AddrFrom(p.Addr())}
	if p.Addr().Is4() {
		k.Bits += allOfIPv4.Bits
	}
	return k
}

func (k prefixKey) prefix() netip.Prefix {
	a := k.Addr.Netip()
	if a.Is4() && k.Bits >= allOfIPv4.Bits {
		return netip.PrefixFrom(a, int(k.Bits-allOfIPv4.Bits))
	}
	return netip.PrefixFrom(netip.AddrFrom16(k.Addr), int(k.Bits))
}

// prefixEntries are the entries that stand for a list. All are of value 1 but
// allOfIPv4, which is 0 if it is in a prefix of the list and IPv4 is not.
func prefixEntries(list []netip.Prefix) map[prefixKey]uint8 {
	all := make(map[prefixKey]uint8, len(list)+1)
	wide := false
	for _, p := range list {
		k := prefixKeyOf(p)
		if p.Addr().Is6() && k.Bits <= allOfIPv4.Bits && p.Contains(netip.AddrFrom16(allOfIPv4.Addr)) {
			wide = true
		}
		all[k] = 1
	}
	if _, all4 := all[allOfIPv4]; wide && !all4 {
		all[allOfIPv4] = 0
	}
	return all
}

// SetPrefixes makes the map `prefixes` hold list and nothing else. What is in the
// old list and in the new one is in the map all the time.
func SetPrefixes(m *ebpf.Map, list []netip.Prefix) error {
	if len(list) > MaxPrefixes {
		return fmt.Errorf("%d prefixes; up to %d would be accepted", len(list), MaxPrefixes)
	}
	want := prefixEntries(list)
	var gone []prefixKey
	var k prefixKey
	var v uint8
	old := m.Iterate()
	for old.Next(&k, &v) {
		if w, ok := want[k]; !ok {
			gone = append(gone, k)
		} else if w == v {
			delete(want, k)
		}
	}
	if err := old.Err(); err != nil {
		return fmt.Errorf("reading the prefixes in the kernel: %w", err)
	}
	var in, out []prefixKey // the latter is allOfIPv4, or nothing
	for k, v := range want {
		if v == 0 {
			out = append(out, k)
		} else {
			in = append(in, k)
		}
	}
	// First what is in, then what leaves the rest of IPv4 out.
	if err := putPrefixes(m, in, 1); err != nil {
		return fmt.Errorf("writing %d prefixes into the kernel: %w", len(in), err)
	}
	if err := putPrefixes(m, out, 0); err != nil {
		return fmt.Errorf("writing prefixes into the kernel: %w", err)
	}
	if err := dropPrefixes(m, gone); err != nil {
		return fmt.Errorf("deleting %d prefixes from the kernel: %w", len(gone), err)
	}
	return nil
}

// prefixesOneByOne is for tests: as kernels before 5.13.
var prefixesOneByOne bool

// putPrefixes writes many at a time where the kernel can (5.13), else one by one.
func putPrefixes(m *ebpf.Map, keys []prefixKey, value uint8) error {
	values := bytes.Repeat([]byte{value}, min(len(keys), prefixBatch))
	batches := !prefixesOneByOne
	for part := range slices.Chunk(keys, prefixBatch) {
		if batches {
			_, err := m.BatchUpdate(part, values[:len(part)], nil)
			if batches = !errors.Is(err, ebpf.ErrNotSupported); batches {
				if err != nil {
					return err
				}
				continue
			}
		}
		for i := range part {
			if err := m.Put(&part[i], value); err != nil {
				return err
			}
		}
	}
	return nil
}

func dropPrefixes(m *ebpf.Map, keys []prefixKey) error {
	batches := !prefixesOneByOne
	for part := range slices.Chunk(keys, prefixBatch) {
		if batches {
			_, err := m.BatchDelete(part, nil)
			if batches = !errors.Is(err, ebpf.ErrNotSupported); batches {
				if err != nil {
					return err
				}
				continue
			}
		}
		for i := range part {
			if err := m.Delete(&part[i]); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return err
			}
		}
	}
	return nil
}
