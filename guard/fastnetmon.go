package guard

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Import is what became of a fastnetmon.conf.
type Import struct {
	Policy Policy
	// Files that it names; what is in them is the caller's to read.
	NetworksPath, WhiteListPath, NotifyScript string
	BGP                                       ImportBGP
	Lines                                     []ImportLine
}

// ImportBGP is what it says of announcements.
type ImportBGP struct {
	On                bool
	NextHop, NextHop6 netip.Addr
	Community         string // of hosts
}

// ImportLine says what became of one line.
type ImportLine struct {
	Line  int    `json:"line"`
	Key   string `json:"key"`
	Value string `json:"value"`
	Fate  string `json:"fate"` // taken, changed, ignored, unsupported
	Note  string `json:"note"`
}

// The fates of lines.
const (
	FateTaken       = "taken"
	FateChanged     = "changed"     // taken in another sense, which the note tells
	FateIgnored     = "ignored"     // means nothing here: weir does it otherwise
	FateUnsupported = "unsupported" // it is missed here
)

const (
	maxImport    = 1 << 20 // octets of a fastnetmon.conf
	mostImported = 65536   // lines
)

// elsewhere are keys of parts that weir has of its own, by prefix.
var elsewhere = []struct{ prefix, note string }{
	{"netflow", "weir collects NetFlow: collect.listen"},
	{"sflow", "weir collects sFlow: collect.listen"},
	{"mirror", "weir meters interfaces: interfaces:"},
	{"pcap", "weir meters interfaces: interfaces:"},
	{"af_packet", "weir meters interfaces: interfaces:"},
	{"interfaces", "name interfaces under interfaces:"},
	{"afpacket", "weir meters interfaces: interfaces:"},
	{"afxdp", "weir meters interfaces: interfaces:"},
	{"xdp", "weir meters interfaces: interfaces:"},
	{"enable_pf_ring", "weir meters interfaces: interfaces:"},
	{"netmap", "weir meters interfaces: interfaces:"},
	{"graphite", "weir has /metrics for Prometheus"},
	{"influxdb", "weir has /metrics for Prometheus"},
	{"clickhouse", "weir has a store of its own"},
	{"prometheus", "weir has /metrics"},
	{"redis", "not kept there: weir guard list -o json"},
	{"mongodb", "not kept there: weir guard list -o json"},
	{"kafka", "not sent there"},
	{"traffic_db", "weir has a store of its own"},
	{"logging", "log:"},
	{"pid_path", "systemd knows"},
	{"cli_stats", "weir show guard"},
	{"sort_parameter", "weir show guard"},
	{"max_ips_in_list", "weir show guard"},
	{"check_period", "thresholds are looked at each second"},
	{"speed_calculation_delay", "thresholds are looked at each second"},
	{"enable_api", "the control socket and the API are always there"},
	{"api_", "the control socket and the API are always there"},
	{"dump_", "weir keeps every flow: weir query"},
	{"collect_attack_pcap", "the evidence has sampled headers"},
	{"process_pcap", "the evidence has sampled headers"},
	{"monitor_openvz", "name networks"},
	{"monitor_local", "name networks"},
	{"build_", "no distribution of packet sizes is kept; the evidence has one"},
	{"keep_", "-"},
	{"notify_script_pass_details", "details are always passed"},
	{"disable_usage_report", "weir reports nothing to anybody"},
	{"enable_subnet_counters", "networks (/24, /64) are always counted"},
	{"system_user", "systemd knows"},
	{"system_group", "systemd knows"},
	{"sampling_ratio", "exporters say it themselves"},
	{"average_calculation", "rates are of one second, and with -10s of ten"},
	{"do_not_", "-"},
	{"override_", "exporters say it themselves"},
	{"enable_connection_tracking", "flows are always counted"},
	{"enable_total_hostgroup_counters", "hostgroups always have totals"},
	{"per_direction_hostgroup", "outgoing traffic has thresholds of its own"},
	{"unban_total", "weir guard lift"},
}

