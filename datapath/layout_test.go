package datapath

import (
	"testing"

	"weir/acl"
	"weir/bpf"
)

// What the compiler of access lists and the programs' loader agree on.
func TestListsAgree(t *testing.T) {
	if acl.BankPage != 8*bpf.BankPage || acl.MaxIDs != bpf.MaxRules || acl.MaxPorts != bpf.MaxPorts {
		t.Errorf("acl and bpf do not agree: pages of %d octets and %d words, %d and %d rules, %d and %d ports", acl.BankPage, bpf.BankPage, acl.MaxIDs, bpf.MaxRules, acl.MaxPorts, bpf.MaxPorts)
	}
}
