package hook

import (
	"errors"

	"weir/host"
)

var errSoon = errors.New("not written yet")

// Kernel is what the kernel offers, and this process may use.
type Kernel struct {
	Refused error // why there can be no programs at all; nil: there can
	Frags   bool  // XDP programs may be loaded with fragments (BPF_F_XDP_HAS_FRAGS)
	TCX     bool
	Link    bool // XDP has bpf_link
}

// Probe asks the kernel. It changes nothing.
func Probe(o Options) *Kernel { return &Kernel{Refused: errSoon} }

// Plan says how an interface would be metered; own are our programs that are
// there already (List), nil if none. An explicit mode that cannot be had is an
// error that says why and what to do.
func (k *Kernel) Plan(i host.Interface, want Mode, own []Attachment) (*Plan, error) {
	return nil, errSoon
}

// ErrHeld: another process has the folder. The error is a *HeldError.
var ErrHeld = errors.New("held by another process")

// HeldError says who holds a folder.
type HeldError struct {
	Dir string
	PID int // 0: not visible from here
}

func (e *HeldError) Error() string { return "" }
func (e *HeldError) Unwrap() error { return ErrHeld }

// Folder is where the maps and hooks of a network namespace are pinned, held
// by this process alone.
type Folder struct{}

// Open finds the folder of this network namespace, mounts a bpffs where there
// is none, makes the folder, and locks it until Close or the process's end.
func Open(o Options) (*Folder, error) { return nil, errSoon }

// Dir is where to pin maps. It may be a path by a descriptor of this process
// (/proc/self/fd/…): Name is for people.
func (f *Folder) Dir() string  { return "" }
func (f *Folder) Name() string { return "" }

// Warning is what the operator should know of the folder, or empty.
func (f *Folder) Warning() string { return "" }

// Attach carries out a plan, or swaps the programs of ours that are there
// already, in place, without a packet passing unseen. It returns what came of
// the plan: with Want Auto, what cannot be had is replaced by the next best,
// down to AFPacket, and Why says so.
func (f *Folder) Attach(k *Kernel, p *Plan, progs Programs) (*Plan, error) { return nil, errSoon }

// Detach takes our programs off an interface.
func (f *Folder) Detach(ifindex uint32) error { return errSoon }

// List is what is attached by the pins of this folder.
func (f *Folder) List() ([]Attachment, error) { return nil, errSoon }

// Prune removes the pins of what is not attached any more, and returns them.
func (f *Folder) Prune() ([]Attachment, error) { return nil, errSoon }

// Remove takes off all programs and removes all pins and folders. The Folder
// is closed.
func (f *Folder) Remove() error { return errSoon }

// Close lets the folder go. Programs stay attached, pins stay.
func (f *Folder) Close() error { return errSoon }

// Dir is the folder of this network namespace, whether it is there or not:
// nothing is changed. The error says what is missing.
func Dir() (string, error) { return "", errSoon }

// List is what is attached by the pins of a folder. It needs no lock.
func List(dir string) ([]Attachment, error) { return nil, errSoon }

// DetachAll opens the folder of this network namespace (o.Dir, if set) and
// removes all that is in it. No folder is no error.
func DetachAll(o Options) error { return errSoon }

// Holder is the process that holds a folder.
func Holder(dir string) (pid int, held bool) { return 0, false }

// Leftover is a folder of a network namespace that is gone.
type Leftover struct {
	Dir            string
	Maps, Hooks    int
	Flows, Packets uint64 // in its table, not handed on
}

// Leftovers lists folders of network namespaces that are gone and that nobody
// holds.
func Leftovers() ([]Leftover, error) { return nil, errSoon }

// Sweep removes a leftover.
func Sweep(l Leftover) error { return errSoon }

// LinkType is how an interface's frames begin.
type LinkType int

const (
	Unknown  LinkType = iota // nothing that our programs read
	Ethernet                 // lo too
	RawIP                    // with the IP header: tun, wireguard, ppp, …
)

// LinkTypeOf asks an interface of this network namespace.
func LinkTypeOf(ifname string) (LinkType, error) { return 0, errSoon }

// Forwards says whether the kernel forwards what comes in by an interface:
// bpf.PortForwards if either.
func Forwards(ifname string) (v4, v6 bool) { return false, false }

// Findings is what the doctor says of the kernel, the pins and the interfaces.
func Findings(o Options, chosen []host.Interface, want func(ifname string) Mode) []host.Finding {
	return nil
}
