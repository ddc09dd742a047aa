package config

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/guard"
)

// Guard is what is done about floods. Writing anything under guard: switches it on,
// unless enabled says otherwise; nothing is dropped before a mode says so.
type Guard struct {
	Enabled bool `yaml:"enabled"`
	// Hostgroup's keys, of addresses that no hostgroup has.
	Mode       string            `yaml:"mode"` // observe, propose, approve, automatic
	Networks   []Prefix          `yaml:"networks"`
	Thresholds map[string]string `yaml:"thresholds"`
	Subnets    map[string]string `yaml:"subnets"`
	Total      map[string]string `yaml:"total"`
	Outgoing   map[string]string `yaml:"outgoing"`
	Action     string            `yaml:"action"` // count, police, drop
	PolicePPS  Rate              `yaml:"police-pps"`
	PoliceBPS  Rate              `yaml:"police-bps"`
	Announce   string            `yaml:"announce"` // none, flowspec, rtbh
	Hold       Duration          `yaml:"hold"`
	MaxHold    Duration          `yaml:"max-hold"`

	WhileAttacked bool     `yaml:"while-attacked"`
	Calm          Duration `yaml:"calm"`
	Release       Percent  `yaml:"release"`
	Crowds        bool     `yaml:"crowds"`

	Hostgroups map[string]Hostgroup `yaml:"hostgroups"`
	Sources    map[string]string    `yaml:"sources"`
	Allow      []Prefix             `yaml:"allow"`
	AllowOwn   bool                 `yaml:"allow-own"` // this machine, its neighbours, its resolvers

	MaxActions   Count    `yaml:"max-actions"`
	MaxPerMinute Count    `yaml:"max-per-minute"`
	Broadest     Count    `yaml:"broadest"`
	Broadest6    Count    `yaml:"broadest6"`
	MaxInnocent  Percent  `yaml:"max-innocent"`
	Remember     Duration `yaml:"remember"`
	Keys         Count    `yaml:"keys"`
	Learn        bool     `yaml:"learn"`

	Flows    map[string]FlowProfile `yaml:"flows"`
	NewFlows NewFlows               `yaml:"new-flows"`
	Console  bool                   `yaml:"console"` // the web console may approve and lift
	Notify   Notify                 `yaml:"notify"`
	BGP      BGP                    `yaml:"bgp"`
}

// Hostgroup is addresses that are protected alike. What it leaves out is as under guard.
type Hostgroup struct {
	Mode       string            `yaml:"mode"`
	Networks   []Prefix          `yaml:"networks"`
	Thresholds map[string]string `yaml:"thresholds"`
	Subnets    map[string]string `yaml:"subnets"`
	Total      map[string]string `yaml:"total"`
	Outgoing   map[string]string `yaml:"outgoing"`
	Action     string            `yaml:"action"`
	PolicePPS  Rate              `yaml:"police-pps"`
	PoliceBPS  Rate              `yaml:"police-bps"`
	Announce   string            `yaml:"announce"`
	Hold       Duration          `yaml:"hold"`
	MaxHold    Duration          `yaml:"max-hold"`
}

// FlowProfile is the automatic filter of single flows, in the flow's own entry.
type FlowProfile struct {
	PPS        Rate     `yaml:"pps"`
	BPS        Rate     `yaml:"bps"`
	Burst      Duration `yaml:"burst"`
	Action     string   `yaml:"action"`
	Hold       Duration `yaml:"hold"`
	MaxHold    Duration `yaml:"max-hold"`
	Interfaces []string `yaml:"interfaces"`
	Networks   []Prefix `yaml:"networks"`
	Rules      []string `yaml:"rules"` // of access lists: LIST/SEQUENCE
}

// NewFlows is how many flows a second may enter the flow cache, of each; 0: any number.
type NewFlows struct {
	CPU         Rate `yaml:"per-cpu"`
	Source      Rate `yaml:"per-source"`
	Destination Rate `yaml:"per-destination"`
}

// Admission is that for the guard.
func (n NewFlows) Admission() guard.Admission {
	return guard.Admission{CPU: uint64(n.CPU), Source: uint64(n.Source), Destination: uint64(n.Destination)}
}

// Notify is who is told, beside the log.
type Notify struct {
	Script  string   `yaml:"script"`  // called without a shell
	Webhook string   `yaml:"webhook"` // http(s)://…, gets POSTs of JSON
	Syslog  string   `yaml:"syslog"`  // udp://HOST:514, tcp://HOST:514, unix:///dev/log
	Timeout Duration `yaml:"timeout"`
}

