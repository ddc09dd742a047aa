package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"strings"

	"weir/ui"
)

// screens serves the embedded files. Whatever is no file and could be a screen
// gets the page, which reads its state off the address.
type screens struct {
	files map[string]*asset
}

type asset struct {
	body, zipped []byte
	kind, tag    string
	hashed       bool // its name changes with its content
}

func newScreens() *screens {
	s := &screens{files: map[string]*asset{}}
	files := ui.Files()
	fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		a := &asset{
			body: body, kind: kinds[path.Ext(name)], tag: `"` + hex.EncodeToString(sum[:8]) + `"`,
			hashed: strings.HasPrefix(name, "assets/"),
		}
		var z bytes.Buffer
		gz, _ := gzip.NewWriterLevel(&z, gzip.BestCompression)
		gz.Write(body)
		gz.Close()
		if z.Len() < len(body) {
			a.zipped = z.Bytes()
		}
		s.files["/"+name] = a
		return nil
	})
	return s
}

// kinds are the media types of what is embedded.
var kinds = map[string]string{
	".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
	".svg": "image/svg+xml", ".txt": "text/plain; charset=utf-8",
}

// pages are the addresses of the screens.
var pages = map[string]bool{"/": true, "/flows": true, "/interfaces": true, "/guard": true}

func (s *screens) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Path
	if pages[name] {
		name = "/index.html"
	}
	a := s.files[name]
	if a == nil {
		plain(w, http.StatusNotFound, "404: there is nothing at "+r.URL.Path+"; the console is at /\n")
		return
	}
	h := w.Header()
	h.Set("Content-Type", a.kind)
	h.Set("ETag", a.tag)
	h.Add("Vary", "Accept-Encoding")
	if a.hashed {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache")
	}
	if r.Header.Get("If-None-Match") == a.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := a.body
	if a.zipped != nil && acceptsGzip(r) {
		h.Set("Content-Encoding", "gzip")
		body = a.zipped
	}
	w.Write(body)
}
