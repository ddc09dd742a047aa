package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"

	"weir/capture"
	"weir/flow"
)

// Sizes of a table.
const (
	DefaultEntries = 1 << 20
	MaxEntries     = 1<<27 - (aggregateSets+CatchAllSets)*Ways // a flow id has 27 bits for the slot
	aggregateSets  = (4096 + Ways - 1) / Ways                  // as cache.Cache has them
)

// Options say what Load makes.
type Options struct {
	Entries int           // flows the table can hold, rounded up to whole sets; 0: DefaultEntries
	Key     flow.KeyMask  // what makes a flow
	Tick    time.Duration // of the kernel's clock; 0: learn it
	Dir     string        // of a bpffs: use what is pinned there, or pin it; "": the table lives as long as the Kernel and what is attached

	// For a new table. One that is there has its own.
	Secret [8]uint64 // of the keyed hash; must be random
	Boot   uint32    // 12 bits of every flow id
	Netns  uint64    // cookie of the network namespace
	Born   int64     // Unix ns: the zero of export's sysUptime

	Filter   *capture.Filter // what is metered; nil: everything
	Prefixes []netip.Prefix  // packets from or to one of these are metered; nil: everything (SetPrefixes)

	Lists   bool // access lists judge what passes (Lists)
	Forward bool // XDP forwards (Forward)
	Guard   bool // rules of the guard are carried out (Guard); implies Lists

	// Needs are the programs to load, for each takes the verifier a while; zero: all.
	Needs Needs

	TestClock bool // time is Control.TestClock

	// Do without, though the kernel has it.
	NoFrags      bool // frames in several buffers (5.18)
	NoMembarrier bool // grace periods by membarrier
}

// ErrIncompatible is what errors.Is finds when the pinned table is another than
// the one asked for: of another layout, size, key or clock. OpenMemory opens it
// to be drained, if the layout is this one.
var ErrIncompatible = errors.New("the pinned flow table is another")

// ErrNotPinned is what errors.Is finds when a folder has no table.
var ErrNotPinned = errors.New("no flow table is pinned")

// Programs are loaded, and attached nowhere.
type Programs struct {
	XDP                 *ebpf.Program // ingress; with fragments if Kernel.Frags
	Ingress, Egress     *ebpf.Program // TC, Ethernet
	IngressIP, EgressIP *ebpf.Program // TC, frames that start with the IP header
}

// Needs are programs of Programs.
type Needs struct{ XDP, Ingress, Egress, IngressIP, EgressIP bool }

// leave takes out of an object the programs that are not needed.
func (n Needs) leave(spec *ebpf.CollectionSpec) {
	if n == (Needs{}) {
		return
	}
	for name, needed := range map[string]bool{
		"xdp_meter": n.XDP, "tc_ingress": n.Ingress, "tc_egress": n.Egress, "tc_ingress_ip": n.IngressIP, "tc_egress_ip": n.EgressIP,
	} {
		if !needed {
			delete(spec.Programs, name)
		}
	}
}

// all are the programs by their names.
func (p *Programs) all() map[string]*ebpf.Program {
	return map[string]*ebpf.Program{
		"xdp_meter": p.XDP, "tc_ingress": p.Ingress, "tc_egress": p.Egress, "tc_ingress_ip": p.IngressIP, "tc_egress_ip": p.EgressIP,
	}
}

// Kernel is a table and the programs that meter into it.
type Kernel struct {
	*Table
	Programs Programs
	Lists    *Lists   // nil without Options.Lists
	Forward  *Forward // nil without Options.Forward
	Guard    *Guard   // nil without Options.Guard
	Reused   bool     // the table was there
	Frags    bool     // Programs.XDP takes frames in several buffers
}

