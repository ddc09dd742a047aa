package collect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"weir/flow"
	"weir/wire"
)

// maxState is the largest state file that is read.
const maxState = 1 << 30

// loadState gives the decoders what they knew when the state was saved. A file
// that cannot be used is reported, set aside as FILE.bad and never fatal:
// templates come again.
func (c *Collector) loadState() {
	if c.opt.State == "" {
		return
	}
	state, err := readState(c.opt.State)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = c.restore(state)
	}
	if err == nil {
		return
	}
	c.badState.Add(1)
	aside := c.opt.State + ".bad"
	if moved := os.Rename(c.opt.State, aside); moved != nil {
		aside = ""
	}
	c.log.Warn("decoder state not used: exporters will send their templates again", "file", c.opt.State, "error", err, "set_aside", aside)
}

func readState(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxState {
		return nil, fmt.Errorf("%s: not a regular file of at most %d MiB", name, maxState>>20)
	}
	return os.ReadFile(name)
}

// The file holds a section for each UDP address listened at, as an exporter may
// send to several: length 2 and the address as configured, length 4 and the
// state of its decoders (wire.AppendState), which has a checksum.

// restore gives each exporter to the loop that will meet it; how many there are
// may have changed. What was received at an address no longer listened at is
// given to all.
func (c *Collector) restore(state []byte) error {
	groups := map[string][]*loop{}
	for _, l := range c.udp {
		l.mu.Lock()
		defer l.mu.Unlock()
		url := c.where[l.where].url
		groups[url] = append(groups[url], l)
	}
	load := func(part []byte, g []*loop) error {
		return wire.LoadState(part, func(a flow.Addr) *wire.Decoder { return g[steer(a, len(g))].dec })
	}
	for len(state) > 0 {
		url, rest, ok := section(state, 2)
		if !ok {
			return wire.ErrState
		}
		part, rest, ok := section(rest, 4)
		if !ok {
			return wire.ErrState
		}
		state = rest
		if g := groups[string(url)]; g != nil {
			if err := load(part, g); err != nil {
				return err
			}
			continue
		}
		for _, g := range groups {
			if err := load(part, g); err != nil {
				return err
			}
		}
	}
	return nil
}

// section reads a length of n octets and so many octets.
func section(b []byte, n int) (part, rest []byte, ok bool) {
	if len(b) < n {
		return nil, nil, false
	}
	size := uint64(0)
	for _, c := range b[:n] {
		size = size<<8 | uint64(c)
	}
	b = b[n:]
	if size > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:size], b[size:], true
}

// saveSoon is how long a new template may live in memory alone: an exporter may
// not send it again for half an hour.
const saveSoon = 2 * time.Second

// keepState saves the state now and then, and soon when templates changed,
// until ctx ends.
func (c *Collector) keepState(ctx context.Context) {
	if c.opt.State == "" {
		return
	}
	t := time.NewTicker(min(saveSoon, c.opt.StateEvery))
	defer t.Stop()
	saved := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if !c.learned.Swap(false) && time.Since(saved) < c.opt.StateEvery {
			continue
		}
		saved = time.Now()
		if err := c.saveState(); err != nil {
			c.log.Warn("decoder state not saved", "file", c.opt.State, "error", err)
		}
	}
}

// saveState writes the state beside the old one and then takes its place, so
// that a crash leaves one of the two.
func (c *Collector) saveState() error {
	if c.opt.State == "" {
		return nil
	}
	state := c.state()
	err := writeFile(c.opt.State, state)
	if err != nil {
		c.badState.Add(1)
	}
	return err
}

func (c *Collector) state() []byte {
	var b []byte
	for i, e := range c.where {
		var all []*wire.Decoder
		for _, l := range c.udp {
			if l.where == i {
				l.mu.Lock()
				defer l.mu.Unlock()
				all = append(all, l.dec)
			}
		}
		if len(all) == 0 {
			continue
		}
		part := wire.AppendState(nil, all...)
		b = append(be.AppendUint16(b, uint16(len(e.url))), e.url...)
		b = append(be.AppendUint32(b, uint32(len(part))), part...)
	}
	return b
}

func writeFile(name string, data []byte) (err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, filepath.Base(name)+".tmp*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), name); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil // renamed: what is left is the folder's own durability
	}
	defer d.Close()
	return d.Sync()
}
