package datapath

import (
	"fmt"
	"log/slog"
	"slices"

	"weir/flow"
	"weir/hook"
)

// Detached is what Detach did.
type Detached struct {
	Interfaces []string // whose programs were taken off
	Left       []string // that are metered still: then the table stays
	Where      string   // the folder of the pins
}

// Detach takes our programs off the named interfaces, or off all if there are
// none. When nothing is metered any more, the flows that are left end and go to
// sink, and all pins go. A running daemon is an error (hook.ErrHeld).
func Detach(names []string, cfg SweepConfig, o hook.Options, sink flow.Sink, log *slog.Logger) (d Detached, err error) {
	folder, err := hook.Open(o)
	if err != nil {
		return d, err
	}
	defer folder.Close()
	d.Where = folder.Name()
	list, err := folder.List()
	if err != nil {
		return d, err
	}
	for _, a := range list {
		name := a.Interface
		if name == "" {
			name = fmt.Sprintf("interface %d", a.Ifindex) // it is gone
		}
		if len(names) > 0 && a.Interface != "" && !slices.Contains(names, a.Interface) {
			d.Left = append(d.Left, name)
			continue
		}
		if !slices.Contains(d.Interfaces, name) {
			if err := folder.Detach(a.Ifindex); err != nil {
				return d, err
			}
			d.Interfaces = append(d.Interfaces, name)
		}
	}
	d.Left = slices.Compact(d.Left)
	if len(d.Left) > 0 {
		return d, nil
	}
	all, err := tables(folder.Dir())
	if err != nil {
		return d, err
	}
	for _, t := range all {
		if err := t.open(); err != nil {
			log.Warn("a flow table cannot be read, what it holds is dropped", "table", t.dir, "error", err)
			continue
		}
		if err := t.empty(cfg, sink, new(drained)); err != nil {
			return d, err
		}
	}
	return d, folder.Remove()
}