// Load makes or finds the table and loads the programs. Nothing passes them
// until they are attached. An error of the kernel's verifier carries its log.
func Load(o Options) (k *Kernel, err error) {
	if o.Entries == 0 {
		o.Entries = DefaultEntries
	}
	o.Lists = o.Lists || o.Guard
	if o.Entries < 0 || o.Entries > MaxEntries {
		return nil, fmt.Errorf("a flow table of %d entries: 1 to %d can be had", o.Entries, MaxEntries)
	}
	if o.Key > flow.Key5Tuple {
		return nil, fmt.Errorf("key mask %d: the kernel's programs know %d and %d", o.Key, flow.KeyCisco, flow.Key5Tuple)
	}
	if !haveMemcg() {
		if err := rlimit.RemoveMemlock(); err != nil {
			return nil, fmt.Errorf("raising the limit of locked memory, which kernels before 5.11 charge maps to: %w", err)
		}
	}
	spec, err := loadFlow()
	if err != nil {
		return nil, err
	}
	k = &Kernel{Frags: !o.NoFrags && features.HaveProgramHelper(ebpf.XDP, asm.FnXdpGetBuffLen) == nil}

	want := Meta{
		Layout: Layout, Sets: uint32((o.Entries + Ways - 1) / Ways), AggregateSets: aggregateSets, KeyMode: uint32(o.Key),
		Secret: o.Secret, Netns: o.Netns, Born: uint64(o.Born), Boot: o.Boot & 0xfff,
	}
	if o.TestClock {
		want.TestClock = 1
	}
	var pinned *maps
	if o.Dir != "" {
		pinned, err = openPinned(o.Dir)
		switch {
		case err == nil:
			defer pinned.close()
			have, err := pinned.readMeta()
			if err != nil {
				return nil, err
			}
			if err := incompatible(o.Dir, have, &want); err != nil {
				return nil, err
			}
			want, k.Reused = *have, true
		case !errors.Is(err, ErrNotPinned):
			return nil, err
		}
	}
	if !k.Reused {
		want.TickNs = uint64(o.Tick)
		if o.Tick <= 0 {
			tick, err := Tick()
			if err != nil {
				return nil, err
			}
			want.TickNs = uint64(tick)
		}
	}
	if err := configure(spec, &want, o, k.Frags); err != nil {
		return nil, err
	}
	o.Needs.leave(spec)
	delete(spec.Programs, "count_lost") // see Forward.CountLost
	opts := ebpf.CollectionOptions{}
	if k.Reused {
		opts.MapReplacements = pinned.replacements()
	}
	if o.Lists {
		lists, err := openLists(o.Dir, spec)
		if err != nil {
			return nil, err
		}
		defer lists.close()
		if opts.MapReplacements == nil {
			opts.MapReplacements = map[string]*ebpf.Map{}
		}
		lists.each(func(name string, m **ebpf.Map) { opts.MapReplacements[name] = *m })
	}
	if o.Forward {
		forward, err := openForward(o.Dir, spec)
		if err != nil {
			return nil, err
		}
		k.Forward = forward
		defer func() {
			if k == nil {
				forward.Close()
			}
		}()
		if opts.MapReplacements == nil {
			opts.MapReplacements = map[string]*ebpf.Map{}
		}
		forward.replacements(opts.MapReplacements)
	}
	if o.Guard {
		guard, err := openGuard(o.Dir, spec)
		if err != nil {
			return nil, err
		}
		k.Guard = guard
		defer func() {
			if k == nil {
				guard.Close()
			}
		}()
		guard.each(func(name string, m **ebpf.Map) { opts.MapReplacements[name] = *m })
	}
	coll, err := newCollection(spec, opts, o.Filter)
	if err != nil {
		return nil, loadError(err)
	}
	defer coll.Close()
	table, err := newTable(mapsOf(coll), coll.DetachProgram("tell_time"), o.NoMembarrier)
	if err != nil {
		return nil, err
	}
	k.Table = table
	defer func() {
		if err != nil {
			k.Close()
			k = nil
		}
	}()
	k.Programs = Programs{
		XDP:     coll.DetachProgram("xdp_meter"),
		Ingress: coll.DetachProgram("tc_ingress"), Egress: coll.DetachProgram("tc_egress"),
		IngressIP: coll.DetachProgram("tc_ingress_ip"), EgressIP: coll.DetachProgram("tc_egress_ip"),
	}
	if o.Lists {
		if k.Lists, err = newLists(coll); err != nil {
			return k, err
		}
		k.Lists.fresh = !k.Reused || k.Memory().Control.Lists == 0
		if k.Lists.fresh && k.Memory().Control.Guard&GuardKept == 0 {
			clear(k.Lists.Judged) // entries that lists never judged say nothing there
		}
	}
	if o.Prefixes != nil {
		if err := k.SetPrefixes(o.Prefixes); err != nil {
			return k, err
		}
	}
	if !k.Reused {
		k.Memory().found(&want)
		if o.Dir != "" {
			if err := k.maps.pin(o.Dir); err != nil {
				return k, err
			}
		}
	}
	return k, nil
}

// Close unmaps the table and closes the programs. What is pinned or attached
// lives on.
func (k *Kernel) Close() error {
	for _, p := range k.Programs.all() {
		p.Close()
	}
	err := errors.Join(k.Lists.Close(), k.Forward.Close(), k.Guard.Close())
	if k.Table == nil {
		return err
	}
	return errors.Join(err, k.Table.Close())
}

