package bpf

import "testing"

// TestVerified watches what the programs cost the verifier, which gives up at a
// million instructions. Kernels 6.1 to 6.18 took 61 to 117 thousand for each, with
// access lists up to 352 thousand (6.18).
func TestVerified(t *testing.T) {
	for _, c := range []struct {
		lists, forward, guard bool
		budget                uint32
	}{
		{false, false, false, 200_000}, {true, false, false, 500_000}, {false, true, false, 250_000}, {true, true, false, 700_000}, {true, true, true, 800_000},
	} {
		k := load(t, Options{Entries: 1 << 12, Lists: c.lists, Forward: c.forward, Guard: c.guard})
		for name, p := range k.Programs.all() {
			info, err := p.Info()
			if err != nil {
				t.Fatal(err)
			}
			n, ok := info.VerifiedInstructions()
			if !ok {
				t.Skip("skipped: this kernel does not say what a program cost its verifier (5.16)")
			}
			t.Logf("%s, lists %v, forwarding %v, guard %v: %d instructions verified", name, c.lists, c.forward, c.guard, n)
			if n > c.budget {
				t.Errorf("%s, lists %v, forwarding %v, guard %v: %d instructions verified, over the budget of %d", name, c.lists, c.forward, c.guard, n, c.budget)
			}
		}
	}
}
