package route

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind of an Obstacle.
type Kind string

const (
	NAT      Kind = "NAT"
	Stateful Kind = "stateful filter" // rules that ask connection tracking
	Filter   Kind = "filter"
	IPsec    Kind = "IPsec"
	IPVS     Kind = "IPVS"
	Program  Kind = "TC filter" // of others, a program mostly
	Shaper   Kind = "queueing discipline"
	RPFilter Kind = "rp_filter"
	Bridge   Kind = "bridge filter"
)

// Obstacle is something in the kernel's way of a packet that forwarding in XDP
// passes by.
type Obstacle struct {
	Kind      Kind
	Name      string // where it is: "inet filter forward"
	Interface string // that alone it concerns; empty: all
	// Refuses: without it packets pass that should be stopped, changed or
	// encrypted. Where it is false only the choice or the order of packets suffers,
	// or what it does cannot be known.
	Refuses bool
	Text    string // what is bypassed, and what to do; one line
}

// Obstacles lists what forwarding in XDP would bypass, in the network namespace
// of the calling thread. ours says which BPF programs are weir's own; nil: none.
// What could not be looked at is in the error; the rest is listed all the same.
func Obstacles(ctx context.Context, ours func(program uint32) bool) (found []Obstacle, err error) {
	for _, look := range []func() ([]Obstacle, error){
		nftables, iptables, ipsec, ipvs, func() ([]Obstacle, error) { return trafficControl(ours) }, rpFilter, bridgeFilter,
	} {
		if ctx.Err() != nil {
			return found, ctx.Err()
		}
		list, e := look()
		found = append(found, list...)
		err = errors.Join(err, e)
	}
	slices.SortStableFunc(found, func(a, b Obstacle) int { return rank(a) - rank(b) })
	return found, err
}

// rank puts first what refuses.
func rank(o Obstacle) int {
	if o.Refuses {
		return 0
	}
	return 1
}

// absent says that the kernel has no such thing at all.
func absent(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) || errors.Is(err, os.ErrNotExist)
}

// listing asks a netlink family for a list, again where it changed meanwhile.
func listing(protocol int, kind uint16, body []byte, take func(message) bool, again func()) error {
	const tries = 5
	a, err := openAsker(protocol)
	if err != nil {
		if absent(err) {
			return nil
		}
		return err
	}
	defer a.close()
	for range tries {
		again()
		err = a.list(kind, body, take)
		if !errors.Is(err, errInterrupted) {
			break
		}
	}
	if absent(err) || errors.Is(err, unix.EINVAL) && protocol == unix.NETLINK_NETFILTER {
		return nil // a kernel without the subsystem
	}
	return err
}

// ipsec counts policies for what is forwarded or sent. Under one, packets would
// leave in the clear, or come in though they should have been encrypted.
func ipsec() ([]Obstacle, error) {
	const (
		getPolicy, newPolicy = 0x15, 0x13 // XFRM_MSG_…
		idSize, infoSize     = 64, 168    // struct xfrm_userpolicy_id, …_info
		direction            = 160        // in the latter
		out, forward         = 1, 2
	)
	n := 0
	err := listing(unix.NETLINK_XFRM, getPolicy, make([]byte, idSize), func(m message) bool {
		if m.kind == newPolicy && len(m.body) >= infoSize {
			if d := m.body[direction]; d == out || d == forward {
				n++
			}
		}
		return true
	}, func() { n = 0 })
	if err != nil {
		return nil, fmt.Errorf("IPsec policies: %w", err)
	}
	if n == 0 {
		return nil, nil
	}
	return []Obstacle{{
		Kind: IPsec, Name: "xfrm", Refuses: true,
		Text: fmt.Sprintf("%s would be passed by: packets would leave in the clear; forward with the kernel where IPsec is used", some(n, "IPsec policy", "IPsec policies")),
	}}, nil
}

// some is "1 rule", "2 rules".
func some(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + more
}

// perThread is a file of /proc/net in the namespace of the calling thread.
func perThread(name string) ([]byte, error) { return os.ReadFile("/proc/thread-self/net/" + name) }

func ipvs() ([]Obstacle, error) {
	b, err := perThread("ip_vs")
	if err != nil {
		if absent(err) {
			return nil, nil
		}
		return nil, err
	}
	if n := virtualServices(b); n > 0 {
		return []Obstacle{{
			Kind: IPVS, Name: "ip_vs", Refuses: true,
			Text: fmt.Sprintf("%s of IPVS would get no packets where their address is not this machine's; forward with the kernel", some(n, "virtual service", "virtual services")),
		}}, nil
	}
	return nil, nil
}

// virtualServices counts those in /proc/net/ip_vs; their real servers begin with
// "->".
func virtualServices(b []byte) (n int) {
	for line := range bytes.Lines(b) {
		for _, p := range []string{"TCP ", "UDP ", "SCTP ", "FWM "} {
			if bytes.HasPrefix(line, []byte(p)) {
				n++
			}
		}
	}
	return n
}

// sysctl reads a number below /proc/sys/net, of the calling thread's namespace.
func sysctl(path string) int {
	b, err := os.ReadFile("/proc/sys/net/" + path)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// rpFilter finds the interfaces that check sources.
func rpFilter() (found []Obstacle, err error) {
	list, err := filepath.Glob("/proc/sys/net/ipv4/conf/*")
	if err != nil {
		return nil, err
	}
	every := sysctl("ipv4/conf/all/rp_filter")
	for _, path := range list {
		name := filepath.Base(path)
		if name == "all" || name == "default" || name == "lo" {
			continue
		}
		mode := ""
		switch max(every, sysctl("ipv4/conf/"+name+"/rp_filter")) { // ip-sysctl: the greater of the two
		case 1:
			mode = "strict"
		case 2:
			mode = "loose"
		default:
			continue
		}
		found = append(found, Obstacle{
			Kind: RPFilter, Name: "rp_filter", Interface: name,
			Text: fmt.Sprintf("the kernel's check of sources (%s) does not see what is forwarded in XDP; set urpf: %s for the interface", mode, mode),
		})
	}
	return found, nil
}

// bridgeFilter finds bridges whose frames netfilter sees.
func bridgeFilter() ([]Obstacle, error) {
	if sysctl("bridge/bridge-nf-call-iptables") == 0 && sysctl("bridge/bridge-nf-call-ip6tables") == 0 {
		return nil, nil
	}
	var found []Obstacle
	err := eachLink(func(_ uint32, name string, l link) {
		if l.kind == "bridge" {
			found = append(found, Obstacle{
				Kind: Bridge, Name: "br_netfilter", Interface: name,
				Text: "rules for what the bridge carries do not see what is forwarded in XDP by its ports; set net.bridge.bridge-nf-call-iptables and -ip6tables to 0 if no such rules are meant",
			})
		}
	})
	return found, err
}

// eachLink lists the interfaces.
func eachLink(yield func(ifindex uint32, name string, l link)) error {
	type named struct {
		ifindex uint32
		name    string
		l       link
	}
	var all []named
	err := listing(unix.NETLINK_ROUTE, unix.RTM_GETLINK, make([]byte, unix.SizeofIfInfomsg), func(m message) bool {
		i, l, ok, sound := parseLink(m.body)
		if ok {
			all = append(all, named{i, text(find(m.body[unix.SizeofIfInfomsg:], unix.IFLA_IFNAME)), l})
		}
		return sound
	}, func() { all = all[:0] })
	if err != nil {
		return fmt.Errorf("listing interfaces: %w", err)
	}
	for _, n := range all {
		yield(n.ifindex, n.name, n.l)
	}
	return nil
}
