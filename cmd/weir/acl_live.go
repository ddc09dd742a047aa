package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"weir/acl"
	"weir/config"
	"weir/control"
	"weir/datapath"
	"weir/rows"
)

// filtering is a metering process that may be in the kernel.
type filtering interface{ inKernel() *datapath.Datapath }

func (l *live) inKernel() *datapath.Datapath { return l.kernel }

// filtered is the datapath of this process that has lists.
func (n *node) filtered() (*datapath.Datapath, error) {
	m, _, _ := n.rooms()
	if f, ok := m.(filtering); ok {
		if d := f.inKernel(); d != nil && d.Filtering() != nil {
			return d, nil
		}
	}
	return nil, datapath.ErrNoLists
}

// filterOptions are those of the lists that a configuration names.
func filterOptions(conf *config.Config) datapath.FilterOptions {
	o := datapath.FilterOptions{
		Protect: func() [2][]*acl.Rule { return protected(conf, os.Getenv("SSH_CONNECTION")) },
		CountOnly: func(b *acl.Binding) bool {
			return conf.Interfaces[b.Interface].ACL.CountOnly
		},
	}
	for _, i := range conf.Interfaces {
		if i.ACL.DaemonGone == "open" || i.ACL.DaemonGone == "closed" {
			o.Orphan = time.Duration(conf.ACL.OrphanAfter)
		}
	}
	return o
}

func listChoice(c config.InterfaceACL) datapath.ListChoice {
	word := map[string]datapath.Fallback{"open": datapath.FallbackOpen, "closed": datapath.FallbackClosed}
	return datapath.ListChoice{Unruled: word[c.NoList], Orphan: word[c.DaemonGone], Full: word[c.TableFull]}
}

// --- answers at the control socket ---

// change is what `weir acl apply` asks for.
type change struct {
	Name    string  `json:"name"` // of the file, for errors
	Text    string  `json:"text"`
	Seconds float64 `json:"seconds"` // on trial for so long; 0: for good
	Session string  `json:"session"` // SSH_CONNECTION of whoever asks
	Staged  bool    `json:"staged"`  // what is staged, instead of the text
}

// Limits of a change.
const (
	maxChange  = 16 << 20 // octets of the text
	maxTrial   = 24 * time.Hour
	maxWord    = 4096 // octets of the file's name
	maxSession = 256  // octets
)

// readChange reads what somebody asks for, and the lists in it, bound where the
// configuration has them. What is wrong is the asker's to mend, and one line.
func (n *node) readChange(w http.ResponseWriter, r *http.Request) (c change, p *acl.Policy, err error) {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 2*maxChange))
	d.DisallowUnknownFields() // of a newer weir, which would be meant to matter
	bad := func(format string, args ...any) (change, *acl.Policy, error) {
		return change{}, nil, badQuestion{errors.New(oneLine(fmt.Errorf(format, args...)))}
	}
	if err := d.Decode(&c); err != nil {
		return bad("the change cannot be read: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return bad("the change cannot be read: something stands behind it")
	}
	switch {
	case c.Seconds != 0 && (c.Seconds < 1 || c.Seconds > maxTrial.Seconds()):
		return bad("a trial of %v s: accepted: 1 to %v; 0 for none", c.Seconds, maxTrial.Seconds())
	case len(c.Text) > maxChange:
		return bad("lists of %d octets: accepted: %d at most", len(c.Text), maxChange)
	case len(c.Name) > maxWord:
		return bad("a name of %d octets: accepted: %d at most", len(c.Name), maxWord)
	case len(c.Session) > maxSession:
		return bad("a session of %d octets: accepted: %d at most", len(c.Session), maxSession)
	case c.Staged && c.Text != "":
		return bad("lists, and those that are staged: accepted: one of them")
	}
	if c.Staged {
		s := n.staging.now.Load()
		if s == nil {
			return c, nil, errNothingStaged
		}
		c.Name, c.Text = s.Name, s.Text
	}
	if p, err = acl.Read(c.Name, []byte(c.Text)); err != nil {
		return bad("%w", err)
	}
	if err := n.config().Bind(p); err != nil {
		return bad("%w", err)
	}
	return c, p, nil
}

