package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"weir/collect"
	"weir/config"
	"weir/flow"
	"weir/rows"
	"weir/wire"
)

type collectCmd struct {
	Listen []string `sep:"none" placeholder:"URL" help:"Where to receive: udp://[HOST]:PORT, every version on each, or tcp://[HOST]:PORT, IPFIX, also tls:// and dtls:// with ?cert=FILE&key=FILE&ca=FILE; without HOST at every address. Repeatable (default: as configured, loopback's ports 2055, 4739, 6343 and 9995)."`
	Store  string   `placeholder:"DIR" help:"Keep the records there (default: as configured, /var/lib/weir; with -o, -w or --to none, unless named)."`
	To     []string `sep:"none" placeholder:"URL" help:"Write the records to jsonl:FILE, one JSON object a line, or to ipfix:FILE, an IPFIX file. Repeatable."`
	Split  bool     `name:"split-biflows" help:"Make two records of one that tells of both directions (RFC 5103), so that sums are of all traffic."`
	Output string   `short:"o" placeholder:"FORMAT" help:"Print the records: table, csv, json, ndjson, ipfix."`
	Write  string   `short:"w" placeholder:"FILE" help:"Print to this file instead of to stdout."`
}

func (c *collectCmd) Run(a *app) (err error) {
	conf, log, err := a.settings()
	if err != nil {
		return err
	}
	if len(c.Listen) > 0 {
		conf.Collect.Listen = c.Listen
	}
	conf.Collect.SplitBiflows = conf.Collect.SplitBiflows || c.Split
	if err := checkListen(conf.Collect.Listen); err != nil {
		return err
	}
	var sinks []flow.Sink
	var done []func() error // what to close, in the order of the data
	if c.Output != "" || c.Write != "" {
		sink, end, err := a.printer(c.Output, c.Write, true)
		if err != nil {
			return err
		}
		sinks, done = append(sinks, sink), append(done, end)
	}
	for _, to := range c.To {
		kind, file, _ := strings.Cut(to, ":")
		format, ok := map[string]string{"jsonl": string(rows.NDJSON), ipfixFile: ipfixFile}[kind]
		if !ok || file == "" {
			return usagef("--to %q: accepted: jsonl:FILE, ipfix:FILE (clickhouse, kafka and udp come later)", to)
		}
		sink, end, err := a.printer(format, file, true)
		if err != nil {
			return err
		}
		sinks, done = append(sinks, sink), append(done, end)
	}
	state := ""
	var keep *storeRoom
	if c.Store != "" || len(sinks) == 0 {
		if c.Store != "" {
			conf.Store.Dir = c.Store
		}
		if keep, err = openStore(conf.Store, log); err != nil {
			return err
		}
		sinks = append(sinks, keep.Store)
		state = statePath(conf.Store.Dir)
	}
	collector, err := collect.New(collectOptions(conf, flow.Tee(sinks...), state, log))
	if err != nil {
		return errors.Join(usageError{err}, keep.end())
	}
	if err := collector.Listen(); err != nil {
		return errors.Join(err, keep.end())
	}
	for _, l := range collector.Addrs() {
		log.Info("listening", "network", l.Network(), "address", l.String())
	}

	// Downstream rooms outlive the collector, which drains into them.
	behind, stop := context.WithCancel(context.WithoutCancel(a.ctx))
	defer stop()
	var g errgroup.Group
	n := &node{conf: conf, log: log, collector: collector, store: keep}
	g.Go(func() error { return n.serveControl(behind) })
	if keep != nil {
		g.Go(func() error { return keep.Run(behind) })
	}
	err = collector.Run(a.ctx)
	stop()
	err = also(also(err, g.Wait()), keep.end())
	for _, end := range done {
		err = errors.Join(err, end())
	}
	log.Info("stopped", "datagrams", collector.Stats().Datagrams, "records", collector.Stats().Records)
	return err
}

func checkListen(list []string) error {
	if len(list) == 0 {
		return usagef("nothing to listen on; accepted: --listen udp://[HOST]:PORT or tcp://[HOST]:PORT")
	}
	for _, l := range list {
		if _, err := config.ParseListen(l); err != nil {
			return usagef("--listen %w", err)
		}
	}
	return nil
}

func collectOptions(conf *config.Config, sink flow.Sink, state string, log slogger) collect.Options {
	var listen []string
	for _, s := range conf.Collect.Listen {
		l, err := config.ParseListen(s)
		if err != nil {
			panic(err) // checked before
		}
		listen = append(listen, l.String())
	}
	return collect.Options{
		Listen: listen, Sink: sink, State: state,
		SocketBytes: int(conf.Collect.ReceiveBuffer), SplitBiflows: conf.Collect.SplitBiflows, Log: log.With("component", "collect"),
	}
}

// statePath is where a collector keeps its templates: beside its records.
func statePath(store string) string { return filepath.Join(store, "collector.state") }

// ipfixFile is the output format of IPFIX files (RFC 5655).
const ipfixFile = "ipfix"

