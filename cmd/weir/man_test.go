package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/weir.1 anew")

// The man page in docs/ is what the program says of itself.
func TestManPage(t *testing.T) {
	const path = "../../docs/weir.1"
	var out, errs bytes.Buffer
	if status := run(context.Background(), []string{"man"}, strings.NewReader(""), &out, &errs); status != 0 {
		t.Fatalf("exit status %d: %s", status, errs.String())
	}
	if *update {
		if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(page, out.Bytes()) {
		t.Errorf("%s is not what `weir man` prints; run: go test ./cmd/weir -run TestManPage -update", path)
	}
}
