// Package kernel tells tests what the kernel under them can do.
//
// In: nothing. Out: a test that goes on, or one that is skipped and says why.
package kernel

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// probeEnv makes a process of a test binary put a filter on a socket, load a
// program, and end.
const probeEnv = "WEIR_KERNEL_PROBE"

// OffEnv, set to why, says that there are no programs without trying.
const OffEnv = "WEIR_KERNEL_OFF"

func init() {
	if os.Getenv(probeEnv) == "" {
		return
	}
	refused := func(what string, err error) {
		if err != nil {
			fmt.Print(what, ": ", err)
			os.Exit(1)
		}
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	refused("a socket", err)
	all := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16}
	refused("a socket's filter", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &all}))
	fmt.Println(filters)
	if os.Geteuid() == 0 {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "weir_probe", Type: ebpf.SocketFilter, License: "MIT",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		})
		refused("one of two instructions", err)
		p.Close()
	}
	os.Exit(0)
}

// filters is what the process says when it has put a filter on a socket.
const filters = "filters"

// patience is how long one small program may take to be loaded. Kernels can
// lock up there for good, with every process that comes after waiting too, and
// not to be killed.
const patience = 20 * time.Second

// ask says why filters cannot be put on sockets, and why programs cannot be
// loaded; nil: they can.
var ask = sync.OnceValues(func() (sockets, programs error) {
	if why := os.Getenv(OffEnv); why != "" {
		err := errors.New(why)
		return err, err
	}
	if err := stillHangs(); err != nil {
		return err, err
	}
	said, err := os.CreateTemp("", "weir-probe")
	if err != nil {
		return err, err
	}
	defer os.Remove(said.Name())
	defer said.Close()
	self, err := os.Executable()
	if err != nil {
		return err, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), probeEnv+"=1")
	cmd.Stdout = said // a file: nobody waits for the end of a pipe
	if err := cmd.Start(); err != nil {
		return err, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-time.After(patience):
		cmd.Process.Kill()
		note(cmd.Process.Pid)
		err := fmt.Errorf("this kernel does not load programs any more: one of an instruction or two took more than %v", patience)
		return err, err
	}
	text, _ := os.ReadFile(said.Name())
	why, socket := strings.CutPrefix(string(text), filters+"\n")
	if err != nil {
		err = fmt.Errorf("this kernel takes no programs: %s", why)
	} else if os.Geteuid() != 0 {
		err = errors.New("loading programs needs root")
	}
	if socket {
		return nil, err
	}
	return err, err
})

// notes is where the process that hangs is noted, so that whoever comes after
// it need not hang too.
var notes = filepath.Join(os.TempDir(), "weir-kernel-hangs")

func note(pid int) {
	if began := start(pid); began != "" {
		os.WriteFile(notes, fmt.Appendf(nil, "%d %s\n", pid, began), 0o600) // without it the next one waits as long
	}
}

// stillHangs says that the process of the note is still there, killed as it was.
func stillHangs() error {
	var pid int
	var began string
	text, _ := os.ReadFile(notes)
	if n, _ := fmt.Sscan(string(text), &pid, &began); n < 2 || start(pid) != began {
		return nil
	}
	return fmt.Errorf("this kernel does not load programs any more: process %d has waited for one ever since %s was written", pid, notes)
}

// start is when a process began, in the kernel's ticks; empty: it has ended.
func start(pid int) string {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(stat), ") ") // after the command's name: proc(5), fields 3 and on
	f := strings.Fields(after)
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return ""
	}
	return f[22-3]
}

// Filters says why no filters can be put on sockets here, nor classic programs
// that steer between them; nil: they can. It is tried once, in a process of its
// own, and needs no root.
func Filters() error {
	err, _ := ask()
	return err
}

// Loads says why no programs can be loaded here; nil: they can, and filters can
// be put on sockets.
func Loads() error {
	_, err := ask()
	return err
}

// Programs skips the test where the kernel takes no programs, and says why.
func Programs(t testing.TB) {
	t.Helper()
	if err := Loads(); err != nil {
		t.Skipf("not tried: %v", err)
	}
}

// SocketFilters skips the test where no filters can be put on sockets, and says
// why.
func SocketFilters(t testing.TB) {
	t.Helper()
	if err := Filters(); err != nil {
		t.Skipf("not tried: %v", err)
	}
}

// Environ is what a weir is started with that is to work where Filters says
// that there are none: it loads nothing, and a collector that has one core has
// one loop for each address, and nothing to steer.
func Environ() []string {
	if Filters() == nil {
		return nil
	}
	return []string{"WEIR_WITHOUT=bpf", "GOMAXPROCS=1"}
}
