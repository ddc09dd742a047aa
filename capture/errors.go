package capture

import (
	"errors"
	"fmt"
)

// What to branch on, with errors.Is.
var (
	// ErrTruncated: the capture ends within a packet. All before it were given.
	ErrTruncated = errors.New("the capture ends within a packet")
	// ErrNotCapture: the file is something else.
	ErrNotCapture = errors.New("not a capture file")
	// ErrDown: the interface is down. Read may be called again: packets come
	// when it is up again.
	ErrDown = errors.New("interface is down")
	// ErrGone: the interface is gone for good.
	ErrGone = errors.New("interface is gone")
)

// FileError says where in a capture file what went wrong.
type FileError struct {
	Name   string
	Offset int64 // octets from the start, of the uncompressed file; -1: no place in it
	Err    error
}

func (e *FileError) Error() string {
	if e.Offset < 0 {
		return fmt.Sprintf("%s: %v", e.Name, e.Err)
	}
	return fmt.Sprintf("%s: at offset %d: %v", e.Name, e.Offset, e.Err)
}

func (e *FileError) Unwrap() error { return e.Err }
