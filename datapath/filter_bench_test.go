package datapath

import (
	"fmt"
	"strings"
	"testing"

	"weir/acl"
)

// What an operator waits for when lists are changed: as many rules as there may be
// in two lists, of which one changes, and a short list with as many numbers beside
// it that flows may still point to.
func BenchmarkApply(b *testing.B) {
	long := func(rules, changed int) *acl.Policy {
		var text strings.Builder
		for l := range 2 {
			fmt.Fprintf(&text, "ip access-list extended L%d\n", l)
			for i := range rules / 2 {
				if l == 0 && i == 0 {
					i = 40000 + changed
				}
				fmt.Fprintf(&text, " deny tcp 10.%d.%d.0 0.0.0.255 host 192.0.2.%d eq %d\n", i>>8&255, i&255, l+1, 1+i%60000)
			}
			text.WriteString(" permit ip any any\n")
		}
		text.WriteString("interface lo\n ip access-group L0 in\n ip access-group L1 out\n")
		return mustRead(b, text.String())
	}
	run := func(b *testing.B, f *Filter, policies [2]*acl.Policy) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if err := f.Apply(policies[i%2], 0); err != nil {
				b.Fatal(err)
			}
		}
	}
	const all = 64000
	b.Run("rules=64000", func(b *testing.B) {
		_, f := filtering(b, 1<<10, FilterOptions{})
		run(b, f, [2]*acl.Policy{long(all, 0), long(all, 1)})
	})
	b.Run("rules=200/known=48000", func(b *testing.B) {
		_, f := filtering(b, 1<<10, FilterOptions{})
		if err := f.Apply(long(48000, 0), 0); err != nil {
			b.Fatal(err)
		}
		run(b, f, [2]*acl.Policy{long(200, 0), long(200, 1)})
	})
}