// BGP is how others are told to act. Without neighbours, nobody is.
type BGP struct {
	AS          Count       `yaml:"as"`
	RouterID    string      `yaml:"router-id"`
	Neighbours  []Neighbour `yaml:"neighbours"`
	NextHop     string      `yaml:"next-hop"`
	NextHop6    string      `yaml:"next-hop6"`
	Communities []string    `yaml:"communities"`
}

// Neighbour is a BGP peer. It is dialled; nothing is accepted from it.
type Neighbour struct {
	Address  string `yaml:"address"`
	AS       Count  `yaml:"as"`
	Port     Count  `yaml:"port"`
	Password string `yaml:"password-file"` // TCP MD5 (RFC 2385)
	Multihop bool   `yaml:"multihop"`
}

// InterfaceGuard is what the guard does with an interface's packets.
type InterfaceGuard struct {
	Ignore bool `yaml:"ignore"`
}

// Rate is a number a second, written as 20k, 20kpps or 1Gbps.
type Rate uint64

// UnmarshalText reads a rate.
func (r *Rate) UnmarshalText(b []byte) error {
	n, err := guard.ParseRate(string(b))
	*r = Rate(n)
	return err
}

func (r Rate) String() string            { return strconv.FormatUint(uint64(r), 10) }
func (r Rate) MarshalYAML() (any, error) { return r.String(), nil }

// Percent is a share, written as 20% or 0.2.
type Percent float64

// UnmarshalText reads a share.
func (p *Percent) UnmarshalText(b []byte) error {
	s, hundred := strings.CutSuffix(string(b), "%")
	f, err := strconv.ParseFloat(s, 64)
	if hundred {
		f /= 100
	}
	if err != nil || !(f >= 0 && f <= 1) {
		return fmt.Errorf("%.20q is no share; accepted: 0%% to 100%%", b)
	}
	*p = Percent(f)
	return nil
}

func (p Percent) String() string {
	return strconv.FormatFloat(math.Round(float64(p)*1e6)/1e4, 'f', -1, 64) + "%"
}
func (p Percent) MarshalYAML() (any, error) { return p.String(), nil }

func defaultGuard() Guard {
	p := guard.DefaultPolicy()
	d := p.Groups[0]
	limits := func() map[string]string {
		m := map[string]string{}
		for _, l := range guard.DefaultLimits() {
			m[l.Name()] = limitText(l)
		}
		return m
	}
	return Guard{
		Mode: d.Mode.String(), Networks: []Prefix{}, Thresholds: limits(), Outgoing: limits(), Action: d.Do.String(), PolicePPS: Rate(d.PPS), Announce: d.Announce.String(),
		Hold: Duration(d.Hold), MaxHold: Duration(d.MaxHold), WhileAttacked: d.WhileAttacked, Calm: Duration(d.Calm), Release: Percent(d.Release), Allow: []Prefix{}, AllowOwn: true,
		MaxActions: Count(p.MaxActions), MaxPerMinute: Count(p.MaxPerMinute), Broadest: Count(p.Broadest4), Broadest6: Count(p.Broadest6), MaxInnocent: Percent(p.MaxInnocent),
		Subnets: map[string]string{}, Total: map[string]string{}, Sources: map[string]string{}, Hostgroups: map[string]Hostgroup{}, Flows: map[string]FlowProfile{},
		BGP:      BGP{Neighbours: []Neighbour{}, Communities: []string{}},
		Remember: Duration(p.Remember), Keys: Count(p.Keys), Learn: true, NewFlows: NewFlows{500_000, 50_000, 100_000}, Notify: Notify{Timeout: Duration(10 * time.Second)},
	}
}

func limitText(l guard.Limit) string { return guard.FormatRate(l.Value(), "") }

