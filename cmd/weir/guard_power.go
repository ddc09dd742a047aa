package main

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"weir/datapath"
	"weir/guard"
)

// guardPower carries the guard's rules out in the kernel's flow table that meters at the
// moment. A reload may exchange that: what is in force goes over, until it ends.
type guardPower struct {
	mu        sync.Mutex
	to        *datapath.Guard       // nil: nothing is metered in the kernel
	told      bool                  // what follows, by a guard
	rules     map[uint64]guard.Rule // in force, as was last heard
	allowed   []netip.Prefix
	profiles  []guard.Profile
	admission guard.Admission
	off       bool
	held      bool // to is between one and the next
	between   bool // the metering is
}

// hold keeps what is to be put in force until use.
func (p *guardPower) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held, p.to, p.between = p.to != nil, nil, true
}

// letGo ends that if nobody has come to use.
func (p *guardPower) letGo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held, p.between = false, false
}

// exchanged says whether the metering is between one and the next: that nothing is seen
// to come is no calm.
func (p *guardPower) exchanged() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.between
}

// use makes d carry the rules out; nil: nobody does. What cannot go over is told of.
func (p *guardPower) use(d *datapath.Datapath) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.to, p.held = nil, false; d == nil || d.Guard() == nil {
		return nil
	}
	fresh := d.Guard()
	p.to = fresh
	there, err := fresh.Rules()
	if err != nil || !p.told {
		return err
	}
	errs := []error{fresh.Allow(p.allowed), fresh.SetProfiles(p.profiles), fresh.SetAdmission(p.admission)}
	has := map[uint64]bool{}
	for _, r := range there {
		if has[r.ID] = true; p.rules[r.ID].ID == 0 { // lifted meanwhile
			errs = append(errs, fresh.Lift(r.ID))
		}
	}
	if p.off {
		errs = append(errs, fresh.SetOn(false))
	}
	for id, r := range p.rules {
		if r.Until <= time.Now().UnixNano() {
			delete(p.rules, id)
		} else if !has[id] {
			errs = append(errs, fresh.Install(r))
		}
	}
	return errors.Join(errs...)
}

// Can says why m cannot be matched.
func (p *guardPower) Can(m *guard.Match) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.to == nil && !p.held {
		return guard.ErrNoEnforcer
	}
	return p.to.Can(m)
}

// Install puts a rule in force.
func (p *guardPower) Install(r guard.Rule) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	if !p.held {
		err = p.to.Install(r) // nil: guard.ErrNoEnforcer
	}
	if err == nil {
		p.heard(r)
	}
	return err
}

// Lift ends a rule.
func (p *guardPower) Lift(id uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.rules, id)
	return p.to.Lift(id)
}

// Rules are those in force.
func (p *guardPower) Rules() ([]guard.Installed, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list, err := p.to.Rules()
	for _, r := range list {
		p.heard(r.Rule)
	}
	return list, err
}

func (p *guardPower) heard(r guard.Rule) {
	if p.rules == nil {
		p.rules = map[uint64]guard.Rule{}
	}
	p.rules[r.ID] = r
}

// Allow names what no rule hits.
func (p *guardPower) Allow(list []netip.Prefix) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told, p.allowed = true, list
	return p.to.Allow(list)
}

// SetProfiles puts the limits of single flows in force.
func (p *guardPower) SetProfiles(list []guard.Profile) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.profiles = list
	return p.to.SetProfiles(list)
}

// SetAdmission says how many flows may enter the cache.
func (p *guardPower) SetAdmission(a guard.Admission) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.admission = a
	return p.to.SetAdmission(a)
}

// Tolls are what limits of flows, and admission, have counted.
func (p *guardPower) Tolls() (guard.Tolls, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.to.Tolls()
}

// SetOn is the kill switch.
func (p *guardPower) SetOn(on bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = !on
	return p.to.SetOn(on)
}

// On says how it stands.
func (p *guardPower) On() (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.to.On()
}
