package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"weir/query"
	"weir/store"
	"weir/test/kernel"
)

// TestMain lets the scripts run this very program as `weir`.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"weir": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
			stop()
			os.Exit(status)
		},
	})
}

// TestScripts runs testdata/script/*.txtar: what people type, what comes out,
// the exit status. hundred.pcap holds 100 packets of 10 flows.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			for _, k := range []string{"XDG_STATE_HOME", "XDG_RUNTIME_DIR", "HOME"} {
				env.Setenv(k, env.WorkDir)
			}
			env.Vars = append(env.Vars, kernel.Environ()...)
			in, err := os.Open("testdata/hundred.pcap")
			if err != nil {
				return err
			}
			defer in.Close()
			out, err := os.Create(filepath.Join(env.WorkDir, "hundred.pcap"))
			if err != nil {
				return err
			}
			if _, err := io.Copy(out, in); err != nil {
				return err
			}
			return out.Close()
		},
		// [engine]: stored flows can be queried here.
		Condition: func(cond string) (bool, error) {
			if cond != "engine" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			return hasEngine(t), nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// exits N CMD…: the exit status to the number.
			"exits": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: exits STATUS COMMAND…")
				}
				err := ts.Exec(args[1], args[2:]...)
				status := "0"
				if err != nil {
					status = exitStatus(err)
				}
				if status != args[0] {
					ts.Fatalf("%v: exit status %s, want %s (%v)", args[1:], status, args[0], err)
				}
			},
		},
	})
}

// hasEngine says whether this program was built with the query engine.
func hasEngine(t *testing.T) bool {
	s, err := store.Open(t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := store.OpenReader(s.Stats().Dir)
	if err != nil {
		t.Fatal(err)
	}
	e, err := query.Open(r, query.Options{})
	if err == nil {
		err = query.Close(e)
	}
	return !errors.Is(err, query.ErrNoEngine)
}
