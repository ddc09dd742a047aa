package datapath

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"weir/bpf"
	"weir/flow"
	"weir/hook"
)

// Detached is what a Detacher did.
type Detached struct {
	Interfaces []string // whose programs were taken off
	Left       []string // that are metered still: then the table stays
	Where      string   // the folder of the pins
}

// Detacher takes our programs off interfaces, and the table out of the kernel.
type Detacher struct {
	log    *slog.Logger
	folder *hook.Folder
	tables []*table // oldest first; those that can be read
	gone   bool     // Run has removed the folder
}

// OpenDetacher looks at what there is. A running daemon is an error
// (hook.ErrHeld).
func OpenDetacher(o hook.Options, log *slog.Logger) (d *Detacher, err error) {
	d = &Detacher{log: log}
	if d.folder, err = hook.Open(o); err != nil {
		return nil, err
	}
	all, err := tables(d.folder.Dir())
	if err != nil {
		d.Close()
		return nil, err
	}
	for _, t := range all {
		if err := t.open(); err != nil {
			log.Warn("a flow table cannot be read, what it holds is dropped", "table", t.dir, "error", err)
			continue
		}
		d.tables = append(d.tables, t)
	}
	return d, nil
}

// meta is that of the table in use, or nil.
func (d *Detacher) meta() *bpf.Meta {
	if n := len(d.tables); n > 0 {
		return d.tables[n-1].maps.Memory().Meta
	}
	return nil
}

// Born, ExportMemory and Sampling are the table's, for whoever exports what is
// left of it; without a table: now, nil, 1.
func (d *Detacher) Born() time.Time {
	if m := d.meta(); m != nil {
		return time.Unix(0, int64(m.Born))
	}
	return time.Now()
}

func (d *Detacher) ExportMemory() []uint64 {
	if m := d.meta(); m != nil {
		return m.Sequence[:]
	}
	return nil
}

func (d *Detacher) Sampling() uint32 {
	if m := d.meta(); m != nil {
		return max(m.Sample, 1)
	}
	return 1
}

// Run takes our programs off the named interfaces, or off all if there are
// none. When nothing is metered any more, the flows that are left end and go to
// sink, and all pins go.
func (d *Detacher) Run(names []string, cfg SweepConfig, sink flow.Sink) (done Detached, err error) {
	done.Where = d.folder.Name()
	list, err := d.folder.List()
	if err != nil {
		return done, err
	}
	for _, a := range list {
		name := a.Interface
		if name == "" {
			name = fmt.Sprintf("interface %d", a.Ifindex) // it is gone
		}
		if len(names) > 0 && a.Interface != "" && !slices.Contains(names, a.Interface) {
			done.Left = append(done.Left, name)
			continue
		}
		if slices.Contains(done.Interfaces, name) {
			continue
		}
		if err := d.folder.Detach(a.Ifindex); err != nil {
			return done, err
		}
		for _, t := range d.tables { // what comes in there is counted where it leaves
			ports{t.maps.Memory().Control}.quiet(a.Ifindex)
		}
		done.Interfaces = append(done.Interfaces, name)
	}
	done.Left = slices.Compact(done.Left)
	if len(done.Left) > 0 {
		return done, nil
	}
	for _, t := range d.tables {
		if err := t.empty(cfg, sink, new(drained)); err != nil {
			return done, err
		}
	}
	d.gone = true
	return done, d.folder.Remove()
}

// Close lets go of all. ExportMemory must not be used after it.
func (d *Detacher) Close() error {
	for _, t := range d.tables {
		t.close()
	}
	if d.gone {
		return nil
	}
	return d.folder.Close()
}
