//go:build !amd64 && !arm64

package datapath

import "unsafe"

func prefetch(unsafe.Pointer, uintptr) {}
