package hook

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/pin"
	"golang.org/x/sys/unix"
)

// programAt is the program for a point.
func programAt(p Programs, point Point, noLink bool) *ebpf.Program {
	switch {
	case point == AtXDP:
		return p.XDP
	case point == Ingress && noLink:
		return p.IngressIP
	case point == Ingress:
		return p.Ingress
	case noLink:
		return p.EgressIP
	}
	return p.Egress
}

// spotError is an error of attaching that another plan may go round.
type spotError struct {
	Spot
	err error
}

func (e *spotError) Error() string { return e.err.Error() }
func (e *spotError) Unwrap() error { return e.err }

// Attach carries out a plan; where programs of ours are attached already it
// swaps them in place, and no packet passes unseen. It returns what came of the
// plan: with Want Auto, what cannot be had is replaced by the next best, down to
// AFPacket, and Why says so. With AFPacket no program of ours is left on the
// interface, after an error none that was not there before.
//
// A change between XDP and TC ingress leaves a moment in which neither counts,
// rather than both.
func (f *Folder) Attach(p *Plan, progs Programs) (*Plan, error) {
	for {
		if p.Mode == AFPacket {
			if err := f.Detach(p.Ifindex); err != nil {
				return nil, err
			}
			done := *p
			done.Notes = nil // what they say of an earlier weir is settled
			return &done, nil
		}
		err := f.carryOut(p, progs)
		if err == nil {
			done := *p
			done.Notes = slices.DeleteFunc(slices.Clone(p.Notes), func(note string) bool { return note == tentative })
			return &done, nil
		}
		var at *spotError
		if !errors.As(err, &at) {
			return nil, fmt.Errorf("%s: %w", p.Interface, err)
		}
		next := *p
		next.Spots, next.Notes = nil, nil
		switch {
		case p.Mode == XDP && at.Point == AtXDP && p.Want == Auto:
			next.Why = "XDP is not to be had: " + err.Error()
			next.tc()
			p, err = next.placed()
		case p.Mode == XDP && at.Point == AtXDP:
			return nil, fmt.Errorf("%s: XDP is not to be had: %w; use --mode tc, or auto", p.Interface, err)
		default:
			p, err = next.without(err.Error())
		}
		if err != nil {
			return nil, err
		}
	}
}

// carryOut attaches or swaps what a plan says and removes what it does not.
func (f *Folder) carryOut(p *Plan, progs Programs) error {
	for _, s := range p.Spots {
		if programAt(progs, s.Point, p.NoLink) == nil {
			return fmt.Errorf("no program for %s", s.Point)
		}
	}
	there, err := f.of(p.Ifindex)
	if err != nil {
		return err
	}
	keep := map[Spot]*held{}
	for _, h := range there {
		at := Spot{h.Point, h.How}
		if h.Alive && p.wants(at) {
			keep[at] = h
			continue
		}
		if err := h.remove(); err != nil {
			return err
		}
	}
	var fresh []*held
	for _, s := range p.Spots {
		program := programAt(progs, s.Point, p.NoLink)
		if h := keep[s]; h != nil {
			err = h.swap(program)
		} else {
			h = &held{Attachment: Attachment{Ifindex: p.Ifindex, Point: s.Point, How: s.How}, path: f.pin(p.Ifindex, string(s.Point))}
			err = h.attach(program, p.kernel.options.Generic)
			if err == nil {
				fresh = append(fresh, h)
			}
		}
		if err != nil {
			for _, h := range fresh {
				err = errors.Join(err, h.remove())
			}
			return &spotError{s, err}
		}
	}
	return nil
}

func (p *Plan) wants(s Spot) bool {
	for _, w := range p.Spots {
		if w == s {
			return true
		}
	}
	return false
}

// Detach takes our programs off an interface.
func (f *Folder) Detach(ifindex uint32) error {
	there, err := f.of(ifindex)
	for _, h := range there {
		err = errors.Join(err, h.remove())
	}
	return err
}

// pin is the path of a pin.
func (f *Folder) pin(ifindex uint32, what string) string {
	return filepath.Join(f.path, linksFolder, strconv.FormatUint(uint64(ifindex), 10)+"-"+what)
}

// held is one of our attachments, as its pin has it.
type held struct {
	Attachment
	path    string
	here    bool // it is of the calling thread's network namespace
	generic bool // of XDP by netlink
	moved   bool // the interface has gone to another network namespace
	orphan  bool // a clsact mark without a filter
}

