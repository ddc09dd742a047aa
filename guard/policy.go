package guard

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Mode is how far the guard may go by itself, for a hostgroup.
type Mode uint8

// The modes, each with the one before it.
const (
	// Observe: attacks are noted and told, with what would have been done.
	Observe Mode = iota
	// Propose: what would be done is proposed, kept up to date and told. It cannot be
	// approved, but for an override.
	Propose
	// Approve: a proposal is put in force when somebody approves it.
	Approve
	// Automatic: what the limits allow is put in force at once, the rest is proposed.
	Automatic
)

var modeNames = [...]string{"observe", "propose", "approve", "automatic"}

func (m Mode) String() string { return modeNames[m] }

// MarshalText writes the name.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads a name.
func (m *Mode) UnmarshalText(b []byte) error {
	for i, n := range modeNames {
		if n == string(b) {
			*m = Mode(i)
			return nil
		}
	}
	return fmt.Errorf("%.20q is no mode; accepted: observe, propose, approve, automatic", b)
}

// Announce is how others are told by BGP to act.
type Announce uint8

// What can be announced.
const (
	NoAnnounce Announce = iota
	FlowSpec            // RFC 8955, 8956: the match itself
	RTBH                // RFC 7999: the victim as a whole, wherever its packets come from
)

var announceNames = [...]string{"none", "flowspec", "rtbh"}

func (a Announce) String() string { return announceNames[a] }

// MarshalText writes the name.
func (a Announce) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads a name.
func (a *Announce) UnmarshalText(b []byte) error {
	for i, n := range announceNames {
		if n == string(b) {
			*a = Announce(i)
			return nil
		}
	}
	return fmt.Errorf("%.20q cannot be announced; accepted: none, flowspec, rtbh", b)
}

// Group is a hostgroup: addresses that are protected alike.
type Group struct {
	Name     string
	Networks []netip.Prefix // none, of the first group: whatever no other group has
	Mode     Mode

	Hosts    []Limit // of each address
	Subnets  []Limit // of each /24 and /64 in it: carpet bombing
	Total    []Limit // of all together
	Outgoing []Limit // of what each address sends

	Do       Do     // what is done about packets that are hit; Count harms nobody
	PPS, BPS uint64 // of Police: what passes, packets and bits a second
	Announce Announce

	Hold, MaxHold time.Duration // how long an action lasts; doubles each time it comes again
	WhileAttacked bool          // an action is renewed as long as the attack goes on
	Calm          time.Duration // below Release for so long, an attack is over
	Release       float64       // of the threshold
	// Crowds lets automatism act on established traffic, too: many whole connections,
	// or one large transfer.
	Crowds bool
}

// Policy is all that the guard is told.
type Policy struct {
	// Groups: the first is the default one; of the others the longest prefix wins.
	Groups []Group
	// Sources are thresholds of what one source, an IPv4 address or an IPv6 /64, sends to
	// protected addresses.
	Sources []Limit
	// Allowed sources and destinations are never hit by what automatism does.
	Allowed []netip.Prefix

	MaxActions   int // in force at a time
	MaxPerMinute int // put in force by automatism
	Broadest4    int // prefix length of the broadest destination or source that automatism acts on
	Broadest6    int
	MaxInnocent  float64       // share of the victim's established traffic that automatism may hit
	Remember     time.Duration // an attack that comes again within it doubles the hold

	Keys int // destinations, and as many sources, counted exactly
}

// DefaultGroup observes everything by FastNetMon's thresholds.
func DefaultGroup() Group {
	return Group{
		Name: "default", Hosts: DefaultLimits(), Outgoing: DefaultLimits(), Do: Police, PPS: 5000,
		Hold: time.Minute, MaxHold: 1900 * time.Second, WhileAttacked: true, Calm: 30 * time.Second, Release: 0.5,
	}
}

// DefaultPolicy is a policy that observes.
func DefaultPolicy() Policy {
	return Policy{
		Groups: []Group{DefaultGroup()}, MaxActions: 64, MaxPerMinute: 20, Broadest4: 24, Broadest6: 64, MaxInnocent: 0.2,
		Remember: time.Hour, Keys: 1 << 15,
	}
}

// MaxGroups is how many hostgroups there may be.
const MaxGroups = 1024

// Check says what is wrong with a policy.
func (p *Policy) Check() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(p.Groups) == 0 || len(p.Groups) > MaxGroups {
		return fmt.Errorf("%d hostgroups; accepted: 1 to %d", len(p.Groups), MaxGroups)
	}
	if p.Keys < 256 || p.Keys > 1<<22 {
		fail("keys: %d; accepted: 256 to 4Mi", p.Keys)
	}
	if p.MaxActions < 1 || p.MaxActions > 4096 {
		fail("max-actions: %d; accepted: 1 to 4096", p.MaxActions)
	}
	if !(p.MaxInnocent >= 0 && p.MaxInnocent <= 1) {
		fail("max-innocent: %v; accepted: 0 to 1", p.MaxInnocent)
	}
	names, networks := map[string]bool{}, map[netip.Prefix]string{}
	for i := range p.Groups {
		g := &p.Groups[i]
		if g.Name == "" || names[g.Name] {
			fail("hostgroup %q: the name is empty or there twice", g.Name)
		}
		names[g.Name] = true
		if i > 0 && len(g.Networks) == 0 {
			fail("hostgroup %s has no networks", g.Name)
		}
		for _, n := range g.Networks {
			if other, ok := networks[n]; ok {
				fail("hostgroup %s: %s is in %s already", g.Name, n, other)
			}
			networks[n] = g.Name
		}
		if g.Do == Police && g.PPS == 0 && g.BPS == 0 {
			fail("hostgroup %s polices without a rate; accepted: police-pps, police-bps", g.Name)
		}
		if g.Hold < time.Second || g.MaxHold < g.Hold {
			fail("hostgroup %s: hold %v, max-hold %v; accepted: a second or more, the limit not below", g.Name, g.Hold, g.MaxHold)
		}
		if !(g.Release > 0 && g.Release <= 1) {
			fail("hostgroup %s: release %v; accepted: above 0, up to 1", g.Name, g.Release)
		}
		if g.Calm < 0 {
			fail("hostgroup %s: calm %v is negative", g.Name, g.Calm)
		}
	}
	return errors.Join(errs...)
}

// group finds a group by name, nil if there is none.
func (p *Policy) group(name string) *Group {
	if i := slices.IndexFunc(p.Groups, func(g Group) bool { return g.Name == name }); i >= 0 {
		return &p.Groups[i]
	}
	return nil
}
