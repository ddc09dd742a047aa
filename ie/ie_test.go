package ie

import (
	"encoding/csv"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

func TestLookup(t *testing.T) {
	for _, c := range []struct {
		pen  uint32
		id   uint16
		name string
		typ  Type
		sem  Semantics
		unit string
	}{
		{IANA, 1, "octetDeltaCount", Unsigned64, DeltaCounter, "octets"},
		{IANA, 6, "tcpControlBits", Unsigned16, Flags, ""}, // unsigned8 before RFC 7125
		{IANA, 56, "sourceMacAddress", MACAddress, DefaultSemantics, ""},
		{IANA, 152, "flowStartMilliseconds", DateTimeMilliseconds, DefaultSemantics, "milliseconds"},
		{IANA, 288, "p2pTechnology", String, DefaultSemantics, ""}, // the registry has a line feed after it
		{IANA, 291, "basicList", BasicList, ListSemantics, ""},
		{Reverse, 2, "reversePacketDeltaCount", Unsigned64, DeltaCounter, "packets"},
		{CERT, 14, "initialTCPFlags", Unsigned16, Flags, ""},
		{CERT, 14 | 0x4000, "reverseInitialTCPFlags", Unsigned16, Flags, ""},
		{VMware, 891, "tunnelType", Unsigned8, Identifier, ""},
	} {
		e, ok := Lookup(c.pen, c.id)
		if want := (Element{c.pen, c.id, c.typ, c.sem, c.name, c.unit}); !ok || e != want {
			t.Errorf("Lookup(%d, %d) = %+v, %v; want %+v", c.pen, c.id, e, ok, want)
		}
		if b, ok := ByName(c.name); !ok || b != e {
			t.Errorf("ByName(%q) = %+v, %v; want %+v", c.name, b, ok, e)
		}
	}
	for _, c := range []vendorKey{{IANA, 0}, {IANA, 65}, {IANA, 416}, {IANA, 534}, {IANA, 65535}, {Reverse, 65}, {CERT, 9}, {CERT, 0x4009}, {4711, 1}} {
		if e, ok := Lookup(c.pen, c.id); ok {
			t.Errorf("Lookup(%d, %d) = %+v; want none", c.pen, c.id, e)
		}
	}
	if e, ok := LookupV9(33002); !ok || e.Name != "fwExtEvent" {
		t.Errorf("LookupV9(33002) = %+v, %v", e, ok)
	}
	if e, ok := LookupV9(80); !ok || e.Name != "destinationMacAddress" {
		t.Errorf("LookupV9(80) = %+v, %v", e, ok)
	}
	// Cisco's own, in v9 and in IPFIX: the same element.
	for v9, ipfix := range map[uint16]uint16{45003: 12235, 37083: 4315, 37025: 4257} {
		a, ok := LookupV9(v9)
		b, also := Lookup(Cisco, ipfix)
		if !ok || !also || a != b {
			t.Errorf("v9's %d is %+v, IPFIX's %d %+v", v9, a, ipfix, b)
		}
	}
	if e, ok := LookupV9(65000); ok {
		t.Errorf("LookupV9(65000) = %+v; want none", e)
	}
	for _, name := range []string{"", "reverse", "noSuchElement", "reverseNoSuchElement"} {
		if e, ok := ByName(name); ok {
			t.Errorf("ByName(%q) = %+v; want none", name, e)
		}
	}
}

// Every name is one element's, and the table is in order.
func TestTableConsistent(t *testing.T) {
	seen := map[string]Element{}
	n := 0
	All(func(e Element) bool {
		n++
		if got, ok := Lookup(0, e.ID); !ok || got != e {
			t.Errorf("%d: Lookup gives %+v, All %+v", e.ID, got, e)
		}
		if o, ok := seen[e.Name]; ok {
			t.Errorf("%q names %d and %d", e.Name, o.ID, e.ID)
		}
		seen[e.Name] = e
		return true
	})
	if n < 500 {
		t.Errorf("%d elements; the registry has over 500", n)
	}
	for _, e := range vendors {
		if o, ok := seen[e.Name]; ok {
			t.Errorf("%q names %d/%d and %d/%d", e.Name, o.PEN, o.ID, e.PEN, e.ID)
		}
		seen[e.Name] = e
	}
	for _, e := range v9Types {
		if o, ok := seen[e.Name]; ok {
			t.Errorf("%q names %d/%d and v9's %d", e.Name, o.PEN, o.ID, e.ID)
		}
		seen[e.Name] = e
	}
}

// The table says what a flattened copy of the registry, made by other means, says.
func TestAgainstFlattenedRegistry(t *testing.T) {
	name := filepath.Join("..", "..", "shared", "reference", "ipfix-information-elements.csv")
	f, err := os.Open(name)
	if err != nil {
		t.Skipf("skipped: no flattened registry to compare with: %v", err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, r := range rows[1:] {
		id, err := strconv.Atoi(r[0])
		if err != nil || r[2] == "" {
			continue
		}
		n++
		e, ok := Lookup(0, uint16(id))
		sem := r[3]
		if sem == "" {
			sem = "default"
		}
		units := r[5]
		if units == "inferred" {
			units = ""
		}
		if !ok || e.Name != r[1] || e.Type.String() != r[2] || e.Semantics.String() != sem || e.Units != units {
			t.Errorf("%d: table has %+v (%v, %v), the registry %v", id, e, e.Type, e.Semantics, r[:6])
		}
	}
	if n < 500 {
		t.Errorf("compared %d elements only", n)
	}
}