// attach puts a program where none of ours is, and pins it.
func (h *held) attach(program *ebpf.Program, generic bool) error {
	h.here, h.generic = true, generic
	switch h.How {
	case Link:
		flags := link.XDPDriverMode
		if generic {
			flags = link.XDPGenericMode
		}
		l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: int(h.Ifindex), Flags: flags})
		if err != nil {
			return h.xdpRefused(program, err)
		}
		return pinLink(l, h.path)
	case TCX:
		l, err := link.AttachTCX(link.TCXOptions{Program: program, Interface: int(h.Ifindex), Attach: attachType(h.Point), Anchor: link.Head()})
		if err != nil {
			return err
		}
		return pinLink(l, h.path)
	}
	// The pin comes first: a program that belongs to the interface must not be
	// there without a sign of ours.
	if err := replacePin(program, h.path, func() error {
		if h.How == Netlink {
			return h.setNetlink(program, 0)
		}
		made, err := addClsact(h.Ifindex)
		if err != nil {
			return err
		}
		if made {
			if err := os.Mkdir(h.mark(), 0o700); err != nil {
				return errors.Join(err, removeClsact(h.Ifindex))
			}
		}
		return setFilter(h.Ifindex, h.Point, program)
	}); err != nil {
		return errors.Join(err, h.removeQdisc())
	}
	return nil
}

// mark is the folder that says that we made the qdisc.
func (h *held) mark() string {
	return filepath.Join(filepath.Dir(h.path), strconv.FormatUint(uint64(h.Ifindex), 10)+"-"+clsactMark)
}

func pinLink(l link.Link, path string) error {
	defer l.Close()
	if err := l.Pin(path); err != nil {
		return fmt.Errorf("pinning: %w", err) // and closing it takes it off
	}
	return nil
}

// replacePin pins a program beside the pin it is to replace, does what is to be
// done, and moves it there: at any moment one of the two is attached.
func replacePin(program *ebpf.Program, path string, do func() error) error {
	beside := path + newMark
	if err := os.Remove(beside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	pinned, err := program.Clone() // a Program knows one pin; this one is not the caller's
	if err != nil {
		return err
	}
	defer pinned.Close()
	if err := pinned.Pin(beside); err != nil {
		return fmt.Errorf("pinning: %w", err)
	}
	if err := do(); err != nil {
		return errors.Join(err, os.Remove(beside))
	}
	return os.Rename(beside, path)
}

// xdpRefused says why the kernel did not attach: links give a number only, the
// same attempt by netlink a sentence.
func (h *held) xdpRefused(program *ebpf.Program, err error) error {
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
		if others, e := Others(h.Ifindex, nil); e == nil {
			for _, o := range others {
				if o.Point == AtXDP {
					o.Describe()
					return fmt.Errorf("%s is there already", o)
				}
			}
		}
	}
	again := setXDP(h.Ifindex, program.FD(), 0, h.generic)
	if again == nil { // it changed its mind; links are what we want
		setXDP(h.Ifindex, -1, program.FD(), h.generic)
		return err
	}
	var r *refusal
	if errors.As(again, &r) && r.reason != "" {
		return r
	}
	return err
}

// swap puts another program in the place of ours, in one step.
func (h *held) swap(program *ebpf.Program) error {
	if h.How == Link || h.How == TCX {
		l, err := link.LoadPinnedLink(h.path, nil)
		if err != nil {
			return err
		}
		defer l.Close()
		return l.Update(program)
	}
	return replacePin(program, h.path, func() error {
		if h.How == Clsact {
			return setFilter(h.Ifindex, h.Point, program)
		}
		old, err := ebpf.NewProgramFromID(h.Program)
		if err != nil {
			return err
		}
		defer old.Close()
		return h.setNetlink(program, old.FD())
	})
}

func (h *held) setNetlink(program *ebpf.Program, expected int) error {
	err := setXDP(h.Ifindex, program.FD(), expected, h.generic)
	if expected == 0 && (errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST)) {
		return h.xdpRefused(program, err)
	}
	return err
}

// remove takes it off the interface, if it is there, and removes the pin.
func (h *held) remove() error {
	err := h.off()
	if err != nil {
		return fmt.Errorf("taking the program off %s of interface %d: %w", h.Point, h.Ifindex, err)
	}
	for _, path := range []string{h.path + newMark, h.path} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return h.removeQdisc()
}

func (h *held) off() error {
	switch {
	case h.orphan:
		return nil
	case h.How == Link || h.How == TCX:
		l, err := link.LoadPinnedLink(h.path, nil)
		if err != nil {
			return err
		}
		defer l.Close()
		if err := l.Detach(); err != nil && !gone(err) {
			return err
		}
		return nil
	case !h.here || !h.Alive && h.How == Netlink:
		return nil // by descriptor or by name, there is nothing to reach
	case h.How == Clsact:
		return removeFilter(h.Ifindex, h.Point)
	}
	old, err := ebpf.NewProgramFromID(h.Program)
	if err != nil {
		return err
	}
	defer old.Close()
	if err := setXDP(h.Ifindex, -1, old.FD(), h.generic); err != nil && !gone(err) {
		return err
	}
	return nil
}

