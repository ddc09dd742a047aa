package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weir/flow"
)

func TestExampleIsTheDefaults(t *testing.T) {
	got, err := Parse("example.yaml", []byte(Example))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Store.Dir, want.Control = "/var/lib/weir", "/run/weir/weir.sock"
	want.Export = []Destination{}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the example differs from the defaults (-default +example):\n%s", d)
	}
}

func TestShowReadsBack(t *testing.T) {
	c, err := Parse("x", []byte("interfaces: {eth0: {sample: 1:100, filter: 'not port 22', prefixes: [192.0.2.0/24, '2001:db8::1']}, lo: {meter: off, sample: 1:7}}\nexport: [udp://192.0.2.1:2055?version=5, {to: 'udp://[2001:db8::1]:4739'}]\ncache: {active: 60s, entries: 64k}\nstore: {max-age: 12h}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Interfaces["eth0"].Sample.Rate() != 100 || !c.Interfaces["eth0"].Meter || c.Interfaces["lo"].Meter || c.Export[1].To != "udp://[2001:db8::1]:4739" ||
		time.Duration(c.Cache.Active) != time.Minute || c.Cache.Entries != 64000 || c.Cache.Idle != Default().Cache.Idle {
		t.Errorf("read wrongly: %+v", c)
	}
	var b bytes.Buffer
	if err := c.Show(&b); err != nil {
		t.Fatal(err)
	}
	again, err := Parse("shown", b.Bytes())
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	for name, i := range c.Interfaces { // 1:1 is shown, unset means the same
		i.Sample = Sample(i.Sample.Rate())
		c.Interfaces[name] = i
	}
	if p := c.Interfaces["eth0"].Prefixes; len(p) != 2 || p[1].String() != "2001:db8::1/128" {
		t.Errorf("prefixes read wrongly: %v", p)
	}
	if d := cmp.Diff(c, again, cmp.Comparer(func(a, b Prefix) bool { return a == b }), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("shown and read back (-first +again):\n%s", d)
	}
}

func TestErrorsNameThePlace(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"cach: {}\n", `f:1:1: cach: unknown key; accepted: interfaces, cache, flow-aggregation, export, collect, store, console, acl, forward, guard, control, log (did you mean "cache"?)`},
		{"cache:\n  idel: 15s\n", `f:2:3: cache.idel: unknown key; accepted: entries, idle, active, tcp-end, key, collect, biflow, tunnel, sample-flows (did you mean "idle"?)`},
		{"cache:\n  idle: soon\n", `f:2:9: cache.idle: "soon" is no duration; accepted: 15s, 500ms, 30m, 12h, 90d, 0`},
		{"cache: {key: ciscoo}\n", `f:1:14: cache.key: "ciscoo": accepted: ` + strings.Join(flow.KeyNames(), ", ") + `, joined by commas (did you mean "cisco"?)`},
		{"cache: {entries: 3}\n", `f:1:18: cache.entries: 3: accepted: 1Ki to 256Mi entries of 128 octets`},
		{"cache: 5\n", `f:1:8: cache: found "5"; accepted: keys entries, idle, active, tcp-end, key, collect, biflow, tunnel, sample-flows`},
		{"export: udp://x:1\n", `f:1:9: export: found "udp://x:1"; accepted: a list ([a, b] or lines of - a)`},
		{"export: [x]\n", `f:1:10: export[0]: "x": accepted: udp://HOST:PORT?version=5|9|10, tcp://…, tls://…, dtls://…`},
		{"collect: {listen: ['udp://:99999']}\n", `f:1:20: collect.listen[0]: "udp://:99999": port "99999" is not a number from 0 to 65535`},
		{"collect: {listen: ['kafka://:1']}\n", `f:1:20: collect.listen[0]: "kafka://:1": kafka is not supported by this version; accepted: udp://[HOST]:PORT, tcp://[HOST]:PORT, tls://[HOST]:PORT?cert=FILE&key=FILE&ca=FILE, dtls://…`},
		{"cach: {}\ncollect: {listen: ['udp://:99999']}\nlog: {level: loud, levle: x}\n", `f:1:1: cach: unknown key; accepted: interfaces, cache, flow-aggregation, export, collect, store, console, acl, forward, guard, control, log (did you mean "cache"?)` + "\n" +
			`f:2:20: collect.listen[0]: "udp://:99999": port "99999" is not a number from 0 to 65535` + "\n" +
			`f:3:14: log.level: "loud": accepted: debug, info, warn, error` + "\n" +
			`f:3:20: log.levle: unknown key; accepted: level, format (did you mean "level"?)`},
		{"interfaces: {eth0: {forward: x}}\n", `f:1:30: interfaces.eth0.forward: "x": accepted: on, off, force`},
		{"interfaces: {eth0: {forward: on, mode: tc}}\n", `f:1:30: interfaces.eth0.forward: on, and the mode is tc: forwarding needs XDP; accepted: mode auto or xdp`},
		{"interfaces: {eth0: {sample: 100:1}}\n", `f:1:29: interfaces.eth0.sample: "100:1" is no sampling rate; accepted: 1:N with N from 1 to 16777215, e.g. 1:100`},
		{"interfaces: {eth0: {sample: 1:10}, eth1: {}}\n", `f:1:42: interfaces.eth1.sample: 1:1: another interface has 1:10; accepted: the same rate for all`},
		{"interfaces:\n  eth0:\n    filter: tcp prt 80\n", `f:3:13: interfaces.eth0.filter: "tcp prt 80": column 5: expected and, or, or the end; found "prt"`},
		{"interfaces: {eth0: {meter: off, filter: port}}\n", `f:1:41: interfaces.eth0.filter: "port": column 5: expected a port; found the end`},
		{"interfaces: {eth0: {prefixes: [10.0.0.0/8, 10.0.0.1/8, 300.1.1.1]}}\n", `f:1:44: interfaces.eth0.prefixes[1]: "10.0.0.1/8" has bits set outside the network; accepted: 10.0.0.0/8, or 10.0.0.1/32` + "\n" +
			`f:1:56: interfaces.eth0.prefixes[2]: "300.1.1.1" is no network; accepted: 192.0.2.0/24, 2001:db8::/32, or an address`},
		{"interfaces: {eth0: {prefixes: 10.0.0.0/8}}\n", `f:1:31: interfaces.eth0.prefixes: found "10.0.0.0/8"; accepted: a list ([a, b] or lines of - a)`},
		{"log: {level: info, level: warn}\n", `f:1:20: log.level: stands here and in line 1`},
		{"a: &x {}\ncache: *x\n", `f:1:1: a: unknown key; accepted: interfaces, cache, flow-aggregation, export, collect, store, console, acl, forward, guard, control, log` + "\n" + `f:2:8: cache: YAML aliases are not accepted here`},
		{"cache:\n\tidle: 1s\n", `f:2:1: not YAML: found character that cannot start any token`},
		{"---\n{}\n---\n{}\n", `f: more than one YAML document; accepted: one`},
	} {
		_, err := Parse("f", []byte(c.in))
		if err == nil {
			t.Errorf("%q was accepted", c.in)
		} else if err.Error() != c.want {
			t.Errorf("%q:\n got %s\nwant %s", c.in, err, c.want)
		}
	}
}

