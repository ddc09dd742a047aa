package bpf

import "testing"

// TestVerified watches what the programs cost the verifier, which gives up at a
// million instructions. Kernels 6.1 and 6.12 took 61 to 82 thousand for each.
func TestVerified(t *testing.T) {
	const budget = 200_000
	k := load(t, Options{Entries: 1 << 12})
	for name, p := range k.Programs.all() {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, ok := info.VerifiedInstructions()
		if !ok {
			t.Skip("skipped: this kernel does not say what a program cost its verifier (5.16)")
		}
		t.Logf("%s: %d instructions verified", name, n)
		if n > budget {
			t.Errorf("%s: %d instructions verified, over the budget of %d", name, n, budget)
		}
	}
}
