package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"weir/export"
	"weir/flow"
	"weir/rows"
)

// exportTestCmd sends one datagram of each format.
type exportTestCmd struct {
	To     string   `arg:"" name:"url" help:"The collector: udp://HOST:PORT."`
	Format []string `placeholder:"NAME" help:"Only these: v1, v5, v7, v8 (its 14 schemes; one as v8-AS), v9, ipfix, sflow (default: all)."`
	Output string   `short:"o" default:"table" placeholder:"FORMAT" help:"table, csv, json or ndjson (default ${default})."`
}

// trialColumns are those of what was sent: a row for each flow.
var trialColumns = []string{"format", "octets", "proto", "src", "sport", "dst", "dport", "packets", "bytes", "first", "last"}

func (c *exportTestCmd) Run(a *app) error {
	format, err := rows.ParseFormat(c.Output)
	if err != nil {
		return usageError{err}
	}
	to, err := collectorAddress(a.ctx, c.To)
	if err != nil {
		return err
	}
	trials, err := chooseTrials(export.Trials(time.Now()), c.Format)
	if err != nil {
		return err
	}
	conn, err := net.Dial("udp", to.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	w := rows.New(a.stdout, format, trialColumns)
	for _, t := range trials {
		if _, err := conn.Write(t.Octets); err != nil {
			return fmt.Errorf("%s to %v: %w", t.Format, to, refused(err))
		}
		for i := range t.Flows {
			if err := w.Row(trialRow(&t, &t.Flows[i])); err != nil {
				return err
			}
		}
		time.Sleep(2 * time.Millisecond) // a collector of any size takes them in this order
	}
	// What nobody listens to comes back as an error to the next one to write or read.
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	var timeout net.Error
	if _, err := conn.Read(make([]byte, 1)); err != nil && !(errors.As(err, &timeout) && timeout.Timeout()) {
		return errors.Join(w.Close(), fmt.Errorf("to %v: %w", to, refused(err)))
	}
	if err := w.Close(); err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "weir: sent %d datagrams to %v from %v; domains 75 (v5, sFlow), 78.1 to 78.14 (v8), 79 (v9), 80 (IPFIX)\n", len(trials), to, conn.LocalAddr())
	return nil
}

// trialRow is a flow as it was sent: what its format does not have is empty.
func trialRow(t *export.Trial, r *flow.Record) []any {
	row := []any{t.Format, uint64(len(t.Octets))}
	for _, c := range []flow.Column{
		flow.ColProto, flow.ColSrc, flow.ColSrcPort, flow.ColDst, flow.ColDstPort, flow.ColPackets, flow.ColBytes, flow.ColFirst, flow.ColLast,
	} {
		switch {
		case !r.Known(c):
			row = append(row, nil)
		case c == flow.ColSrc, c == flow.ColDst, c == flow.ColFirst, c == flow.ColLast:
			row = append(row, string(r.AppendColumn(nil, c)))
		default:
			row = append(row, r.Number(c))
		}
	}
	return row
}

// chooseTrials takes those whose names begin with one of the given.
func chooseTrials(all []export.Trial, names []string) ([]export.Trial, error) {
	if len(names) == 0 {
		return all, nil
	}
	is := func(t export.Trial, name string) bool {
		have, name := strings.ToLower(t.Format), strings.ToLower(name)
		return have == name || name == "v8" && strings.HasPrefix(have, "v8-")
	}
	for _, n := range names {
		if !slices.ContainsFunc(all, func(t export.Trial) bool { return is(t, n) }) {
			return nil, usagef("--format %q: accepted: v1, v5, v7, v8, one of its schemes as v8-AS, v9, ipfix, sflow", n)
		}
	}
	return slices.DeleteFunc(all, func(t export.Trial) bool {
		return !slices.ContainsFunc(names, func(n string) bool { return is(t, n) })
	}), nil
}

// refused says what a refusal means.
func refused(err error) error {
	if strings.Contains(err.Error(), "connection refused") {
		return errors.New("nobody listens there: the host refused it (ICMP port unreachable)")
	}
	return err
}
