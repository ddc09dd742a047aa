package acl

import (
	"fmt"
	"strings"
	"testing"
)

// What comes from outside may be anything: it is read in bounded time, and
// refused with a bounded number of errors.
func TestHostileInput(t *testing.T) {
	deep := func(n int) string {
		var s strings.Builder
		for i := range n {
			fmt.Fprintf(&s, "object-group network G%d\n group-object G%d\n", i, i+1)
		}
		fmt.Fprintf(&s, "object-group network G%d\n host 10.0.0.1\n", n)
		return s.String()
	}
	var diamonds strings.Builder // each group names the next two: 2^30 ways to the last
	for i := range 30 {
		fmt.Fprintf(&diamonds, "object-group network G%d\n group-object G%d\n group-object H%d\n", i, i+1, i+1)
		fmt.Fprintf(&diamonds, "object-group network H%d\n group-object G%d\n group-object H%d\n", i, i+1, i+1)
	}
	diamonds.WriteString("object-group network G30\n host 10.0.0.1\nobject-group network H30\n host 10.0.0.2\nip access-list extended A\n permit ip object-group G0 any\n")
	rules := func(n int) string {
		return "ip access-list extended A\n" + strings.Repeat(" permit ip any any\n", n)
	}
	for _, c := range []struct {
		name, in, want string // want: the beginning of the error; empty: none
	}{
		{"a NUL", "ip access-list extended A\n permit\x00ip any any\n", "in:2:8: found the octet 0x00; accepted: text"},
		{"binary", "\x7fELF\x02\x01\x01", "in:1:1: found the octet 0x7f; accepted: text"},
		{"no UTF-8", " remark \xff", "in:1:9: found the octet 0xff; accepted: text"},
		{"a carriage return within", "!\r!", "in:1:2: found the octet 0x0d; accepted: text"},
		{"too large", strings.Repeat("!\n", maxFile/2+1), "in: larger than 16 MiB"},
		{"one line", strings.Repeat("x", 1<<20), `in:1:1: found "` + strings.Repeat("x", maxName) + `…"`},
		{"many words", "ip access-list extended A\n permit tcp any any eq" + strings.Repeat(" 1", 1<<19), ""},
		{"a long remark", "ip access-list extended A\n remark " + strings.Repeat("x", 2000), "in:2:9: a text of 2000 characters; accepted: up to 1024"},
		{"many errors", strings.Repeat("x\n", 1<<16), `in:1:1: found "x"; accepted: `},
		{"as many rules as there may be", rules(MaxRules), ""},
		{"one more", rules(MaxRules + 1), "in:1:25: the list A has 32769 rules; accepted: up to 32768"},
		{"groups 64 deep", deep(63), ""},
		{"deeper", deep(64), "in:2:15: groups nested deeper than 64"},
		{"much deeper", deep(5000), "in:2:15: groups nested deeper than 64"},
		{"groups in many ways", diamonds.String(), ""},
		{"the widest range", "object-group network G\n range :: ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff\n range ::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe\n", ""},
		{"braces of YAML", strings.Repeat("{", 1<<16), `in:1:1: found "{`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := ReadCisco("in", []byte(c.in))
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				p.Check()
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Fatalf("got %.200v\nwant %s", err, c.want)
			}
			if n := len(err.(Errors)); n > maxErrors+1 {
				t.Errorf("%d errors", n)
			}
		})
	}
	for _, in := range []string{
		strings.Repeat("[", 1<<16), strings.Repeat("{a: ", 1<<16), strings.Repeat("- ", 1<<16), "lists: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		"a: &a [b]\nb: &b [*a, *a]\nc: [*b, *b]\n", "lists: {A: [" + strings.Repeat("{permit: ip}, ", MaxRules+1) + "]}",
	} {
		if _, err := ReadYAML("in", []byte(in)); err == nil || len(err.(Errors)) > maxErrors+1 {
			t.Errorf("%.40s…: %.200v", in, err)
		}
	}
}