// ReadFastNetMon reads a fastnetmon.conf. Nothing in it is trusted to ban: every
// hostgroup begins in mode observe, and the report says what it was. The report has
// every line that says something; only a file that is none is an error.
func ReadFastNetMon(r io.Reader) (*Import, error) {
	im := &Import{Policy: DefaultPolicy()}
	f := fastnetmon{im: im, groups: map[string]*fastnetmonGroup{}}
	s := bufio.NewScanner(io.LimitReader(r, maxImport+1))
	s.Buffer(nil, 1<<16)
	known := 0
	for n, size := 1, 0; s.Scan(); n++ {
		if size += len(s.Bytes()) + 1; size > maxImport || n > mostImported {
			return nil, errors.New("longer than 1 MiB: no fastnetmon.conf")
		}
		text := strings.TrimSpace(s.Text())
		if text == "" || text[0] == '#' || text[0] == ';' {
			continue
		}
		key, value, ok := strings.Cut(text, "=")
		l := ImportLine{Line: n, Key: strings.TrimSpace(key), Value: strings.TrimSpace(value)}
		if !ok {
			l.Fate, l.Note = FateUnsupported, "no KEY = VALUE"
		} else {
			f.pass1(&l)
			known++
		}
		im.Lines = append(im.Lines, l)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("no fastnetmon.conf: %w", err)
	}
	if known == 0 {
		return nil, errors.New("no KEY = VALUE in it: no fastnetmon.conf")
	}
	for i := range im.Lines {
		if l := &im.Lines[i]; l.Fate == "" {
			f.pass2(l)
		}
	}
	return im, f.finish()
}

// fastnetmon is an import under way. Hostgroups can be used before they are named.
type fastnetmon struct {
	im       *Import
	groups   map[string]*fastnetmonGroup
	order    []string
	outgoing bool
	incoming bool
	main     fastnetmonGroup
}

// fastnetmonGroup is what thresholds a group has, and which of them count.
type fastnetmonGroup struct {
	networks []netip.Prefix
	limits   map[Measure]uint64 // a second: packets, flows, octets
	on       map[Measure]bool
}

func (g *fastnetmonGroup) set(m Measure, rate uint64) {
	if g.limits == nil {
		g.limits = map[Measure]uint64{}
	}
	g.limits[m] = rate
}

func (g *fastnetmonGroup) use(m Measure, on bool) {
	if g.on == nil {
		g.on = map[Measure]bool{}
	}
	g.on[m] = on
}

// pass1 takes what must be known before the rest: hostgroups.
func (f *fastnetmon) pass1(l *ImportLine) {
	if l.Key != "hostgroup" {
		return
	}
	name, list, ok := strings.Cut(l.Value, ":")
	name = strings.TrimSpace(name)
	if !ok || name == "" {
		l.Fate, l.Note = FateUnsupported, "accepted: NAME:NETWORK,NETWORK"
		return
	}
	g := f.groups[name]
	if g == nil {
		if len(f.groups) >= MaxGroups-1 {
			l.Fate, l.Note = FateUnsupported, fmt.Sprintf("more than %d hostgroups", MaxGroups-1)
			return
		}
		g = &fastnetmonGroup{}
		f.groups[name] = g
		f.order = append(f.order, name)
	}
	l.Fate = FateTaken
	for s := range strings.SplitSeq(list, ",") {
		p, err := parsePrefix(strings.TrimSpace(s))
		if err != nil {
			l.Fate, l.Note = FateUnsupported, err.Error()
			continue
		}
		if other := f.owner(p); other != "" {
			l.Fate, l.Note = FateChanged, fmt.Sprintf("%s is in %s already", p, other)
			continue
		}
		g.networks = append(g.networks, p)
	}
}

// owner is the hostgroup that has p.
func (f *fastnetmon) owner(p netip.Prefix) string {
	for _, name := range f.order {
		if slices.Contains(f.groups[name].networks, p) {
			return name
		}
	}
	return ""
}

// parsePrefix also takes an address, and cuts bits beyond the mask, as FastNetMon does.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return p, fmt.Errorf("%.60q is no network", s)
	}
	return p.Masked(), nil
}

