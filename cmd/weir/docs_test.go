package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"weir/config"
	"weir/query"
	"weir/store"
)

// Lines of the documentation that begin with $ were typed. They are tried here
// again: each must parse; queries, filters and the API's examples run over a
// small store.

type typed struct {
	where string
	words [][]string // commands of a pipeline, without sudo and the like
}

// typedLines finds the $ lines of a page.
func typedLines(t *testing.T, page string) (all []typed) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if command, ok := strings.CutPrefix(line, "    $ "); ok {
			all = append(all, typed{filepath.Base(page) + ": " + strings.TrimSpace(command), split(t, strings.TrimSpace(command))})
		}
	}
	return all
}

// split cuts a line as a shell does, as far as the documentation goes.
func split(t *testing.T, line string) (commands [][]string) {
	t.Helper()
	var words []string
	word, in, quote := "", false, rune(0)
	end := func() {
		if in {
			words = append(words, word)
		}
		word, in = "", false
	}
	next := func() {
		end()
		if len(words) > 0 {
			commands = append(commands, words)
		}
		words = nil
	}
	for i, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word += string(c)
		case c == '\'' || c == '"':
			quote, in = c, true
		case c == '#' && !in:
			next()
			return commands
		case c == '|' || c == ';' || c == '&' && strings.ContainsRune(line[max(0, i-1):i]+line[i+1:min(len(line), i+2)], '&'):
			next()
		case c == ' ':
			end()
		default:
			word, in = word+string(c), true
		}
	}
	if quote != 0 {
		t.Errorf("%s: an open quote", line)
	}
	next()
	return commands
}

// weirArgs are the arguments of a command that runs weir.
func weirArgs(words []string) (args []string, ok bool) {
	for len(words) > 0 && (words[0] == "sudo" || words[0] == "timeout" || words[0] == "600") {
		words = words[1:]
	}
	if len(words) == 0 || words[0] != "weir" {
		return nil, false
	}
	args = words[1:]
	if at := slices.Index(args, ">"); at >= 0 { // the shell's
		args = args[:at]
	}
	return args, true
}

func parse(args []string) (*cli, error) {
	var c cli
	parser, err := kong.New(&c, kong.Name("weir"), kong.Writers(io.Discard, io.Discard), kong.Exit(func(int) {}),
		kong.Vars{"config": config.DefaultPath})
	if err != nil {
		return nil, err
	}
	_, err = parser.Parse(args)
	return &c, err
}

// smallStore holds the flows of hundred.pcap.
func smallStore(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "flows")
	var out, errs bytes.Buffer
	if status := run(context.Background(), []string{"meter", "-r", "testdata/hundred.pcap", "--store", dir}, strings.NewReader(""), &out, &errs); status != 0 {
		t.Fatalf("exit status %d: %s", status, errs.String())
	}
	return dir
}

func pages(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob("../../docs/verbs/*.md")
	if err != nil || len(list) == 0 {
		t.Fatalf("no pages in docs/verbs: %v", err)
	}
	return append(list, "../../docs/api.md", "../../docs/metrics.md", "../../docs/formats.md", "../../docs/troubleshooting.md", "../../README.md")
}

func TestDocumentedCommands(t *testing.T) {
	dir := smallStore(t)
	t.Setenv("HOME", t.TempDir())
	n := 0
	for _, page := range pages(t) {
		for _, line := range typedLines(t, page) {
			for _, words := range line.words {
				args, ok := weirArgs(words)
				if !ok {
					continue
				}
				n++
				tryCommand(t, line.where, args, dir)
			}
		}
	}
	if n < 60 {
		t.Errorf("%d commands found: the pages, or this test, have changed their form", n)
	}
}

// The examples below each verb's flags: command, two blanks or more, comment.
func TestHelpExamples(t *testing.T) {
	dir := smallStore(t)
	for verb, text := range examples {
		for line := range strings.Lines(text) {
			command, _, _ := strings.Cut(strings.TrimSpace(line), "  ")
			for _, words := range split(t, command) {
				if args, ok := weirArgs(words); ok {
					tryCommand(t, "help "+verb+": "+command, args, dir)
				}
			}
		}
	}
}

// tryCommand parses a command; a query runs over the store dir.
func tryCommand(t *testing.T, where string, args []string, dir string) {
	t.Helper()
	c, err := parse(args)
	if err != nil {
		t.Errorf("%s: %v", where, err)
		return
	}
	for _, url := range append(c.Up.Listen, c.Collect.Listen...) {
		if _, err := config.ParseListen(url); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	}
	if args[0] != "query" || strings.Contains(where, "src prot 80") { // that one shows a mistake
		return
	}
	c.Query.Store, c.Query.Write = dir, ""
	var out bytes.Buffer
	if err := c.Query.Run(&app{ctx: context.Background(), stdout: &out, stderr: io.Discard}); err != nil {
		t.Errorf("%s: %v", where, err)
	}
}

var code = regexp.MustCompile("`([^`]+)`")

