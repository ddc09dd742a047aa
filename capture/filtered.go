package capture

import (
	"errors"
	"sync/atomic"

	"weir/packet"
)

// Filtered gives the packets of another source that pass a filter expression.
// A file may hold several link types: the expression is compiled for each when
// its first packet comes.
type Filtered struct {
	Source
	expr    string
	last    *Filter
	filters map[packet.LinkType]*Filter
	passed  atomic.Uint64
	stopped atomic.Uint64
}

// Where filters a source; it is for files, OpenLive filters in the kernel. The
// expression is checked at once.
func Where(src Source, expr string) (*Filtered, error) {
	_, err := CompileFilter(expr, packet.LinkEthernet)
	var fe *FilterError
	if err != nil && !(errors.As(err, &fe) && fe.Link) {
		return nil, err
	}
	return &Filtered{Source: src, expr: expr, filters: map[packet.LinkType]*Filter{}}, nil
}

func (f *Filtered) Read(b *Batch) error {
	for {
		err := f.Source.Read(b)
		n := 0
		for i := range b.Packets {
			p := &b.Packets[i]
			if f.last == nil || f.last.link != p.Link {
				if f.last = f.filters[p.Link]; f.last == nil {
					c, err := CompileFilter(f.expr, p.Link)
					if err != nil {
						b.Packets = b.Packets[:n]
						return err
					}
					f.last, f.filters[p.Link] = c, c
				}
			}
			if f.last.Match(p.Data, p.Wire) {
				b.Packets[n] = *p
				n++
			}
		}
		f.passed.Add(uint64(n))
		f.stopped.Add(uint64(len(b.Packets) - n))
		empty := len(b.Packets) == 0 // the tick of a quiet line
		b.Packets = b.Packets[:n]
		if n > 0 || err != nil || empty {
			return err
		}
	}
}

// Counts is how many packets passed and how many did not. It may be called from
// any goroutine.
func (f *Filtered) Counts() (passed, stopped uint64) { return f.passed.Load(), f.stopped.Load() }

// Progress is the file's.
func (f *Filtered) Progress() (done, total int64) {
	if p, ok := f.Source.(Progress); ok {
		return p.Progress()
	}
	return 0, 0
}
