// Command weir measures, keeps and shows the flows that pass a machine.
//
// One file a verb, wiring only: each verb builds the rooms it needs, joins
// them in data order and runs them until the work or the patience ends.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"weir/acl"
	"weir/config"
	"weir/query"
	"weir/rows"
)

// version is set by the build.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the program at once
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// app is what every verb is given.
type app struct {
	ctx            context.Context
	stdin          io.Reader
	stdout, stderr io.Writer
	configPath     string
	control        string
	logLevel       string
}

// cli is the command line; each verb stands in its own file.
type cli struct {
	Config  string `short:"c" placeholder:"FILE" help:"Configuration file; flags win over it (default ${config}, if it is there)."`
	Control string `placeholder:"SOCKET" help:"Control socket, which weir show asks at (default: as configured, /run/weir/weir.sock)."`
	Log     string `placeholder:"LEVEL" help:"Log from this level on: debug, info, warn or error (default: as configured, info)."`

	Profile string `hidden:"" placeholder:"FILE" help:"Write a CPU profile of the run there (for go tool pprof)."`

	Up         upCmd         `cmd:"" help:"Meter this machine, collect, store and show: all of weir at once."`
	Demo       demoCmd       `cmd:"" help:"The same over a built-in network of synthetic exporters; needs no root."`
	Meter      meterCmd      `cmd:"" help:"Packets in, flows out: from capture files or interfaces."`
	Decode     decodeCmd     `cmd:"" help:"Export datagrams in, records out: from captures or files."`
	Collect    collectCmd    `cmd:"" help:"Export datagrams in, from the network, into a store."`
	Replay     replayCmd     `cmd:"" help:"Stored flows, or captured export datagrams, out again."`
	ExportTest exportTestCmd `cmd:"" name:"export-test" help:"Send one datagram of each format, for trying a collector."`
	Query      queryCmd      `cmd:"" help:"Ask a store, in nfdump's language."`
	Show       showCmd       `cmd:"" help:"Look into a running weir."`
	ACL        aclCmd        `cmd:"" name:"acl" help:"Access lists: check, explain, try on captures and flows, stage, apply, convert."`
	Guard      guardCmd      `cmd:"" help:"Floods: what attacks whom, what is proposed, approve, lift, simulate, the kill switch."`
	Doctor     doctorCmd     `cmd:"" help:"Check the machine, and say how to mend it."`
	Conf       confCmd       `cmd:"" name:"config" help:"Check or show the configuration, or print one to start from."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
	Help       helpCmd       `cmd:"" help:"Explain a verb or a topic: export, filter."`

	Man  manCmd   `cmd:"" hidden:""`
	Top  laterCmd `cmd:"" hidden:""`
	Bill laterCmd `cmd:"" hidden:""`
}

// laterCmd is a verb of the plan that this version does not have.
type laterCmd struct {
	Args []string `arg:"" optional:"" passthrough:""`
}

func (c *laterCmd) Run(k *kong.Context) error {
	return usagef("weir %s is not in this version yet", k.Selected().Path())
}

// usageError is the user's to mend: exit status 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// parserExit carries kong's wish to exit (after --help) out of its callbacks.
type parserExit int

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (status int) {
	var c cli
	a := &app{ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr}
	defer func() {
		if r := recover(); r != nil {
			exit, ok := r.(parserExit)
			if !ok {
				panic(r)
			}
			status = int(exit)
		}
	}()
	parser, err := kong.New(&c, kong.Name("weir"), kong.Description(description),
		kong.UsageOnError(), kong.Writers(stdout, stderr), kong.Exit(func(code int) { panic(parserExit(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}), kong.Vars{"config": config.DefaultPath},
		kong.Help(helpWithExamples), kong.Bind(a))
	if err != nil {
		panic(err) // the structures above are at fault
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	k, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "weir: %s\n", mend(parser, args, err))
		return 2
	}
	a.configPath, a.control, a.logLevel = c.Config, c.Control, c.Log
	stop, err := profile(c.Profile)
	if err == nil {
		err = k.Run(a)
		stop()
	}
	var usage usageError
	var conf config.Errors
	var lists acl.Errors
	var filter *query.SyntaxError
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &lists):
		for _, e := range lists {
			fmt.Fprintln(stderr, rows.Plain(e.Error()))
		}
		return 2
	case errors.As(err, &conf):
		fmt.Fprintln(stderr, conf)
		return 2
	case errors.As(err, &filter):
		fmt.Fprintf(stderr, "weir: %s\n", filter.Pretty())
		return 2
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "weir: %v\n", err)
		return 2
	case errors.Is(err, syscall.EPIPE): // the reader of our output has seen enough
		return 0
	}
	fmt.Fprintf(stderr, "weir: %s\n", strings.ReplaceAll(err.Error(), "\n", "; ")) // what failed on the way down, too
	return 1
}

// profile writes a CPU profile to path until stop; the empty path is none.
func profile(path string) (stop func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { pprof.StopCPUProfile(); f.Close() }, nil
}

// mend adds to a parser's error what would be accepted.
func mend(parser *kong.Kong, args []string, err error) string {
	msg := err.Error()
	if word := args[0]; strings.HasPrefix(msg, "unexpected argument "+word) {
		var verbs []string
		for _, n := range parser.Model.Children {
			if !n.Hidden {
				verbs = append(verbs, n.Name)
			}
		}
		msg = fmt.Sprintf("no verb %q; accepted: %s", word, strings.Join(verbs, ", "))
		if s := config.Suggest(word, verbs); s != "" {
			msg += fmt.Sprintf(" (did you mean %q?)", s)
		}
	}
	return msg
}

// settings reads the configuration and makes the logger it asks for.
func (a *app) settings() (*config.Config, *slog.Logger, error) {
	c, err := config.Load(a.configPath)
	if err != nil {
		return nil, nil, err
	}
	if a.control != "" {
		c.Control = a.control
	}
	if a.logLevel != "" {
		c.Log.Level = a.logLevel
	}
	log, err := a.logger(c.Log)
	return c, log, err
}

func (a *app) logger(l config.Log) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return nil, usagef("--log %q: accepted: debug, info, warn, error", l.Level)
	}
	o := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(a.stderr, o)), nil
	}
	return slog.New(slog.NewTextHandler(a.stderr, o)), nil
}

type versionCmd struct{}

func (versionCmd) Run(a *app) error {
	revision := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = " " + s.Value[:min(12, len(s.Value))]
			}
		}
		revision += " " + info.GoVersion
	}
	_, err := fmt.Fprintf(a.stdout, "weir %s%s\n", version, revision)
	return err
}
