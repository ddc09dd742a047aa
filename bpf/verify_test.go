package bpf

import "testing"

func TestVerified(t *testing.T) {
	k := load(t, Options{Entries: 1 << 12})
	for name, p := range k.Programs.all() {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, ok := info.VerifiedInstructions()
		x, _ := info.JitedSize()
		t.Log(name, n, ok, x)
	}
}
