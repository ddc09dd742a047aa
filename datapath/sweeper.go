package datapath

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"weir/bpf"
	"weir/cache"
	"weir/flow"
)

// Kernel is what the sweeper needs of the loaded programs; *bpf.Kernel is one.
type Kernel interface {
	Memory() *bpf.Memory
	// Grace returns when every program that was running when it was called has
	// ended.
	Grace() error
	// Now is the clock of the entries, and CLOCK_MONOTONIC at the same moment,
	// in ns.
	Now() (clock, mono uint64, err error)
}

// SweepConfig says how flows live in the kernel's table.
type SweepConfig struct {
	Idle   time.Duration // a flow without packets ends after this; 0: never
	Active time.Duration // a flow that goes on is reported this often; 0: never
	TCPEnd time.Duration // a flow ends so long after its FIN or RST; 0: never

	Key      flow.KeyMask // as the programs have it
	Sampling uint32       // one packet in so many is looked at, told in the records; 0: 1

	Lists   *bpf.Lists   // what the programs have of access lists; nil: there are none
	Forward *bpf.Forward // and of next hops; nil: nothing is forwarded

	// Departed is told of entries that leave what a rule that logs has decided of;
	// nil: nobody is. It must not wait.
	Departed func(word uint64, k *flow.Key, port uint32, packets uint64)

	// Wall gives the Unix ns of a moment of CLOCK_MONOTONIC; nil: the machine's.
	Wall func(mono uint64) int64
}

const (
	second  = uint64(time.Second)
	pressed = second / 10 // between ticks of a table that is nearly full
	never   = 1 << 62     // ns; sums of it with times do not overflow

	pageSets  = bpf.TouchedSets
	batchSize = 512     // records that a kill -9 may repeat
	graceSize = 1 << 17 // flows that end with one grace period
	reasonBit = 27      // of what Sweeper.dying holds, above the slot
	maxSlots  = 1 << reasonBit
)

// Sweeper is the daemon's side of the kernel's table. New starts nothing. Its
// owner calls Adopt, then Run or Tick, then Drain or DrainAll, from one
// goroutine at a time; Walk, Entries, Ports, Stats and Losses may be called at
// any time from any.
type Sweeper struct {
	cfg    SweepConfig
	kernel Kernel
	sink   flow.Sink
	sync   func() error // nil: the sink has none
	mem    *bpf.Memory

	idle, active, tcpEnd uint64 // ns; never
	recorder             cache.Recorder
	lists                *bpf.Lists   // nil: nothing is filtered
	forward              *bpf.Forward // nil: nothing is forwarded
	offset               atomic.Int64 // Unix ns less the kernel's clock
	moved                uint64       // by how much it must move to be believed

	pages          []page
	tick           uint64 // the last whole second that was swept
	now            uint64 // ns of the kernel's clock at which is decided
	again          uint64 // when pressure may be looked at again
	fast           bool   // then, rather than at the next second
	staged, urgent uint64 // flows from which the idle limit falls; from which there is pressure;
	crowded        uint64 // from which nobody is spared
	live, peak     uint64 // flows, as last counted, and the most there were
	left           uint64 // flows taken out since Adopt
	aggregates     uint64
	refused        uint64   // packets that found no place since Adopt
	counted        []uint64 // of the packets of each aggregate and catch-all, those that are in refused
	aged           marks    // when ageing was last decided
	ticked         marks    // at the last whole second
	histogram      *histogram

	dying   []uint32 // slots taken out, with their reason; they wait for the grace period
	claimed []uint32 // slots whose claim has not become a flow at this tick
	stuck   []uint32 // and at the last

	items   []item // the sub-batch
	records []flow.Record
	sends   int    // of them are in it
	text    []byte // that their Elements are of
	port    portMemo

	adopted bool
	lossy   bool  // the sink has failed, and the table is being given up
	err     error // the first; nothing is done after it

	// mu is held while entries are committed and freed: who holds it sees each
	// packet once, and no entry changes its flow. It is never held while the
	// sink works.
	mu          sync.Mutex
	stats       cache.Stats
	interrupted cache.Lost

	step func() // tests end the daemon here; called before each store of the protocol
}

// page is pageSets sets, for which the programs have one flag.
type page struct {
	sets       uint64 // in which something was when they were last looked at
	due        uint64 // ns before which nothing in them is due, unless they are touched
	live       uint16
	aggregates uint16
}

