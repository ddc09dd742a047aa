package main

import (
	"embed"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf8"

	"github.com/alecthomas/kong"

	"weir/config"
	"weir/export"
	"weir/flow"
)

const description = `NetFlow for Linux, whole: measure, export, collect, store, query and show flows.

  sudo weir up                        # this machine's traffic on http://127.0.0.1:8642
  weir demo                           # the same over a synthetic network, without root
  weir meter -r trace.pcap -o csv     # a capture file's flows
  weir collect --store flows          # NetFlow v5, v9, IPFIX from routers, kept
  weir query -s srcip/bytes -n 10     # who sent most`

// examples teach each verb; they stand below its flags.
var examples = map[string]string{
	"up": `  sudo weir up                                   every interface with a route; console on http://127.0.0.1:8642
  sudo weir up -i eth0 -i eth1                   these two only
  weir up --listen udp://:2055 --store /data     collect from routers, on every address
  sudo weir -c /etc/weir/weir.yaml up            as the file says; SIGHUP reads it again`,
	"demo": `  weir demo                                       open http://127.0.0.1:8642
  weir demo --console 127.0.0.1:9000 --rate 2000  elsewhere, and livelier`,
	"meter": `  weir meter -r trace.pcap                                a table of flows
  weir meter -r a.pcap.zst -r b.pcapng -o csv -w flows.csv 'tcp port 443'
  tcpdump -w - | weir meter -r - -o ndjson                from a pipe
  sudo weir meter -i eth0 --active 60s                    live, as flows end
  sudo weir meter -i eth0 --export 'udp://192.0.2.10:2055?version=9'
  weir meter -r trace.pcap --key src,dst,proto,dscp --collect ttl,length
  weir meter -r trace.pcap --key 5tuple --biflow -o ndjson
  weir meter -r trace.pcap --summary -o csv -w /dev/null  only the balance of packets`,
	"decode": `  weir decode exports.pcap -o csv                 the flow records in captured export traffic
  weir decode --templates exports.pcap            the templates and options instead
  weir decode --port 2055 --summary exports.pcap  counts of messages, sets, records and losses
  weir decode --explain exports.pcap              octet by octet, with what is wrong where
  weir decode flows.ipfix                         an IPFIX file, or any raw messages
  weir decode exports.pcap -o ipfix -w flows.ipfix`,
	"replay": `  weir replay --store flows --to 'udp://192.0.2.10:2055?version=10' --speed 10
  weir replay -t -1h --now --to udp://192.0.2.10:2055 'proto udp'   the last hour, as if it were now
  weir replay -r exports.pcap --to udp://192.0.2.10:2055           a capture's datagrams, as they are
  sudo weir replay -r exports.pcap --to udp://192.0.2.10:2055 --rewrite-src keep --speed max`,
	"export-test": `  weir export-test udp://192.0.2.10:2055         what it sent, flow by flow
  weir export-test udp://192.0.2.10:4739 --format v9,ipfix`,
	"collect": `  weir collect --listen udp://:2055 --store /var/lib/weir
  weir collect --listen udp://:2055 -o ndjson    to the screen instead of a store`,
	"query": `  weir query -n 20                                the newest flows
  weir query -t -1h 'src net 10.0.0.0/8 and dst port in [80 443]'
  weir query -t -1h -s srcip/bytes -s dstport:p   top sources; top ports by protocol
  weir query -A srcip4/24,proto -O bytes -o csv   aggregated
  weir query -t -6h --series 5m -A proto -o json  bins over time
  weir query -o extended 'bytes > 1M'             nfdump's layouts: line, long, extended, fmt:…`,
	"show": `  weir show flows                                 the largest flows in the cache, now
  weir show flows -o csv 'proto tcp and port 443' all that match, for a script
  weir show top-talkers -s srcip -n 20            who sends most of what is in the cache
  weir show cache --cisco                         show ip cache flow, as on IOS
  weir show loss                                  what was lost at each stage, zeros included
  weir show exporters -o json                     who sends to us, and how well`,
	"acl": `  weir acl check wan.acl                         errors by file:line:col, rules that never match
  weir acl explain --acl wan.acl 198.51.100.1 192.0.2.10 tcp 40000 443 --flags syn
  weir acl explain --acl wan.acl 2001:db8::1 2001:db8::2 icmp echo-request -o json
  weir acl test --acl wan.acl trace.pcap         hits of each rule over a capture
  weir acl test --acl wan.acl -o csv a.pcap.gz b.pcapng --summary
  weir acl simulate --acl wan.acl --store flows  what it would have dropped in the last day
  weir acl simulate --acl wan.acl --list WAN-IN -t -1h 'dst port 443'
  weir acl diff --exit-code old.acl new.yaml     what makes one of the other
  weir acl diff new.acl                          what it changes of what is in force
  weir acl stage new.acl                         count what it would drop, and drop nothing
  weir acl stage                                 what it would have changed until now
  weir acl apply --staged --confirm 60s          on trial: weir acl confirm keeps it
  nft -j list ruleset | weir acl import --from nft > imported.acl
  iptables-save | weir acl import --from iptables --partial -o yaml > imported.yaml
  weir acl export --to nft wan.acl               for nft -f`,
	"guard": `  weir guard list                                what is proposed and in force
  weir guard approve 12                          put a proposal in force; weir guard lift 12 undoes it
  weir guard propose --to 192.0.2.10 --proto udp --sport 53 --action drop --for 30m
  weir guard simulate -t -1d                     what would have fired on the flows of the last day?
  weir guard simulate -r trace.pcap --threshold pps=50k
  weir guard import /etc/fastnetmon.conf > weir.yaml
  weir guard off                                 the kill switch; works without a running weir`,
	"doctor": `  weir doctor                                    each finding with its fix`,
	"config": `  weir config example > weir.yaml                start from a commented file
  weir config check weir.yaml                    file:line:col for each mistake`,
}

