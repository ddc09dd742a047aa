package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"weir/acl"
	"weir/capture"
	"weir/flow"
	"weir/packet"
	"weir/rows"
)

type aclTestCmd struct {
	File []string `arg:"" help:"Capture files: pcap or pcapng, also gzip or zstd; - is stdin."`

	ACL string `name:"acl" required:"" placeholder:"FILE" help:"The access lists, in Cisco's language or YAML."`
	judging

	At      string `placeholder:"TIME" help:"The time, for time ranges (default: each packet's own)."`
	Summary bool   `help:"At the end, one JSON object on stderr: packets by verdict, hits of each rule, what no list judged."`
	Output  string `short:"o" default:"table" placeholder:"FORMAT" help:"csv, json, ndjson: a row a packet; table: the hits of each rule (default ${default})."`
}

func (c *aclTestCmd) Run(a *app) (err error) {
	format, err := rows.ParseFormat(c.Output)
	if err != nil {
		return usageError{err}
	}
	var at time.Time
	if c.At != "" {
		if at, err = parseTime(c.At, time.Now()); err != nil {
			return usagef("--at: %v", err)
		}
	}
	p, err := a.readPolicy(c.ACL)
	if err != nil {
		return err
	}
	lists, err := c.lists(p, c.ACL, acl.IPv4, acl.IPv6)
	if err != nil {
		return err
	}
	j, err := newJudge(p, lists, at)
	if err != nil {
		return err
	}
	sources, err := openFiles(c.File)
	if err != nil {
		return err
	}
	defer func() { closeAll(sources) }()
	w := newVerdicts(a.stdout, format)
	end := a.progress(sources)
	err = j.judge(a, sources, w)
	end()
	if format == rows.Table {
		j.table(w.out)
	}
	// What was read counts, whatever ended it.
	err = errors.Join(err, w.close())
	if c.Summary {
		err = errors.Join(err, printJSON(a.stderr, j.summary()))
	}
	return err
}

// judge asks the lists that are on a packet's way.
type judge struct {
	policy *acl.Policy // the lists that judge alone
	lists  [2][]int    // of each family, in their order: numbers in policy.Lists
	times  []*acl.TimeRange
	fixed  bool // the time is

	bank   *acl.Bank
	banks  map[string]*acl.Bank // by which time ranges are active
	minute int64                // for which bank is

	packets, permit, deny uint64
	hits                  [][]hits // by list and rule
	none                  [2]uint64
	reasons               map[packet.Reason]uint64
}

type hits struct{ packets, bytes uint64 }

func newJudge(p *acl.Policy, lists [2][]*acl.List, at time.Time) (*judge, error) {
	j := &judge{
		policy: &acl.Policy{Groups: p.Groups, Times: p.Times}, banks: map[string]*acl.Bank{}, minute: -1 << 62,
		fixed: !at.IsZero(), reasons: map[packet.Reason]uint64{},
	}
	used := map[string]bool{}
	for f, all := range lists {
		for _, l := range all {
			j.lists[f] = append(j.lists[f], len(j.policy.Lists))
			j.policy.Lists = append(j.policy.Lists, l)
			for _, r := range l.Rules {
				if r.Time != "" && !used[r.Time] {
					used[r.Time] = true
					j.times = append(j.times, p.Time(r.Time))
				}
			}
		}
	}
	if at.IsZero() {
		at = time.Now()
	}
	if err := j.compile(at); err != nil {
		return nil, err
	}
	for i := range j.policy.Lists {
		j.hits = append(j.hits, make([]hits, len(j.bank.Rules(i))))
	}
	return j, nil
}

// maxBanks bounds those that are kept, for captures whose times go to and fro.
const maxBanks = 64