// Policy is what the guard is told. own are addresses that are allowed, too.
func (g *Guard) Policy(own []netip.Prefix) (guard.Policy, error) {
	p := guard.Policy{
		MaxActions: int(min(g.MaxActions, math.MaxInt32)), MaxPerMinute: int(min(g.MaxPerMinute, math.MaxInt32)), Broadest4: int(min(g.Broadest, 32)), Broadest6: int(min(g.Broadest6, 128)),
		MaxInnocent: float64(g.MaxInnocent), Remember: time.Duration(g.Remember), Keys: int(min(g.Keys, math.MaxInt32)),
		Allowed: append(Netips(g.Allow), own...),
	}
	main := Hostgroup{g.Mode, g.Networks, g.Thresholds, g.Subnets, g.Total, g.Outgoing, g.Action, g.PolicePPS, g.PoliceBPS, g.Announce, g.Hold, g.MaxHold}
	var err error
	if p.Sources, err = guard.ParseLimits(g.Sources); err != nil {
		return p, fmt.Errorf("sources: %w", err)
	}
	add := func(name string, h Hostgroup) error {
		x, err := h.group()
		if err != nil {
			return err
		}
		x.Name, x.WhileAttacked, x.Calm, x.Release, x.Crowds = name, g.WhileAttacked, time.Duration(g.Calm), float64(g.Release), g.Crowds
		p.Groups = append(p.Groups, x)
		return nil
	}
	if err := add("default", main); err != nil {
		return p, err
	}
	for _, name := range slices.Sorted(maps.Keys(g.Hostgroups)) {
		if err := add(name, g.Hostgroups[name].over(main)); err != nil {
			return p, fmt.Errorf("hostgroups.%s.%w", name, err)
		}
	}
	return p, p.Check()
}

// over fills what h leaves out.
func (h Hostgroup) over(base Hostgroup) Hostgroup {
	text := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	limits := func(p *map[string]string, v map[string]string) {
		if *p == nil {
			*p = v
		}
	}
	text(&h.Mode, base.Mode)
	text(&h.Announce, base.Announce)
	if h.Action == "" {
		h.Action = base.Action
	}
	if h.PolicePPS == 0 && h.PoliceBPS == 0 {
		h.PolicePPS, h.PoliceBPS = base.PolicePPS, base.PoliceBPS
	}
	limits(&h.Thresholds, base.Thresholds)
	limits(&h.Subnets, base.Subnets)
	limits(&h.Outgoing, base.Outgoing) // a total is of one group's own
	if h.Hold == 0 {
		h.Hold = base.Hold
	}
	if h.MaxHold == 0 {
		h.MaxHold = max(base.MaxHold, h.Hold)
	}
	return h
}

func (h Hostgroup) group() (x guard.Group, err error) {
	x = guard.Group{Networks: Netips(h.Networks), PPS: uint64(h.PolicePPS), BPS: uint64(h.PoliceBPS), Hold: time.Duration(h.Hold), MaxHold: time.Duration(h.MaxHold)}
	if err = x.Mode.UnmarshalText([]byte(h.Mode)); err != nil {
		return x, fmt.Errorf("mode: %w", err)
	}
	if err = x.Do.UnmarshalText([]byte(h.Action)); err != nil {
		return x, fmt.Errorf("action: %w", err)
	}
	if err = x.Announce.UnmarshalText([]byte(h.Announce)); err != nil {
		return x, fmt.Errorf("announce: %w", err)
	}
	if x.Do != guard.Police {
		x.PPS, x.BPS = 0, 0
	}
	for _, l := range []struct {
		key  string
		from map[string]string
		to   *[]guard.Limit
	}{{"thresholds", h.Thresholds, &x.Hosts}, {"subnets", h.Subnets, &x.Subnets}, {"total", h.Total, &x.Total}, {"outgoing", h.Outgoing, &x.Outgoing}} {
		if *l.to, err = guard.ParseLimits(l.from); err != nil {
			return x, fmt.Errorf("%s: %w", l.key, err)
		}
	}
	return x, nil
}

// Profiles are the filters of single flows.
func (g *Guard) Profiles() (list []guard.Profile, err error) {
	for _, name := range slices.Sorted(maps.Keys(g.Flows)) {
		p, err := g.Flows[name].profile(name)
		if err != nil {
			return nil, fmt.Errorf("flows.%s: %w", name, err)
		}
		list = append(list, p)
	}
	return list, nil
}

func (f FlowProfile) profile(name string) (guard.Profile, error) {
	p := guard.Profile{
		Name: name, PPS: uint64(f.PPS), BPS: uint64(f.BPS), Burst: time.Duration(f.Burst), Hold: time.Duration(f.Hold), MaxHold: time.Duration(f.MaxHold),
		Interfaces: f.Interfaces, Prefixes: Netips(f.Networks), Rules: f.Rules,
	}
	if f.Action != "" {
		if err := p.Do.UnmarshalText([]byte(f.Action)); err != nil {
			return p, fmt.Errorf("action: %w", err)
		}
	}
	for _, r := range f.Rules {
		if list, seq, ok := strings.Cut(r, "/"); !ok || list == "" || seq == "" {
			return p, fmt.Errorf("rules: %.40q: accepted: LIST/SEQUENCE", r)
		}
	}
	return p, p.Check()
}

