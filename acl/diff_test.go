package acl

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestDiffCases: in testdata/diff.txt each case is a policy, a line "becomes"
// and another.
func TestDiffCases(t *testing.T) {
	runCases(t, "testdata/diff.txt", func(t *testing.T, c textCase) (string, string) {
		before, after, ok := strings.Cut(c.in, "becomes\n")
		if !ok {
			t.Fatal("no line becomes")
		}
		return "differs", string(AppendDiff(nil, Diff(mustRead(t, before), mustRead(t, after))))
	})
}

// Made so that only rules, their numbers and their remarks differ, a list can be
// made from another and the changes alone.
func TestDiffIsNothingOrTellsAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, new := genPolicy(t), genPolicy(t)
		if d := Diff(old, old); len(d) != 0 {
			t.Fatalf("between a policy and itself: %s", AppendDiff(nil, d))
		}
		for _, l := range new.Lists {
			was := old.List(l.Name, l.Family)
			if was == nil {
				continue
			}
			left := map[*Rule]bool{}
			for _, r := range was.Rules {
				left[r] = true
			}
			made := map[uint32]*Rule{}
			for _, c := range diffRules(was, l) {
				if c.Old != nil {
					delete(left, c.Old)
				}
				if c.New != nil {
					made[c.New.Seq] = c.New
				}
			}
			for r := range left {
				made[r.Seq] = r
			}
			if len(made) != len(l.Rules) {
				t.Fatalf("%d rules come of the changes, not %d", len(made), len(l.Rules))
			}
			for _, r := range l.Rules {
				if d := cmp.Diff(r, made[r.Seq], same); d != "" {
					t.Fatal(d)
				}
			}
		}
	})
}