// aclHandlers are the control socket's part about access lists.
func (n *node) aclHandlers(mux *http.ServeMux) {
	answer := func(path string, do func(http.ResponseWriter, *http.Request) (any, error)) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			v, err := do(w, r)
			if err != nil {
				refuse(w, err)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			if err := json.NewEncoder(w).Encode(v); err != nil {
				n.log.Debug("control answer", "path", path, "error", err)
			}
		})
	}
	handle := func(path string, do func(*datapath.Datapath, http.ResponseWriter, *http.Request) (any, error)) {
		answer(path, func(w http.ResponseWriter, r *http.Request) (any, error) {
			d, err := n.filtered()
			if err != nil {
				return nil, err
			}
			return do(d, w, r)
		})
	}
	n.stageHandlers(answer)
	handle("GET /control/access-lists", func(d *datapath.Datapath, _ http.ResponseWriter, _ *http.Request) (any, error) {
		s, err := d.FilterState()
		if err != nil {
			return nil, err
		}
		return shownLists(&s), nil
	})
	handle("GET /control/acl", func(d *datapath.Datapath, _ http.ResponseWriter, _ *http.Request) (any, error) {
		s, err := d.FilterState()
		if err != nil {
			return nil, err
		}
		in := map[string]any{"since": s.Since, "text": "", "memory": s.Memory}
		if s.Policy != nil {
			in["text"] = string(acl.AppendCisco(nil, s.Policy))
		}
		if s.Trial != nil {
			in["trial"], in["until"] = string(acl.AppendCisco(nil, s.Trial)), s.Until
		}
		return in, nil
	})
	handle("POST /control/acl/apply", func(d *datapath.Datapath, w http.ResponseWriter, r *http.Request) (any, error) {
		c, p, err := n.readChange(w, r)
		if err != nil {
			return nil, err
		}
		if len(p.Lists) == 0 {
			return nil, fmt.Errorf("%s: no access list in it, and everything would pass; to filter nothing, take acl: out of the configuration", c.Name)
		}
		conf := n.config()
		if c.Session != "" { // whoever changes lists goes on talking to this machine
			d.Filtering().SetProtect(func() [2][]*acl.Rule { return protected(conf, c.Session) })
		}
		trial := time.Duration(c.Seconds * float64(time.Second))
		if err := d.Apply(p, trial); err != nil {
			return nil, err
		}
		n.mu.Lock()
		n.proposal = &c
		n.mu.Unlock()
		if trial <= 0 {
			n.staging.applied(&c)
		}
		if trial > 0 {
			return map[string]any{"until": time.Now().Add(trial)}, nil
		}
		return n.keepLists(d)
	})
	handle("POST /control/acl/confirm", func(d *datapath.Datapath, _ http.ResponseWriter, _ *http.Request) (any, error) {
		if err := d.Filtering().Confirm(); err != nil {
			return nil, err
		}
		n.mu.Lock()
		c := n.proposal
		n.mu.Unlock()
		if c != nil {
			n.staging.applied(c)
		}
		return n.keepLists(d)
	})
	handle("POST /control/acl/rollback", func(d *datapath.Datapath, _ http.ResponseWriter, _ *http.Request) (any, error) {
		s, err := d.FilterState()
		if err == nil {
			err = d.Rollback()
		}
		if err != nil || s.Trial != nil {
			return map[string]any{}, err
		}
		return map[string]any{}, n.restoreLists(d)
	})
}

// keepLists writes what is in force where the configuration has its lists, so that
// the next start has them; the file before it is kept beside it.
func (n *node) keepLists(d *datapath.Datapath) (any, error) {
	n.mu.Lock()
	c, conf := n.proposal, n.conf
	n.mu.Unlock()
	file := conf.ACL.File
	if file == "" {
		return map[string]any{"kept": "", "note": "acl.file is not set: a restart of weir goes back to the lists of the configuration"}, nil
	}
	s, err := d.FilterState()
	if err != nil {
		return nil, err
	}
	old, oldErr := os.ReadFile(file)
	var typed []byte
	if c != nil { // nil: another process was told what is now confirmed
		typed = []byte(c.Text)
	}
	text := written(s.Policy, conf, typed, old)
	if oldErr == nil {
		if bytes.Equal(old, text) {
			return map[string]any{"kept": file}, nil
		}
		if err := replaceFile(file+".previous", old); err != nil {
			return nil, err
		}
	}
	if err := replaceFile(file, text); err != nil {
		return nil, fmt.Errorf("the lists are in force, but a restart goes back to those before: %w", err)
	}
	return map[string]any{"kept": file}, nil
}

