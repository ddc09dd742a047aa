package acl

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// same compares policies, positions aside.
var same = cmp.Options{cmpopts.IgnoreTypes(Pos{})}

func TestWhatIsPrintedReadsBackEqual(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := genPolicy(t)
		if err := p.Validate(); err != nil {
			t.Fatalf("the generator makes what is not valid: %v", err)
		}
		text := AppendCisco(nil, p)
		again, err := ReadCisco("printed", text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if d := cmp.Diff(p, again, same); d != "" {
			t.Fatalf("%s\n%s", d, text)
		}
	})
}

func FuzzReadCisco(f *testing.F) {
	seeds(f, "testdata/cisco/*")
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := ReadCisco("in", in)
		if err != nil {
			if errs, ok := err.(Errors); !ok || len(errs) == 0 || len(errs) > maxErrors+1 {
				t.Fatalf("%T of %d", err, len(errs))
			}
			return
		}
		text := AppendCisco(nil, p)
		again, err := ReadCisco("printed", text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if d := cmp.Diff(p, again, same); d != "" {
			t.Fatalf("%s\n%s", d, text)
		}
	})
}
