package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// manCmd prints the man page from the command line's own description, so that
// the two cannot differ; docs/weir.1 is its output.
type manCmd struct{}

func (manCmd) Run(a *app, k *kong.Kong) error { return writeMan(a.stdout, k.Model) }

func writeMan(w io.Writer, model *kong.Application) error {
	var b strings.Builder
	b.WriteString(".\\\" printed by weir man: do not edit\n.TH WEIR 1\n.SH NAME\nweir \\- NetFlow for Linux, whole\n")
	b.WriteString(".SH SYNOPSIS\n.B weir\n[\\-c FILE] VERB [FLAGS] [ARGUMENTS]\n.SH DESCRIPTION\n")
	intro, example, _ := strings.Cut(description, "\n\n")
	fmt.Fprintf(&b, "%s\n.nf\n\n%s\n.fi\n", roff(intro), roff(example))
	b.WriteString(".SH FLAGS OF EVERY VERB\n")
	manFlags(&b, model.Flags)
	b.WriteString(".SH VERBS\n")
	for _, n := range model.Children {
		if n.Hidden {
			continue
		}
		fmt.Fprintf(&b, ".SS weir %s\n%s\n", roff(n.Path()), roff(n.Help))
		for _, p := range n.Positional {
			fmt.Fprintf(&b, ".TP\n.I %s\n%s\n", roff(p.Summary()), roff(p.Help))
		}
		manFlags(&b, n.Flags)
		for _, sub := range n.Children {
			if sub.Hidden {
				continue
			}
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(sub.Summary()), roff(sub.Help))
			if len(sub.Flags) > 1 { // more than --help
				b.WriteString(".RS\n")
				manFlags(&b, sub.Flags)
				b.WriteString(".RE\n")
			}
		}
		if text := examples[n.Name]; text != "" {
			fmt.Fprintf(&b, ".PP\nExamples:\n.nf\n%s\n.fi\n", roff(text))
		}
	}
	for _, name := range topicNames() {
		page, _ := topic(name)
		title, text, _ := strings.Cut(page, "\n")
		_, title, _ = strings.Cut(title, ": ")
		fmt.Fprintf(&b, ".SH %s\n.nf\n%s.fi\n", roff(strings.ToUpper(title)), roff(strings.TrimLeft(text, "\n")))
	}
	b.WriteString(`.SH EXIT STATUS
0: done. 1: it failed while running; the reason is on stderr. 2: wrong usage or configuration.
.SH FILES
.TP
.I /etc/weir/weir.yaml
the configuration; weir config example prints one
.TP
.I /var/lib/weir
the store
.TP
.I /run/weir/weir.sock
the control socket
.SH SIGNALS
TERM, INT: drain in data order and end. HUP (weir up): read the configuration again.
`)
	_, err := io.WriteString(w, b.String())
	return err
}

func manFlags(b *strings.Builder, flags []*kong.Flag) {
	for _, f := range flags {
		if f.Hidden || f.Name == "help" {
			continue
		}
		fmt.Fprintf(b, ".TP\n.B %s\n%s\n", roff(f.String()), roff(f.Help))
	}
}

// roff escapes what troff would take for its own.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
