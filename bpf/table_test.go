package bpf

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestTableWithoutKernel: table.h, which is all that CPUs and the daemon share
// the table by, compiled for this machine, with threads for CPUs that may lose
// the processor before each access. To the packet and the octet, nothing of
// another's flow, at 10 %, 90 % and 400 % of the table, and where almost all of
// it is empty and must be found all the same.
func TestTableWithoutKernel(t *testing.T) {
	cc := ""
	for _, name := range []string{"cc", "gcc", "clang", "clang-19"} {
		if path, err := exec.LookPath(name); err == nil {
			cc = path
			break
		}
	}
	if cc == "" {
		t.Skip("skipped: table.h as plain C was not tried: no C compiler (cc, gcc, clang)")
	}
	path := filepath.Join(t.TempDir(), "table")
	if out, err := exec.Command(cc, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-unused-parameter",
		"-Werror", "-pthread", "-o", path, "testdata/table/table.c").CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cc, err, out)
	}
	packets := 100_000
	if testing.Short() {
		packets = 30_000
	}
	for _, c := range []struct{ entries, flows int }{{8000, 20}, {1000, 100}, {1000, 900}, {1000, 4000}} {
		t.Run(fmt.Sprintf("%d flows in %d entries", c.flows, c.entries), func(t *testing.T) {
			out, err := exec.Command(path, fmt.Sprint(c.entries), fmt.Sprint(c.flows), "3", fmt.Sprint(packets), "1").CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}
