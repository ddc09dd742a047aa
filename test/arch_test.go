// Package test holds tests of weir as a whole.
package test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport says which rooms each room may use: those before it on a packet's
// way to the vocabulary. cmd/weir, which joins them, may use all.
var mayImport = map[string]string{
	"flow":      "",
	"rows":      "flow",
	"packet":    "flow",
	"capture":   "flow packet",
	"cache":     "flow packet",
	"meter":     "flow packet capture cache",
	"aggregate": "flow",
	"acl":       "flow packet",
	"bpf":       "flow packet capture",
	"hook":      "bpf host",
	"route":     "host", // findings
	"datapath":  "flow packet capture cache meter acl bpf hook host route guard",
	"guard":     "flow",
	"ie":        "",
	"wire":      "flow ie packet", // packet: sFlow carries the start of packets
	"export":    "flow ie wire",
	"demo":      "flow ie wire export",
	"collect":   "flow ie wire packet capture", // capture and packet: export traffic in capture files
	"replay":    "flow wire",
	"store":     "flow",
	"query":     "flow store",
	"config":    "flow capture acl aggregate guard", // keys, filters, lists, thresholds are checked as they are read
	"host":      "config",
	"control":   "",
	"metrics":   "flow",
	"ui":        "",
	"console":   "flow query rows ui",
}

// forbidden are the walls, each with its reason.
var forbidden = []struct{ from, to, why string }{
	{"flow", "*", "the vocabulary imports nothing, or nobody could use it"},
	{"cache", "capture", "the cache groups packets wherever they come from; the kernel's has no capture"},
	{"cache", "wire", "how records are sent is not the cache's to know"},
	{"packet", "capture", "the parser reads octets: the kernel's reads the same ones"},
	{"export", "cache", "probe and collector meet in flow, ie and wire alone"},
	{"export", "collect", "probe and collector meet in flow, ie and wire alone"},
	{"collect", "export", "probe and collector meet in flow, ie and wire alone"},
	{"collect", "store", "a collector's sink may be any store"},
	{"guard", "datapath", "what enforces a rule is behind guard's own interface"},
	{"store", "query", "another engine may ask the same store"},
	{"wire", "collect", "codecs are pure"},
	{"console", "store", "screens use the public API and what a query.Engine answers"},
	{"console", "collect", "screens use the public API and snapshots"},
}

func TestImportsPointTowardsTheVocabulary(t *testing.T) {
	imports := map[string][]string{} // room -> rooms
	root := ".."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); name != ".." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		room, _, _ := strings.Cut(filepath.ToSlash(rel), "/")
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, i := range f.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			if p, ok := strings.CutPrefix(p, "weir/"); ok {
				to, _, _ := strings.Cut(p, "/")
				if to != room && !slices.Contains(imports[room], to) {
					imports[room] = append(imports[room], to)
				}
			}
		}
		if imports[room] == nil {
			imports[room] = []string{}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(imports) < len(mayImport) {
		t.Errorf("found %d rooms, expected at least the %d listed", len(imports), len(mayImport))
	}
	for room, list := range imports {
		if room == "cmd" || room == "bench" || room == "test" {
			continue
		}
		allowed, known := mayImport[room]
		if !known {
			t.Errorf("%s/ is a new room: say in this test what it may import", room)
		}
		for _, to := range list {
			for _, w := range forbidden {
				if w.from == room && (w.to == to || w.to == "*") {
					t.Errorf("%s imports %s: %s", room, to, w.why)
				}
			}
			if !slices.Contains(strings.Fields(allowed), to) {
				t.Errorf("%s imports %s: not among %q", room, to, allowed)
			}
		}
	}
}
