package guard

import (
	"fmt"
	"net/netip"
	"time"
)

// Profile is the automatic filter of a flow entry: a token bucket, and a penalty whose
// hold doubles up to a limit when it comes again, and ends when the flow calms.
type Profile struct {
	Name     string
	PPS, BPS uint64        // packets and bits a second; 0: not looked at
	Burst    time.Duration // what may come at once, as time at the rates; 0: DefaultBurst
	// Do is what becomes of packets beyond that: Count: they pass. Police: they are
	// dropped. Drop: all packets of the flow are, for Hold, and twice as long each time
	// it does not keep to its rates after that, up to MaxHold.
	Do            Do
	Hold, MaxHold time.Duration // 0: DefaultHold, DefaultMaxHold
	Interfaces    []string      // where its packets come in; none: everywhere
	Prefixes      []netip.Prefix
	Rules         []string // of access lists, as LIST/RULE; only flows that one of these lets pass; none: all
}

// What a Profile has that does not say so.
const (
	DefaultBurst   = time.Second
	DefaultHold    = time.Minute
	DefaultMaxHold = time.Hour

	// MaxBurst is the longest burst that there can be.
	MaxBurst = time.Minute
	// LeastBPS is the lowest rate of bits: below it, one large packet would be hours' worth.
	LeastBPS = 8000
)

// Whole fills in what p leaves out.
func (p Profile) Whole() Profile {
	if p.Burst == 0 {
		p.Burst = DefaultBurst
	}
	if p.Hold == 0 {
		if p.Hold = DefaultHold; p.MaxHold > 0 {
			p.Hold = min(p.Hold, p.MaxHold)
		}
	}
	if p.MaxHold == 0 {
		p.MaxHold = max(DefaultMaxHold, p.Hold)
	}
	return p
}

// Check says what of p cannot be.
func (p *Profile) Check() error {
	w := p.Whole()
	switch {
	case p.PPS == 0 && p.BPS == 0:
		return fmt.Errorf("no rate; accepted: pps, bps")
	case p.BPS > 0 && p.BPS < LeastBPS:
		return fmt.Errorf("bps %d: accepted: %d and more", p.BPS, LeastBPS)
	case w.Burst < 0 || w.Burst > MaxBurst:
		return fmt.Errorf("burst %v: accepted: up to %v", p.Burst, MaxBurst)
	case w.Hold < 0 || w.Hold > w.MaxHold:
		return fmt.Errorf("hold %v is longer than max-hold", p.Hold)
	case w.MaxHold > 24*time.Hour:
		return fmt.Errorf("max-hold %v: accepted: up to 24h", p.MaxHold)
	}
	return nil
}

// Admission is how many new flows a second may enter the flow cache, of each: 0: any
// number. The packets of flows beyond that pass, and are counted in aggregates.
type Admission struct {
	CPU         uint64 // processor
	Source      uint64 // IPv4 address, IPv6 /64
	Destination uint64 // address
}

// Tolls are what limits of single flows, and admission, have counted.
type Tolls struct {
	Profiles []ProfileToll `json:"profiles"`
	// Packets of flows that were not let into the cache, by what kept them out.
	CPU         Volume `json:"cpu"`
	Source      Volume `json:"source"`
	Destination Volume `json:"destination"`
}

// ProfileToll is what a profile has counted.
type ProfileToll struct {
	Name    string `json:"name"`
	Over    Volume `json:"over"`    // beyond the rates
	Dropped Volume `json:"dropped"` // dropped
	Held    uint64 `json:"held"`    // how often a flow's hold began
}
