package hook

import (
	"errors"
	"net"
	"os"

	"github.com/cilium/ebpf"
)

// Attachment is a program of ours on an interface, as its pin tells.
type Attachment struct {
	Ifindex   uint32
	Interface string // its name; empty if it is not in this network namespace
	Point     Point
	How       How
	Program   ebpf.ProgramID
	Name      string // of the program
	Alive     bool   // false: the interface is gone, or somebody took the program off
}

// List is what is attached by the pins of this folder.
func (f *Folder) List() ([]Attachment, error) { return list(f.path) }

// List is what is attached by the pins of this network namespace. It changes
// nothing and needs no lock. No folder is an empty list.
func List(o Options) ([]Attachment, error) {
	p, err := findPlace(o, false)
	if errors.Is(err, errNoBPFFS) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer p.close()
	return list(p.path)
}

func list(dir string) ([]Attachment, error) {
	here, err := isHere(dir)
	if err != nil {
		return nil, err
	}
	all, err := readPins(dir, here)
	if err != nil {
		return nil, err
	}
	found := make([]Attachment, 0, len(all))
	for _, h := range all {
		if here && h.Alive {
			if i, err := net.InterfaceByIndex(int(h.Ifindex)); err == nil {
				h.Interface = i.Name
			}
		}
		if !h.orphan {
			found = append(found, h.Attachment)
		}
	}
	return found, nil
}

// Prune removes the pins of what is not attached any more, and returns them:
// the interface is gone, or somebody took the program off.
func (f *Folder) Prune() ([]Attachment, error) {
	here, err := f.here()
	if err != nil {
		return nil, err
	}
	all, err := readPins(f.path, here)
	if err != nil {
		return nil, err
	}
	var pruned []Attachment
	for _, h := range all {
		if h.Alive {
			continue
		}
		if err := h.remove(); err != nil && !errors.Is(err, os.ErrNotExist) {
			return pruned, err
		}
		if !h.orphan {
			pruned = append(pruned, h.Attachment)
		}
	}
	return pruned, nil
}
