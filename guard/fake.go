package guard

import (
	"net/netip"
	"slices"
	"sync"
)

// Fake is an Enforcer of tests and simulations. It keeps rules as the kernel would: they
// end in its own clock, which Advance sets. Feed says what it would have hit.
type Fake struct {
	mu       sync.Mutex
	now      int64
	off      bool
	rules    []Installed
	allowed  []netip.Prefix
	profiles []Profile
	admitted Admission

	// Cannot, if set, is what Can says.
	Cannot func(*Match) error
	// Fails, if set, is what Install says.
	Fails error
}

// Advance sets the clock, Unix ns, and ends what is due.
func (f *Fake) Advance(now int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = now
	f.rules = slices.DeleteFunc(f.rules, func(r Installed) bool { return r.Until <= now })
}

// Feed counts d where the first rule hits it, and says how much of it passes: all, or, of
// Drop, nothing. (Police is taken as if all were beyond the rate.)
func (f *Fake) Feed(d *Delta) (passes bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.off {
		return true
	}
	for _, p := range f.allowed {
		if within(p, &d.Key.Src) || within(p, &d.Key.Dst) {
			return true
		}
	}
	for i := range f.rules {
		r := &f.rules[i]
		if !r.Match.Hits(d) {
			continue
		}
		r.Hit.Packets, r.Hit.Bytes = r.Hit.Packets+d.Packets, r.Hit.Bytes+d.Bytes
		if r.Do == Count {
			return true
		}
		r.Dropped.Packets, r.Dropped.Bytes = r.Dropped.Packets+d.Packets, r.Dropped.Bytes+d.Bytes
		if r.Match.New {
			r.Refused = r.Dropped
		}
		return false
	}
	return true
}

// Allowed are the prefixes of the last Allow.
func (f *Fake) Allowed() []netip.Prefix { f.mu.Lock(); defer f.mu.Unlock(); return f.allowed }

// Profiles are those of the last SetProfiles.
func (f *Fake) Profiles() []Profile { f.mu.Lock(); defer f.mu.Unlock(); return f.profiles }

// Can says what Cannot says.
func (f *Fake) Can(m *Match) error {
	if f.Cannot != nil {
		return f.Cannot(m)
	}
	return nil
}

// Install puts a rule in force.
func (f *Fake) Install(r Rule) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Fails != nil {
		return f.Fails
	}
	for i := range f.rules {
		if f.rules[i].ID == r.ID {
			f.rules[i].Rule = r
			return nil
		}
	}
	f.rules = append(f.rules, Installed{Rule: r})
	return nil
}

// Lift ends a rule.
func (f *Fake) Lift(id uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = slices.DeleteFunc(f.rules, func(r Installed) bool { return r.ID == id })
	return nil
}

// Rules are those in force.
func (f *Fake) Rules() ([]Installed, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.rules), nil
}

// Allow names what no rule hits.
func (f *Fake) Allow(p []netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.allowed = slices.Clone(p)
	return nil
}

// SetProfiles keeps them.
func (f *Fake) SetProfiles(p []Profile) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.profiles = slices.Clone(p)
	return nil
}

// Admitted is the last SetAdmission's.
func (f *Fake) Admitted() Admission { f.mu.Lock(); defer f.mu.Unlock(); return f.admitted }

// SetAdmission keeps it.
func (f *Fake) SetAdmission(a Admission) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.admitted = a
	return nil
}

// Tolls are none.
func (f *Fake) Tolls() (Tolls, error) { return Tolls{}, nil }

// SetOn is the kill switch.
func (f *Fake) SetOn(on bool) error { f.mu.Lock(); defer f.mu.Unlock(); f.off = !on; return nil }

// On says how it stands.
func (f *Fake) On() (bool, error) { f.mu.Lock(); defer f.mu.Unlock(); return !f.off, nil }