// compile makes the bank of a moment, or finds the one that is the same.
func (j *judge) compile(at time.Time) error {
	key := make([]byte, len(j.times))
	for i, t := range j.times {
		if t.Active(at) {
			key[i] = 1
		}
	}
	if j.bank = j.banks[string(key)]; j.bank != nil {
		return nil
	}
	if len(j.banks) == maxBanks {
		clear(j.banks)
	}
	var err error
	j.bank, err = acl.Compile(j.policy, acl.CompileOptions{Now: at.Local()})
	j.banks[string(key)] = j.bank
	if err != nil {
		return usageError{err}
	}
	return nil
}

// rule says which rule decides about a packet, permitting or denying it. Nil:
// no list judges it.
func (j *judge) rule(in *packet.Info) (verdict acl.Action, rule *acl.Rule, err error) {
	if len(j.times) > 0 && !j.fixed {
		// Time ranges begin and end with the minute.
		if m := in.Time / int64(time.Minute); m != j.minute {
			j.minute = m
			if err := j.compile(time.Unix(0, in.Time)); err != nil {
				return 0, nil, err
			}
		}
	}
	f := acl.IPv4
	if in.Key.VLAN&flow.KeyIPv6 != 0 {
		f = acl.IPv6
	}
	if len(j.lists[f]) == 0 {
		j.none[f]++
	}
	verdict = acl.Permit
	for _, l := range j.lists[f] {
		r := j.bank.Classify(l, in)
		h := &j.hits[l][r.Rule]
		h.packets++
		h.bytes += uint64(in.Length)
		verdict, rule = r.Action, j.bank.Rules(l)[r.Rule]
		if verdict == acl.Deny {
			break
		}
	}
	return verdict, rule, nil
}

// judge reads the sources one after the other.
func (j *judge) judge(a *app, sources []capture.Source, w *verdicts) error {
	var batch capture.Batch
	var in packet.Info
	for _, s := range sources {
		for {
			if err := a.ctx.Err(); err != nil {
				return err
			}
			end := s.Read(&batch)
			for i := range batch.Packets {
				p := &batch.Packets[i]
				j.packets++
				verdict, seq := acl.Permit, uint32(0)
				switch why := packet.Decode(p.Link, p.Data, p.Wire, &in); {
				case why == packet.Decoded:
					in.Time = p.Time
					v, r, err := j.rule(&in)
					if err != nil {
						return err
					}
					if verdict = v; r != nil {
						seq = r.Seq
					}
				case why.NonIP():
					j.reasons[why]++
				default: // headers that cannot be believed are not let pass
					j.reasons[why]++
					verdict = acl.Deny
				}
				if verdict == acl.Permit {
					j.permit++
				} else {
					j.deny++
				}
				if err := w.packet(j.packets, verdict, seq); err != nil {
					return err
				}
			}
			if errors.Is(end, io.EOF) {
				break
			}
			if end != nil {
				return end
			}
		}
	}
	return nil
}

// verdicts prints a row a packet: packet, verdict, rule.
type verdicts struct {
	out    *bufio.Writer
	format rows.Format
	buf    []byte
	n      uint64
}

func newVerdicts(w io.Writer, format rows.Format) *verdicts {
	return &verdicts{out: bufio.NewWriterSize(w, 64<<10), format: format}
}

func (w *verdicts) packet(n uint64, verdict acl.Action, rule uint32) error {
	b := w.buf[:0]
	switch w.format {
	case rows.Table:
		return nil
	case rows.CSV:
		if w.n == 0 {
			b = append(b, "packet,verdict,rule\n"...)
		}
		b = strconv.AppendUint(b, n, 10)
		b = append(append(append(b, ','), verdict.String()...), ',')
		if rule > 0 {
			b = strconv.AppendUint(b, uint64(rule), 10)
		}
	default:
		if w.format == rows.JSON {
			b = append(b, ",\n"[:2*min(w.n, 1)]...)
			if w.n == 0 {
				b = append(b, "[\n"...)
			}
		}
		b = strconv.AppendUint(append(b, `{"packet":`...), n, 10)
		b = append(append(append(b, `,"verdict":"`...), verdict.String()...), `","rule":`...)
		if rule > 0 {
			b = strconv.AppendUint(b, uint64(rule), 10)
		} else {
			b = append(b, "null"...)
		}
		b = append(b, '}')
	}
	if w.format != rows.JSON {
		b = append(b, '\n')
	}
	w.n++
	w.buf = b
	_, err := w.out.Write(b)
	return err
}

