package ui

import (
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"weir/ui/bundle"
)

// TestLogic runs the screens' plain TypeScript in Node, without a browser.
func TestLogic(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed: the screens' logic is not tried")
	}
	root, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, zone := range []string{"UTC", "America/St_Johns"} {
		file := filepath.Join(t.TempDir(), "logic.test.mjs")
		if err := bundle.Test(root, "src/logic.test.ts", file); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(node, "--test", file)
		cmd.Env = append(os.Environ(), "TZ="+zone)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("in %s: %v\n%s", zone, err, out)
		}
	}
}

// TestTypes lets the TypeScript compiler check the screens.
func TestTypes(t *testing.T) {
	tsc := filepath.Join("node_modules", ".bin", "tsc")
	if _, err := os.Stat(tsc); err != nil {
		t.Skip("ui/node_modules is missing (go run ./ui/build fetches them): types are not checked")
	}
	if out, err := exec.Command(tsc, "--project", ".").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestBuilt builds the console again: what is embedded must be what the
// sources say, octet by octet.
func TestBuilt(t *testing.T) {
	if _, err := os.Stat("node_modules/preact"); err != nil {
		t.Skip("ui/node_modules is missing (go run ./ui/build fetches them): the bundle is not built again")
	}
	out := t.TempDir()
	if err := bundle.Console(".", out); err != nil {
		t.Fatal(err)
	}
	again := os.DirFS(out)
	seen := map[string]bool{}
	compare := func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		a, err1 := fs.ReadFile(Files(), name)
		b, err2 := fs.ReadFile(again, name)
		if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Errorf("dist/%s is not what src makes (%v, %v); run: go run ./ui/build", name, err1, err2)
		}
	}
	for _, files := range []fs.FS{Files(), again} {
		names, err := fs.Glob(files, "*")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			compare(name)
		}
	}
}

// TestSize keeps the console small: it is read over management links.
func TestSize(t *testing.T) {
	var z bytes.Buffer
	gz, _ := gzip.NewWriterLevel(&z, gzip.BestCompression)
	for _, name := range []string{"index.html", "app.js", "app.css", "icon.svg"} {
		b, err := fs.ReadFile(Files(), name)
		if err != nil {
			t.Fatal(err)
		}
		gz.Write(b)
	}
	gz.Close()
	if z.Len() > 150<<10 {
		t.Errorf("the console is %d octets compressed; at most %d", z.Len(), 150<<10)
	}
	t.Logf("%d octets compressed", z.Len())
}

// TestSelfContained: nothing is fetched from anywhere else, and the page has
// nothing inline, so that the strict policy it is served with holds.
func TestSelfContained(t *testing.T) {
	page, err := fs.ReadFile(Files(), "index.html")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{`<script>`, `<style`, ` style=`, ` on[a-z]+=`, `(src|href)="(https?:)?//`} {
		if regexp.MustCompile(bad).Match(page) {
			t.Errorf("index.html matches %s", bad)
		}
	}
	for _, name := range []string{"app.js", "app.css"} {
		b, err := fs.ReadFile(Files(), name)
		if err != nil {
			t.Fatal(err)
		}
		// The names of XML vocabularies are no addresses to fetch from.
		for _, url := range regexp.MustCompile(`(https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^"'\x60\s)]*`).FindAllString(string(b), -1) {
			if !regexp.MustCompile(`^https?://www\.w3\.org/`).MatchString(url) {
				t.Errorf("%s speaks of %s", name, url)
			}
		}
		for _, bad := range []string{`\beval\(`, `new Function\(`, `@import`} {
			if regexp.MustCompile(bad).Match(b) {
				t.Errorf("%s matches %s", name, bad)
			}
		}
	}
}