// item is an entry of the sub-batch.
type item struct {
	slot  uint32
	why   flow.EndReason
	sent  bool // its record is in the batch, and must be committed
	final bool // it leaves
	delta bpf.Count

	dropped bpf.Count // that its record tells of
}

// marks are sums at some tick, to know what came since.
type marks struct{ created, refused uint64 }

// NewSweeper checks cfg. Records go to sink; if it is a flow.Syncer, what it was
// given is forgotten only after Sync.
func NewSweeper(cfg SweepConfig, kernel Kernel, sink flow.Sink) (*Sweeper, error) {
	same := cache.Config{Idle: cfg.Idle, Active: cfg.Active, TCPEnd: cfg.TCPEnd, Key: cfg.Key, Sampling: cfg.Sampling}
	if err := same.Validate(); err != nil {
		return nil, err
	}
	m := kernel.Memory()
	tables := m.Flows + m.Aggregates
	pages := (tables + pageSets - 1) / pageSets
	switch {
	case m.Flows < 1 || m.Aggregates < 0 || len(m.Sets) < tables+bpf.CatchAllSets:
		return nil, fmt.Errorf("datapath: a table of %d sets, want those of %d for flows, %d for aggregates and %d for catch-alls",
			len(m.Sets), m.Flows, m.Aggregates, bpf.CatchAllSets)
	case len(m.Sets)*bpf.Ways > maxSlots:
		return nil, fmt.Errorf("datapath: %d sets, want at most %d: flow ids have %d bits for a slot", len(m.Sets), maxSlots/bpf.Ways, reasonBit)
	case len(m.Sides) < len(m.Sets)*bpf.Ways:
		return nil, fmt.Errorf("datapath: %d sides, want one for each of %d entries", len(m.Sides), len(m.Sets)*bpf.Ways)
	case len(m.Touched) < pages:
		return nil, fmt.Errorf("datapath: %d flags of touched sets, want %d", len(m.Touched), pages)
	case m.Control == nil || m.Meta == nil:
		return nil, fmt.Errorf("datapath: no control or meta")
	}
	if cfg.Wall == nil {
		cfg.Wall = wall
	}
	same.Boot = uint16(m.Meta.Boot)
	entries := uint64(m.Flows) * bpf.Ways
	s := &Sweeper{
		cfg: cfg, kernel: kernel, sink: sink, mem: m,
		idle: orNever(cfg.Idle), active: orNever(cfg.Active), tcpEnd: orNever(cfg.TCPEnd),
		recorder:  cache.NewRecorder(&same),
		lists:     cfg.Lists,
		forward:   cfg.Forward,
		moved:     2 * max(m.Meta.TickNs, uint64(time.Millisecond)),
		pages:     make([]page, pages),
		staged:    entries * stagedPercent / 100,
		urgent:    entries * urgentPercent / 100,
		crowded:   entries * crowdedPercent / 100,
		histogram: new(histogram),
		counted:   make([]uint64, (m.Aggregates+bpf.CatchAllSets)*bpf.Ways),
		dying:     make([]uint32, 0, min(graceSize, uint64(len(m.Sets))*bpf.Ways)),
		claimed:   make([]uint32, 0, maxClaimed),
		stuck:     make([]uint32, 0, maxClaimed),
		items:     make([]item, 0, batchSize),
		records:   make([]flow.Record, batchSize),
	}
	if s.lists != nil {
		s.text = make([]byte, 0, batchSize*flow.MaxVerdict)
	}
	if y, ok := sink.(flow.Syncer); ok {
		s.sync = y.Sync
	}
	s.stats.Capacity = entries
	s.stats.Memory = uint64(len(m.Sets))*uint64(unsafe.Sizeof(bpf.Set{})) + uint64(len(m.Sides))*uint64(unsafe.Sizeof(bpf.Side{})) + uint64(len(m.Touched))*uint64(unsafe.Sizeof(bpf.Flag{}))
	return s, nil
}

func orNever(d time.Duration) uint64 {
	if d == 0 {
		return never
	}
	return uint64(d)
}

// Run adopts the table if that has not been done, and sweeps until ctx ends; an
// error is the sink's or the kernel's.
func (s *Sweeper) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		clock, err := s.clock()
		if err != nil {
			return err
		}
		if err := s.Tick(clock); err != nil {
			return err
		}
		if clock, err = s.clock(); err != nil {
			return err
		}
		timer.Reset(s.wait(clock))
	}
}

// wait is how long nothing need be done.
func (s *Sweeper) wait(clock uint64) time.Duration {
	next := (s.tick + 1) * second
	if s.fast {
		next = min(next, s.again)
	}
	const clockStep = uint64(time.Millisecond) // no need to come before it has moved
	if next <= clock {
		return 0
	}
	return time.Duration(min(next-clock, second) + clockStep)
}

