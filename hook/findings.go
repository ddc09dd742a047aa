package hook

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"weir/host"
)

// Findings is what the doctor says of programs in the kernel: what the kernel
// has, where the pins are, what is attached by them, and how each chosen
// interface would be metered. want is the mode of an interface; nil: Auto.
// Nothing is changed.
func Findings(o Options, chosen []host.Interface, want func(ifname string) Mode) []host.Finding {
	k := Probe(o)
	found := k.findings()
	own, err := List(o)
	if k.Refused == nil {
		found = append(found, bpffsFinding(o))
	}
	found = append(found, pinFindings(o, own, err)...)
	for _, i := range chosen {
		mode := Auto
		if want != nil {
			mode = want(i.Name)
		}
		found = append(found, k.interfaceFindings(i, mode, own)...)
	}
	return found
}

// findings are of the kernel.
func (f *Features) findings() []host.Finding {
	main := host.Finding{Check: "programs", State: host.OK}
	if f.Refused != nil {
		main.State, main.Found = host.Warn, "the kernel takes none: "+oneLine(f.Refused)+"; interfaces are metered by AF_PACKET"
		main.Fix = "run on kernel 5.15 or later"
		if slices.Contains(f.Lacking, "CAP_BPF") || slices.Contains(f.Lacking, "CAP_NET_ADMIN") {
			main.Fix = "run as root, or with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_NET_RAW"
		} else if f.options.NoBPF {
			main.Fix = "leave the option away"
		}
		return []host.Finding{main}
	}
	have, lack := []string{"XDP"}, []string(nil)
	add := func(there bool, name, without string) {
		if there {
			have = append(have, name)
		} else {
			lack = append(lack, without)
		}
	}
	add(f.Fragments, "fragments", "no XDP fragments (5.18): large MTUs go by TC")
	add(f.TCX, "TCX", "no TCX (6.6): filters of clsact are used")
	add(f.Link, "links", "no XDP links (5.9)")
	if f.Hz > 0 {
		have = append(have, fmt.Sprintf("clock of %d Hz", f.Hz))
	} else {
		have = append(have, "clock measured")
	}
	if f.Lockdown != "" {
		have = append(have, "lockdown "+f.Lockdown)
	}
	if f.Membarrier != nil {
		lack = append(lack, oneLine(f.Membarrier))
	}
	main.Found = strings.Join(have, ", ")
	if len(lack) > 0 {
		main.Found += "; " + strings.Join(lack, "; ")
	}
	found := []host.Finding{main}
	if !f.JIT {
		found = append(found, host.Finding{
			Check: "JIT", State: host.Warn, Found: "off: programs are interpreted, which is slow",
			Fix: "sysctl -w net.core.bpf_jit_enable=1",
		})
	}
	if len(f.Lacking) > 0 {
		found = append(found, host.Finding{
			Check: "capabilities", State: host.Warn, Found: "without " + strings.Join(f.Lacking, ", "),
			Fix: "run as root, or with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_NET_RAW",
		})
	}
	return found
}

func bpffsFinding(o Options) host.Finding {
	f := host.Finding{Check: "bpffs", State: host.OK}
	p, err := findPlace(o, false)
	switch {
	case err == nil:
		defer p.close()
		f.Found = p.name
		if p.warning != "" {
			f.State, f.Found, f.Fix = host.Warn, p.warning, mountIt+" in the mount namespace of process 1"
		}
	case errors.Is(err, errNoBPFFS) && host.Capabilities()&(1<<unix.CAP_SYS_ADMIN) != 0:
		f.Found = "not mounted yet: weir mounts it when it meters"
	case errors.Is(err, errNoBPFFS):
		f.State, f.Found, f.Fix = host.Warn, "not mounted, and weir may not mount it: it would meter by AF_PACKET", mountIt
	default:
		f.State, f.Found, f.Fix = host.Warn, oneLine(err), "run as root"
	}
	return f
}

