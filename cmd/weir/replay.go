package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"weir/collect"
	"weir/export"
	"weir/flow"
	"weir/query"
	"weir/replay"
	"weir/store"
	"weir/wire"
)

type replayCmd struct {
	Filter []string `arg:"" optional:"" help:"Which flows of the store (see: weir help filter); all, if there is none."`

	Store string   `placeholder:"DIR" help:"Send the flows of this store (default: as configured, /var/lib/weir)."`
	Time  timeSpan `short:"t" placeholder:"FROM[/TO]" help:"Flows that ended then: RFC 3339, '2026-11-22 10:00', or relative as -1h."`

	Read       []string `short:"r" sep:"none" placeholder:"FILE" help:"Send the export datagrams of this capture instead, octet by octet as they are. Repeatable."`
	Port       []string `placeholder:"N" help:"With -r: destination ports that carry exports (default: whatever looks like exports)."`
	RewriteSrc string   `placeholder:"keep|ADDRESS|PREFIX" help:"With -r: send as the exporters themselves (keep), as ADDRESS, or each as the next address of PREFIX; addresses of others need root (default: as this machine, each exporter from a port of its own)."`
	Rate       string   `default:"5000" placeholder:"N|off" help:"With -r: datagrams a second at most (default ${default})."`

	To      string `required:"" placeholder:"URL" help:"Where to: udp://HOST:PORT; for flows with ?version=5|9|10 and more (see: weir help export)."`
	Speed   string `default:"1" placeholder:"N|max" help:"So many times as fast as it was (default ${default}); max: as fast as it goes."`
	Now     bool   `help:"Move the flows' times: the first ends now; with --speed max the last one."`
	Summary bool   `help:"At the end, one JSON object on stderr: what was sent, what was lost."`
}

// replayed sums up a run.
type replayed struct {
	Datagrams uint64                         `json:"datagrams"`
	Octets    uint64                         `json:"octets"` // of datagrams
	Exporters int                            `json:"exporters,omitempty"`
	Records   uint64                         `json:"records,omitempty"` // flow records, and what they count
	Packets   uint64                         `json:"packets,omitempty"`
	Bytes     uint64                         `json:"bytes,omitempty"`
	Lost      map[string]collect.LostSummary `json:"lost"`              // what was not sent, by reason
	Ignored   map[string]uint64              `json:"ignored,omitempty"` // packets that carry no export, by reason
	Seconds   float64                        `json:"seconds"`
}

func (c *replayCmd) Run(a *app) error {
	speed, err := replay.ParseSpeed(c.Speed)
	if err != nil {
		return usagef("--speed %w", err)
	}
	began := time.Now()
	pace := &replay.Pace{Speed: speed}
	var sum *replayed
	if len(c.Read) > 0 {
		sum, err = c.datagrams(a, pace)
	} else {
		sum, err = c.flows(a, pace)
	}
	if sum == nil {
		return err
	}
	sum.Seconds = time.Since(began).Seconds()
	if c.Summary {
		return errors.Join(err, printJSON(a.stderr, sum))
	}
	fmt.Fprintf(a.stderr, "weir: %s\n", sum)
	return err
}

func (s *replayed) String() string {
	text := fmt.Sprintf("sent %d datagrams (%d octets)", s.Datagrams, s.Octets)
	switch {
	case s.Exporters == 1:
		text += " of 1 exporter"
	case s.Exporters > 1:
		text += fmt.Sprintf(" of %d exporters", s.Exporters)
	}
	if s.Records > 0 {
		text += fmt.Sprintf(": %d records of %d packets, %d octets", s.Records, s.Packets, s.Bytes)
	}
	text += fmt.Sprintf(" in %.1f s", s.Seconds)
	var lost []string
	for reason, l := range s.Lost {
		if l.Records+l.Datagrams > 0 {
			lost = append(lost, fmt.Sprintf("%s (%d)", reason, l.Records+l.Datagrams))
		}
	}
	slices.Sort(lost)
	if len(lost) > 0 {
		text += "; not sent: " + strings.Join(lost, ", ")
	}
	return text
}