// removeQdisc removes the clsact qdisc if we made it and nobody uses it, and
// the mark with the last of our filters.
func (h *held) removeQdisc() error {
	if h.How != Clsact {
		return nil
	}
	if _, err := os.Stat(h.mark()); err != nil {
		return nil
	}
	if h.here {
		for _, point := range []Point{Ingress, Egress} {
			there, err := clsactFilters(h.Ifindex, point)
			if err != nil && !gone(err) {
				return err
			}
			for _, a := range there {
				if a.mark {
					return nil // the other one of ours
				}
			}
		}
		if kind, err := clsactQdisc(h.Ifindex); err == nil && kind == "clsact" {
			if err := removeClsact(h.Ifindex); err != nil {
				return err
			}
		}
	}
	return os.Remove(h.mark())
}

// of are our attachments on an interface of this network namespace.
func (f *Folder) of(ifindex uint32) ([]*held, error) {
	here, err := f.here()
	if err != nil {
		return nil, err
	}
	all, err := f.read(here)
	if err != nil {
		return nil, err
	}
	var found []*held
	for _, h := range all {
		if h.Ifindex == ifindex {
			found = append(found, h)
		}
	}
	return found, nil
}

// read looks at every pin.
func (f *Folder) read(here bool) ([]*held, error) { return readPins(f.path, here) }

func readPins(dir string, here bool) ([]*held, error) {
	dir = filepath.Join(dir, linksFolder)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []*held
	marks := map[uint32]bool{}
	for _, e := range entries {
		number, what, _ := strings.Cut(e.Name(), "-")
		ifindex, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			continue // not ours
		}
		what, isNew := strings.CutSuffix(what, newMark)
		path := filepath.Join(dir, number+"-"+what)
		if isNew {
			if _, err := os.Stat(path); err == nil {
				continue // seen by the other name
			}
		}
		switch Point(what) {
		case AtXDP, Ingress, Egress:
			h := &held{Attachment: Attachment{Ifindex: uint32(ifindex), Point: Point(what)}, path: path, here: here}
			if err := h.look(); err != nil {
				return nil, err
			}
			all = append(all, h)
		case clsactMark:
			marks[uint32(ifindex)] = true
		}
	}
	for _, h := range all {
		if h.How == Clsact {
			delete(marks, h.Ifindex)
		}
	}
	for ifindex := range marks { // of a process that ended between two steps
		all = append(all, &held{Attachment: Attachment{Ifindex: ifindex, Point: Ingress, How: Clsact},
			path: filepath.Join(dir, strconv.FormatUint(uint64(ifindex), 10)+"-"+string(Ingress)), here: here, orphan: true})
	}
	return all, nil
}

// look finds out what a pin is and whether it is attached.
func (h *held) look() error {
	p, err := pin.Load(h.path, nil)
	if errors.Is(err, os.ErrNotExist) {
		p, err = pin.Load(h.path+newMark, nil)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", h.path, err)
	}
	defer p.Close()
	switch p := p.(type) {
	case link.Link:
		err = h.lookLink(p)
	case *ebpf.Program:
		err = h.lookProgram(programID(p))
	default:
		return fmt.Errorf("%s: a map, where a link or a program should be", h.path)
	}
	if h.Program != 0 {
		h.Name = programName(h.Program, "")
	}
	return err
}

func (h *held) lookLink(l link.Link) error {
	info, err := l.Info()
	if err != nil {
		return fmt.Errorf("%s: %w", h.path, err)
	}
	h.Program = info.Program
	var ifindex uint32
	if x := info.XDP(); x != nil {
		h.How, ifindex = Link, x.Ifindex
	} else if t := info.TCX(); t != nil {
		h.How, ifindex = TCX, t.Ifindex
	} else {
		return fmt.Errorf("%s: a link of type %d, neither XDP nor TCX", h.path, info.Type)
	}
	if ifindex == 0 || !h.here {
		h.Alive = ifindex != 0
		return nil
	}
	// The interface may have gone to another namespace: its index here, if
	// there is one, is somebody else's then.
	if h.How == TCX {
		there, err := tcxPrograms(ifindex, h.Point)
		for _, a := range there {
			h.Alive = h.Alive || a.link == info.ID
		}
		return err
	}
	there, err := xdpPrograms(ifindex)
	for _, x := range there {
		h.Alive = h.Alive || ebpf.ProgramID(x.id) == info.Program
	}
	if gone(err) {
		err = nil
	}
	return err
}

// lookProgram is of a program that belongs to the interface.
func (h *held) lookProgram(id ebpf.ProgramID) error {
	h.Program = id
	if h.Point != AtXDP {
		h.How = Clsact
		if !h.here {
			return nil
		}
		there, err := clsactFilters(h.Ifindex, h.Point)
		for _, a := range there {
			if a.mark {
				h.Alive, h.Program = true, a.Program
			}
		}
		if gone(err) {
			err = nil
		}
		return err
	}
	h.How = Netlink
	if !h.here {
		return nil
	}
	there, err := xdpPrograms(h.Ifindex)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	ids := []ebpf.ProgramID{id, pinnedProgram(h.path + newMark)} // the latter of a process that ended within a swap
	for _, x := range there {
		for _, id := range ids {
			if ebpf.ProgramID(x.id) == id && id != 0 {
				h.Alive, h.Program, h.generic = true, id, x.generic
			}
		}
	}
	return nil
}
