//go:build !cgo

package query

import "weir/store"

func open(*store.Reader, Options) (Engine, error) { return nil, ErrNoEngine }
