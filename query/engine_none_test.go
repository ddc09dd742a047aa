//go:build !cgo

package query

import (
	"errors"
	"testing"
)

// A build without cgo says so, and its filters work (the other tests).
func TestNoEngine(t *testing.T) {
	if _, err := Open(nil, Options{}); !errors.Is(err, ErrNoEngine) {
		t.Errorf("Open: %v", err)
	}
	t.Log("the engine's own tests need cgo: not run")
}
