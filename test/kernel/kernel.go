// Package kernel tells tests what the kernel under them can do.
//
// In: nothing. Out: a test that goes on, or one that is skipped and says why.
package kernel

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// probeEnv makes a process of a test binary load one program and end.
const probeEnv = "WEIR_KERNEL_PROBE"

// OffEnv, set to why, has Programs skip at once.
const OffEnv = "WEIR_KERNEL_OFF"

func init() {
	if os.Getenv(probeEnv) == "" {
		return
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "weir_probe", Type: ebpf.SocketFilter, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	p.Close()
	os.Exit(0)
}

// patience is how long one small program may take to be loaded. Kernels can
// lock up there for good, with every process that comes after waiting too, and
// not to be killed.
const patience = 20 * time.Second

var loads = sync.OnceValue(func() error {
	if why := os.Getenv(OffEnv); why != "" {
		return errors.New(why)
	}
	if os.Geteuid() != 0 {
		return errors.New("loading programs needs root")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), probeEnv+"=1")
	said, err := os.CreateTemp("", "weir-probe")
	if err != nil {
		return err
	}
	defer os.Remove(said.Name())
	defer said.Close()
	cmd.Stdout = said // a file: nobody waits for the end of a pipe
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err == nil {
			return nil
		}
		why, _ := os.ReadFile(said.Name())
		return fmt.Errorf("this kernel takes no programs: %s", why)
	case <-time.After(patience):
		cmd.Process.Kill()
		return fmt.Errorf("this kernel does not load programs any more: one of two instructions took more than %v", patience)
	}
})

// Loads says why no programs and no socket filters can be had here; nil: they
// can. It is tried once, in a process of its own.
func Loads() error { return loads() }

// Programs skips the test where the kernel takes no programs, and says why.
func Programs(t testing.TB) {
	t.Helper()
	if err := Loads(); err != nil {
		t.Skipf("not tried: %v", err)
	}
}
