package store

import "errors"

// Reader reads a store beside its writer, from any process.
type Reader struct{ dir string }

// OpenReader opens the store in dir for reading.
func OpenReader(dir string) (*Reader, error) { return nil, errors.New("not yet") }

// Dir is the store's folder.
func (r *Reader) Dir() string { return r.dir }

// Segments lists the live segments as of now, oldest first. Their files stay
// for the writer's grace period after they are replaced.
func (r *Reader) Segments() ([]Segment, error) { return nil, nil }

// Path of a segment's file.
func (r *Reader) Path(s Segment) string { return r.dir + "/" + s.File }
