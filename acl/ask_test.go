package acl

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/flow"
)

// What an Asker is sure of is what Evaluate says of every packet that may be
// meant, and of one of which all is known it is sure.
func TestAskIsNeverWrong(t *testing.T) {
	sure, agreed, open := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		p := genPolicy(t)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		now := time.Date(2026, 11, 22, 10, 0, 30, 0, time.Local)
		for _, l := range p.Lists {
			asker := p.Asker(l)
			for range 20 {
				r := &Rule{Proto: AnyProto}
				if len(l.Rules) > 0 {
					r = l.Rules[rng.IntN(len(l.Rules))]
				}
				in := packetFor(p, l, r, rng)
				if in.Key.Proto != flow.ProtoTCP || in.Key.VLAN&flow.KeyFragment != 0 {
					in.TCPFlags = 0
				}
				v := p.Evaluate(l, in, now)
				all := Known{Info: *in, From: now}
				same := func(what string, a Answer) {
					if a.Action != v.Action || v.Rule != nil && a.Rule != v.Rule || v.Rule == nil && a.Rule.Seq != 0 {
						t.Fatalf("%s: %s by %s; Evaluate says %s\n%+v\n%s", what, a.Action, a.Rule.Text(l.Family), said(v), in, AppendCisco(nil, p))
					}
				}
				a := asker.Ask(&all)
				if !a.Sure || !a.Agreed {
					t.Fatalf("not sure of %+v: %+v", in, a)
				}
				same("all known", a)
				b, err := Compile(&Policy{Lists: []*List{l}, Groups: p.Groups, Times: p.Times}, CompileOptions{Now: now})
				switch {
				case errors.Is(err, ErrTooBig):
				case err != nil:
					t.Fatal(err)
				case b.Rules(0)[b.Classify(0, in).Rule] != a.Rule:
					r := b.Classify(0, in)
					t.Fatalf("%+v: the classifier says %s; %s decides", in, b.Rules(0)[r.Rule].Text(l.Family), a.Rule.Text(l.Family))
				}
				if steps := asker.Steps(&all); steps[len(steps)-1].Rule != a.Rule || slices.ContainsFunc(steps[:len(steps)-1], func(s Step) bool { return s.Match != No || s.Field == NoField }) {
					t.Fatalf("%+v: steps %+v", in, steps)
				}

				// Of the same packet less is known, or it is one of several.
				less := all
				for f := FieldProto; f < fields; f++ {
					if rng.IntN(4) != 0 {
						continue
					}
					less.Unknown = less.Unknown.With(f)
					switch f { // and what is said there means nothing
					case FieldProto:
						less.Unknown = less.Unknown.With(FieldSrcPort).With(FieldDstPort).With(FieldICMP).With(FieldFlags)
					case FieldSrc:
						less.Key.Src = flow.Addr{}
					case FieldDst:
						less.Key.Dst = flow.Addr{}
					case FieldTTL:
						less.TTL = uint8(rng.Uint32())
					case FieldLength:
						less.Length = rng.Uint32()
					case FieldTOS:
						less.Key.TOS = uint8(rng.Uint32())
					}
				}
				if in.Key.Proto == flow.ProtoTCP && in.Key.VLAN&flow.KeyFragment == 0 {
					less.AnyFlags = true
					less.TCPFlags |= uint8(rng.Uint32())
				}
				less.From, less.To = now.Add(-time.Duration(rng.Int64N(int64(26*time.Hour)))), now.Add(time.Duration(rng.Int64N(int64(26*time.Hour))))
				switch a := asker.Ask(&less); {
				case a.Sure:
					sure++
					same("sure", a)
				case a.Agreed:
					agreed++
					if a.Action != v.Action {
						t.Fatalf("%+v: agreed on %s; Evaluate says %s", less, a.Action, said(v))
					}
				default:
					open++
				}
			}
		}
	})
	t.Logf("sure of %d, of the verdict of %d, of %d not", sure, agreed, open)
	if sure < 100 || agreed < 20 || open < 100 {
		t.Error("too few of a kind")
	}
}

