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
	"github.com/cilium/ebpf/asm"
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
// rather than both do.
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
//
// Where counting moves from one point to another, idle programs are attached
// first: whatever is slow or refused there happens while the old ones count. Then
// the old ones are made idle and the new ones real, a moment apart.
func (f *Folder) carryOut(p *Plan, progs Programs) (err error) {
	for _, s := range p.Spots {
		if programAt(progs, s.Point, p.NoLink) == nil {
			return fmt.Errorf("no program for %s", s.Point)
		}
	}
	there, err := f.of(p.Ifindex)
	if err != nil {
		return err
	}
	kept := map[Spot]*held{}
	var leaving []*held
	for _, h := range there {
		switch at := (Spot{h.Point, h.How}); {
		case !h.Alive:
			if err := h.remove(); err != nil {
				return err
			}
		case p.wants(at):
			kept[at] = h
		case h.here && h.sharesPlace(p):
			// The kernel has one place only: the old one must go first.
			if err := h.remove(); err != nil {
				return err
			}
		default:
			leaving = append(leaving, h)
		}
	}

	var fresh []*held
	defer func() {
		if err != nil {
			for _, h := range fresh {
				err = errors.Join(err, h.remove())
			}
		}
	}()
	for _, s := range p.Spots {
		if kept[s] != nil {
			continue
		}
		h := &held{Attachment: Attachment{Ifindex: p.Ifindex, Point: s.Point, How: s.How}, path: f.pin(p.Ifindex, s)}
		program := programAt(progs, s.Point, p.NoLink)
		if len(leaving) > 0 {
			if program, err = idle(s.Point, p.kernel.Fragments); err != nil {
				return err
			}
			defer program.Close()
		}
		if err := h.attach(program, p.kernel.options.Generic); err != nil {
			return &spotError{s, err}
		}
		h.Program = programID(program)
		fresh = append(fresh, h)
	}
	// What takes time is done before; then the programs change, one after the
	// other: at ingress first, as the plans have it, and old before new.
	var changes []*change
	settle := func() (err error) {
		for _, c := range changes {
			err = errors.Join(err, c.close())
		}
		changes = nil
		return err
	}
	defer func() { err = errors.Join(err, settle()) }()
	prepare := func(h *held, program *ebpf.Program) error {
		c, err := h.change(program)
		if err != nil {
			return &spotError{Spot{h.Point, h.How}, err}
		}
		changes = append(changes, c)
		return nil
	}
	for _, s := range p.Spots {
		for _, h := range leaving {
			if (h.Point == Egress) != (s.Point == Egress) {
				continue
			}
			nothing, err := idle(h.Point, p.kernel.Fragments)
			if err != nil {
				return err
			}
			defer nothing.Close()
			if err := prepare(h, nothing); err != nil {
				return err
			}
		}
		h := kept[s]
		if h == nil && len(leaving) > 0 {
			h = fresh[slices.IndexFunc(fresh, func(h *held) bool { return h.Point == s.Point })]
		}
		if h != nil {
			if err := prepare(h, programAt(progs, s.Point, p.NoLink)); err != nil {
				return err
			}
		}
	}
	for _, c := range changes {
		if err := c.do(); err != nil {
			return &spotError{Spot{c.Point, c.How}, err}
		}
	}
	if err := settle(); err != nil {
		return err
	}
	for _, h := range leaving {
		if err := h.remove(); err != nil {
			return err
		}
	}
	return nil
}

// sharesPlace says whether an attachment of ours is where the plan wants
// another one that cannot be beside it: XDP by link, and by netlink.
func (h *held) sharesPlace(p *Plan) bool { return h.Point == AtXDP && p.has(AtXDP) }

