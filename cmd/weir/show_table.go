package main

import (
	"bytes"
	"io"
	"os"
	"slices"
	"strconv"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"weir/flow"
	"weir/rows"
)

// terminalWidth is how many columns what we print on has; 0: it is no terminal,
// or does not say. COLUMNS wins, as in ps and ls.
func terminalWidth(w io.Writer) int {
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

// leastText is how short a text may be cut to make room.
const leastText = 20

// writeTable prints a table of at most width columns (0: as wide as it is). If
// it is wider, the texts of column cut are cut; if that does not do, columns are
// left out: of those of drop, the later ones stay where there is room, and none
// in which everything is unknown. It says which were left out that hold
// something.
func writeTable(w io.Writer, columns []string, lines [][]any, width int, drop []string, cut string) (left []string, err error) {
	all := make([]bool, len(columns))
	for i := range all {
		all[i] = true
	}
	text, ok, err := fitTable(columns, lines, all, width, cut)
	if !ok && err == nil {
		shown := make([]bool, len(columns))
		for i, name := range columns {
			shown[i] = !slices.Contains(drop, name)
		}
		if text, _, err = fitTable(columns, lines, shown, width, cut); err != nil {
			return nil, err
		}
		for _, name := range slices.Backward(drop) {
			i := slices.Index(columns, name)
			if i < 0 || !slices.ContainsFunc(lines, func(line []any) bool { return line[i] != nil }) {
				continue
			}
			shown[i] = true
			more, fits, err := fitTable(columns, lines, shown, width, cut)
			if err != nil {
				return nil, err
			}
			if fits {
				text = more
			} else {
				shown[i] = false
				left = append(left, name)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	_, err = w.Write(text)
	return left, err
}

// fitTable prints the columns that are shown, and says whether they fit.
func fitTable(columns []string, lines [][]any, shown []bool, width int, cut string) (text []byte, fits bool, err error) {
	var names []string
	for i, name := range columns {
		if shown[i] {
			names = append(names, name)
		}
	}
	part := make([][]any, len(lines))
	for i, line := range lines {
		for j, c := range line {
			if shown[j] {
				part[i] = append(part[i], c)
			}
		}
	}
	for {
		var b bytes.Buffer
		t := rows.New(&b, rows.Table, names)
		for _, line := range part {
			if err := t.Row(line); err != nil {
				return nil, false, err
			}
		}
		if err := t.Close(); err != nil {
			return nil, false, err
		}
		over := 0
		for line := range bytes.Lines(b.Bytes()) {
			over = max(over, utf8.RuneCount(bytes.TrimRight(line, "\n"))-width)
		}
		if width == 0 || over <= 0 {
			return b.Bytes(), true, nil
		}
		if i := slices.Index(names, cut); i < 0 || !cutTexts(part, i, over) {
			return b.Bytes(), false, nil
		}
	}
}

// cutTexts makes the texts of column i shorter by over, if enough of them is left.
func cutTexts(lines [][]any, i, over int) bool {
	longest := 0
	for _, line := range lines {
		if s, ok := line[i].(string); ok {
			longest = max(longest, utf8.RuneCountInString(rows.Plain(s)))
		}
	}
	room := longest - over
	if room < leastText {
		return false
	}
	for _, line := range lines {
		if s, ok := line[i].(string); ok {
			if r := []rune(rows.Plain(s)); len(r) > room {
				line[i] = string(r[:room-1]) + "…"
			}
		}
	}
	return true
}

// flowTable prints flows as a table for people. Its columns are fitted to some
// thousand rows at a time.
type flowTable struct {
	out   io.Writer
	width int
	names map[uint32]string // of interfaces
	now   int64
	held  [][]any
	n     int
}

var (
	flowTableColumns = []string{"proto", "source", "destination", "packets", "bytes", "bit/s", "seconds", "idle", "flags", "tos", "vlan", "in", "out"}
	// flowTableDrop are those that go first where there is no room for all.
	flowTableDrop = []string{"tos", "vlan", "out", "in", "seconds", "idle", "flags", "bit/s"}
)

func (t *flowTable) WriteRecords(batch []flow.Record) error {
	for i := range batch {
		t.held = append(t.held, t.row(&batch[i]))
		if len(t.held) == tableAtOnce {
			if err := t.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close prints what is held; a table without rows is its heading.
func (t *flowTable) Close() error {
	if len(t.held) == 0 && t.n > 0 {
		return nil
	}
	return t.flush()
}

func (t *flowTable) flush() error {
	columns, lines := withoutEmpty(flowTableColumns, t.held, flowTableDrop)
	_, err := writeTable(t.out, columns, lines, t.width, flowTableDrop, "")
	t.n += len(t.held)
	t.held = t.held[:0]
	return err
}

// withoutEmpty leaves out those of some columns in which everything is unknown.
func withoutEmpty(columns []string, lines [][]any, some []string) ([]string, [][]any) {
	var keep []int
	for i, name := range columns {
		if !slices.Contains(some, name) || slices.ContainsFunc(lines, func(line []any) bool { return line[i] != nil }) {
			keep = append(keep, i)
		}
	}
	names := make([]string, len(keep))
	part := make([][]any, len(lines))
	for to, from := range keep {
		names[to] = columns[from]
		for j, line := range lines {
			part[j] = append(part[j], line[from])
		}
	}
	return names, part
}

func (t *flowTable) row(r *flow.Record) []any {
	line := make([]any, len(flowTableColumns))
	if r.Has&flow.HasProto != 0 {
		line[0] = rows.ProtoName(r.Proto)
	}
	icmp := r.Has&flow.HasICMP != 0
	line[1] = endpoint(r, flow.ColSrc, r.Src, r.SrcPort, icmp)
	line[2] = endpoint(r, flow.ColDst, r.Dst, r.DstPort, icmp)
	if icmp {
		line[2] = line[2].(string) + " " + strconv.Itoa(int(r.ICMPType)) + "/" + strconv.Itoa(int(r.ICMPCode))
	}
	line[3], line[4] = r.Packets, r.Bytes
	if ns := r.Last - r.First; ns > 0 {
		line[5] = uint64(float64(r.Bytes) * 8e9 / float64(ns))
	}
	line[6] = float64(max(r.Last-r.First, 0)) / 1e9
	line[7] = float64(max(t.now-r.Last, 0)) / 1e9
	if s := rows.FlagLetters(r); s != "" {
		line[8] = s
	}
	if r.Has&flow.HasTOS != 0 && r.TOS != 0 {
		line[9] = r.TOS
	}
	if r.Has&flow.HasVLAN != 0 {
		line[10] = r.VLAN
	}
	line[11] = t.port(r.Has&flow.HasInput != 0, r.Input)
	line[12] = t.port(r.Has&flow.HasOutput != 0, r.Output)
	return line
}

func (t *flowTable) port(known bool, index uint32) any {
	if !known {
		return nil
	}
	if name := t.names[index]; name != "" {
		return name
	}
	return strconv.FormatUint(uint64(index), 10)
}

// endpoint is an address with its port, if there is one.
func endpoint(r *flow.Record, c flow.Column, a flow.Addr, port uint16, icmp bool) string {
	if !r.Known(c) {
		return "*" // of an overflow aggregate: anywhere
	}
	text := string(r.AppendColumn(nil, c))
	if r.Has&flow.HasSrc == 0 && r.Has&flow.HasDstMask != 0 { // and to a network
		return text + "/" + strconv.Itoa(int(r.DstMask))
	}
	if port == 0 || icmp {
		return text
	}
	if a.Is4() && r.IPVersion != 6 {
		return text + ":" + strconv.Itoa(int(port))
	}
	return "[" + text + "]:" + strconv.Itoa(int(port))
}
