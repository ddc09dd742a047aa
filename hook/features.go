package hook

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"weir/bpf"
	"weir/host"
)

// Features are what the kernel offers, and what of it this process may use.
type Features struct {
	*bpf.Features       // what the programs need
	Refused       error // why there can be no programs at all; nil: there can

	Fragments bool   // XDP programs may be loaded for frames in several buffers
	TCX       bool   // TC has bpf_link (6.6)
	Link      bool   // XDP has bpf_link (5.9)
	JIT       bool   // programs are translated; interpreted ones are slow
	Lockdown  string // the mode in force; empty: none

	Lacking []string // of the capabilities that are needed or of use

	options Options
}

// Probe asks the kernel. It changes nothing: programs are loaded and thrown
// away, and attached only where that must fail. With NoBPF nothing is loaded.
func Probe(o Options) *Features {
	f := &Features{Features: new(bpf.Features), Lockdown: lockdown(), Lacking: lackingCapabilities(), options: o}
	if !o.NoBPF {
		f.Features = bpf.Probe()
	}
	f.Refused = f.refused()
	if f.Refused != nil {
		return f
	}
	f.Fragments = f.Frags == nil && !o.NoFrags
	f.TCX = !o.NoTCX && haveTCX()
	pass, err := idle(AtXDP, false)
	if err != nil {
		f.Refused = fmt.Errorf("loading a program: %w", err)
		return f
	}
	defer pass.Close()
	f.JIT = translated(pass)
	f.Link = !o.NoLink && haveXDPLink(pass)
	return f
}

// refused says in words why the kernel takes no programs.
func (f *Features) refused() error {
	if f.options.NoBPF {
		return errors.New("eBPF is switched off by option")
	}
	err := f.Features.Missing()
	if !errors.Is(err, os.ErrPermission) {
		return err
	}
	var lacks []string
	for _, c := range []string{"CAP_BPF", "CAP_NET_ADMIN"} {
		if slices.Contains(f.Lacking, c) {
			lacks = append(lacks, "no "+c)
		}
	}
	if len(lacks) > 0 {
		return errors.New(strings.Join(lacks, ", "))
	}
	return errors.New("the kernel refuses programs to this process, in spite of its capabilities: a container's seccomp filter or a security module")
}

// translated says whether the JIT took a program.
func translated(p *ebpf.Program) bool {
	info, err := p.Info()
	if err != nil {
		return true
	}
	size, err := info.JitedSize()
	return err != nil || size > 0
}

// loopback is lo's index in every network namespace.
const loopback = 1

// haveTCX asks lo for its programs: a kernel without TCX does not know the
// question.
func haveTCX() bool {
	_, err := link.QueryPrograms(link.QueryOptions{Target: loopback, Attach: ebpf.AttachTCXIngress})
	return err == nil || errors.Is(err, unix.ENODEV)
}

// haveXDPLink tries driver mode on lo, which has none: a kernel with links says
// so, one without does not know them.
func haveXDPLink(pass *ebpf.Program) bool {
	l, err := link.AttachXDP(link.XDPOptions{Program: pass, Interface: loopback, Flags: link.XDPDriverMode})
	if err == nil {
		l.Close()
		return true
	}
	return !errors.Is(err, unix.EINVAL) && !errors.Is(err, ebpf.ErrNotSupported)
}

// lackingCapabilities are those that this process would need, or do better
// with.
func lackingCapabilities() []string {
	have := host.Capabilities()
	if have&(1<<unix.CAP_SYS_ADMIN) != 0 {
		have |= 1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON // it stands for both
	}
	var missing []string
	for _, c := range []struct {
		bit  uint
		name string
	}{{unix.CAP_BPF, "CAP_BPF"}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_PERFMON, "CAP_PERFMON"}} {
		if have&(1<<c.bit) == 0 {
			missing = append(missing, c.name)
		}
	}
	return missing
}

// lockdown is the word in brackets: "none [integrity] confidentiality".
func lockdown() string {
	b, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil {
		return ""
	}
	_, rest, _ := bytes.Cut(b, []byte("["))
	mode, _, _ := bytes.Cut(rest, []byte("]"))
	if string(mode) == "none" {
		return ""
	}
	return string(mode)
}
