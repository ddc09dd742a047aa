package hook

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cilium/ebpf"
)

// Before TCX (kernel 6.6) a program in TC is a filter of the clsact qdisc. It
// belongs to the interface, not to a process: the mark tells ours.
const (
	filterName   = "weir"
	filterHandle = 0x77656972 // the same in ASCII
)

func clsactParent(point Point) uint32 {
	if point == Egress {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

// clsactQdisc is the qdisc that filters of the two points hang in: clsact,
// ingress (which has no egress), or none.
func clsactQdisc(ifindex uint32) (string, error) {
	all, err := netlink.QdiscList(device(ifindex))
	if err != nil {
		return "", fmt.Errorf("listing qdiscs: %w", err)
	}
	for _, q := range all {
		if q.Attrs().LinkIndex == int(ifindex) && q.Attrs().Parent == netlink.HANDLE_CLSACT {
			return q.Type(), nil
		}
	}
	return "", nil
}

// clsactRefused says why filters of a point cannot be had on an interface.
func clsactRefused(ifindex uint32, point Point) (string, error) {
	kind, err := clsactQdisc(ifindex)
	if err == nil && kind == "ingress" && point == Egress {
		return "somebody's ingress qdisc is in the place of clsact, which egress needs", nil
	}
	return "", err
}

// addClsact makes the qdisc and says whether it was not there.
func addClsact(ifindex uint32) (made bool, err error) {
	if kind, err := clsactQdisc(ifindex); err != nil || kind != "" {
		return false, err
	}
	err = netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: int(ifindex), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
	if errors.Is(err, unix.EEXIST) {
		return false, nil // somebody was faster
	}
	if err != nil {
		return false, fmt.Errorf("adding a clsact qdisc: %w", err)
	}
	return true, nil
}

// removeClsact removes the qdisc if no filter is left in it.
func removeClsact(ifindex uint32) error {
	for _, point := range []Point{Ingress, Egress} {
		filters, err := netlink.FilterList(device(ifindex), clsactParent(point))
		if err != nil {
			return fmt.Errorf("listing TC filters: %w", err)
		}
		if len(filters) > 0 {
			return nil // somebody uses it
		}
	}
	err := netlink.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: int(ifindex), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
	if err != nil && !gone(err) {
		return fmt.Errorf("removing the clsact qdisc: %w", err)
	}
	return nil
}

// clsactPriority is the first one that a new filter can have: within a priority
// all are BPF filters for all protocols, and a new one goes first.
func clsactPriority(there []attached) uint16 {
	for priority := uint16(1); ; priority++ {
		fits := true
		for _, a := range there {
			if a.Priority == priority && a.How != Clsact && a.How != TCX {
				fits = false
			}
		}
		if fits {
			return priority
		}
	}
}

// addFilter puts our filter in its place, or a new program in the one that is
// there without a pin.
func addFilter(ifindex uint32, point Point, program *ebpf.Program) error {
	there, err := clsactFilters(ifindex, point)
	if err != nil {
		return err
	}
	priority := clsactPriority(there)
	for _, a := range there {
		if a.mark {
			priority = a.Priority
		}
	}
	// A priority may be taken for one protocol only, which the list does not
	// tell: the kernel does.
	for range there {
		if err := setFilter(ifindex, point, priority, program); !errors.Is(err, unix.EINVAL) {
			return err
		}
		priority++
	}
	return setFilter(ifindex, point, priority, program)
}

// ourPriority is that of our filter.
func ourPriority(ifindex uint32, point Point) (uint16, error) {
	there, err := clsactFilters(ifindex, point)
	if err != nil {
		return 0, err
	}
	for _, a := range there {
		if a.mark {
			return a.Priority, nil
		}
	}
	return 0, fmt.Errorf("the TC %s filter is not there any more", point)
}

// setFilter adds our filter, or replaces its program in one step.
func setFilter(ifindex uint32, point Point, priority uint16, program *ebpf.Program) error {
	if err := netlink.FilterReplace(filter(ifindex, point, priority, program.FD())); err != nil {
		return fmt.Errorf("TC %s filter: %w", point, err)
	}
	return nil
}

// removeFilter takes ours off; another one than ours stays.
func removeFilter(ifindex uint32, point Point) error {
	there, err := clsactFilters(ifindex, point)
	if err != nil {
		return err
	}
	for _, a := range there {
		if !a.mark {
			continue
		}
		if err := netlink.FilterDel(filter(ifindex, point, a.Priority, -1)); err != nil && !gone(err) {
			return fmt.Errorf("removing the TC %s filter: %w", point, err)
		}
	}
	return nil
}

func filter(ifindex uint32, point Point, priority uint16, fd int) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: int(ifindex), Parent: clsactParent(point), Handle: filterHandle, Priority: priority, Protocol: unix.ETH_P_ALL,
		},
		Fd: fd, Name: filterName, DirectAction: true,
	}
}

// gone: what was to be removed is not there any more, or its interface is not.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL)
}