// printer is a sink that prints records to a file or to stdout.
func (a *app) printer(format, path string, live bool) (flow.Sink, func() error, error) {
	f := rows.Table
	if format != "" && format != ipfixFile {
		var err error
		if f, err = rows.ParseFormat(format); err != nil {
			return nil, nil, usagef("%w, ipfix", err)
		}
	}
	w, end, err := a.output(path)
	if err != nil {
		return nil, nil, err
	}
	if format == ipfixFile {
		f := wire.NewFileWriter(w, 0)
		return f, func() error {
			if n := f.Unwritten(); n > 0 {
				fmt.Fprintf(a.stderr, "weir: %d values of elements were not written: lists, and what has no element in IPFIX\n", n)
			}
			return end()
		}, nil
	}
	p := rows.NewFlows(w, f, live)
	return p, func() error { return errors.Join(p.Close(), end()) }, nil
}

// decodeCmd reads export traffic from files.
type decodeCmd struct {
	Files []string `arg:"" name:"file" help:"Captures of export traffic (pcap, pcapng), or files of raw messages; - is stdin."`

	Port      []string `placeholder:"N" help:"Destination ports that carry exports (default: whatever looks like exports)."`
	Templates bool     `help:"List templates and options instead of data."`
	Split     bool     `name:"split-biflows" help:"Make two records of one that tells of both directions (RFC 5103)."`
	Explain   bool     `help:"Show each message octet by octet: offset, octets, field, value, and what is wrong."`
	V8Masks   string   `name:"v8-masks" default:"source" placeholder:"source|destination" help:"Which mask comes first in v8's prefix schemes: as Cisco's documents have it, or flow-tools (default ${default})."`
	Summary   bool     `help:"At the end, one JSON object on stderr: messages, sets, records, losses."`
	Output    string   `short:"o" default:"table" placeholder:"FORMAT" help:"table, csv, json, ndjson, or ipfix, an IPFIX file (default ${default})."`
	Write     string   `short:"w" placeholder:"FILE" help:"Write there instead of to stdout."`
}

func (c *decodeCmd) Run(a *app) (err error) {
	if c.Explain && c.Templates {
		return usagef("--explain shows templates, too: give one of --explain and --templates")
	}
	if (c.Templates || c.Explain) && c.Output == ipfixFile {
		return usagef("-o ipfix is for records; with --templates and --explain accepted: table, csv, json, ndjson")
	}
	if c.V8Masks != "source" && c.V8Masks != "destination" {
		return usagef("--v8-masks %q: accepted: source, destination", c.V8Masks)
	}
	o := collect.DecodeOptions{V8DestinationMaskFirst: c.V8Masks == "destination", SplitBiflows: c.Split}
	if o.Ports, err = parsePorts(c.Port); err != nil {
		return err
	}
	if err := readable(c.Files); err != nil { // before any output: nothing half done
		return err
	}
	var finish func() error
	switch {
	case c.Templates, c.Explain:
		format, err := rows.ParseFormat(c.Output)
		if err != nil {
			return usageError{err}
		}
		out, end, err := a.output(c.Write)
		if err != nil {
			return err
		}
		list := explainer
		if c.Templates {
			list = listTemplates
		}
		done := list(&o, out, format)
		finish = func() error { return errors.Join(done(), end()) }
	default:
		if o.Sink, finish, err = a.printer(c.Output, c.Write, false); err != nil {
			return err
		}
	}
	sum, err := collect.Decode(a.ctx, c.Files, o)
	err = errors.Join(err, finish())
	if sum != nil {
		if c.Summary {
			err = errors.Join(err, printJSON(a.stderr, sum))
		} else if err == nil || sum.Datagrams > 0 {
			warnLost(a, sum)
		}
	}
	return err
}

// parsePorts reads --port.
func parsePorts(list []string) (ports []uint16, err error) {
	for _, p := range list {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return nil, usagef("--port %q: accepted: numbers from 1 to 65535, separated by commas", p)
		}
		ports = append(ports, uint16(n))
	}
	return ports, nil
}

// readable says which of the files is not there.
func readable(files []string) error {
	for _, f := range files {
		if f == "-" {
			continue
		}
		if _, err := os.Stat(f); err != nil {
			return fmt.Errorf("%s: %w", f, errors.Unwrap(err))
		}
	}
	return nil
}

// warnLost says in one line what was not decoded, if anything was not, and why
// nothing came out if there was nothing to decode.
func warnLost(a *app, sum *collect.Summary) {
	if sum.Datagrams == 0 {
		fmt.Fprintln(a.stderr, "weir: no exports in there (packets become flows with: weir meter -r FILE)")
		return
	}
	var lost []string
	for reason, n := range sum.Lost {
		if n != (collect.LostSummary{}) {
			lost = append(lost, fmt.Sprintf("%s (%d datagrams, %d records)", reason, n.Datagrams, n.Records))
		}
	}
	if len(lost) > 0 {
		slices.Sort(lost)
		fmt.Fprintf(a.stderr, "weir: not decoded: %s (--summary tells all)\n", strings.Join(lost, ", "))
	}
}
