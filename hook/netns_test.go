package hook

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"weir/test/kernel"
)

// helper is what a child process of a test does: the words of its stage.
func helper(words string) {
	w := strings.Fields(words)
	if err := helperDo(w[0], w[1:]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func helperDo(verb string, args []string) error {
	switch verb {
	case "attach", "swap": // IF, and stays until it is killed
		k := Probe(Options{})
		f, err := Open(Options{})
		if err != nil {
			return err
		}
		list, err := f.List()
		if err != nil {
			return err
		}
		i, err := ifaceNamed(args[0])
		if err != nil {
			return err
		}
		plan, err := k.Plan(i, Auto, list)
		if err != nil {
			return err
		}
		progs, err := plainPrograms(verb)
		if err != nil {
			return err
		}
		done, err := f.Attach(plan, progs)
		if err != nil {
			return err
		}
		// A map of ours, too.
		m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "sample", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
		if err != nil {
			return err
		}
		if err := m.Pin(filepath.Join(f.Dir(), verb)); err != nil {
			return err
		}
		now, err := f.List()
		if err != nil {
			return err
		}
		fmt.Printf("in %s, found %q, %s, now %q, warning %q\n", f.Name(), attachments(list), spots(done), attachments(now), f.Warning())
		time.Sleep(time.Hour) // it is killed before
		return nil
	case "list":
		list, err := List(Options{})
		if err != nil {
			return err
		}
		name, err := Dir(Options{})
		if err != nil {
			return err
		}
		fmt.Printf("in %s, found %q\n", name, attachments(list))
		return nil
	case "bpffs": // find it, after what the arguments do to this mount namespace
		for _, a := range args {
			if err := mountsAs(a); err != nil {
				return err
			}
		}
		p, err := findBPFFS(true)
		if err != nil {
			return err
		}
		defer p.close()
		if err := os.Mkdir(filepath.Join(p.path, "sample"), 0o700); err != nil {
			return err
		}
		fmt.Printf("at %s, plain %v, warning %q\n", p.name, p.path == bpffsPath, p.warning)
		return nil
	case "findings":
		for _, f := range Findings(Options{}, nil, nil) {
			fmt.Printf("%s: %s: %s [%s]\n", f.Check, f.State, f.Found, f.Fix)
		}
		return nil
	case "detach":
		if err := DetachAll(Options{}); err != nil {
			return err
		}
		fmt.Println("detached")
		return nil
	}
	return errors.New("unknown stage " + verb)
}

// mountsAs makes this process's mount namespace a special one.
func mountsAs(what string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	switch what {
	case "own": // a bpffs that nobody else sees
		return mountBPFFS()
	case "none": // none, as under `ip netns exec`
		for isBPFFS(bpffsPath) {
			if err := unix.Unmount(bpffsPath, unix.MNT_DETACH); err != nil {
				return err
			}
		}
		return nil
	case "alone": // no other process can be seen
		for _, pid := range elders() {
			if err := unix.Mount("tmpfs", fmt.Sprintf("/proc/%d", pid), "tmpfs", 0, ""); err != nil {
				return err
			}
		}
		return nil
	}
	return errors.New("unknown: " + what)
}

// plainPrograms pass everything; their names end with a word.
func plainPrograms(word string) (Programs, error) {
	load := func(kind ebpf.ProgramType, verdict int32) (*ebpf.Program, error) {
		spec := &ebpf.ProgramSpec{
			Name: "our_" + word, Type: kind, License: "Dual MIT/GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()},
		}
		if kind == ebpf.XDP {
			spec.AttachType = ebpf.AttachXDP // as package bpf's has it
		}
		return ebpf.NewProgram(spec)
	}
	xdp, err := load(ebpf.XDP, 2)
	if err != nil {
		return Programs{}, err
	}
	tc, err := load(ebpf.SchedCLS, next)
	if err != nil {
		return Programs{}, err
	}
	return Programs{XDP: xdp, Ingress: tc, Egress: tc, IngressIP: tc, EgressIP: tc}, nil
}

// ip runs the command of that name.
func ip(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// inNetns runs a stage under `ip netns exec`.
func inNetns(t testing.TB, name, words string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("ip", "netns", "exec", name, self)
	c.Env = append(os.Environ(), stage+"="+words)
	c.Stderr = os.Stderr
	return c
}

// start runs a stage that stays, and returns the line it prints when it is
// ready.
func start(t testing.TB, name, words string) (*exec.Cmd, string) {
	t.Helper()
	c := inNetns(t, name, words)
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %v", words, err)
	}
	return c, strings.TrimSpace(line)
}

func run(t testing.TB, name, words string) string {
	t.Helper()
	out, err := inNetns(t, name, words).Output()
	if err != nil && len(out) == 0 {
		t.Fatalf("%s: %v", words, err)
	}
	return strings.TrimSpace(string(out))
}

// `ip netns exec` gives a process a mount namespace and a /sys of its own:
// what it pinned must outlive it all the same, and the next one must find it.
func TestPinsOutliveTheProcessUnderIPNetnsExec(t *testing.T) {
	network(t)
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("not tried: no ip command")
	}
	unix.Unmount(bpffsPath, unix.MNT_DETACH) // of tests before this one
	ip(t, "netns", "add", "r1")
	t.Cleanup(func() { ip(t, "netns", "del", "r1") })
	ip(t, "-n", "r1", "link", "add", "va", "type", "veth", "peer", "name", "vb")
	ip(t, "-n", "r1", "link", "set", "va", "up")
	ip(t, "-n", "r1", "link", "set", "vb", "up")

	// There is no bpffs anywhere: it must come to be where it lasts.
	if got := run(t, "r1", "list"); !strings.Contains(got, "no bpffs") {
		t.Fatalf("before: %s", got)
	}
	first, line := start(t, "r1", "attach va")
	t.Log(line)
	if !strings.Contains(line, onThisKernel(`xdp/link egress/tcx, now "va:egress/tcx=our_attach va:xdp/link=our_attach", warning ""`)) {
		t.Errorf("unexpected")
	}
	if !isBPFFS(bpffsPath) {
		t.Error("the bpffs was not mounted where process 1 sees it")
	}
	// Who looks at the program from outside sees whose it is.
	if pins, _ := filepath.Glob(bpffsPath + "/weir/v1/netns-*/links/*-xdp-link"); len(pins) != 1 {
		t.Errorf("pins: %v", pins)
	} else {
		o := Other{Point: AtXDP, How: Link, Program: pinnedProgram(pins[0]), Name: "our_attach"}
		o.Describe()
		if o.Pinned != pins[0] || !strings.Contains(o.String(), fmt.Sprintf("(pid %d)", first.Process.Pid)) {
			t.Errorf("described: %s", o)
		}
		t.Log(o)
	}
	// A second one is told who is there.
	if got := run(t, "r1", "attach va"); !strings.Contains(got, fmt.Sprintf("process %d", first.Process.Pid)) {
		t.Errorf("a second process: %s", got)
	}
	if got := run(t, "r1", "detach"); !strings.Contains(got, "already meters here") {
		t.Errorf("detach, while it runs: %s", got)
	}

	first.Process.Kill()
	first.Wait()
	if got := run(t, "r1", "list"); !strings.Contains(got, onThisKernel(`found "va:egress/tcx=our_attach va:xdp/link=our_attach"`)) {
		t.Errorf("after kill -9: %s", got)
	}
	second, line := start(t, "r1", "swap va")
	if !strings.Contains(line, onThisKernel(`found "va:egress/tcx=our_attach va:xdp/link=our_attach"`)) || !strings.Contains(line, onThisKernel(`now "va:egress/tcx=our_swap va:xdp/link=our_swap"`)) {
		t.Errorf("the next: %s", line)
	}
	// The machine's own namespace, or any other, is another folder.
	if here, err := Dir(Options{}); err != nil || strings.Contains(line, here+",") {
		t.Errorf("two namespaces share %s (%v)", here, err)
	}
	second.Process.Kill()
	second.Wait()
	if got := run(t, "r1", "detach"); got != "detached" {
		t.Errorf("detach: %s", got)
	}
	if got := run(t, "r1", "list"); !strings.HasSuffix(got, `found ""`) {
		t.Errorf("after detach: %s", got)
	}
	if rest := pinsLeft(); len(rest) > 0 {
		t.Errorf("left: %v", rest)
	}
}

// The bpffs that is found is the one that lives longest.
func TestBPFFSOfWhom(t *testing.T) {
	for _, c := range []struct {
		before     string // what process 1, the test, has
		words      string
		want       string
		mountedFor bool // process 1 has one afterwards, and the sample is in it
	}{
		{"none", "", `at /sys/fs/bpf, plain false, warning ""`, true},
		{"one", "", `at /sys/fs/bpf, plain true, warning ""`, true},
		{"none", "own", `at /sys/fs/bpf, plain false, warning ""`, true},
		{"one", "own", `at /sys/fs/bpf, plain false, warning ""`, true},
		{"one", "none", `at /sys/fs/bpf, plain false, warning ""`, true},
		{"none", "alone", `at /sys/fs/bpf, plain true, warning "the bpffs at /sys/fs/bpf may be of this process's mount namespace alone`, false},
		{"one", "none alone", `at /sys/fs/bpf, plain true, warning "the bpffs at /sys/fs/bpf may be of this process's mount namespace alone`, false},
	} {
		t.Run(c.before+" here, there "+c.words, func(t *testing.T) {
			plainNetwork(t)
			for isBPFFS(bpffsPath) {
				if err := unix.Unmount(bpffsPath, unix.MNT_DETACH); err != nil {
					t.Fatal(err)
				}
			}
			if c.before == "one" {
				if err := mountBPFFS(); err != nil {
					t.Fatal(err)
				}
			}
			child := exec.Command("/proc/self/exe")
			child.Env = append(os.Environ(), stage+"=bpffs "+c.words)
			child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
			out, err := child.CombinedOutput()
			if err != nil || !strings.HasPrefix(string(out), c.want) {
				t.Errorf("%s, %v; want %s", out, err, c.want)
			}
			if _, err := os.Stat(filepath.Join(bpffsPath, "sample")); (err == nil) != c.mountedFor {
				t.Errorf("in the bpffs of process 1: %v", err)
			}
			os.Remove(filepath.Join(bpffsPath, "sample"))
		})
	}
}

// Without privileges there is nothing to find, and it is said.
func TestFindingsWithoutPrivileges(t *testing.T) {
	needRoot(t)
	kernel.Programs(t)
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), stage+"=findings")
	child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, NoSetGroups: true}}
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "programs: warn: the kernel takes none: no CAP_BPF, no CAP_NET_ADMIN; interfaces are metered by AF_PACKET [run as root") {
		t.Errorf("%v: %s", err, out)
	}
	t.Logf("%s", out)
}
