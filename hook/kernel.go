package hook

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"weir/host"
)

// Kernel is what the kernel offers, and what of it this process may use.
type Kernel struct {
	Release string // as uname has it
	Refused error  // why there can be no programs at all; nil: there can

	Frags      bool // XDP programs may be loaded with fragments (BPF_F_XDP_HAS_FRAGS)
	TCX        bool
	Link       bool // XDP has bpf_link
	Membarrier bool // MEMBARRIER_CMD_GLOBAL
	JIT        bool // programs are translated: false is slow
	BTF        bool
	Lockdown   string // the mode in force, empty if there is none
	HZ         int    // jiffies a second by the kernel's configuration; 0: to be measured

	Missing []string // of the capabilities that would be of use

	options Options
}

// Probe asks the kernel. It changes nothing: programs are loaded and thrown
// away, attached only where that fails.
func Probe(o Options) *Kernel {
	k := &Kernel{options: o, Release: release(), Lockdown: lockdown()}
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	k.BTF = err == nil
	k.HZ = configHZ(k.Release)
	k.Membarrier = membarrier()
	k.Missing = missingCapabilities()
	k.Refused = k.probePrograms()
	return k
}

// probePrograms tries what the datapath is made of.
func (k *Kernel) probePrograms() error {
	if k.options.NoBPF {
		return errors.New("eBPF is switched off by option")
	}
	pass, err := load(ebpf.XDP, 0, atomics())
	if err != nil {
		return k.refusal("XDP programs", err)
	}
	defer pass.Close()
	k.JIT = translated(pass)

	tc, err := load(ebpf.SchedCLS, 0, atomics())
	if err != nil {
		return k.refusal("TC programs", err)
	}
	tc.Close()
	for _, need := range []struct {
		what string
		err  error
	}{
		{"programs of type syscall (5.14)", features.HaveProgramType(ebpf.Syscall)},
		{"bpf_jiffies64 (5.5)", features.HaveProgramHelper(ebpf.XDP, asm.FnJiffies64)},
		{"maps that can be mapped into memory (5.5)", features.HaveMapFlag(features.BPF_F_MMAPABLE)},
	} {
		if errors.Is(need.err, ebpf.ErrNotSupported) { // anything else is no answer
			return fmt.Errorf("kernel %s has no %s", k.Release, need.what)
		}
	}

	if frags, err := load(ebpf.XDP, unix.BPF_F_XDP_HAS_FRAGS, atomics()); err == nil {
		frags.Close()
		k.Frags = !k.options.NoFrags
	}
	k.TCX = !k.options.NoTCX && haveTCX()
	k.Link = !k.options.NoLink && haveXDPLink(pass)
	return nil
}

// refusal puts in words why the kernel took no program.
func (k *Kernel) refusal(what string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		if lacks := lacking(k.Missing, "CAP_BPF", "CAP_NET_ADMIN"); len(lacks) > 0 {
			return fmt.Errorf("no %s", strings.Join(lacks, ", no "))
		}
		return fmt.Errorf("the kernel refuses %s to this process (%w): a container's seccomp filter or a security module", what, unix.EPERM)
	case errors.Is(err, unix.ENOSYS):
		return errors.New("the kernel has no bpf()")
	}
	var v *ebpf.VerifierError
	if errors.As(err, &v) || errors.Is(err, unix.EINVAL) || errors.Is(err, enotsupp) {
		return fmt.Errorf("kernel %s %s has no atomic operations in %s (5.12; arm64 5.18)", k.Release, runtime.GOARCH, what)
	}
	return fmt.Errorf("loading %s: %w", what, err)
}

// enotsupp is the kernel's own number for "not supported", which has no name
// outside it.
const enotsupp = unix.Errno(524)

// atomics is a program with the compare-and-exchange that the flow table is
// built on. As XDP it passes every packet; in TC it is never attached.
func atomics() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R0, 0),
		asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
		asm.Mov.Imm(asm.R1, 2),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.CmpXchg.Mem(asm.R2, asm.R1, asm.DWord, -8),
		asm.Mov.Imm(asm.R0, 2), // XDP_PASS
		asm.Return(),
	}
}

func load(kind ebpf.ProgramType, flags uint32, body asm.Instructions) (*ebpf.Program, error) {
	return ebpf.NewProgramWithOptions(
		&ebpf.ProgramSpec{Name: "weir_probe", Type: kind, Flags: flags, License: "Dual BSD/GPL", Instructions: body},
		ebpf.ProgramOptions{LogDisabled: true})
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

// haveTCX asks lo for its programs: a kernel without TCX does not know the
// question.
func haveTCX() bool {
	_, err := link.QueryPrograms(link.QueryOptions{Target: loopback, Attach: ebpf.AttachTCXIngress})
	return err == nil || errors.Is(err, unix.ENODEV)
}

// loopback is lo's index in every network namespace.
const loopback = 1

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

func membarrier() bool {
	const query, global = 0, 1 // MEMBARRIER_CMD_…
	have, _, e := unix.Syscall(unix.SYS_MEMBARRIER, query, 0, 0)
	return e == 0 && have&global != 0
}

// missingCapabilities are those that this process would need, or do better
// with.
func missingCapabilities() []string {
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

func lacking(missing []string, names ...string) (found []string) {
	for _, n := range names {
		for _, m := range missing {
			if m == n {
				found = append(found, n)
			}
		}
	}
	return found
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
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

// configHZ looks for CONFIG_HZ where kernels leave their configuration.
func configHZ(release string) int {
	for _, path := range []string{"/proc/config.gz", "/boot/config-" + release, "/lib/modules/" + release + "/config"} {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		var r io.Reader = f
		if strings.HasSuffix(path, ".gz") {
			if r, err = gzip.NewReader(f); err != nil {
				f.Close()
				continue
			}
		}
		hz := readHZ(r)
		f.Close()
		if hz > 0 {
			return hz
		}
	}
	return 0
}

func readHZ(r io.Reader) int {
	for s := bufio.NewScanner(r); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "CONFIG_HZ="); ok {
			hz, _ := strconv.Atoi(v)
			return hz
		}
	}
	return 0
}