// Tick does what is due at clock, ns of the kernel's clock: a sweep if a whole
// second has begun since the last, ageing if the table is under pressure.
func (s *Sweeper) Tick(clock uint64) error {
	if err := s.ready(); err != nil {
		return err
	}
	if t := clock / second; t > s.tick {
		s.tick, s.now = t, t*second
		s.sweep()
	} else if s.fast && clock >= s.again {
		s.now = clock
		s.press()
	} else {
		return nil
	}
	s.again = clock + pressed
	return s.err
}

// ready says what is in the way of work.
func (s *Sweeper) ready() error {
	if s.err == nil && !s.adopted {
		return s.Adopt()
	}
	return s.err
}

// Drain hands on what every entry has counted, for the given reason; entries
// stay (a clean stop: the programs go on counting).
func (s *Sweeper) Drain(why flow.EndReason) error {
	if err := s.ready(); err != nil {
		return err
	}
	s.each(func(slot uint32, word *uint32) {
		if state := atomic.LoadUint32(word) & bpf.StateMask; state == bpf.New || state == bpf.Live {
			reason := why
			if s.kind(slot) != kindFlow {
				reason = flow.EndResource
			}
			s.delta(slot, reason)
		}
	})
	for slot := s.firstCatchAll(); slot < s.slots(); slot++ {
		s.delta(slot, flow.EndResource)
	}
	s.flush()
	return s.err
}

// DrainAll ends every flow for the given reason. When the programs are off
// their hooks the table is empty after it. If the sink has failed, what is left
// is counted as lost.
func (s *Sweeper) DrainAll(why flow.EndReason) error {
	failed := s.err
	if failed != nil {
		s.lossy, s.err = true, nil
		s.adopted = false // what was on its way
	}
	if err := s.ready(); err != nil {
		return err
	}
	// Programs that still run may be about to enter something.
	if s.grace() {
		s.recount()
		s.each(func(slot uint32, word *uint32) {
			if state := atomic.LoadUint32(word) & bpf.StateMask; state == bpf.New || state == bpf.Live {
				reason := why
				if s.kind(slot) != kindFlow {
					reason = flow.EndResource
				}
				s.kill(slot, word, reason)
			}
		})
		s.finish()
		for slot := s.firstCatchAll(); slot < s.slots(); slot++ {
			s.delta(slot, flow.EndResource)
		}
		s.flush()
	}
	if s.err == nil {
		s.err = failed
	}
	s.recount()
	s.publish(0)
	return s.err
}

// each visits the entries of flows and aggregates, in their order, and stops at
// an error.
func (s *Sweeper) each(visit func(slot uint32, word *uint32)) {
	for i := range s.mem.Sets[:s.mem.Flows+s.mem.Aggregates] {
		set := &s.mem.Sets[i]
		for way := range set.Word {
			visit(uint32(i*bpf.Ways+way), &set.Word[way])
			if s.err != nil {
				return
			}
		}
	}
}

// What an entry is, by where it stands.
type kind uint8

const (
	kindFlow kind = iota
	kindAggregate
	kindCatchAll
)

func (s *Sweeper) kind(slot uint32) kind {
	switch set := int(slot / bpf.Ways); {
	case set < s.mem.Flows:
		return kindFlow
	case set < s.mem.Flows+s.mem.Aggregates:
		return kindAggregate
	}
	return kindCatchAll
}

func (s *Sweeper) firstCatchAll() uint32 { return uint32(s.mem.Flows+s.mem.Aggregates) * bpf.Ways }
func (s *Sweeper) slots() uint32         { return s.firstCatchAll() + 2*bpf.MaxPorts }

func (s *Sweeper) set(slot uint32) *bpf.Set     { return &s.mem.Sets[slot/bpf.Ways] }
func (s *Sweeper) entry(slot uint32) *bpf.Entry { return &s.set(slot).Entry[slot%bpf.Ways] }
func (s *Sweeper) note(slot uint32) *uint32     { return &s.set(slot).Note[slot%bpf.Ways] }

// fail notes the first error.
func (s *Sweeper) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// grace waits until no program runs that could have found what is DYING now.
func (s *Sweeper) grace() bool {
	if err := s.kernel.Grace(); err != nil {
		s.fail(fmt.Errorf("datapath: waiting for the programs: %w", err))
	}
	return s.err == nil
}
