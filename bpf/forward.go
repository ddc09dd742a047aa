package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"weir/flow"
)

// A Why is what a program did with a packet that came in where it forwards:
// forwarded it, or why it left that to the kernel.
type Why uint16

// As flow.h has them. Those from WhyLocal on are said of flows, in their routes.
const (
	Forwarded Why = iota
	WhyAddressee
	WhyEncapsulation
	WhyOptions
	WhyFragment
	WhyTTL
	WhyMTU
	WhyOffload
	WhyOrphan
	WhyMartian
	WhyChecksum
)

const (
	WhyLocal Why = 16 + iota
	WhyUnreachable
	WhyDisabled
	WhyLWT
	WhyNeighbour
	WhyOutput
	WhyRouteMTU
	WhyHairpin
	WhyURPF
	WhyError
	WhySPI

	// WhyLost is counted at the output: forwarded, and its driver did not take it.
	WhyLost Why = 30
)

// Constants of flow.h.
const (
	Whys         = 32
	MaxHops      = 1 << 16
	RouteBuckets = 1 << 12
	RouteUnit    = 26 // bits of a clock in ns that a route's time leaves out: it counts 67 ms

	RouteHolds        = 29 // of those units; then the routing table is asked again
	RouteHoldsBriefly = 1
	WhyOff            = 31

	HopAlive    = 0x8000 // of Hop.To, above the MAC
	HopFrags    = 0x4000
	HopUsedUnit = 30
)

var whyTexts = [Whys]struct{ name, help string }{
	Forwarded:        {"forwarded", "Forwarded by the program."},
	WhyAddressee:     {"addressee", "The frame was not to this router alone: broadcast, multicast, or somebody else's."},
	WhyEncapsulation: {"encapsulation", "More than one VLAN tag or another header was in front of IP, or the tag was of no interface."},
	WhyOptions:       {"ip-options", "It had IPv4 options or IPv6 extension headers."},
	WhyFragment:      {"fragment", "It was a fragment."},
	WhyTTL:           {"ttl", "TTL or hop limit had run out: the kernel tells the sender."},
	WhyMTU:           {"mtu", "It was too long for its output: the kernel cuts it, or tells the sender."},
	WhyOffload:       {"offload", "Its checksum was left to hardware that it never comes to: it was sent on this machine."},
	WhyOrphan:        {"watchdog", "Weir has been gone for longer than the watchdog allows."},
	WhyMartian:       {"martian", "Packets are not forwarded between such addresses: multicast, loopback, link-local, this router's own as the source."},
	WhyChecksum:      {"checksum", "The checksum of its IPv4 header was wrong: the kernel drops it."},
	WhyLocal:         {"local", "It was to this router, or there was no route."},
	WhyUnreachable:   {"unreachable", "The route says blackhole, unreachable or prohibit."},
	WhyDisabled:      {"forwarding-off", "The kernel does not forward what comes in there."},
	WhyLWT:           {"encapsulating-route", "The route encapsulates (MPLS, SRv6, tunnels)."},
	WhyNeighbour:     {"neighbour", "The next hop's link address is not known: the kernel asks for it."},
	WhyOutput:        {"output", "Frames cannot be redirected to the output interface."},
	WhyRouteMTU:      {"route-mtu", "The route has an MTU of its own."},
	WhyHairpin:       {"hairpin", "It would leave where it came in: the kernel tells the sender of a better way."},
	WhyURPF:          {"urpf", "The way back to its source leads elsewhere: dropped."},
	WhyError:         {"error", "The routing table could not be asked."},
	WhySPI:           {"spi", "ESP or AH, while multipath routes go by ports: the kernel may choose by the SPI, too, which no flow has."},
	WhyLost:          {"lost", "Of what was forwarded to this interface: its driver did not take it."},
}

func (w Why) String() string {
	if int(w) < len(whyTexts) && whyTexts[w].name != "" {
		return whyTexts[w].name
	}
	return fmt.Sprintf("why %d", uint16(w))
}

// Help is one sentence about it.
func (w Why) Help() string {
	if int(w) < len(whyTexts) {
		return whyTexts[w].help
	}
	return ""
}

