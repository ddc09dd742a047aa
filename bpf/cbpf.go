package bpf

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"weir/capture"
	"weir/packet"
)

// The function whose body a filter becomes, and what switches its call on.
const (
	filterFunction = "weir_filter"
	filterSwitch   = "use_filter"
)

// view is how a program sees a packet.
type view struct {
	noLink bool // from the IP header on
	xdp    bool // else TC
	pieces bool // XDP: what does not fit in one buffer goes on in others
	egress bool
}

// views are those of the programs that ask the filter.
var views = map[string]view{
	"xdp_meter":     {xdp: true},
	"tc_ingress":    {},
	"tc_egress":     {egress: true},
	"tc_ingress_ip": {noLink: true},
	"tc_egress_ip":  {noLink: true, egress: true},
}

// InjectFilter puts a filter where the programs of spec call weir_filter (choose.h)
// and switches that on. It comes before the programs are loaded, and after their
// flags are set. Interfaces with different filters need programs of their own,
// from a copy of spec each.
//
// A packet is matched as it is on the wire, whatever the hook: tags in the frame,
// also one that the NIC has taken off. What the filter asks for beyond the end
// of the packet makes it not match.
//
// A filter may ask for what packets without link headers do not have; the
// programs for those then match nothing. f.Program(packet.LinkNetwork) says so
// beforehand.
func InjectFilter(spec *ebpf.CollectionSpec, f *capture.Filter) error {
	if f == nil {
		return nil
	}
	found := false
	for name, p := range spec.Programs {
		if !slices.ContainsFunc(p.Instructions, isFilter) {
			continue
		}
		v, ok := views[name]
		if !ok {
			return fmt.Errorf("bpf: program %s asks the filter, and is not known here", name)
		}
		v.pieces = v.xdp && p.Flags&bpfXDPHasFrags != 0
		body, err := filterBody(f, v)
		if err != nil {
			return err
		}
		splice(p, body)
		found = true
	}
	if !found {
		return fmt.Errorf("bpf: no program in the object calls %s", filterFunction)
	}
	if s := spec.Variables[filterSwitch]; s != nil {
		return s.Set(true)
	}
	return nil
}

func isFilter(in asm.Instruction) bool { return in.Symbol() == filterFunction }

// splice gives the filter's function another body.
func splice(p *ebpf.ProgramSpec, body asm.Instructions) {
	from := slices.IndexFunc(p.Instructions, isFilter)
	to := from + 1
	for to < len(p.Instructions) && p.Instructions[to].Symbol() == "" {
		to++
	}
	body[0].Metadata = p.Instructions[from].Metadata // its name and its type
	p.Instructions = slices.Concat(p.Instructions[:from], body, p.Instructions[to:])
}

// newCollection loads programs that may have a filter in them.
func newCollection(spec *ebpf.CollectionSpec, opts ebpf.CollectionOptions, f *capture.Filter) (*ebpf.Collection, error) {
	if f == nil {
		return ebpf.NewCollectionWithOptions(spec, opts)
	}
	// Of a filter that is too much for it the verifier says so after a long look.
	// With a log of it that would be many, each longer.
	opts.Programs.LogDisabled = true
	c, err := ebpf.NewCollectionWithOptions(spec, opts)
	if errors.Is(err, unix.E2BIG) {
		return nil, fmt.Errorf("filter %q: more than this kernel's verifier follows; a shorter one would be accepted, or --mode afpacket", f)
	}
	if err != nil {
		opts.Programs.LogDisabled = false
		return ebpf.NewCollectionWithOptions(spec, opts)
	}
	return c, nil
}

func filterBody(f *capture.Filter, v view) (asm.Instructions, error) {
	link := packet.LinkEthernet
	if v.noLink {
		link = packet.LinkNetwork
	}
	raw, err := f.Program(link)
	var fe *capture.FilterError
	switch {
	case v.noLink && errors.As(err, &fe) && fe.Link:
		raw = nothing
	case err != nil:
		return nil, err
	}
	code, err := translate(raw, v)
	if err != nil {
		return nil, fmt.Errorf("filter %q: %w", f, err)
	}
	return code, nil
}