// The filters in the tables of query.md, and of `weir help filter`'s last lines.
func TestDocumentedFilters(t *testing.T) {
	text, err := os.ReadFile("../../docs/verbs/query.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "| filter | flows |\n|---|---|\n")
	table, after, _ := strings.Cut(table, "\n\n")
	after, _, _ = strings.Cut(after, "## ")
	var filters []string
	for line := range strings.Lines(table) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		for _, m := range code.FindAllStringSubmatch(cell, -1) {
			if m[1] != "router ip" {
				filters = append(filters, m[1])
			}
		}
	}
	for _, m := range code.FindAllStringSubmatch(after, -1) {
		filters = append(filters, m[1])
	}
	page, _ := topic("filter")
	blocks := strings.Split(strings.TrimSpace(page), "\n\n")
	filters = append(filters, strings.Split(strings.TrimSpace(blocks[len(blocks)-1]), "\n")...)
	if !found || len(filters) < 30 {
		t.Fatalf("%d filters found", len(filters))
	}
	for _, f := range filters {
		if _, err := query.Parse(f); err != nil {
			t.Errorf("%q: %v", f, err)
		}
	}
}

// docs/metrics.md lists the metrics that the code has, no more and no fewer.
func TestDocumentedMetrics(t *testing.T) {
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(weir_[a-z_]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		told[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`weir_[a-z_]+[a-z]`).FindAllString(string(text), -1) {
		if !told[m] && m != "weir_lost" {
			t.Errorf("metrics.md speaks of %s, which its table does not have", m)
		}
	}
	is := map[string]bool{}
	for _, unit := range []string{"records", "packets", "bytes", "datagrams"} {
		is["weir_lost_"+unit+"_total"] = true
	}
	for _, file := range []string{"node.go", "forward.go", "../../metrics/metrics.go", "../../console/meters.go"} {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"(weir_[a-z_]+[a-z])"`).FindAllSubmatch(source, -1) {
			is[string(m[1])] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(is)) {
		if !told[name] {
			t.Errorf("metrics.md does not have %s", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(told)) {
		if !is[name] {
			t.Errorf("metrics.md has %s, which is not exposed", name)
		}
	}
}

// docs/api.md names every path and parameter, and its examples are answered.
func TestDocumentedAPI(t *testing.T) {
	reader, err := store.OpenReader(smallStore(t))
	if err != nil {
		t.Fatal(err)
	}
	engine, err := query.Open(reader, query.Options{})
	if err != nil {
		t.Skipf("skipped: %v", err)
	}
	defer query.Close(engine)
	n := &node{conf: config.Default(), engine: engine, log: slog.New(slog.DiscardHandler), started: time.Now()}
	server := n.server()
	ask := func(target string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, target, nil)
		r.Host = "127.0.0.1:8642"
		server.ServeHTTP(w, r)
		return w
	}
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	description := ask("/api/v1/openapi.json").Body.String()
	for _, m := range regexp.MustCompile(`"(/(?:api/v1/)?[a-z./0-9]+)": \{|"name": "([a-z]+)"`).FindAllStringSubmatch(description, -1) {
		if name := m[1] + m[2]; name != "weir" && !bytes.Contains(text, []byte("`"+name)) {
			t.Errorf("api.md does not name %s", name)
		}
	}
	asked := 0
	for _, line := range typedLines(t, "../../docs/api.md") {
		words := line.words[0]
		if words[0] != "curl" {
			continue
		}
		target, values := "", url.Values{}
		for i, w := range words {
			switch {
			case strings.HasPrefix(w, "http://127.0.0.1:8642"):
				target = strings.TrimPrefix(w, "http://127.0.0.1:8642")
			case w == "-d" || w == "--data-urlencode":
				k, v, _ := strings.Cut(words[i+1], "=")
				values.Set(k, v)
			}
		}
		if w := ask(target + "?" + values.Encode()); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", line.where, w.Code, w.Body)
		}
		asked++
	}
	if asked < 8 {
		t.Errorf("%d examples found", asked)
	}
}

// Links between the pages lead somewhere, headings included.
func TestDocumentedLinks(t *testing.T) {
	list, err := filepath.Glob("../../docs/verbs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README", "api", "formats", "metrics"} {
		list = append(list, "../../docs/"+name+".md")
	}
	link := regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`)
	headings := regexp.MustCompile(`(?m)^#+ (.+)$`)
	n := 0
	for _, page := range list {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			n++
			target := filepath.Join(filepath.Dir(page), m[1])
			if m[1] == "" {
				target = page
			}
			there, err := os.ReadFile(target)
			if info, statErr := os.Stat(target); err != nil && (statErr != nil || !info.IsDir()) {
				t.Errorf("%s: link to %s: %v", page, m[1], err)
				continue
			}
			found := m[2] == ""
			for _, h := range headings.FindAllStringSubmatch(string(there), -1) {
				found = found || anchor(h[1]) == m[2]
			}
			if !found {
				t.Errorf("%s: %s has no heading #%s", page, m[1], m[2])
			}
		}
	}
	if n < 30 {
		t.Errorf("%d links found", n)
	}
}

// anchor is how a heading is linked to: lower case, dashes for blanks, without
// punctuation.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z':
			return r
		}
		return -1
	}, strings.ToLower(heading))
}