// configure sets the constants of the programs and the sizes of the maps.
func configure(spec *ebpf.CollectionSpec, m *Meta, o Options, frags bool) error {
	slots := (m.Sets + m.AggregateSets + CatchAllSets) * Ways
	spec.Maps["table"].MaxEntries = slots / Ways
	spec.Maps["side"].MaxEntries = slots
	spec.Maps["touched"].MaxEntries = (slots/Ways + TouchedSets - 1) / TouchedSets
	spec.Maps["prefixes"].MaxEntries = prefixMapEntries
	if o.Lists {
		spec.Maps["judged"].MaxEntries = slots
	}
	if o.Forward {
		spec.Maps["hops"].MaxEntries = MaxHops
	}
	if !o.Guard {
		for _, name := range []string{"guard_rules", "guard_limits", "guard_tallies", "guard_there", "guard_buckets", "guard_near"} {
			spec.Maps[name].MaxEntries = 1
		}
	}
	var secret [16]uint32
	for i, s := range m.Secret {
		secret[2*i], secret[2*i+1] = uint32(s), uint32(s>>32)
	}
	for name, value := range map[string]any{
		"sets": m.Sets, "aggregate_sets": m.AggregateSets, "secret": secret, "tick_ns": m.TickNs,
		"key_5tuple": m.KeyMode == uint32(flow.Key5Tuple), "test_clock": m.TestClock != 0,
		"use_prefixes": o.Prefixes != nil,
		"use_lists":    o.Lists, "use_guard": o.Guard, "use_forward": o.Forward, "real_time": realTime(), "frags": frags, "weak_order": runtime.GOARCH != "amd64" && runtime.GOARCH != "386",
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("constant %s of the kernel's programs: %w", name, err)
		}
	}
	if frags {
		spec.Programs["xdp_meter"].Flags |= bpfXDPHasFrags
	}
	if o.Filter != nil {
		return InjectFilter(spec, o.Filter)
	}
	return nil
}

const bpfXDPHasFrags = 1 << 5 // BPF_F_XDP_HAS_FRAGS

// loadError puts the verifier's last words before its log, which %+v of the
// error has in full.
func loadError(err error) error {
	var v *ebpf.VerifierError
	if errors.As(err, &v) {
		if strings.Contains(v.Error(), "combined stack size") {
			return fmt.Errorf("loading the kernel's programs: those that forward and have access lists where packets leave need a kernel that counts stacks by 16 octets (newer than 6.7): forward, or filter what leaves: %+v", v)
		}
		return fmt.Errorf("loading the kernel's programs: %+v", v)
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("loading the kernel's programs: %w (root, or the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, are needed)", err)
	}
	return fmt.Errorf("loading the kernel's programs: %w", err)
}

// incompatible compares a pinned table with the one that is wanted.
func incompatible(dir string, have, want *Meta) error {
	type difference struct {
		what       string
		have, want any
	}
	clock := func(m *Meta) string {
		if m.TestClock != 0 {
			return "a test's"
		}
		return "the kernel's"
	}
	key := func(m *Meta) string {
		if m.KeyMode == uint32(flow.Key5Tuple) {
			return "5tuple"
		}
		return "cisco"
	}
	for _, d := range []difference{
		{"layout", have.Layout, want.Layout},
		{"size", fmt.Sprint(have.Sets*uint32(Ways), " entries"), fmt.Sprint(want.Sets*Ways, " entries")},
		{"number of aggregates", have.AggregateSets * Ways, want.AggregateSets * Ways},
		{"key", key(have), key(want)},
		{"clock", clock(have), clock(want)},
	} {
		if d.have != d.want {
			return fmt.Errorf("%s: %w: its %s is %v, wanted is %v", dir, ErrIncompatible, d.what, d.have, d.want)
		}
	}
	return nil
}

// found makes a new table of zeroed memory.
func (m *Memory) found(meta *Meta) {
	for i := m.Flows + m.Aggregates; i < len(m.Sets); i++ {
		for way := range m.Sets[i].Entry {
			m.Sets[i].Entry[way].Facts = NoFacts
		}
	}
	*m.Meta = *meta
}

var native = binary.NativeEndian

// mapped reads memory as n values of a type.
func mapped[T any](b []byte, n int) []T {
	if n*int(unsafe.Sizeof(*new(T))) > len(b) {
		panic("bpf: a map is smaller than it was made")
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n)
}
