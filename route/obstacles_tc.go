package route

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	ebpflink "github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// shapers are the queueing disciplines that hold packets back or choose among
// them by who sent them.
var shapers = []string{"tbf", "htb", "hfsc", "cbq", "cake", "netem", "prio", "drr", "qfq", "ets", "atm", "dualpi2"}

const (
	tcHead    = 20 // struct tcmsg
	tcKind    = 1  // TCA_KIND
	tcOptions = 2  // TCA_OPTIONS
)

// trafficControl lists shapers and the filters and programs of others.
func trafficControl(ours func(program uint32) bool) (found []Obstacle, err error) {
	names := map[uint32]string{}
	if err := eachLink(func(i uint32, name string, _ link) { names[i] = name }); err != nil {
		return nil, err
	}
	var filtered []uint32 // interfaces that have a place for filters
	seen := map[string]bool{}
	err = listing(unix.NETLINK_ROUTE, unix.RTM_GETQDISC, make([]byte, tcHead), func(m message) bool {
		if len(m.body) < tcHead {
			return false
		}
		i, kind := order.Uint32(m.body[4:]), text(find(m.body[tcHead:], tcKind))
		switch {
		case (kind == "clsact" || kind == "ingress") && !slices.Contains(filtered, i):
			filtered = append(filtered, i)
		case slices.Contains(shapers, kind) && !seen[kind+" "+names[i]]:
			seen[kind+" "+names[i]] = true
			found = append(found, Obstacle{
				Kind: Shaper, Name: kind, Interface: names[i],
				Text: "the queueing discipline " + kind + " does not see what is forwarded in XDP: it is neither shaped nor put in order; forward with the kernel to interfaces where that matters",
			})
		}
		return true
	}, func() { found, filtered = nil, nil; clear(seen) })
	if err != nil {
		return found, fmt.Errorf("queueing disciplines: %w", err)
	}
	for _, i := range filtered {
		for _, point := range tcPoints {
			list, e := tcFilters(i, point, ours)
			for _, what := range list {
				found = append(found, programObstacle(what, point.name, names[i]))
			}
			err = errors.Join(err, e)
		}
	}
	for i, name := range names {
		for _, point := range tcPoints {
			list, e := tcxPrograms(i, point.attach, ours)
			for _, what := range list {
				found = append(found, programObstacle(what, point.name, name))
			}
			err = errors.Join(err, e)
		}
	}
	return found, err
}

type tcPoint struct {
	name   string
	parent uint32
	attach ebpf.AttachType
}

var tcPoints = []tcPoint{
	{"ingress", 0xfffffff2, ebpf.AttachTCXIngress}, // TC_H_CLSACT, TC_H_MIN_INGRESS
	{"egress", 0xfffffff3, ebpf.AttachTCXEgress},
}

func programObstacle(what, point, ifname string) Obstacle {
	return Obstacle{
		Kind: Program, Name: what, Interface: ifname,
		Text: what + " at " + point + " does not see what is forwarded in XDP; what it does cannot be known from here: forward with the kernel if it filters or changes packets",
	}
}

// tcFilters are the filters of others at a point of clsact.
func tcFilters(ifindex uint32, point tcPoint, ours func(uint32) bool) (found []string, err error) {
	const bpfID = 11 // TCA_BPF_ID
	body := make([]byte, tcHead)
	order.PutUint32(body[4:], ifindex)
	order.PutUint32(body[12:], point.parent)
	err = listing(unix.NETLINK_ROUTE, unix.RTM_GETTFILTER, body, func(m message) bool {
		if len(m.body) < tcHead {
			return false
		}
		if order.Uint32(m.body[8:]) == 0 {
			return true // the head of a priority, not a filter
		}
		kind := text(find(m.body[tcHead:], tcKind))
		if id := u32(find(find(m.body[tcHead:], tcOptions), bpfID)); id != 0 {
			if ours != nil && ours(id) {
				return true
			}
			found = append(found, fmt.Sprintf("TC program %d", id))
			return true
		}
		if what := "TC filter " + kind; !slices.Contains(found, what) {
			found = append(found, what)
		}
		return true
	}, func() { found = nil })
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
		return found, nil // the qdisc has no such point, or has just gone
	}
	if err != nil {
		return found, fmt.Errorf("TC filters: %w", err)
	}
	return found, nil
}

// tcxPrograms are the programs of others that are linked to a point.
func tcxPrograms(ifindex uint32, at ebpf.AttachType, ours func(uint32) bool) (found []string, err error) {
	all, err := ebpflink.QueryPrograms(ebpflink.QueryOptions{Target: int(ifindex), Attach: at})
	switch {
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("TCX programs: %w", err)
	}
	for _, p := range all.Programs {
		if ours == nil || !ours(uint32(p.ID)) {
			found = append(found, fmt.Sprintf("TCX program %d", p.ID))
		}
	}
	return found, nil
}
