package wire

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Sequence numbers, message by message: "seq" or "seq+n" for n records (1
// without), "o1" behind it if one of them is options data, "?" behind that if the records could not be counted, "@uptime" in s
// if the header tells one.
func TestSequence(t *testing.T) {
	run := func(q *sequence, list string) {
		exported := uint32(1_700_000_000)
		for i, word := range strings.Fields(list) {
			var seq, n, opts, up uint32
			if o := strings.IndexByte(word, 'o'); o >= 0 {
				fmt.Sscan(word[o+1:], &opts)
				word = word[:o]
			}
			n = 1
			certain := !strings.Contains(word, "?")
			word = strings.ReplaceAll(word, "?", "")
			if at := strings.IndexByte(word, '@'); at >= 0 {
				fmt.Sscan(word[at+1:], &up)
				word = word[:at]
			}
			if plus := strings.IndexByte(word, '+'); plus >= 0 {
				fmt.Sscan(word[plus+1:], &n)
				word = word[:plus]
			}
			var wide int64
			fmt.Sscan(word, &wide)
			seq = uint32(wide)
			p := pulse{exported: exported + uint32(i)}
			if up != 0 {
				p.up, p.uptime = true, up*1000
			}
			q.observe(raw{seq, n - opts, opts, certain}, p, testTime+int64(i)*1e9/100)
		}
	}
	for _, c := range []struct {
		name, list string
		want       SequenceInfo // Lost: when all holes are closed
	}{
		{"in order", "0 1 2 3 4", SequenceInfo{}},
		{"records", "100+30 130+30 160+5 165+30", SequenceInfo{}},
		{"messages without records", "100+30 130+0 130+0 130+30", SequenceInfo{}},
		{"it begins anywhere", "4000000000 4000000001", SequenceInfo{}},
		{"wrap", "4294967294 4294967295 0 1", SequenceInfo{}},
		{"one is lost", "0 1 3 4", SequenceInfo{Gaps: 1, Lost: 1}},
		{"records are lost", "0+30 60+30 90+30", SequenceInfo{Gaps: 1, Lost: 30}},
		{"lost at the wrap", "4294967294 1 2", SequenceInfo{Gaps: 1, Lost: 2}},
		{"two change places", "0 1 3 2 4", SequenceInfo{Gaps: 1, Reordered: 1}},
		{"reordered records", "0+10 30+10 10+10 20+10 40+10", SequenceInfo{Gaps: 1, Reordered: 2}},
		{"reordered from the middle of a hole", "0+10 50+10 20+10 60+10", SequenceInfo{Gaps: 1, Reordered: 1, Lost: 30}},
		{"reordered over the wrap", "4294967295 1 0 2", SequenceInfo{Gaps: 1, Reordered: 1}},
		{"twice", "0 1 1 2", SequenceInfo{Duplicates: 1}},
		{"late and twice", "0 2 1 1 3", SequenceInfo{Gaps: 1, Reordered: 1, Duplicates: 1}},
		{"the exporter begins anew", "1000 1001 1002 0 1 2 3", SequenceInfo{Restarts: 1, Reordered: 1}},
		{"the exporter begins anew, its uptime tells at once", "1000@100 1001@101 0@1 1@2", SequenceInfo{Restarts: 1}},
		{"anew, and the first message is lost", "1000@100 1001@101 1@2 2@3", SequenceInfo{Restarts: 1}},
		{"anew from a high number", "4000000000 4000000001 0 1 2", SequenceInfo{Restarts: 1, Reordered: 1}},
		{"one stray of old", "100000 100001 5 100002 100003", SequenceInfo{Reordered: 1}},
		{"a long outage, the uptime goes on", "1000@100 1001@101 50000000@102 50000001@103", SequenceInfo{Gaps: 1, Lost: 50000000 - 1002}},
		{"the uptime wraps after 49.7 days", "7@4294966 8@4294967 9@1 10@2", SequenceInfo{}},
		{"records that could not be counted", "0+10? 50+10 60+10", SequenceInfo{}},
		{"and then a gap that can", "0+10? 50+10 70+10", SequenceInfo{Gaps: 1, Lost: 10}},
		{"options count", "0+10 10+3o1 13+10 23+3o1 26+10", SequenceInfo{}},
		{"options do not count with this exporter", "0+10 10+3o1 12+10 22+3o1 24+10", SequenceInfo{}},
		{"the number after, as softflowd has it", "19+20o1 41+22 53+12 60+7", SequenceInfo{}},
		{"the number after, and a loss", "20+20 40+20 52+12 72+20 94+10 104+10", SequenceInfo{Gaps: 1, Lost: 12}},
	} {
		var q sequence
		run(&q, c.list)
		open := q.info.Missing + q.info.Lost
		if open != c.want.Lost {
			t.Errorf("%s: %d missing or lost, want %d", c.name, open, c.want.Lost)
		}
		q.close(0, true)
		if q.info != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, q.info, c.want)
		}
	}
}

// A hole is open for as many messages as the window has, then it is loss.
func TestSequenceWindow(t *testing.T) {
	for _, late := range []int{1, window, window + 1, window + 10} {
		var q sequence
		q.observe(raw{0, 1, 0, true}, pulse{}, testTime)
		for i := range late {
			q.observe(raw{uint32(2 + i), 1, 0, true}, pulse{}, testTime)
		}
		q.observe(raw{1, 1, 0, true}, pulse{}, testTime)
		want := SequenceInfo{Gaps: 1, Reordered: 1}
		if late > window {
			want = SequenceInfo{Gaps: 1, Reordered: 1, Lost: 1}
		}
		q.close(0, true)
		if q.info != want {
			t.Errorf("%d messages late: %+v, want %+v", late, q.info, want)
		}
	}
	var q sequence
	q.observe(raw{0, 1, 0, true}, pulse{}, testTime)
	q.observe(raw{5, 1, 0, true}, pulse{}, testTime)
	if q.close(testTime+holeTime-1, false); q.info.Lost != 0 || q.info.Missing != 4 {
		t.Errorf("%+v", q.info)
	}
	if q.close(testTime+holeTime, false); q.info.Lost != 4 || q.info.Missing != 0 {
		t.Errorf("a quiet exporter's hole: %+v", q.info)
	}
}

// For any messages dropped, doubled and moved by less than the window, what is
// said lost is what was dropped: once the stream's habit is known, for in its
// first messages a loss may look like a habit.
func TestSequenceProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(12, 300).Draw(t, "messages")
		next := rapid.Uint32().Draw(t, "first")
		var list []mark
		var dropped, doubled uint64
		for i := range n {
			size := uint32(rapid.IntRange(1, 40).Draw(t, "records"))
			m := mark{next, size}
			next += size
			switch k := rapid.IntRange(0, 9).Draw(t, "fate"); {
			case i < 10 || i == n-1:
				list = append(list, m)
			case k == 0:
				dropped += uint64(size)
			case k == 1:
				list = append(list, m, m)
				doubled++
			case k == 2 && i > 1: // before the one that was sent before it
				at := len(list) - 1
				list = append(list[:at], append([]mark{m}, list[at:]...)...)
				if at == 0 {
					list[0], list[1] = list[1], list[0] // never before the first
				}
			default:
				list = append(list, m)
			}
		}
		var q sequence
		for _, m := range list {
			q.observe(raw{m.seq, m.n, 0, true}, pulse{}, testTime)
		}
		q.close(0, true)
		if q.info.Lost != dropped || q.info.Duplicates != doubled || q.info.Restarts != 0 {
			t.Fatalf("%+v; %d were dropped, %d doubled", q.info, dropped, doubled)
		}
	})
}