// restoreLists undoes keepLists: the file has what is in force again. What is beside
// it may be of another change.
func (n *node) restoreLists(d *datapath.Datapath) error {
	conf := n.config()
	file := conf.ACL.File
	if file == "" {
		return nil
	}
	s, err := d.FilterState()
	if err != nil {
		return err
	}
	previous, _ := os.ReadFile(file + ".previous") // or as weir writes it
	now, _ := os.ReadFile(file)
	text := written(s.Policy, conf, now, previous)
	if bytes.Equal(text, now) {
		return nil
	}
	if err := replaceFile(file, text); err != nil {
		return fmt.Errorf("the lists before are in force, but %s still has those after: %w", file, err)
	}
	if bytes.Equal(text, previous) {
		return os.Remove(file + ".previous")
	}
	return nil
}

// written is p for the file of lists: as somebody typed it, if one of these texts
// means that there, or else as weir prints it in the file's language.
func written(p *acl.Policy, conf *config.Config, typed ...[]byte) []byte {
	want := acl.AppendCisco(nil, p)
	for _, text := range typed {
		if text == nil {
			continue
		}
		q, err := acl.Read(conf.ACL.File, text)
		if err == nil && conf.Bind(q) == nil && bytes.Equal(acl.AppendCisco(nil, q), want) {
			return text
		}
	}
	switch strings.ToLower(filepath.Ext(conf.ACL.File)) {
	case ".yaml", ".yml":
		return policyText(p, "yaml")
	}
	return want
}

