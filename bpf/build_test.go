package bpf

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestObjectIsOfItsSources: what is committed is what clang-19 makes of the
// sources, octet by octet.
func TestObjectIsOfItsSources(t *testing.T) {
	for _, tool := range []string{"clang-19", "llvm-strip-19"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("skipped: the committed programs were not compared with their sources: no %s", tool)
		}
	}
	gen, err := os.ReadFile("gen.go")
	if err != nil {
		t.Fatal(err)
	}
	_, line, ok := strings.Cut(string(gen), "//go:generate ")
	if !ok {
		t.Fatal("gen.go has no line for go generate")
	}
	dir := t.TempDir()
	args := strings.Fields(line)
	at := slices.Index(args, "flow") // behind bpf2go's own flags
	if at < 0 {
		t.Fatalf("gen.go makes no objects called flow: %s", line)
	}
	args = slices.Insert(args, at, "-output-dir", dir)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "GOPACKAGE=bpf")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	for _, name := range []string{"flow_bpfel.go", "flow_bpfel.o"} {
		made, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		committed, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(made, committed) {
			t.Errorf("%s differs from what its sources give: run `make bpf`, and commit it", name)
		}
	}
}
