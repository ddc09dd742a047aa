package acl

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// same compares policies, positions aside.
var same = cmp.Options{cmpopts.IgnoreTypes(Pos{})}

// languages are the two ways to write a policy down.
var languages = []struct {
	name  string
	read  func(string, []byte) (*Policy, error)
	print func([]byte, *Policy) []byte
}{{"cisco", ReadCisco, AppendCisco}, {"yaml", ReadYAML, AppendYAML}}

func TestWhatIsPrintedReadsBackEqual(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := genPolicy(t)
		if err := p.Validate(); err != nil {
			t.Fatalf("the generator makes what is not valid: %v", err)
		}
		readsBack(t, p)
	})
}

func readsBack(t rapid.TB, p *Policy) {
	for _, l := range languages {
		text := l.print(nil, p)
		again, err := l.read("printed", text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if d := cmp.Diff(p, again, same); d != "" {
			t.Fatalf("%s\n%s", d, text)
		}
		if guess, err := Read("printed", text); err != nil || !cmp.Equal(guess, again) {
			t.Fatalf("Read took %s for something else: %v\n%s", l.name, err, text)
		}
	}
}

// fuzz: what is accepted prints and reads back equal; what is not has bounded
// errors.
func fuzz(f *testing.F, read func(string, []byte) (*Policy, error)) {
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := read("in", in)
		if err == nil {
			readsBack(t, p)
			return
		}
		if errs, ok := err.(Errors); !ok || len(errs) == 0 || len(errs) > maxErrors+1 {
			t.Fatalf("%T of %d", err, len(errs))
		}
	})
}

func FuzzReadCisco(f *testing.F) {
	seeds(f, "testdata/cisco/*")
	fuzz(f, ReadCisco)
}

func FuzzReadYAML(f *testing.F) {
	seeds(f, "testdata/yaml/*")
	fuzz(f, ReadYAML)
}
