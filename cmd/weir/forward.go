package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"weir/bpf"
	"weir/config"
	"weir/console"
	"weir/datapath"
	"weir/hook"
	"weir/host"
	"weir/route"
	"weir/rows"
)

// forwardChoice is what an interface forwards, as its configuration says.
func forwardChoice(c config.Interface) datapath.ForwardChoice {
	f := datapath.ForwardChoice{On: c.Forward != config.ForwardsOff, Force: c.Forward == config.ForwardsForce}
	switch c.URPF {
	case "strict":
		f.URPF = datapath.URPFStrict
	case "loose":
		f.URPF = datapath.URPFLoose
	}
	return f
}

// forwarder is the datapath of this process, if there is one.
func (n *node) forwarder() (*datapath.Datapath, error) {
	m, _, _ := n.rooms()
	if f, ok := m.(filtering); ok {
		if d := f.inKernel(); d != nil {
			return d, nil
		}
	}
	return nil, datapath.ErrNoForwarding
}

// shownRoute is a row of `weir show routes`: a next hop, or what became of packets
// that came in by an interface.
type shownRoute struct {
	Kind      string  `json:"kind"` // next-hop, packets
	Interface string  `json:"interface"`
	Address   string  `json:"address,omitempty"`
	MAC       string  `json:"mac,omitempty"`
	Device    string  `json:"device,omitempty"`
	VLAN      *uint16 `json:"vlan,omitempty"`
	MTU       *uint16 `json:"mtu,omitempty"`
	State     string  `json:"state,omitempty"` // alive, dead
	Flows     *uint64 `json:"flows"`
	Reason    string  `json:"reason,omitempty"`
	Packets   *uint64 `json:"packets,omitempty"`
	Help      string  `json:"help,omitempty"`
}

// routes are the rows of `weir show routes`.
func (n *node) routes() ([]shownRoute, error) {
	d, err := n.forwarder()
	if err != nil {
		return nil, err
	}
	r, err := d.Routes()
	if err != nil {
		return nil, err
	}
	name := interfaceNamer()
	list := []shownRoute{}
	for _, h := range r.NextHops {
		x := shownRoute{Kind: "next-hop", Interface: name(h.Interface), Address: h.Address.String(), MAC: h.MAC.String(), Device: name(h.Device), MTU: &h.MTU, State: "dead", Flows: &h.Flows}
		if h.Alive {
			x.State = "alive"
		}
		if h.VLAN != 0 {
			x.VLAN = &h.VLAN
		}
		list = append(list, x)
	}
	for _, f := range r.Fates {
		x := shownRoute{Kind: "packets", Interface: name(f.Interface), Reason: f.Why.String(), Packets: &f.Packets, Help: f.Why.Help()}
		if f.Why == bpf.Forwarded || f.Why >= bpf.WhyLocal {
			x.Flows = &f.Flows
		}
		list = append(list, x)
	}
	return list, nil
}

// interfaceNamer names interfaces by their indexes.
func interfaceNamer() func(uint32) string {
	names := map[uint32]string{}
	if all, err := host.Links(); err == nil {
		for _, i := range all {
			names[i.Index] = i.Name
		}
	}
	return func(index uint32) string {
		if s := names[index]; s != "" {
			return s
		}
		return fmt.Sprintf("#%d", index)
	}
}

// addFates says of an interface how many packets were forwarded, and how many were
// left to the kernel, by reason.
func (n *node) addFates(x *console.Interface) {
	d, err := n.forwarder()
	if err != nil {
		return
	}
	counts, ok := d.Fates(x.Index)
	if !ok {
		return
	}
	x.Forwarded = &counts[bpf.Forwarded]
	for _, why := range bpf.AllWhys()[1:] {
		if counts[why] > 0 {
			x.Slow = append(x.Slow, console.Count{Name: why.String(), Count: counts[why]})
		}
	}
}

// forwardSamples are the metrics of forwarding.
func (n *node) forwardSamples(counter func(name, help string, v uint64, labels ...string), gauge func(name, help string, v float64, labels ...string)) {
	d, err := n.forwarder()
	if err != nil {
		return
	}
	hops, watch, ok := d.Watching()
	if !ok {
		return
	}
	for _, p := range d.Plans() {
		counts, ok := d.Fates(p.Ifindex)
		if !ok {
			continue
		}
		for _, why := range bpf.AllWhys() {
			counter("weir_forward_packets_total", "Packets that came in where the flow cache forwards: forwarded, or why they were left to the kernel.", counts[why], "interface", p.Interface, "fate", why.String())
		}
	}
	gauge("weir_forward_next_hops", "Next hops that the flow cache can send to.", float64(hops))
	counter("weir_forward_invalidations_total", "Changes of the routing table that made flows ask it again.", watch.Invalidations+watch.InvalidationsAll)
	counter("weir_forward_overruns_total", "Times that the kernel's messages about routes were lost, and all was asked again.", watch.Overruns)
}

// routes prints two tables: next hops, and what became of packets, an interface a
// column.
func (c *showCmd) routes(a *app, client *http.Client) error {
	list, err := fetch(client, views["routes"])
	if err != nil {
		return err
	}
	var hops, fates []map[string]any
	for _, x := range list {
		if x["kind"] == "next-hop" {
			hops = append(hops, x)
		} else {
			fates = append(fates, x)
		}
	}
	v := views["routes"]
	v.columns, v.drop, v.cut = strings.Fields("interface address mac device vlan mtu state flows"), []string{"device", "vlan", "mtu", "mac"}, ""
	if err := c.print(a, v, rows.Table, hops); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	v.columns, v.drop, v.cut = []string{"packets"}, []string{"help"}, "help"
	byReason := map[any]map[string]any{}
	var lines []map[string]any
	for _, x := range fates {
		name, line := fmt.Sprint(x["interface"]), byReason[x["reason"]]
		if line == nil {
			line = map[string]any{"packets": x["reason"], "help": x["help"]}
			byReason[x["reason"]] = line
			lines = append(lines, line)
		}
		if line[name] = x["packets"]; !slices.Contains(v.columns, name) {
			v.columns = append(v.columns, name)
		}
	}
	v.columns = append(v.columns, "help")
	return c.print(a, v, rows.Table, lines)
}

// forwardFindings are the doctor's about interfaces that forward.
func forwardFindings(ctx context.Context, conf *config.Config) []host.Finding {
	var forward []string
	for _, name := range slices.Sorted(maps.Keys(conf.Interfaces)) {
		if conf.Interfaces[name].Forward != config.ForwardsOff {
			forward = append(forward, name)
		}
	}
	if len(forward) == 0 {
		return nil
	}
	own := map[uint32]bool{}
	if list, err := hook.List(hookOptions()); err == nil {
		for _, a := range list {
			own[uint32(a.Program)] = true
		}
	}
	found, err := route.Obstacles(ctx, func(id uint32) bool { return own[id] })
	return route.Findings(found, err, forward, func(name string) bool { return conf.Interfaces[name].Forward == config.ForwardsForce })
}