// flows sends what a store holds.
func (c *replayCmd) flows(a *app, pace *replay.Pace) (*replayed, error) {
	if len(c.Port) > 0 || c.RewriteSrc != "" {
		return nil, usagef("--port and --rewrite-src are about captures (-r FILE)")
	}
	d, err := export.ParseDestination(c.To)
	if err != nil {
		return nil, usagef("--to %w", err)
	}
	r := query.Request{Filter: strings.Join(c.Filter, " "), Order: "tend:a", Limit: -1}
	if _, err := query.Parse(r.Filter); err != nil {
		return nil, usageError{err}
	}
	if r.From, r.To, err = parseSpan(string(c.Time), time.Now()); err != nil {
		return nil, usageError{err}
	}
	conf, log, err := a.settings()
	if err != nil {
		return nil, err
	}
	if c.Store != "" {
		conf.Store.Dir = c.Store
	}
	reader, err := store.OpenReader(conf.Store.Dir)
	if err != nil {
		return nil, err
	}
	engine, err := query.Open(reader, query.Options{Log: log})
	if err != nil {
		return nil, err
	}
	defer query.Close(engine)
	times, err := c.times(a.ctx, engine, r, pace.Speed)
	if err != nil {
		return nil, mistaken(engine, r, err)
	}
	exporter, err := export.New(export.Options{
		Destinations: []export.Destination{d}, Block: true, FollowRecords: !c.Now, Log: log.With("component", "export"),
	})
	if err != nil {
		return nil, usageError{err}
	}
	if err := exporter.Open(a.ctx); err != nil {
		return nil, err
	}
	behind, stop := context.WithCancel(context.WithoutCancel(a.ctx)) // it drains
	defer stop()
	done := make(chan error, 1)
	go func() { done <- exporter.Run(behind) }() // ends with behind, below
	sink := &replay.Flows{Ctx: a.ctx, Pace: pace, Times: times, Next: exporter}
	_, err = engine.Flows(a.ctx, r, sink)
	if a.ctx.Err() != nil {
		err = nil // asked to stop: what was sent is told
	}
	err = errors.Join(err, exporter.Sync())
	stop()
	err = errors.Join(err, <-done, incomplete(engine))
	st := exporter.Stats()[0]
	sum := &replayed{Datagrams: st.Datagrams, Octets: st.Octets, Records: st.Records, Packets: st.Packets, Bytes: st.Bytes, Lost: lostBy(exporter.Losses())}
	return sum, err
}

// lostBy is a ledger by reason.
func lostBy(losses []flow.Loss) map[string]collect.LostSummary {
	all := map[string]collect.LostSummary{}
	for _, l := range losses {
		all[l.Reason] = collect.LostSummary{Datagrams: l.Datagrams, Records: l.Records, Packets: l.Packets, Bytes: l.Bytes}
	}
	return all
}

// times says how stamps are moved: not at all, or so that time goes on from now.
func (c *replayCmd) times(ctx context.Context, engine query.Engine, r query.Request, speed float64) (replay.Times, error) {
	if !c.Now {
		return replay.Times{}, nil
	}
	if r.Limit = 1; speed == 0 {
		r.Order = "tend"
	}
	var last int64
	_, err := engine.Flows(ctx, r, flow.SinkFunc(func(b []flow.Record) error {
		last = b[0].Last
		return nil
	}))
	return replay.Times{From: last, To: time.Now().UnixNano(), Speed: speed}, err
}

// datagrams sends what captures hold.
func (c *replayCmd) datagrams(a *app, pace *replay.Pace) (*replayed, error) {
	if c.Store != "" || c.Time != "" || len(c.Filter) > 0 {
		return nil, usagef("give captures (-r FILE), or a store with -t and a filter: a capture's datagrams go out whole")
	}
	if c.Now {
		return nil, usagef("--now moves the times of a store's flows; a capture's datagrams go out octet by octet as they are")
	}
	to, err := collectorAddress(a.ctx, c.To)
	if err != nil {
		return nil, err
	}
	from, err := replay.ParseRewrite(c.RewriteSrc)
	if err != nil {
		return nil, usagef("--rewrite-src %w", err)
	}
	ports, err := parsePorts(c.Port)
	if err != nil {
		return nil, err
	}
	d := &replay.Datagrams{To: to, From: from, Pace: pace}
	if c.Rate != "off" {
		var n int
		if _, err := fmt.Sscanf(c.Rate, "%d", &n); err != nil || n < 1 || n > 10_000_000 || fmt.Sprint(n) != c.Rate {
			return nil, usagef("--rate %q: accepted: 1 to 10000000, or off", c.Rate)
		}
		d.Rate = float64(n)
	}
	if err := readable(c.Read); err != nil {
		return nil, err
	}
	defer d.Close()
	ignored, err := collect.Messages(a.ctx, c.Read, ports, func(src wire.Source, t int64, msg []byte) error {
		return d.Send(a.ctx, src, t, msg)
	})
	if a.ctx.Err() != nil {
		err = nil
	}
	return &replayed{
		Datagrams: d.Sent, Octets: d.Octets, Exporters: d.Exporters(), Ignored: ignored,
		Lost: map[string]collect.LostSummary{"too-long": {Datagrams: d.TooLong}},
	}, err
}

// collectorAddress reads udp://HOST:PORT.
func collectorAddress(ctx context.Context, to string) (netip.AddrPort, error) {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "udp" || u.Hostname() == "" || u.Port() == "" || u.Path != "" && u.Path != "/" {
		return netip.AddrPort{}, usagef("%q: accepted: udp://HOST:PORT", to)
	}
	if u.RawQuery != "" {
		return netip.AddrPort{}, usagef("%q: these datagrams are what they are: nothing can stand behind the ?; accepted: udp://HOST:PORT", to)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", u.Port())
	if err != nil || port == 0 {
		return netip.AddrPort{}, usagef("%q: port %q; accepted: 1 to 65535", to, u.Port())
	}
	return netip.AddrPortFrom(addrs[0].Unmap(), uint16(port)), nil
}
