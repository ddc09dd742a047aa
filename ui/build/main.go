// Command build makes the web console: ui/src into ui/dist, with esbuild.
//
//	go run ./ui/build
//
// npm fetches the packages of ui/package-lock.json when they are not there.
//
// The output depends on the sources and on ui/package-lock.json only, so that
// a test can build again and compare.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"weir/ui/bundle"
)

func main() {
	root := flag.String("ui", "ui", "the ui folder")
	out := flag.String("o", "", "output folder (default: dist in the ui folder)")
	flag.Parse()
	if *out == "" {
		*out = *root + "/dist"
	}
	if err := packages(*root); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
	if err := bundle.Console(*root, *out); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

// packages lets npm fetch what the bundle is made of, once.
func packages(root string) error {
	// npm writes this file last.
	if _, err := os.Stat(filepath.Join(root, "node_modules", ".package-lock.json")); err == nil {
		return nil
	}
	npm := exec.Command("npm", "ci", "--ignore-scripts", "--prefix", root)
	npm.Stdout, npm.Stderr = os.Stderr, os.Stderr
	if err := npm.Run(); err != nil {
		return fmt.Errorf("npm ci --prefix %s: %w", root, err)
	}
	return nil
}