// ReadNetworks reads a networks_list or networks_whitelist: one network a line. Lines
// that are none are told of, not taken.
func ReadNetworks(r io.Reader) (list []netip.Prefix, wrong []error) {
	s := bufio.NewScanner(io.LimitReader(r, 64<<20))
	for n := 1; s.Scan(); n++ {
		text, _, _ := strings.Cut(s.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := parsePrefix(text)
		switch {
		case err != nil:
			if len(wrong) < 10 {
				wrong = append(wrong, fmt.Errorf("line %d: %w", n, err))
			}
		case len(list) >= 1<<20:
			return list, append(wrong, errors.New("more than 1 Mi networks"))
		default:
			list = append(list, p)
		}
	}
	if err := s.Err(); err != nil {
		wrong = append(wrong, err)
	}
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(list), wrong
}

// banFor are the switches of thresholds: ban_for_… beside threshold_….
var banFor = map[string]Measure{
	"pps": Packets, "bandwidth": Bytes, "flows": Flows, "tcp_pps": TCPPackets, "tcp_bandwidth": TCPBytes, "udp_pps": UDPPackets, "udp_bandwidth": UDPBytes,
	"icmp_pps": ICMPPackets, "icmp_bandwidth": ICMPBytes, "tcp_syn_pps": SYNPackets, "tcp_syn_bandwidth": SYNBytes, "ip_fragments_pps": FragPackets,
	"ip_fragments_bandwidth": FragBytes,
}

func onOff(s string) (on, ok bool) {
	switch strings.ToLower(s) {
	case "on", "yes", "true", "1", "enable", "enabled":
		return true, true
	case "off", "no", "false", "0", "disable", "disabled":
		return false, true
	}
	return false, false
}

// pass2 takes a line.
func (f *fastnetmon) pass2(l *ImportLine) {
	key, g := l.Key, &f.main
	for _, name := range f.order {
		if rest, ok := strings.CutPrefix(key, name+"_"); ok {
			key, g = rest, f.groups[name]
		}
	}
	l.Fate = FateTaken
	bad := func(accepted string) { l.Fate, l.Note = FateUnsupported, "accepted: "+accepted }
	on, isSwitch := onOff(l.Value)
	p := &f.im.Policy
	switch {
	case strings.HasPrefix(key, "threshold_"):
		limit, err := ParseLimit(key, l.Value)
		if err != nil {
			l.Fate, l.Note = FateUnsupported, err.Error()
			return
		}
		g.set(limit.Measure, limit.Rate)
	case strings.HasPrefix(key, "ban_for_"):
		m, known := banFor[strings.TrimPrefix(key, "ban_for_")]
		if !known || !isSwitch {
			bad("ban_for_ one of FastNetMon's thresholds, on or off")
			return
		}
		g.use(m, on)
	case key == "enable_ban" || key == "enable_ban_ipv6" || key == "enable_ban_hostgroup" || key == "enable_ban_remote_outgoing":
		if !isSwitch {
			bad("on, off")
			return
		}
		l.Fate, l.Note = FateChanged, "mode: observe, which tells of attacks and does nothing; automatic is what on means"
		if !on {
			l.Note = "mode: observe, which tells of attacks all the same"
		}
	case key == "ban_time":
		n, err := strconv.ParseUint(l.Value, 10, 31)
		if err != nil {
			bad("seconds")
			return
		}
		if n == 0 {
			l.Fate, l.Note = FateChanged, "nothing lasts for ever: max-hold 30d"
			n = 30 * 86400
		} else {
			l.Fate, l.Note = FateChanged, "max-hold: the first hold is a minute, and doubles up to this"
		}
		p.Groups[0].MaxHold = max(time.Second, time.Duration(n)*time.Second)
		p.Groups[0].Hold = min(p.Groups[0].Hold, p.Groups[0].MaxHold)
	case key == "unban_enabled" && isSwitch:
		l.Fate, l.Note = FateChanged, "everything ends here; max-hold says when"
	case key == "unban_only_if_attack_finished":
		if !isSwitch {
			bad("on, off")
			return
		}
		p.Groups[0].WhileAttacked, l.Note = on, "while-attacked"
	case key == "process_incoming_traffic" && isSwitch:
		f.incoming = on
		if !on {
			l.Fate, l.Note = FateChanged, "no thresholds for incoming traffic"
		}
	case key == "process_outgoing_traffic" && isSwitch:
		f.outgoing = on
	case key == "networks_list_path":
		f.im.NetworksPath = l.Value
	case key == "white_list_path":
		f.im.WhiteListPath, l.Note = l.Value, "allow: whatever is in it is counted, but never acted upon"
	case key == "notify_script_path":
		f.im.NotifyScript, l.Note = l.Value, "notify.script, called with FastNetMon's arguments"
	case key == "notify_script_enabled" && isSwitch:
		if !on {
			l.Fate, l.Note = FateChanged, "leave notify.script out"
		}
	case key == "ban_details_records_count":
		l.Fate, l.Note = FateIgnored, fmt.Sprintf("the evidence is a sample of up to %d flow entries, %d of them shown", sampleSize, mostHeaders)
	case key == "gobgp" || key == "exabgp":
		f.im.BGP.On = on
		l.Fate, l.Note = FateChanged, "weir speaks BGP itself: guard.bgp, which needs neighbours; announce: rtbh"
	case key == "gobgp_next_hop" || key == "gobgp_next_hop_host_ipv4" || key == "exabgp_next_hop":
		if a, err := netip.ParseAddr(l.Value); err != nil {
			bad("an address")
		} else {
			f.im.BGP.NextHop, l.Note = a, "guard.bgp.next-hop"
		}
	case key == "gobgp_next_hop_ipv6" || key == "gobgp_next_hop_host_ipv6":
		if a, err := netip.ParseAddr(l.Value); err != nil {
			bad("an address")
		} else {
			f.im.BGP.NextHop6, l.Note = a, "guard.bgp.next-hop6"
		}
	case key == "gobgp_community_host" || key == "gobgp_community_host_ipv4" || key == "exabgp_community" || key == "exabgp_community_host":
		f.im.BGP.Community, l.Note = l.Value, "guard.bgp.communities"
	case key == "gobgp_announce_host" || key == "exabgp_announce_host" || key == "gobgp_announce_host_ipv6":
		l.Note = "rtbh announces the victim's address"
		if !on {
			l.Fate = FateChanged
		}
	case strings.HasPrefix(key, "gobgp_") || strings.HasPrefix(key, "exabgp_"):
		l.Fate, l.Note = FateUnsupported, "rtbh announces the victim's address only; see guard.bgp"
		if isSwitch && !on {
			l.Fate = FateIgnored
		}
	case strings.HasPrefix(key, "calculation_method"):
		l.Fate, l.Note = FateIgnored, "hostgroups have thresholds for each host, and total for all"
	default:
		for _, e := range elsewhere {
			if strings.HasPrefix(l.Key, e.prefix) {
				l.Fate, l.Note = FateIgnored, strings.TrimPrefix(e.note, "-")
				return
			}
		}
		l.Fate, l.Note = FateUnsupported, "weir does not know it"
	}
}

// limits are those that count: the three that FastNetMon has switched on unless it says
// otherwise, and what it says.
func (g *fastnetmonGroup) chosen(parent *fastnetmonGroup) (list []Limit) {
	defaults := map[Measure]uint64{Packets: 20_000, Bytes: 125_000_000, Flows: 3500}
	on := map[Measure]bool{Packets: true, Bytes: true}
	for _, n := range limitNames {
		m := n.measure
		rate := cmp.Or(g.limits[m], defaults[m])
		use := on[m]
		if parent != nil {
			rate = cmp.Or(g.limits[m], parent.limits[m], defaults[m])
			if v, said := parent.on[m]; said {
				use = v
			}
		}
		if v, said := g.on[m]; said {
			use = v
		}
		if use && rate > 0 {
			list = append(list, Limit{Measure: m, Rate: rate})
		}
	}
	return list
}

// finish makes the policy of what was read.
func (f *fastnetmon) finish() error {
	p := &f.im.Policy
	p.Groups[0].Hosts = f.main.chosen(nil)
	p.Groups[0].Outgoing = nil
	if f.outgoing {
		p.Groups[0].Outgoing = p.Groups[0].Hosts
	}
	for _, name := range f.order {
		g := p.Groups[0]
		g.Name, g.Networks = name, f.groups[name].networks
		if name == p.Groups[0].Name {
			g.Name += "-hostgroup"
		}
		if len(g.Networks) == 0 {
			continue
		}
		g.Hosts = f.groups[name].chosen(&f.main)
		g.Outgoing = nil
		if f.outgoing {
			g.Outgoing = g.Hosts
		}
		p.Groups = append(p.Groups, g)
	}
	for i := range p.Groups {
		if f.said("process_incoming_traffic") && !f.incoming {
			p.Groups[i].Hosts = nil
		}
	}
	for i := range f.im.Lines {
		l := &f.im.Lines[i]
		if l.Fate != FateTaken || !strings.HasPrefix(l.Key, "threshold_") {
			continue
		}
		if limit, err := ParseLimit(l.Key, l.Value); err == nil && !slices.ContainsFunc(p.Groups[0].Hosts, func(h Limit) bool { return h.Measure == limit.Measure }) {
			l.Fate, l.Note = FateIgnored, "its ban_for_ is not on"
		}
	}
	return p.Check()
}

func (f *fastnetmon) said(key string) bool {
	return slices.ContainsFunc(f.im.Lines, func(l ImportLine) bool { return l.Key == key && l.Fate != FateUnsupported })
}