// AllWhys are those there are, in order.
func AllWhys() (all []Why) {
	for w := range whyTexts {
		if whyTexts[w].name != "" {
			all = append(all, Why(w))
		}
	}
	return all
}

// Way is what an entry's route says: a Why below Whys, or else a row of the next
// hops; false: it was never asked for.
func Way(route uint64) (way uint16, asked bool) { return uint16(route), route != 0 }

// Hop is a next hop. The programs read it word by word; what they and the daemon
// write is changed by sync/atomic only.
type Hop struct {
	To      uint64 // destination MAC in the first six octets in memory, then HopAlive, HopFrags
	From    uint64 // source MAC; then flow.KeyTagged and the id, of a VLAN's interface
	Device  uint32 // ifindex of the interface that frames are redirected to
	Number  uint16 // its port's; 0: the row is not in use
	MTU     uint16
	Logical uint32 // ifindex as routes have it
	Used    uint32 // the kernel's clock >> HopUsedUnit when it last forwarded: the programs'
	Address flow.Addr
	_       [2]uint64
}

// HopKey finds a Hop. With Ifindex 0 it is an address of this router.
type HopKey struct {
	Ifindex uint32 // as routes have it
	Address flow.Addr
}

type upperKey struct{ Ifindex, VLAN uint32 }

// WhyCounts are packets by Why.
type WhyCounts [Whys]uint64

// Forward is what the programs have for forwarding, beside the table.
type Forward struct {
	Hops []Hop

	hops, hopOf, uppers, mtus, tx, whys *ebpf.Map
	mapping                             []byte
}

func (f *Forward) each(visit func(name string, m **ebpf.Map)) {
	visit("hops", &f.hops)
	visit("hop_of", &f.hopOf)
	visit("uppers", &f.uppers)
	visit("route_mtus", &f.mtus)
	visit("tx", &f.tx)
	visit("whys", &f.whys)
}