// close ends the output, which is well-formed though it be empty.
func (w *verdicts) close() error {
	switch {
	case w.format == rows.CSV && w.n == 0:
		w.out.WriteString("packet,verdict,rule\n")
	case w.format == rows.JSON && w.n == 0:
		w.out.WriteString("[\n]\n")
	case w.format == rows.JSON:
		w.out.WriteString("\n]\n")
	}
	return w.out.Flush()
}

// table is the hits of each rule, as `show access-lists` has them.
func (j *judge) table(w *bufio.Writer) {
	for i, l := range j.policy.Lists {
		var sum hits
		width := len("packets")
		for _, h := range j.hits[i] {
			sum.packets += h.packets
			sum.bytes += h.bytes
		}
		width = max(width, len(strconv.FormatUint(sum.packets, 10)))
		fmt.Fprintf(w, "%s: %d packets, %d bytes\n", rows.Plain(l.Head()), sum.packets, sum.bytes)
		for n, r := range j.bank.Rules(i) {
			if r.Seq == 0 && j.hits[i][n].packets == 0 && n < len(j.hits[i])-1 {
				continue // neighbour discovery that did not come
			}
			fmt.Fprintf(w, "  %*d  %s\n", width, j.hits[i][n].packets, rows.Plain(r.Text(l.Family)))
		}
	}
	fmt.Fprintf(w, "%d packets: %d permitted, %d denied", j.packets, j.permit, j.deny)
	for _, r := range packet.Reasons() {
		if n := j.reasons[r]; n > 0 {
			fmt.Fprintf(w, "; %s %d", r, n)
		}
	}
	for f, n := range j.none {
		if n > 0 {
			fmt.Fprintf(w, "; no %s list %d", familyNames[f], n)
		}
	}
	fmt.Fprintln(w)
}

// aclSummary is the account of weir acl test: packets are permit and deny; what
// no list judged is permitted, what is malformed is denied.
type aclSummary struct {
	Packets   uint64            `json:"packets"`
	Permit    uint64            `json:"permit"`
	Deny      uint64            `json:"deny"`
	Lists     []listSummary     `json:"lists"`
	NotJudged map[string]uint64 `json:"not_judged"`
	Malformed map[string]uint64 `json:"malformed"`
}

type listSummary struct {
	List    string        `json:"list"`
	Family  string        `json:"family"`
	Packets uint64        `json:"packets"`
	Rules   []ruleSummary `json:"rules"`
}

type ruleSummary struct {
	Rule    any    `json:"rule"` // null: implicit
	Action  string `json:"action"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	Text    string `json:"text"`
}

func (j *judge) summary() aclSummary {
	s := aclSummary{Packets: j.packets, Permit: j.permit, Deny: j.deny, Lists: []listSummary{}, NotJudged: map[string]uint64{}, Malformed: map[string]uint64{}}
	for i, l := range j.policy.Lists {
		sum := listSummary{List: l.Name, Family: l.Family.String(), Rules: []ruleSummary{}}
		for n, r := range j.bank.Rules(i) {
			h := j.hits[i][n]
			sum.Packets += h.packets
			sum.Rules = append(sum.Rules, ruleSummary{seq(r), r.Action.String(), h.packets, h.bytes, r.Cisco(l.Family)})
		}
		s.Lists = append(s.Lists, sum)
	}
	for _, r := range packet.Reasons() {
		if r.NonIP() {
			s.NotJudged[r.String()] = j.reasons[r]
		} else {
			s.Malformed[r.String()] = j.reasons[r]
		}
	}
	s.NotJudged["no-ipv4-list"], s.NotJudged["no-ipv6-list"] = j.none[acl.IPv4], j.none[acl.IPv6]
	return s
}