func helpWithExamples(o kong.HelpOptions, k *kong.Context) error {
	if err := kong.DefaultHelpPrinter(o, k); err != nil {
		return err
	}
	node := k.Selected()
	for node != nil && node.Parent != nil && node.Parent.Type == kong.CommandNode {
		node = node.Parent
	}
	if node == nil {
		return nil
	}
	if text := examples[node.Name]; text != "" {
		fmt.Fprintf(k.Stdout, "\nExamples:\n%s\n", text)
	}
	return nil
}

// topics are the pages of `weir help TOPIC`; that of exports lists its
// parameters below.
//
//go:embed help/*.txt
var topics embed.FS

type helpCmd struct {
	Topic []string `arg:"" optional:"" help:"A verb, or one of the topics export, filter, keys and aggregation."`
}

func (c *helpCmd) Run(a *app, k *kong.Kong) error {
	if len(c.Topic) == 1 {
		if page, ok := topic(c.Topic[0]); ok {
			_, err := io.WriteString(a.stdout, page)
			return err
		}
		known := topicNames()
		for _, n := range k.Model.Children {
			if n.Name == c.Topic[0] {
				known = nil
			}
			if !n.Hidden && known != nil {
				known = append(known, n.Name)
			}
		}
		if known != nil {
			hint := ""
			if s := config.Suggest(c.Topic[0], known); s != "" {
				hint = fmt.Sprintf(" (did you mean %q?)", s)
			}
			return usagef("no help on %q; there is help on: %s%s", c.Topic[0], strings.Join(known, ", "), hint)
		}
	}
	if status := run(a.ctx, append(c.Topic, "--help"), a.stdin, a.stdout, a.stderr); status != 0 {
		return usagef("no help on %q", strings.Join(c.Topic, " "))
	}
	return nil
}

// topic is the page of that name.
func topic(name string) (page string, ok bool) {
	text, err := topics.ReadFile("help/" + name + ".txt")
	if err != nil {
		return "", false
	}
	switch name {
	case "export":
		text = append(text, exportParams()...)
	case "keys":
		text = append(text, keyWords()...)
	}
	return string(text), true
}

// exportParams lists what may stand behind the ? of a destination, in the
// exporter's own words.
func exportParams() []byte {
	var b []byte
	for _, p := range export.Params() {
		b = fmt.Appendf(b, "\n  %s=%s\n", p.Name, p.Value)
		for _, line := range wrap(fmt.Sprintf("%s (default %s)", p.Help, p.Default), 84) {
			b = fmt.Appendf(b, "      %s\n", line)
		}
	}
	return b
}

// keyWords lists what a key can be made of, and what can be collected.
func keyWords() (b []byte) {
	for _, part := range []struct {
		head string
		has  func(flow.Word) bool
	}{
		{"Presets (--key)", func(w flow.Word) bool { return w.Preset }},
		{"Key fields (--key)", func(w flow.Word) bool { return w.Key && !w.Preset }},
		{"Collected fields (--collect)", func(w flow.Word) bool { return w.Collected }},
	} {
		b = fmt.Appendf(b, "\n%s:\n", part.head)
		for _, w := range flow.Words() {
			if part.has(w) {
				b = fmt.Appendf(b, "  %-18s %s\n", w.Name, w.Help)
			}
		}
	}
	return b
}

// wrap breaks text into lines of at most width characters.
func wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

func topicNames() []string {
	files, err := fs.Glob(topics, "help/*.txt")
	if err != nil {
		panic(err) // the pattern is ours
	}
	for i := range files {
		files[i] = strings.TrimSuffix(strings.TrimPrefix(files[i], "help/"), ".txt")
	}
	return files
}