// idle is a program that passes everything and counts nothing.
func idle(point Point, fragments bool) (*ebpf.Program, error) {
	spec := &ebpf.ProgramSpec{
		Name: "weir_idle", Type: ebpf.SchedCLS, License: "Dual MIT/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	} // TC_ACT_UNSPEC
	if point == AtXDP {
		spec.Type, spec.AttachType = ebpf.XDP, ebpf.AttachXDP // the same as package bpf's, or the kernel does not swap them
		spec.Instructions[0] = asm.Mov.Imm(asm.R0, 2)         // XDP_PASS
		if fragments {
			spec.Flags = unix.BPF_F_XDP_HAS_FRAGS
		}
	}
	return ebpf.NewProgram(spec)
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
func (f *Folder) pin(ifindex uint32, s Spot) string {
	return filepath.Join(f.path, linksFolder, fmt.Sprintf("%d-%s-%s", ifindex, s.Point, s.How))
}

// held is one of our attachments, as its pin has it.
type held struct {
	Attachment
	path    string
	here    bool // it is of the calling thread's network namespace
	generic bool // of XDP by netlink
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
	if err := pinBeside(program, h.path); err != nil {
		return err
	}
	if err := h.attachToInterface(program); err != nil {
		return errors.Join(err, os.Remove(h.path+newMark), h.removeQdisc())
	}
	return os.Rename(h.path+newMark, h.path)
}

func (h *held) attachToInterface(program *ebpf.Program) error {
	if h.How == Netlink {
		err := setXDP(h.Ifindex, program.FD(), 0, h.generic)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
			return h.xdpRefused(program, err)
		}
		return err
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
	return addFilter(h.Ifindex, h.Point, program)
}

// mark is the folder that says that we made the qdisc.
func (h *held) mark() string {
	return filepath.Join(filepath.Dir(h.path), fmt.Sprintf("%d-%s", h.Ifindex, clsactMark))
}

func pinLink(l link.Link, path string) error {
	defer l.Close()
	if err := l.Pin(path); err != nil {
		return fmt.Errorf("pinning: %w", err) // and closing it takes it off
	}
	return nil
}

// pinBeside pins a program beside the pin it is to replace: whichever of the
// two is attached when a process ends, it is ours to the next.
func pinBeside(program *ebpf.Program, path string) error {
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
	return nil
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

// change is another program in the place of ours: made ready, then done in one
// step of the kernel's.
type change struct {
	*held
	program  *ebpf.Program
	link     link.Link     // of Link and TCX; else
	old      *ebpf.Program // of Netlink
	priority uint16        // of Clsact
	done     bool
}

// change makes a change ready. It must be closed.
func (h *held) change(program *ebpf.Program) (c *change, err error) {
	c = &change{held: h, program: program}
	switch h.How {
	case Link, TCX:
		c.link, err = link.LoadPinnedLink(h.path, nil)
	case Netlink:
		if c.old, err = ebpf.NewProgramFromID(h.Program); err == nil {
			err = pinBeside(program, h.path)
		}
	case Clsact:
		if c.priority, err = ourPriority(h.Ifindex, h.Point); err == nil {
			err = pinBeside(program, h.path)
		}
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *change) do() (err error) {
	switch c.How {
	case Link, TCX:
		err = c.link.Update(c.program)
	case Netlink:
		err = setXDP(c.Ifindex, c.program.FD(), c.old.FD(), c.generic)
	case Clsact:
		err = setFilter(c.Ifindex, c.Point, c.priority, c.program)
	}
	if err == nil {
		c.done, c.Program = true, programID(c.program)
	}
	return err
}

// close puts the pins in order.
func (c *change) close() error {
	if c.link != nil {
		return c.link.Close()
	}
	if c.old != nil {
		c.old.Close()
	}
	if c.done {
		return os.Rename(c.path+newMark, c.path)
	}
	if err := os.Remove(c.path + newMark); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
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
	return readPins(f.path, here, ifindex)
}

// readPins looks at every pin of a folder, or at those of one interface; here
// says that it is of the calling thread's network namespace.
func readPins(dir string, here bool, only ...uint32) ([]*held, error) {
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
		if err != nil || len(only) > 0 && uint32(ifindex) != only[0] {
			continue
		}
		what, isNew := strings.CutSuffix(what, newMark)
		path := filepath.Join(dir, number+"-"+what)
		if isNew {
			if _, err := os.Stat(path); err == nil {
				continue // seen by the other name
			}
		}
		if what == clsactMark {
			marks[uint32(ifindex)] = true
			continue
		}
		point, how, _ := strings.Cut(what, "-")
		h := &held{Attachment: Attachment{Ifindex: uint32(ifindex), Point: Point(point), How: How(how)}, path: path, here: here}
		if err := h.look(); err != nil {
			return nil, err
		}
		all = append(all, h)
	}
	for _, h := range all {
		if h.How == Clsact {
			delete(marks, h.Ifindex)
		}
	}
	for ifindex := range marks { // of a process that ended between two steps
		all = append(all, &held{
			Attachment: Attachment{Ifindex: ifindex, Point: Ingress, How: Clsact},
			path:       filepath.Join(dir, fmt.Sprintf("%d-%s-%s", ifindex, Ingress, Clsact)), here: here, orphan: true,
		})
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
	l, isLink := p.(link.Link)
	program, isProgram := p.(*ebpf.Program)
	switch at := (Spot{h.Point, h.How}); {
	case isLink && (at == Spot{AtXDP, Link} || h.How == TCX && h.Point != AtXDP):
		err = h.lookLink(l)
	case isProgram && (at == Spot{AtXDP, Netlink} || h.How == Clsact && h.Point != AtXDP):
		err = h.lookProgram(programID(program))
	default:
		return fmt.Errorf("%s: not what its name says", h.path)
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
		ifindex = x.Ifindex
	} else if t := info.TCX(); t != nil {
		ifindex = t.Ifindex
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
