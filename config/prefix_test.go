package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPrefixFiles(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"10.0.0.0/8\n# ours\n\n  192.0.2.1 # a host\n2001:db8::/32\r\n::/0", "10.0.0.0/8 192.0.2.1/32 2001:db8::/32 ::/0"},
		{"10.0.0.0/8\n10.0.0.0/33\n\t fe80::1%eth0\n", "f:2:1: \"10.0.0.0/33\" is no network; accepted: 192.0.2.0/24, 2001:db8::/32, or an address\n" +
			"f:3:3: \"fe80::1%eth0\" is no network; accepted: 192.0.2.0/24, 2001:db8::/32, or an address"},
		{"::ffff:10.0.0.0/104\n", `f:1:1: "::ffff:10.0.0.0/104": accepted: IPv4 written as IPv4, such as 192.0.2.0/24`},
		{"2001:db8::1/32\n", `f:1:1: "2001:db8::1/32" has bits set outside the network; accepted: 2001:db8::/32, or 2001:db8::1/128`},
		{"# nothing\n", "f: no network in it: nothing would be metered"},
		{"", "f: no network in it: nothing would be metered"},
		{"\n" + strings.Repeat("x", 1<<17), "f:2:1: a line of more than 64 KiB: no list of networks"},
	} {
		list, err := readPrefixes("f", strings.NewReader(c.in))
		var words []string
		for _, p := range list {
			words = append(words, p.String())
		}
		got := strings.Join(words, " ")
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%.40q:\n got %s\nwant %s", c.in, got, c.want)
		}
	}
	_, err := readPrefixes("f", strings.NewReader(strings.Repeat("bad\n", 1000)))
	if errs, ok := err.(Errors); !ok || len(errs) != manyErrors+1 || !strings.Contains(errs[manyErrors].Error(), "and so on") {
		t.Errorf("a thousand bad lines: %v", err)
	}
	_, err = readPrefixes("f", strings.NewReader(strings.Repeat("::1\n", MaxPrefixes+1)))
	if err == nil || err.Error() != "f:1048577:1: more than 1048576 networks" {
		t.Errorf("a long list: %v", err)
	}
}

func TestLoadPrefixes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	if _, err := LoadPrefixes(path); err == nil || err.Error() != path+": no such file or directory" {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("10.0.0.0/8\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := LoadPrefixes(path)
	if want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

func FuzzPrefixes(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8", "2001:db8::/32 # x", "::ffff:1.2.3.4", "fe80::1%lo", "1.2.3.4/", "/8", "0.0.0.0/0", "1.2.3.4/031"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		p, err := ParsePrefix(in)
		if err != nil {
			if strings.Count(err.Error(), "\n") > 0 {
				t.Fatalf("%q: more than one line: %v", in, err)
			}
			return
		}
		if again, err := ParsePrefix(p.String()); err != nil || again != p {
			t.Fatalf("%q is %s, which is %s, %v", in, p, again, err)
		}
	})
}