// pinFindings are what the folders of pins hold.
func pinFindings(o Options, own []Attachment, err error) (found []host.Finding) {
	pid, held := Holder(o)
	daemon := "no weir runs"
	if held {
		daemon = "held by a running weir"
		if pid > 0 {
			daemon = fmt.Sprintf("held by process %d", pid)
		}
	}
	name, _ := Dir(o)
	switch {
	case err != nil:
		found = append(found, host.Finding{Check: "pins", State: host.Warn, Found: oneLine(err), Fix: "run as root"})
	case len(own) > 0:
		var alive, dead []string
		for _, a := range own {
			if a.Alive {
				alive = append(alive, fmt.Sprintf("%s %s by %s", a.Interface, a.Point, a.How))
			} else {
				dead = append(dead, fmt.Sprintf("%s of interface %d", a.Point, a.Ifindex))
			}
		}
		f := host.Finding{Check: "pins", State: host.OK, Found: name + ", " + daemon}
		if len(alive) > 0 {
			f.Found += ": " + strings.Join(alive, ", ")
			if !held {
				f.State, f.Fix = host.Warn, "its programs count on: start weir again, which hands on what they counted, or weir meter --detach"
			}
		}
		if len(dead) > 0 {
			f.Found += "; no longer attached: " + strings.Join(dead, ", ")
			if !held && f.State == host.OK {
				f.State, f.Fix = host.Warn, "start weir again, or weir meter --detach"
			}
		}
		found = append(found, f)
	case held:
		found = append(found, host.Finding{Check: "pins", State: host.OK, Found: name + ", " + daemon})
	}
	left, err := Leftovers(o)
	if err != nil {
		found = append(found, host.Finding{Check: "leftovers", State: host.Warn, Found: oneLine(err), Fix: "run as root"})
	}
	for _, l := range left {
		found = append(found, host.Finding{
			Check: "leftover", State: host.Warn,
			Found: l.String() + "; its network namespace is gone", Fix: "rm -r " + l.Name,
		})
	}
	return found
}

// interfaceFindings are how an interface would be metered, and what of its NIC
// is in the way.
func (f *Features) interfaceFindings(i host.Interface, want Mode, own []Attachment) []host.Finding {
	main := host.Finding{Check: "metering " + i.Name, State: host.OK}
	p, err := f.Plan(i, want, own)
	if err != nil {
		main.State, main.Found = host.Fail, oneLine(err)
		main.Fix = "choose another mode, or leave it to auto"
		return []host.Finding{main}
	}
	// The name of the interface is in the check's.
	main.Found = strings.TrimPrefix(p.String(), i.Name+": ")
	if p.has(AtXDP) && len(p.Notes) == 0 && p.facts.holds(AtXDP) {
		main.Found += "; attached"
	}
	found := []host.Finding{main}
	if p.Mode != XDP || i.Driver == "" { // virtual interfaces have nothing in hardware
		return found
	}
	on, err := offloads(i.Name)
	if err != nil {
		return found // the driver tells nothing
	}
	for _, x := range []struct{ feature, short, means string }{
		{"rx-vlan-hw-parse", "rxvlan", "the NIC strips VLAN tags before XDP can see them: such flows have no VLAN id"},
		{"rx-lro", "lro", "the NIC merges packets: its driver may refuse XDP, or switch LRO off for it"},
		{"rx-gro-hw", "rx-gro-hw", "the NIC merges packets: its driver may refuse XDP, or switch that off for it"},
	} {
		if on[x.feature] {
			found = append(found, host.Finding{
				Check: "offloads " + i.Name, State: host.Warn, Found: x.feature + " is on: " + x.means,
				Fix: "ethtool -K " + i.Name + " " + x.short + " off, or --mode tc, which copes",
			})
		}
	}
	return found
}

// oneLine is an error as the doctor's table has room for it.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", ": ") }