// TestAsk: in testdata/ask.txt each case is a list, and behind its first line
// "packets" what is asked and answered. "?" stands for a port that is not known,
// a word ?ttl for a TTL, and so on; "or" says that the flags are those of several packets.
func TestAsk(t *testing.T) {
	words := map[string]Field{"?flags": FieldFlags, "?ttl": FieldTTL, "?len": FieldLength, "?tos": FieldTOS, "?fragment": FieldFragment, "?dport": FieldDstPort, "?proto": FieldProto}
	runCases(t, "testdata/ask.txt", func(t *testing.T, c textCase) (string, string) {
		list, packets, ok := strings.Cut(c.in, "packets\n")
		if !ok {
			t.Fatal("no line packets")
		}
		p := mustRead(t, list)
		asker := p.Asker(p.Lists[0])
		var out strings.Builder
		for line := range strings.Lines(packets) {
			if line = strings.TrimSpace(line); line == "" {
				continue
			}
			k := Known{From: time.Now()}
			var known []string
			for _, w := range strings.Fields(line) {
				f, ok := words[w]
				switch {
				case ok:
					k.Unknown = k.Unknown.With(f)
				case w == "or":
					k.AnyFlags = true
				default:
					known = append(known, w)
				}
			}
			k.Info = *packetOf(t, strings.Join(known, " "))
			a := asker.Ask(&k)
			verdict := a.Action.String()
			if !a.Agreed {
				verdict = "depends on " + a.Field.String()
			} else if !a.Sure {
				verdict += ", by which rule depends on " + a.Field.String()
			}
			fmt.Fprintf(&out, "%s\n    %s\n", line, verdict)
			for _, s := range asker.Steps(&k) {
				found, wanted := k.Why(s.Rule, p.Lists[0].Family, s.Field)
				if s.Match == Yes {
					found, wanted = "", ""
				}
				fmt.Fprintf(&out, "    %-6s %s: %s %s / %s\n", [...]string{"no", "maybe", "yes"}[s.Match], s.Rule.Text(p.Lists[0].Family), s.Field, found, wanted)
			}
		}
		return "answers", out.String()
	})
}

func TestParseWords(t *testing.T) {
	for _, c := range []struct {
		got  func() (any, error)
		want string
	}{
		{func() (any, error) { return ParseProto(IPv4, "tcp") }, "6"},
		{func() (any, error) { return ParseProto(IPv6, "icmp") }, "58"},
		{func() (any, error) { return ParseProto(IPv4, "253") }, "253"},
		{func() (any, error) { return ParseProto(IPv4, "tpc") }, `did you mean "tcp"`},
		{func() (any, error) { return ParseProto(IPv4, "ip") }, `protocol "ip": accepted`},
		{func() (any, error) { return ParsePort(6, "www") }, "80"},
		{func() (any, error) { return ParsePort(17, "domain") }, "53"},
		{func() (any, error) { return ParsePort(6, "70000") }, "0 to 65535"},
		{func() (any, error) { return ParsePort(6, "domian") }, `did you mean "domain"`},
		{func() (any, error) { return ParsePort(1, "80") }, "icmp has no ports"},
		{func() (any, error) { return ParseFlags("syn,ack") }, "18"},
		{func() (any, error) { return ParseFlags("none") }, "0"},
		{func() (any, error) { return ParseFlags("synn") }, `did you mean "syn"`},
		{func() (any, error) { return ParseDSCP("ef") }, "184"},
		{func() (any, error) { return ParseDSCP("64") }, "0 to 63"},
		{func() (any, error) { t, c, err := ParseICMP(IPv4, "packet-too-big"); return []any{t, c}, err }, "[3 4]"},
		{func() (any, error) { t, c, err := ParseICMP(IPv6, "128/0"); return []any{t, c}, err }, "[128 0]"},
		{func() (any, error) { t, c, err := ParseICMP(IPv4, "ecco"); return []any{t, c}, err }, `did you mean "echo"`},
	} {
		v, err := c.got()
		got := fmt.Sprint(v)
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%q; want %q", got, c.want)
		}
	}
}
