package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"weir/bpf"
	"weir/cache"
	"weir/flow"
)

// A table's maps are pinned in a folder of their own, table-N. The highest
// number is the one in use; others are of another size or key, and are emptied
// once the programs have left them. A daemon that is killed in between leaves
// both to the next.
const tablePrefix = "table-"

type table struct {
	dir    string
	number int
	maps   *bpf.Table
}

func tableDir(folder string, n int) string {
	return filepath.Join(folder, tablePrefix+strconv.Itoa(n))
}

// tables lists those in a folder, oldest first.
func tables(folder string) (list []*table, err error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), tablePrefix)
		n, err := strconv.Atoi(rest)
		if ok && err == nil && n > 0 && e.IsDir() {
			list = append(list, &table{dir: filepath.Join(folder, e.Name()), number: n})
		}
	}
	slices.SortFunc(list, func(a, b *table) int { return a.number - b.number })
	return list, nil
}

func (t *table) make() error { return os.MkdirAll(t.dir, 0o700) }

// open maps what is pinned.
func (t *table) open() (err error) {
	t.maps, err = bpf.OpenMemory(t.dir)
	return err
}

func (t *table) close() {
	if t.maps != nil {
		t.maps.Close()
		t.maps = nil
	}
}

// remove unpins the table. Its memory goes when nobody has it open; who has
// opened it closes it.
func (t *table) remove() error {
	entries, err := os.ReadDir(t.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		err = errors.Join(err, os.Remove(filepath.Join(t.dir, e.Name())))
	}
	return errors.Join(err, os.Remove(t.dir))
}

// drained is what was handed on before a process sweeps the table that it uses.
type drained struct {
	count   bpf.Count
	ignored bpf.Counters // of tables that are gone: what had not been told of these
	stats   cache.Stats
}

// take hands on what a table holds, as drain does it, and adds it up.
func (d *drained) take(cfg SweepConfig, k Kernel, sink flow.Sink, drain func(*Sweeper, flow.EndReason) error) error {
	before := handedOn(k.Memory())
	s, err := NewSweeper(cfg, k, sink)
	if err != nil {
		return err
	}
	if err := s.Adopt(); err != nil {
		return err
	}
	if err := drain(s, flow.EndForced); err != nil {
		return err
	}
	after, all := handedOn(k.Memory()), s.Stats()
	d.count.Packets += after.Packets - before.Packets
	d.count.Bytes += after.Bytes - before.Bytes
	all.Created -= all.Entries // those that stay are found again
	all.Entries, all.Peak, all.Capacity, all.Memory, all.Aggregates, all.Sweeps = 0, 0, 0, 0, 0, 0
	d.stats.Add(&all)
	return nil
}

// empty hands on all flows of a table that is not used any more, adds them to
// an account, and unpins it.
func (t *table) empty(cfg SweepConfig, sink flow.Sink, into *drained) error {
	m := t.maps.Memory().Meta
	cfg.Key, cfg.Sampling = flow.KeyMask(m.KeyMode), max(m.Sample, 1)
	lists, err := bpf.OpenLists(t.dir, t.maps.Memory())
	if err != nil {
		return err
	}
	defer lists.Close()
	cfg.Lists = lists
	if err := into.take(cfg, t.maps, sink, (*Sweeper).DrainAll); err != nil {
		return fmt.Errorf("%s: %w", t.dir, err)
	}
	counters, err := t.maps.Counters()
	if err != nil {
		return err
	}
	for why, c := range allPorts(counters) {
		into.ignored[why].Packets += c.Packets - m.Told[why].Packets
		into.ignored[why].Bytes += c.Bytes - m.Told[why].Bytes
	}
	return t.remove()
}
