// Package system tests the program as an outside user has it: the binary, its
// exit status, its output, real interfaces and sockets in network namespaces
// that each test makes and removes.
//
// What needs root, or a peer (nfcapd, softflowd, tshark), is skipped by name
// where it is not to be had. WEIR_SOAK and WEIR_INTEROP ask for the long forms.
// WEIR_BINARIES=DIR has weir, genflow and genpcap in DIR, for a machine without
// a compiler; WEIR_BINARY is weir, WEIR_OTHER one built without cgo.
// WEIR_SLOW=N gives everything N times as long.
package system

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// weir, genflow and genpcap are the programs under test and the generators,
// built once per run.
var weir, genflow, genpcap string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	dir, err := os.MkdirTemp("", "weir-system-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // tests run it as nobody
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	at := dir
	if built := os.Getenv("WEIR_BINARIES"); built != "" {
		at = built
	}
	weir, genflow, genpcap = filepath.Join(at, "weir"), filepath.Join(at, "genflow"), filepath.Join(at, "genpcap")
	for out, pkg := range map[string]string{weir: "./cmd/weir", genflow: "./bench/gen/genflow", genpcap: "./bench/gen/genpcap"} {
		if at != dir {
			break
		}
		if out == weir && os.Getenv("WEIR_BINARY") != "" {
			weir = os.Getenv("WEIR_BINARY")
			continue
		}
		build := exec.Command("go", "build", "-o", out, pkg)
		build.Dir = filepath.Join("..", "..")
		build.Env = append(os.Environ(), "CGO_ENABLED=1")
		if text, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", pkg, err, text)
			return 1
		}
	}
	status := m.Run()
	if left := leftBehind(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "left behind: %s\n", strings.Join(left, ", "))
		return 1
	}
	return status
}