// openForward opens the maps in a folder, or makes and pins them.
func openForward(dir string, spec *ebpf.CollectionSpec) (*Forward, error) {
	f := new(Forward)
	var err error
	f.each(func(name string, p **ebpf.Map) {
		if err == nil {
			*p, err = openBeside(dir, name, spec.Maps[name])
		}
	})
	if err == nil {
		n := MaxHops * int(unsafe.Sizeof(Hop{}))
		f.mapping, err = unix.Mmap(f.hops.FD(), 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("next hops: %w", err)
	}
	f.Hops = mapped[Hop](f.mapping, MaxHops)
	if err := f.mtus.Update(allOfIPv4, uint32(noMTU), ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		f.Close()
		return nil, fmt.Errorf("next hops: %w", err)
	}
	return f, nil
}

// openBeside opens a map that is pinned beside the table, if it is of the wanted
// shape, or makes it, and pins it if there is a folder.
func openBeside(dir, name string, want *ebpf.MapSpec) (*ebpf.Map, error) {
	path := filepath.Join(dir, name)
	if dir != "" {
		m, err := ebpf.LoadPinnedMap(path, nil)
		switch {
		case err == nil && m.MaxEntries() == want.MaxEntries && m.ValueSize() == want.ValueSize && m.KeySize() == want.KeySize:
			return m, nil
		case err == nil: // of another table that was here
			m.Close()
			err = os.Remove(path)
		case errors.Is(err, fs.ErrNotExist):
			err = nil
		}
		if err != nil {
			return nil, err
		}
	}
	m, err := ebpf.NewMap(want)
	if err != nil {
		return nil, fmt.Errorf("making the map %s: %w", name, err)
	}
	if dir != "" {
		if err := m.Pin(path); err != nil {
			m.Close()
			return nil, err
		}
	}
	return m, nil
}

// replacements are the maps as programs are loaded with them.
func (f *Forward) replacements(into map[string]*ebpf.Map) {
	f.each(func(name string, m **ebpf.Map) { into[name] = *m })
}

// Close unmaps and closes. What is pinned or attached lives on.
func (f *Forward) Close() error {
	if f == nil {
		return nil
	}
	var err error
	if f.mapping != nil {
		err = unix.Munmap(f.mapping)
	}
	f.mapping, f.Hops = nil, nil
	f.each(func(_ string, m **ebpf.Map) {
		(*m).Close()
		*m = nil
	})
	return err
}

// Rows are the next hops that are found, by their keys; with Ifindex 0 this router's
// addresses.
func (f *Forward) Rows() (map[HopKey]uint32, error) {
	all := map[HopKey]uint32{}
	var k HopKey
	var row uint32
	it := f.hopOf.Iterate()
	for it.Next(&k, &row) {
		all[k] = row
	}
	return all, it.Err()
}

// SetRow lets a next hop be found, and DropRow no longer.
func (f *Forward) SetRow(k HopKey, row uint32) error { return f.hopOf.Put(k, row) }

func (f *Forward) DropRow(k HopKey) error { return gone(f.hopOf.Delete(k)) }

// SetUpper says which interface a VLAN has on a device; 0: none.
func (f *Forward) SetUpper(device uint32, vlan uint16, upper uint32) error {
	k := upperKey{device, uint32(vlan)}
	if upper == 0 {
		return gone(f.uppers.Delete(k))
	}
	return f.uppers.Put(k, upper)
}

// noMTU is what all of IPv4 has without one, so that it has not what all of IPv6 has.
const noMTU = 1<<32 - 1

// MTUs are the prefixes with routes that have an MTU of their own, and SetMTU changes
// one; 0: it has none.
func (f *Forward) MTUs() (map[netip.Prefix]uint32, error) {
	all := map[netip.Prefix]uint32{}
	var k prefixKey
	var mtu uint32
	it := f.mtus.Iterate()
	for it.Next(&k, &mtu) {
		if mtu != noMTU {
			all[k.prefix()] = mtu
		}
	}
	return all, it.Err()
}

func (f *Forward) SetMTU(p netip.Prefix, mtu uint32) error {
	k := prefixKeyOf(p)
	switch {
	case mtu != 0:
		return f.mtus.Put(k, mtu)
	case k == allOfIPv4:
		return f.mtus.Put(k, uint32(noMTU))
	}
	return gone(f.mtus.Delete(k))
}

// SetOutput lets frames be redirected to the interface of a port; 0: not.
func (f *Forward) SetOutput(number uint16, ifindex uint32) error {
	if ifindex == 0 {
		return gone(f.tx.Delete(uint32(number)))
	}
	return f.tx.Put(uint32(number), ifindex)
}

// CountLost counts, as WhyLost at the output's port, frames that drivers did not take
// after they had been forwarded, until the link is closed; in the calling thread's
// network namespace. It needs the kernel's BTF.
func (f *Forward) CountLost(t *Table) (link.Link, error) {
	netns, err := netnsCookie()
	if err != nil {
		return nil, err
	}
	spec, err := loadFlow()
	if err != nil {
		return nil, err
	}
	if err := spec.Variables["netns"].Set(netns); err != nil {
		return nil, err
	}
	spec.Programs = map[string]*ebpf.ProgramSpec{"count_lost": spec.Programs["count_lost"]}
	spec.Maps = map[string]*ebpf.MapSpec{".data.control": spec.Maps[".data.control"], ".rodata": spec.Maps[".rodata"], "whys": spec.Maps["whys"]}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{".data.control": t.maps.control, "whys": f.whys}})
	if err != nil {
		return nil, loadError(err)
	}
	defer coll.Close()
	return link.AttachTracing(link.TracingOptions{Program: coll.Programs["count_lost"]})
}

func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("cookie of the network namespace: %w", err)
	}
	return cookie, nil
}

func gone(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

// Counts sums up over all CPUs what became of the packets that came in by a port.
func (f *Forward) Counts(number uint16) (sum WhyCounts, err error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return sum, err
	}
	each := make([]WhyCounts, cpus)
	if err := f.whys.Lookup(uint32(number), &each); err != nil {
		return sum, fmt.Errorf("reading what was forwarded: %w", err)
	}
	for _, one := range each {
		for i, n := range one {
			sum[i] += n
		}
	}
	return sum, nil
}
