package bpf

import (
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"weir/capture"
	"weir/packet"
)

// function gives the instructions of a program's function.
func function(t *testing.T, p *ebpf.ProgramSpec, name string) asm.Instructions {
	t.Helper()
	from := slices.IndexFunc(p.Instructions, func(in asm.Instruction) bool { return in.Symbol() == name })
	if from < 0 {
		t.Fatalf("%s has no %s", p.Name, name)
	}
	to := from + 1
	for to < len(p.Instructions) && p.Instructions[to].Symbol() == "" {
		to++
	}
	return p.Instructions[from:to]
}

// plain are instructions without what is said about them.
func plain(all asm.Instructions) asm.Instructions {
	out := slices.Clone(all)
	for i := range out {
		out[i].Metadata = asm.Metadata{}
	}
	return out
}

// TestInjectFilter: in the object, each program that asks the filter gets one
// that sees as it does; nothing else changes.
func TestInjectFilter(t *testing.T) {
	spec, err := loadFlow()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		expr         string
		withoutLinks bool // packets without link headers can be asked
	}{{"tcp port 443", true}, {"vlan 5 and udp", false}, {"outbound", true}, {"", true}} {
		f, err := capture.CompileFilter(c.expr, packet.LinkNetwork)
		if err != nil {
			t.Fatal(err)
		}
		s := spec.Copy()
		if err := InjectFilter(s, f); err != nil {
			t.Fatalf("%q: %v", c.expr, err)
		}
		var on bool
		if err := s.Variables[filterSwitch].Get(&on); err != nil || !on {
			t.Errorf("%q: %s is %v, %v", c.expr, filterSwitch, on, err)
		}
		for name, v := range views {
			before, after := spec.Programs[name], s.Programs[name]
			if before == nil {
				t.Fatalf("no program %s", name)
			}
			old, body := function(t, before, filterFunction), function(t, after, filterFunction)
			link := packet.LinkEthernet
			if v.noLink {
				link = packet.LinkNetwork
			}
			raw, err := f.Program(link)
			if v.noLink && !c.withoutLinks {
				if err == nil {
					t.Errorf("%q: packets without link headers can be asked", c.expr)
				}
				raw = nothing
			}
			want, err := translate(raw, v)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := plain(body), plain(want); !slices.EqualFunc(got, want, func(a, b asm.Instruction) bool { return a == b }) {
				t.Errorf("%q, %s: has %v, want %v", c.expr, name, got, want)
			}
			if btf.FuncMetadata(&body[0]) != btf.FuncMetadata(&old[0]) || btf.FuncMetadata(&old[0]) == nil || body[0].Source() == nil {
				t.Errorf("%q, %s: the filter lost its type or its line", c.expr, name)
			}
			if got, want := len(after.Instructions)-len(body), len(before.Instructions)-len(old); got != want {
				t.Errorf("%q, %s: %d other instructions, before %d", c.expr, name, got, want)
			}
			calls := 0
			for _, in := range after.Instructions {
				if in.IsFunctionCall() && in.Reference() == filterFunction {
					calls++
				}
			}
			if calls == 0 {
				t.Errorf("%s does not call %s", name, filterFunction)
			}
		}
	}
}

func TestInjectFilterRefuses(t *testing.T) {
	f, err := capture.CompileFilter("tcp", packet.LinkEthernet)
	if err != nil {
		t.Fatal(err)
	}
	stub := asm.Instructions{asm.Mov.Imm(asm.R0, 1).WithSymbol(filterFunction), asm.Return()}
	for want, spec := range map[string]*ebpf.CollectionSpec{
		"no program in the object calls weir_filter":           {Programs: map[string]*ebpf.ProgramSpec{"xdp_meter": {Instructions: asm.Instructions{asm.Return()}}}},
		"program other asks the filter, and is not known here": {Programs: map[string]*ebpf.ProgramSpec{"other": {Instructions: stub}}},
	} {
		if err := InjectFilter(spec, f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		if err := InjectFilter(spec, nil); err != nil {
			t.Errorf("without a filter: %v", err)
		}
	}
}
