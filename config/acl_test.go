package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weir/acl"
)

func TestAccessLists(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lists.conf")
	if err := os.WriteFile(file, []byte("ip access-list extended WAN\n permit tcp any any eq 443\n deny ip any any\ninterface eth1\n ip access-group WAN out\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Parse("weir.yaml", []byte("interfaces:\n  eth0:\n    acl: {in: WAN, no-list: closed}\nacl:\n  file: "+file+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Policy()
	if err != nil || len(p.Lists) != 1 || len(p.Bindings) != 2 || p.Bindings[1] != (acl.Binding{Interface: "eth0", List: "WAN"}) {
		t.Errorf("policy %+v, %v", p, err)
	}
	if !c.ACL.Protect || c.ACL.OrphanAfter == 0 {
		t.Errorf("the defaults are gone: %+v", c.ACL)
	}
	c, err = Parse("weir.yaml", []byte("acl:\n  protect: off\n  lists:\n    L: {family: ipv4, rules: [permit tcp any any eq 22]}\ninterfaces:\n  eth0: {acl: {in: L}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := c.Policy(); err != nil || len(p.Lists) != 1 || len(p.Bindings) != 1 || c.ACL.Protect {
		t.Errorf("policy %+v, %v", p, err)
	}
	if c := Default(); c.Filters() {
		t.Error("by default something is filtered")
	}
	for _, x := range []struct{ text, want string }{
		{"acl:\n  fiel: x\n", "weir.yaml:2:3: acl: "},
		{"acl:\n  lists:\n    L: {family: ipv4, rules: [permit tpc any any]}\n", "weir.yaml:3:"},
		{"interfaces:\n  eth0: {acl: {in: NONE}}\n", `there is no ipv4 list "NONE"`},
		{"interfaces:\n  eth0: {acl: {table-full: shut}}\n", "accepted: judge, open, closed"},
		{"acl: {file: " + file + "}\ncache: {key: 5tuple}\n", "access lists need the key"},
		{"acl: {file: /nowhere/lists}\n", "/nowhere/lists: no such file"},
	} {
		if _, err := Parse("weir.yaml", []byte(x.text)); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%q: %v; want %q", x.text, err, x.want)
		}
	}
}
