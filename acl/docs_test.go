package acl

import (
	"os"
	"strings"
	"testing"
)

// The examples of the reference are valid.
func TestDocumentation(t *testing.T) {
	b, err := os.ReadFile("../docs/access-lists.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, part := range strings.Split(string(b), "\n```")[1:] {
		language, text, _ := strings.Cut(part, "\n")
		for _, l := range languages {
			if l.name != language {
				continue
			}
			n++
			if _, err := l.read("docs", []byte(text+"\n")); err != nil {
				t.Errorf("%v\n%s", err, text)
			}
		}
	}
	if n < 4 {
		t.Errorf("found %d examples", n)
	}
}
