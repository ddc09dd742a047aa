// Command build makes the web console: ui/src into ui/dist, with esbuild.
//
//	npm ci --prefix ui && go run ./ui/build
//
// The output depends on the sources and on ui/package-lock.json only, so that
// a test can build again and compare.
package main

import (
	"flag"
	"fmt"
	"os"

	"weir/ui/bundle"
)

func main() {
	root := flag.String("ui", "ui", "the ui folder")
	out := flag.String("o", "", "output folder (default: dist in the ui folder)")
	flag.Parse()
	if *out == "" {
		*out = *root + "/dist"
	}
	if err := bundle.Console(*root, *out); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}
