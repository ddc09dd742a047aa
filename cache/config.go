package cache

import (
	"fmt"
	"time"

	"weir/flow"
)

// Defaults.
const (
	DefaultEntries = 1 << 20
	DefaultIdle    = 15 * time.Second // Cisco's inactive timeout
	DefaultActive  = 30 * time.Minute // Cisco's active timeout
	DefaultTCPEnd  = 2 * time.Second
)

// MaxTimeout bounds every timeout: ten years.
const MaxTimeout = 10 * 366 * 24 * time.Hour

// Config says how flows live. The zero value of a timeout means never;
// DefaultConfig has the usual ones.
type Config struct {
	Entries int // flows the table holds, rounded up to whole sets; 0: DefaultEntries

	Idle   time.Duration // a flow without packets ends after this; 0: never
	Active time.Duration // a flow that goes on is reported this often; 0: never
	TCPEnd time.Duration // a flow ends so long after its FIN or RST; 0: never

	Key flow.KeyMask
	// Select is what more makes a flow, or is told of it. Where that does not fit an
	// entry (Select.Wide), packets come by AddMore.
	Select flow.Selection
	Seed   uint64 // of the keyed hash; offline 0, so that runs are equal; live a secret

	// Offline time is a capture's: nothing is refused, the longest-idle entry
	// of the sets leaves early. Live, what cannot be entered is counted in
	// overflow aggregates.
	Offline bool

	Sampling uint32 // one packet in so many was looked at, told in the records; 0: 1
	Boot     uint16 // 12 bits that make flow ids of one start differ from another's
	Number   uint8  // of this cache among those of one process: a part of flow ids

	// Gone, if set, gets what leaves instead of the sink, before it is made
	// into records, and gives another batch in return, whose content is
	// forgotten. Ticks do not flush then: Flush does.
	Gone func(*Batch) *Batch
}

// DefaultConfig is a live cache with the usual timeouts.
func DefaultConfig() Config {
	return Config{Entries: DefaultEntries, Idle: DefaultIdle, Active: DefaultActive, TCPEnd: DefaultTCPEnd}
}

// Validate says what is wrong with c.
func (c *Config) Validate() error {
	if c.Entries < 0 || c.Entries > maxEntries {
		return fmt.Errorf("cache: %d entries, want 1 to %d", c.Entries, maxEntries)
	}
	for _, t := range []struct {
		name string
		d    time.Duration
	}{{"idle", c.Idle}, {"active", c.Active}, {"tcp-end", c.TCPEnd}} {
		if t.d < 0 || t.d > MaxTimeout {
			return fmt.Errorf("cache: %s timeout %v, want 0 (never) to %v", t.name, t.d, MaxTimeout)
		}
	}
	if c.Key > flow.Key5Tuple {
		return fmt.Errorf("cache: unknown key %d", c.Key)
	}
	if err := c.Select.Validate(); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}
