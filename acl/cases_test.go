package acl

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what comes out into testdata")

// textCase is one of testdata's: what is read, and what must come of it. In the file:
//
//	=== its name
//	what is read
//	--- same | prints | errors | finds
//	what must come of it
type textCase struct {
	name, in, kind, want string
}

func readCases(t *testing.T, path string) []textCase {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []textCase
	for _, part := range strings.Split("\n"+string(b), "\n=== ")[1:] {
		name, rest, _ := strings.Cut(part, "\n")
		in, rest, ok := strings.Cut("\n"+rest, "\n--- ")
		if !ok {
			t.Fatalf("%s: %s: no line that begins with ---", path, name)
		}
		kind, want, _ := strings.Cut(rest+"\n", "\n")
		all = append(all, textCase{name, strings.TrimPrefix(in+"\n", "\n"), kind, strings.TrimRight(want, "\n")})
	}
	return all
}

// runCases does what f says with each case of each file, and compares.
func runCases(t *testing.T, pattern string, f func(t *testing.T, c textCase) (kind, got string)) {
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases in %s: %v", pattern, err)
	}
	for _, path := range paths {
		var out strings.Builder
		for _, c := range readCases(t, path) {
			kind, got := c.kind, c.want
			t.Run(filepath.Base(path)+"/"+c.name, func(t *testing.T) {
				kind, got = f(t, c)
				got = strings.TrimRight(got, "\n")
				if *update {
					return
				}
				if kind != c.kind || got != c.want {
					t.Errorf("got %s:\n%s\nwant %s:\n%s", kind, got, c.kind, c.want)
				}
			})
			out.WriteString("=== " + c.name + "\n" + c.in + "--- " + kind + "\n")
			if got != "" {
				out.WriteString(got + "\n")
			}
		}
		if *update {
			if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// outcome is what reading came to, for a case: its errors, or the print.
func outcome(c textCase, p *Policy, err error, print func([]byte, *Policy) []byte) (kind, got string) {
	if err != nil {
		return "errors", err.Error()
	}
	if s := string(print(nil, p)); s != c.in {
		return "prints", s
	}
	return "same", ""
}

func TestCiscoCases(t *testing.T) {
	runCases(t, "testdata/cisco/*.txt", func(t *testing.T, c textCase) (string, string) {
		p, err := ReadCisco("acl", []byte(c.in))
		return outcome(c, p, err, AppendCisco)
	})
}

func TestYAMLCases(t *testing.T) {
	runCases(t, "testdata/yaml/*.txt", func(t *testing.T, c textCase) (string, string) {
		p, err := ReadYAML("acl", []byte(c.in))
		return outcome(c, p, err, AppendYAML)
	})
}

// seeds gives a fuzz target what is read in all cases of the files, and the
// samples.
func seeds(f *testing.F, pattern string) {
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds in %s: %v", pattern, err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		if !strings.HasPrefix(string(b), "=== ") {
			f.Add(b)
			continue
		}
		for _, part := range strings.Split("\n"+string(b), "\n=== ")[1:] {
			_, in, _ := strings.Cut(part, "\n")
			in, _, _ = strings.Cut("\n"+in, "\n--- ")
			f.Add([]byte(strings.TrimPrefix(in+"\n", "\n")))
		}
	}
}
