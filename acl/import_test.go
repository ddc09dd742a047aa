package acl

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"weir/packet"
)

// imported is what an import came to, for a case: the lists and the reports.
func imported(p *Policy, reports []Report, err error) (kind, got string) {
	if err != nil {
		return "error", err.Error()
	}
	return "imports", string(AppendReports(append(AppendCisco(nil, p), "reports\n"...), reports))
}

func TestImportNftCases(t *testing.T) {
	runCases(t, "testdata/import/nft.txt", func(t *testing.T, c textCase) (string, string) {
		return imported(ImportNft("nft", []byte(c.in)))
	})
}

func TestImportIptablesCases(t *testing.T) {
	runCases(t, "testdata/import/iptables.txt", func(t *testing.T, c textCase) (string, string) {
		return imported(ImportIptables("ipt", []byte(c.in)))
	})
}

func TestAppendNftCases(t *testing.T) {
	runCases(t, "testdata/export/nft.txt", func(t *testing.T, c textCase) (string, string) {
		p := mustRead(t, c.in)
		rules, reports := AppendNft(nil, p)
		return "nft", string(AppendReports(append(rules, "reports\n"...), reports))
	})
}

// What is imported is a policy as any other: it reads back from its own print.
func TestImportsReadBack(t *testing.T) {
	for _, path := range []string{"testdata/import/nft.txt", "testdata/import/iptables.txt"} {
		for _, c := range readCases(t, path) {
			read := ImportNft
			if strings.HasSuffix(path, "iptables.txt") {
				read = ImportIptables
			}
			p, _, err := read("in", []byte(c.in))
			if err != nil {
				continue
			}
			again, err := ReadCisco("printed", AppendCisco(nil, p))
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			if d := Diff(p, again); len(d) > 0 {
				t.Errorf("%s: %s", c.name, AppendDiff(nil, d))
			}
		}
	}
}

// Chains in a circle, chains that double at each step, sets that multiply: all is
// done in bounded time, and what is not there is said.
func TestImportHostileInput(t *testing.T) {
	var b strings.Builder
	b.WriteString("*filter\n:FORWARD DROP [0:0]\n")
	for i := range 40 {
		b.WriteString(strings.ReplaceAll(":c# - [0:0]\n-A FORWARD -j c#\n-A c# -s 10.0.0.0/8 -j RETURN\n-A c# -p tcp -j RETURN\n-A c# -d 10.0.0.1 -j DROP\n", "#", string(rune('A'+i))))
	}
	for _, c := range []struct{ name, in, want string }{
		{"a circle", "*filter\n:FORWARD DROP [0:0]\n:a - [0:0]\n:b - [0:0]\n-A FORWARD -j a\n-A a -j b\n-A b -j a\n", errDepth.Error()},
		{"returns that double", b.String(), errDepth.Error()},
	} {
		start := time.Now()
		p, reports, err := ImportIptables("in", []byte(c.in))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if text := string(AppendReports(nil, reports)); len(p.Lists) > 0 || !strings.Contains(text, c.want) {
			t.Errorf("%s: %s\n%.3000s", c.name, AppendCisco(nil, p), text)
		}
		t.Logf("%s: %v", c.name, time.Since(start))
	}
	var sets strings.Builder
	sets.WriteString(`{"nftables": [{"chain": {"family": "ip", "table": "t", "name": "c", "hook": "forward", "type": "filter", "policy": "drop"}}`)
	for range 400 {
		sets.WriteString(`, {"rule": {"family": "ip", "table": "t", "chain": "c", "expr": [`)
		for i := range 20 {
			if i > 0 {
				sets.WriteString(", ")
			}
			sets.WriteString(`{"match": {"op": "!=", "left": {"&": [{"payload": {"protocol": "ip", "field": "saddr"}}, "85.85.85.85"]}, "right": "` + []string{"1.1.1.1", "4.4.4.4", "16.16.16.16"}[i%3] + `"}}`)
		}
		sets.WriteString(`, {"drop": null}]}}`)
	}
	sets.WriteString("]}")
	if !json.Valid([]byte(sets.String())) {
		t.Fatal("no JSON")
	}
	if _, _, err := ImportNft("in", []byte(sets.String())); err != nil {
		t.Error(err)
	}
}

// every asserts what holds of any import.
func every(t *testing.T, p *Policy, reports []Report, err error) {
	if err != nil {
		if _, ok := err.(Errors); ok {
			t.Fatalf("an import that is not valid: %v", err)
		}
		return
	}
	for _, r := range reports {
		if r.Outcome == Refused && len(r.Why) == 0 {
			t.Fatalf("refused without a word: %s", r.String())
		}
		if r.Outcome == Imported && (r.More || r.Less) {
			t.Fatalf("imported, and yet it differs: %s", r.String())
		}
	}
	for _, l := range p.Lists {
		p.Evaluate(l, &packet.Info{}, time.Time{})
	}
	if _, err := ReadCisco("printed", AppendCisco(nil, p)); err != nil {
		t.Fatal(err)
	}
	AppendNft(nil, p)
	AppendReports(nil, reports)
}

func FuzzImportNft(f *testing.F) {
	seeds(f, "testdata/import/nft.txt")
	f.Fuzz(func(t *testing.T, in []byte) {
		p, reports, err := ImportNft("in", in)
		every(t, p, reports, err)
	})
}

func FuzzImportIptables(f *testing.F) {
	seeds(f, "testdata/import/iptables.txt")
	f.Fuzz(func(t *testing.T, in []byte) {
		p, reports, err := ImportIptables("in", in)
		every(t, p, reports, err)
	})
}

// The example of the page about imports is what comes out.
func TestImportPage(t *testing.T) {
	b, err := os.ReadFile("../docs/access-lists-import.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string) string {
		_, rest, ok := strings.Cut(string(b), "\n```"+kind+"\n")
		text, _, ends := strings.Cut(rest, "```\n")
		if !ok || !ends {
			t.Fatalf("no block of %s", kind)
		}
		return text
	}
	p, reports, err := ImportIptables("wan.rules", []byte(block("iptables")))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(AppendCisco(nil, p)); got != block("cisco") {
		t.Errorf("lists:\n%s", got)
	}
	if got := string(AppendReports(nil, reports)); got != block("report") {
		t.Errorf("reports:\n%s", got)
	}
}