// check tests what the types alone cannot.
func (g *Guard) check(report func(path, msg string)) {
	if _, err := g.Policy(nil); err != nil {
		key, msg, ok := strings.Cut(err.Error(), ": ")
		if !ok || strings.ContainsAny(key, " \n") {
			key, msg = "", err.Error()
		} else {
			key = "." + key
		}
		report("guard"+key, strings.ReplaceAll(msg, "\n", "; "))
	}
	for _, name := range slices.Sorted(maps.Keys(g.Flows)) {
		if _, err := g.Flows[name].profile(name); err != nil {
			report("guard.flows."+name, err.Error())
		}
	}
	if s := g.Notify.Script; s != "" && !filepath.IsAbs(s) {
		report("guard.notify.script", strconv.Quote(s)+": accepted: an absolute path")
	}
	if w := g.Notify.Webhook; w != "" {
		if u, err := url.Parse(w); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			report("guard.notify.webhook", strconv.Quote(w)+": accepted: https://HOST/PATH")
		}
	}
	if s := g.Notify.Syslog; s != "" {
		if u, err := url.Parse(s); err != nil || !(slices.Contains([]string{"udp", "tcp"}, u.Scheme) && u.Port() != "" || u.Scheme == "unix" && u.Path != "") {
			report("guard.notify.syslog", strconv.Quote(s)+": accepted: udp://HOST:514, tcp://HOST:514, unix:///dev/log")
		}
	}
	if d := time.Duration(g.Notify.Timeout); d < time.Second || d > 5*time.Minute {
		report("guard.notify.timeout", g.Notify.Timeout.String()+": accepted: 1s to 5m")
	}
	g.BGP.check(report)
	announces := g.Announce
	for _, h := range g.Hostgroups {
		if h.Announce != "" && h.Announce != "none" {
			announces = h.Announce
		}
	}
	if announces != "none" && len(g.BGP.Neighbours) == 0 && g.Enabled {
		report("guard.announce", announces+" needs guard.bgp.neighbours")
	}
}

func (b *BGP) check(report func(path, msg string)) {
	address := func(key, s string, six bool) {
		if a, err := netip.ParseAddr(s); s != "" && (err != nil || a.Is6() != six || a.Zone() != "") {
			report("guard.bgp."+key, strconv.Quote(s)+": accepted: an IPv"+map[bool]string{false: "4", true: "6"}[six]+" address")
		}
	}
	address("router-id", b.RouterID, false)
	address("next-hop", b.NextHop, false)
	address("next-hop6", b.NextHop6, true)
	if _, err := b.CommunityList(); err != nil {
		report("guard.bgp.communities", err.Error())
	}
	if len(b.Neighbours) == 0 {
		return
	}
	if b.AS == 0 || b.AS > math.MaxUint32 {
		report("guard.bgp.as", b.AS.String()+": accepted: 1 to 4294967295")
	}
	if b.RouterID == "" {
		report("guard.bgp.router-id", "empty: accepted: an IPv4 address of this machine")
	}
	for i, n := range b.Neighbours {
		at := "guard.bgp.neighbours[" + strconv.Itoa(i) + "]"
		if a, err := netip.ParseAddr(n.Address); err != nil || a.Zone() != "" {
			report(at+".address", strconv.Quote(n.Address)+": accepted: an IP address")
		}
		if n.AS == 0 || n.AS > math.MaxUint32 {
			report(at+".as", n.AS.String()+": accepted: 1 to 4294967295")
		}
		if n.Port > 65535 {
			report(at+".port", n.Port.String()+": accepted: 1 to 65535, or nothing for 179")
		}
	}
}

// CommunityList are those that announcements of RTBH carry: BLACKHOLE unless others are
// named, and with NO_EXPORT if named.
func (b *BGP) CommunityList() (list []uint32, err error) {
	for _, s := range b.Communities {
		switch s {
		case "blackhole":
			list = append(list, 65535<<16|666) // RFC 7999, section 5
			continue
		case "no-export":
			list = append(list, 0xffffff01) // RFC 1997
			continue
		}
		hi, lo, ok := strings.Cut(s, ":")
		a, err1 := strconv.ParseUint(hi, 10, 16)
		c, err2 := strconv.ParseUint(lo, 10, 16)
		if !ok || err1 != nil || err2 != nil {
			return nil, fmt.Errorf("%.40q is no community; accepted: blackhole, no-export, 65000:666", s)
		}
		list = append(list, uint32(a)<<16|uint32(c))
	}
	return list, nil
}