func TestEmptyFilesAreTheDefaults(t *testing.T) {
	for _, in := range []string{"", "\n", "# nothing\n", "---\n", "cache:\n", "{}"} {
		c, err := Parse("f", []byte(in))
		if err != nil {
			t.Errorf("%q: %v", in, err)
		} else if d := cmp.Diff(Default(), c); d != "" {
			t.Errorf("%q: %s", in, d)
		}
	}
}

// What a file says wins over the defaults of a verb, also where it says what
// the usual default is.
func TestLoadOverOtherDefaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.yaml")
	for text, want := range map[string]time.Duration{"cache: {active: 30m}\n": 30 * time.Minute, "cache: {idle: 1s}\n": time.Minute} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		base := Default()
		base.Cache.Active = Duration(time.Minute)
		c, err := LoadOver(base, path)
		if err != nil || time.Duration(c.Cache.Active) != want {
			t.Errorf("%q: active %v, %v; want %v", text, c.Cache.Active, err, want)
		}
	}
}

func TestLoadSaysWhatIsWrongWithTheFile(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		filepath.Join(dir, "none.yaml"): "no such file or directory",
		dir:                             "is a directory",
	} {
		_, err := Load(path)
		if err == nil || err.Error() != path+": "+want {
			t.Errorf("Load(%s) = %v, want %s", path, err, want)
		}
		if !errors.As(err, new(Errors)) {
			t.Errorf("%T is no Errors", err)
		}
	}
	big := filepath.Join(dir, "big.yaml")
	if err := os.WriteFile(big, bytes.Repeat([]byte("# \n"), 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(big); err == nil || !strings.Contains(err.Error(), "larger than 4 MiB") {
		t.Errorf("big file: %v", err)
	}
}

func TestValues(t *testing.T) {
	for in, want := range map[string]Size{"1500": 1500, "64KiB": 64 << 10, "1.5GiB": 3 << 29, "20GB": 20e9, "7B": 7, "2M": 2e6} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%s) = %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "-1", "GiB", "1e30", "nan", "inf", "1 GiB"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %d", in, got)
		}
	}
	for in, want := range map[string]string{"90d": "90d", "36h": "36h", "1h30m": "1h30m", "60s": "1m", "0": "0s", "1500ms": "1.5s"} {
		if got, err := ParseDuration(in); err != nil || got.String() != want {
			t.Errorf("ParseDuration(%s) = %s, %v; want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{"udp://:2055": "[::]:2055", "localhost:9": "127.0.0.1:9", "udp://[::1]:9": "[::1]:9"} {
		if got, err := ParseListen(in); err != nil || got.Addr.String() != want {
			t.Errorf("ParseListen(%s) = %v, %v", in, got, err)
		}
	}
	if got := Suggest("interfcaes", []string{"cache", "interfaces"}); got != "interfaces" {
		t.Errorf("Suggest = %q", got)
	}
	if got := Suggest("xyz", []string{"cache", "interfaces"}); got != "" {
		t.Errorf("Suggest(xyz) = %q", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(Example))
	for _, s := range []string{"cache: {idle: 1s}", "export: [a, {to: b}]", "interfaces: {x: }", "a: [", "? {}\n: x", "cache: &a\n  idle: *a", "!!binary x: y"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		c, err := Parse("f", in)
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := c.Show(&b); err != nil {
			t.Fatal(err)
		}
		if _, err := Parse("shown", b.Bytes()); err != nil {
			t.Fatalf("what was accepted is refused when shown: %v\n%s", err, b.String())
		}
	})
}
