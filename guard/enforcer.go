package guard

import (
	"errors"
	"fmt"
	"net/netip"
)

// Do is what becomes of packets that a rule hits.
type Do uint8

// What can be done. The zero value harms nobody.
const (
	Count  Do = iota // count them, let them pass
	Police           // let pass what keeps to the rule's rates, drop the rest
	Drop
)

var doNames = [...]string{"count", "police", "drop"}

func (d Do) String() string { return doNames[d] }

// MarshalText writes the name.
func (d Do) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a name.
func (d *Do) UnmarshalText(b []byte) error {
	for i, n := range doNames {
		if n == string(b) {
			*d = Do(i)
			return nil
		}
	}
	return fmt.Errorf("%.20q is nothing that can be done; accepted: count, police, drop", b)
}

// Rule is what an Enforcer is given.
type Rule struct {
	ID    uint64 // the Action's; the same ID again replaces
	Match Match
	Do    Do
	// Of Police: what passes, a second; 0: this one does not count. A rule has at least one.
	PPS, BPS uint64 // packets; bits
	// Until is when the rule ends, Unix ns. The enforcer turns it into its own clock and
	// ends the rule by itself then, whether or not this process lives.
	Until int64
}

// Installed is a rule in force, with what it has hit.
type Installed struct {
	Rule
	Hit, Dropped Volume
	Refused      Volume // of what was dropped: in no flow, but in an aggregate
}

// Volume is an amount of packets and their octets.
type Volume struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Enforcer is what has the power: the kernel's programs, or a Fake. It is asked by one
// goroutine at a time. What it has in force outlives this process until it ends by itself.
type Enforcer interface {
	// Can says why m cannot be matched here; nil: it can.
	Can(m *Match) error
	// Install puts a rule in force, or in the place of the one with its ID.
	Install(Rule) error
	// Lift ends a rule; that there is none is no error.
	Lift(id uint64) error
	// Rules are those in force now, those of an earlier process too.
	Rules() ([]Installed, error)
	// Allow names sources and destinations that no rule hits, whatever it says.
	Allow([]netip.Prefix) error
	// SetProfiles puts the profiles of flows in force, in the place of those before; the
	// first that a flow fits is its own.
	SetProfiles([]Profile) error
	// SetAdmission says how many flows may enter the cache.
	SetAdmission(Admission) error
	// Tolls are what both have counted.
	Tolls() (Tolls, error)
	Switch
}

// Switch is the kill switch: while it is off, no packet is dropped for any rule or
// profile. It needs no running weir.
type Switch interface {
	SetOn(bool) error
	On() (bool, error)
}

// ErrNoEnforcer says that nothing can be put in force in this kernel.
var ErrNoEnforcer = errors.New("this kernel's flow cache enforces no guard rules: actions can be announced and told of, not carried out here")

// ErrUnsupported says that an enforcer cannot match so.
var ErrUnsupported = errors.New("the enforcer cannot match that")

// None is the Enforcer of a machine that has none: whatever is asked, it refuses.
type None struct{}

func (None) Can(*Match) error            { return ErrNoEnforcer }
func (None) Install(Rule) error          { return ErrNoEnforcer }
func (None) Lift(uint64) error           { return nil }
func (None) Rules() ([]Installed, error) { return nil, nil }
func (None) Allow([]netip.Prefix) error  { return nil }
func (None) SetOn(bool) error            { return nil }
func (None) On() (bool, error)           { return true, nil }
func (None) Tolls() (Tolls, error)       { return Tolls{}, nil }

// SetAdmission refuses any limit.
func (None) SetAdmission(a Admission) error {
	if a != (Admission{}) {
		return ErrNoEnforcer
	}
	return nil
}

// SetProfiles refuses any.
func (None) SetProfiles(p []Profile) error {
	if len(p) > 0 {
		return ErrNoEnforcer
	}
	return nil
}