// replaceFile writes a file so that it is the old or the new one at any moment.
func replaceFile(name string, data []byte) error {
	mode := os.FileMode(0o640)
	if info, err := os.Stat(name); err == nil {
		mode = info.Mode().Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".weir-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// shownRule is a row of `weir show access-lists`.
type shownRule struct {
	Family  string  `json:"family"`
	List    string  `json:"list"`
	Seq     *uint32 `json:"seq"` // nil: a rule that nobody wrote
	Rule    string  `json:"rule"`
	Kind    string  `json:"kind"` // rule, protected, implicit
	Packets uint64  `json:"packets"`
	Bytes   uint64  `json:"bytes"`
	Last    *string `json:"last"` // nil: never
	Bound   string  `json:"bound"`
}

func shownLists(s *datapath.FilterState) map[string]any {
	now := s.Policy
	if s.Trial != nil {
		now = s.Trial
	}
	list := []shownRule{}
	for _, l := range s.Lists {
		var bound []string
		for _, b := range now.Bindings {
			if b.List == l.List.Name && b.Family == l.List.Family {
				bound = append(bound, b.Interface+" "+b.Direction.String())
			}
		}
		for _, r := range l.Rules {
			x := shownRule{
				Family: l.List.Family.String(), List: l.List.Name, Rule: r.Rule.Cisco(l.List.Family), Kind: "rule",
				Packets: r.Packets, Bytes: r.Bytes, Bound: strings.Join(bound, ", "),
			}
			switch {
			case r.Protected:
				x.Kind = "protected"
			case r.Implicit:
				x.Kind = "implicit"
			default:
				x.Seq = &r.Rule.Seq
			}
			if !r.Last.IsZero() {
				at := r.Last.UTC().Format("2006-01-02T15:04:05.000000Z07:00")
				x.Last = &at
			}
			list = append(list, x)
		}
	}
	out := map[string]any{"rules": list, "since": s.Since}
	if s.Trial != nil {
		out["until"] = s.Until
	}
	return out
}

// --- the verbs ---

type aclApplyCmd struct {
	File    string           `arg:"" optional:"" help:"Access lists, in Cisco's words or in YAML; - is stdin."`
	Staged  bool             `help:"Those that are staged, instead of a file."`
	Confirm *config.Duration `placeholder:"60s" help:"On trial: unless weir acl confirm comes within this time, the kernel goes back to the lists before, whatever becomes of this terminal or of weir."`
	Now     bool             `help:"For good, without a trial."`
}

func (c *aclApplyCmd) Run(a *app) error {
	switch {
	case c.Staged == (c.File != ""):
		return usagef("say what: a file, or --staged")
	case c.Now == (c.Confirm != nil):
		return usagef("say how: --confirm 60s, on trial until weir acl confirm; or --now, for good")
	case c.Confirm != nil && (time.Duration(*c.Confirm) < time.Second || time.Duration(*c.Confirm) > 24*time.Hour):
		return usagef("--confirm %v: accepted: 1s to 24h", time.Duration(*c.Confirm))
	}
	x := change{Staged: c.Staged}
	if !c.Staged {
		var err error
		if x, err = readChange(a, c.File); err != nil {
			return err
		}
	}
	x.Session = os.Getenv("SSH_CONNECTION")
	if c.Confirm != nil {
		x.Seconds = time.Duration(*c.Confirm).Seconds()
	}
	var answer struct {
		Until *time.Time `json:"until"`
		kept
	}
	if err := a.post("/control/acl/apply", x, &answer); err != nil {
		return err
	}
	if answer.Until != nil {
		fmt.Fprintf(a.stderr, "weir: on trial until %s; `weir acl confirm` keeps it\n", answer.Until.Local().Format("15:04:05"))
		return nil
	}
	answer.say(a)
	return nil
}

// kept says what becomes of lists at the next start.
type kept struct {
	Kept string `json:"kept"`
	Note string `json:"note"`
}

func (k kept) say(a *app) {
	switch {
	case k.Kept != "":
		fmt.Fprintf(a.stderr, "weir: in force, and in %s for the next start\n", k.Kept)
	case k.Note != "":
		fmt.Fprintf(a.stderr, "weir: in force; %s\n", k.Note)
	}
}

type aclConfirmCmd struct{}

func (c *aclConfirmCmd) Run(a *app) error {
	var k kept
	if err := a.post("/control/acl/confirm", nil, &k); err != nil {
		return err
	}
	k.say(a)
	return nil
}

type aclRollbackCmd struct{}

func (c *aclRollbackCmd) Run(a *app) error {
	if err := a.post("/control/acl/rollback", nil, nil); err != nil {
		return err
	}
	fmt.Fprintln(a.stderr, "weir: the lists before are in force")
	return nil
}

// readChange reads a file of lists, and finds no fault with them.
func readChange(a *app, file string) (change, error) {
	text, name, err := a.readText(file)
	if err != nil {
		return change{}, err
	}
	if _, err := acl.Read(name, text); err != nil {
		return change{}, usageError{err}
	}
	return change{Name: name, Text: string(text)}, nil
}

// post asks the running weir to do something.
func (a *app) post(path string, what, answer any) error {
	conf, _, err := a.settings()
	if err != nil {
		return err
	}
	body, err := json.Marshal(what)
	if err != nil {
		return err
	}
	r, err := control.Client(conf.Control).Post("http://localhost"+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return unwrapped(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return refusal(r)
	}
	if answer == nil {
		return nil
	}
	return json.NewDecoder(io.LimitReader(r.Body, maxAnswer)).Decode(answer)
}

// runningLists are those in force, or on trial, as text.
func (a *app) runningLists() (string, error) {
	conf, _, err := a.settings()
	if err != nil {
		return "", err
	}
	object, err := fetch(control.Client(conf.Control), view{path: "/control/acl"})
	if err != nil {
		return "", err
	}
	text, _ := object[0]["text"].(string)
	if trial, ok := object[0]["trial"].(string); ok {
		text = cmp.Or(trial, text)
	}
	return text, nil
}

// againstRunning reads what is in force, and what a file would put there: applied
// where it says, or where the configuration of the running weir does.
func (a *app) againstRunning(file string) (old, new *acl.Policy, err error) {
	x, err := readChange(a, file)
	if err != nil {
		return nil, nil, err
	}
	text, err := a.runningLists()
	if err != nil {
		return nil, nil, err
	}
	if old, err = acl.ReadCisco("the lists in force", []byte(text)); err != nil {
		return nil, nil, err
	}
	var bound struct {
		Text string `json:"text"`
	}
	if err := a.post("/control/acl/bound", x, &bound); err != nil {
		return nil, nil, err
	}
	new, err = acl.ReadCisco(x.Name, []byte(bound.Text))
	return old, new, err
}

// ciscoLists prints what `show access-lists` does in IOS.
func ciscoLists(w io.Writer, list []map[string]any) error {
	last := ""
	for _, r := range list {
		family, name := fmt.Sprint(r["family"]), fmt.Sprint(r["list"])
		if head := family + name; head != last {
			last = head
			title := "Extended IP access list " + name
			if family == "ipv6" {
				title = "IPv6 access list " + name
			}
			if _, err := fmt.Fprintln(w, rows.Plain(title)); err != nil {
				return err
			}
		}
		hits := ""
		if n, _ := r["packets"].(json.Number).Int64(); n > 0 {
			hits = fmt.Sprintf(" (%d match%s)", n, map[bool]string{true: "", false: "es"}[n == 1])
		}
		rule := rows.Plain(fmt.Sprint(r["rule"]))
		var err error
		switch {
		case r["kind"] != "rule":
			_, err = fmt.Fprintf(w, "    [%s] %s%s\n", r["kind"], rule, hits)
		case family == "ipv6":
			_, err = fmt.Fprintf(w, "    %s%s sequence %v\n", rule, hits, r["seq"])
		default:
			_, err = fmt.Fprintf(w, "    %v %s%s\n", r["seq"], rule, hits)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
