package datapath

import (
	"context"
	"errors"
	"time"

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

	// Wall gives the Unix ns of a moment of CLOCK_MONOTONIC; nil: the machine's.
	Wall func(mono uint64) int64
}

// Sweeper is the daemon's side of the kernel's table. New starts nothing. Its
// owner calls Adopt, then Run or Tick, then Drain or DrainAll, from one
// goroutine at a time; Walk, Entries, Ports, Stats and Losses may be called at
// any time from any.
type Sweeper struct{}

var errTODO = errors.New("datapath: not there yet")

// NewSweeper checks cfg. Records go to sink; if it is a flow.Syncer, what it was
// given is forgotten only after Sync.
func NewSweeper(cfg SweepConfig, kernel Kernel, sink flow.Sink) (*Sweeper, error) { return nil, errTODO }

// Adopt takes over a table, which another daemon may have left at any moment:
// what was on its way is sent again under the same flow ids, entries that had
// been taken out are finished, the ledger is taken up. Run begins with it.
func (s *Sweeper) Adopt() error { return errTODO }

// Run sweeps until ctx ends; an error is the sink's or the kernel's.
func (s *Sweeper) Run(ctx context.Context) error { return errTODO }

// Tick does what is due at clock, ns of the kernel's clock: a sweep if a whole
// second has begun since the last, ageing if the table is under pressure.
func (s *Sweeper) Tick(clock uint64) error { return errTODO }

// Drain hands on what every entry has counted, for the given reason; entries
// stay (a clean stop: the programs go on counting).
func (s *Sweeper) Drain(why flow.EndReason) error { return errTODO }

// DrainAll ends every flow for the given reason. When the programs are off
// their hooks the table is empty after it.
func (s *Sweeper) DrainAll(why flow.EndReason) error { return errTODO }

// Walk shows what is in the table and has not been handed on, in batches that
// are valid during the call.
func (s *Sweeper) Walk(yield func([]flow.Record) error) error { return errTODO }

// Entries is Walk, record by record.
func (s *Sweeper) Entries(yield func(*flow.Record) bool) {}

// Ports sums up what has been counted since the table was made, by port number
// * 2 + egress: what left the table, and what is in it now.
func (s *Sweeper) Ports(into *[2 * bpf.MaxPorts]bpf.Count) {}

// Stats are the counters since Adopt. Packets and Bytes are 0: see Ports.
func (s *Sweeper) Stats() cache.Stats { return cache.Stats{} }

// Losses is the sweeper's part of the ledger.
func (s *Sweeper) Losses() []flow.Loss { return nil }
