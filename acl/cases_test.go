package acl

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
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

// The sample says the same in every form, and only what it should is found in
// it.
func TestEdgeRouter(t *testing.T) {
	c := readCases(t, "testdata/cisco/edge.txt")[0]
	p := mustRead(t, c.in)
	readsBack(t, p)
	// The shadow is a real one, and hard to see: a permit that asks for a type of
	// ICMP lets all later fragments of ICMP pass.
	want := `acl:76:25: unbound: the IPv4 list 23 is applied at no interface
acl:95:2: shadowed: rule 120 deny icmp any any fragments never matches: 70 permit icmp any any packet-too-big decides before
acl:129:13: unbound: the IPv4 list 110 is applied at no interface
acl:25:22: unused: nothing refers to the group MONITORING
`
	if got := findings(p); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestReadTellsTheLanguages(t *testing.T) {
	cisco, yaml := "ip access-list extended A\n permit ip any any\n", "lists: {A: [permit ip any any]}\n"
	for _, c := range []struct{ name, in string }{
		{"a.acl", cisco},
		{"a.txt", "! lists:\n" + cisco},
		{"a", cisco},
		{"-", "! lists:\n\n" + cisco},
		{"router.confg", cisco},
		{"a.yaml", yaml},
		{"a.yml", "---\n" + yaml},
		{"a", yaml},
		{"-", "# ip access-list\n---\n" + yaml},
		{"a", "{" + yaml[:len(yaml)-1] + "}"},
	} {
		p, err := Read(c.name, []byte(c.in))
		if err != nil || len(p.Lists) != 1 || len(p.Lists[0].Rules) != 1 {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := Read("a.yaml", []byte(cisco)); err == nil {
		t.Error("a.yaml was not read as YAML")
	}
}

// A part of a larger document keeps its positions.
func TestReadNode(t *testing.T) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte("cache: {}\nacl:\n  lists:\n    A:\n      - permit ip any any\n      - permit tpc any any\n"), &doc); err != nil {
		t.Fatal(err)
	}
	_, err := ReadNode("weir.yaml", doc.Content[0].Content[3])
	if err == nil || !strings.HasPrefix(err.Error(), `weir.yaml:6:16: found "tpc"`) {
		t.Errorf("%v", err)
	}
}

// A rule by itself shows the sets that AppendCisco would put into groups.
func TestRuleInBraces(t *testing.T) {
	p, err := ReadYAML("a", []byte("lists: {A: [{permit: tcp, from: [10.0.0.1, 10.1.0.0/16], to-port: [80, 90-99]}]}"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Lists[0].Rules[0].Cisco(IPv4), "permit tcp { host 10.0.0.1, 10.1.0.0 0.0.255.255 } any { eq www, range 90 99 }"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
