package bpf

import "testing"

func TestVerifiedLists(t *testing.T) {
	k := load(t, Options{Entries: 1 << 12, Lists: true})
	for name, p := range k.Programs.all() {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, _ := info.VerifiedInstructions()
		t.Logf("%s: %d instructions verified", name, n)
	}
}
