// Package ui is the web console's files: a page, a script and a style sheet,
// built from src by ui/build and committed, so that building weir
// needs no Node.
package ui

import (
	"embed"
	"io/fs"
)

//go:embed dist
var dist embed.FS

// Files are the built files: index.html and assets/.
func Files() fs.FS {
	files, err := fs.Sub(dist, "dist")
	if err != nil {
		panic(err) // a fixed, valid path: cannot be
	}
	return files
}
