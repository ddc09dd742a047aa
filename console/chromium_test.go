package console

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"weir/test/kernel"
)

// tab is one tab of a headless Chromium.
type tab struct {
	t     *testing.T
	ctx   context.Context
	shots string

	mu         sync.Mutex
	complaints []string
}

// openTab starts Chromium. What the page complains about fails the test: a
// violated policy, an exception, a request that failed.
func openTab(t *testing.T) *tab {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed: the screens are not tried in a browser")
	}
	kernel.SocketFilters(t) // it puts one on the socket that tells it of devices
	opts := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.Headless,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-extensions", true), chromedp.Flag("hide-scrollbars", true),
		chromedp.Flag("force-color-profile", "srgb"), chromedp.Flag("font-render-hinting", "none"),
		chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1440, 900),
	}
	alloc, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	tb := &tab{t: t, shots: os.Getenv("WEIR_SHOTS")}
	ctx, closeTab := chromedp.NewContext(alloc, chromedp.WithListener(tb.listen))
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	tb.ctx = ctx
	t.Cleanup(func() {
		chromedp.Cancel(ctx)
		cancel()
		closeTab()
		stop()
		tb.mu.Lock()
		defer tb.mu.Unlock()
		for _, c := range tb.complaints {
			t.Errorf("the page complains: %s", c)
		}
	})
	if tb.shots == "" {
		tb.shots = t.TempDir()
	} else if err := os.MkdirAll(tb.shots, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, log.Enable, cdp.Empty{}); err != nil {
		t.Fatal(err)
	}
	return tb
}

// listen notes what goes wrong in the page.
func (tb *tab) listen(ev any) {
	note := func(s string) {
		tb.mu.Lock()
		defer tb.mu.Unlock()
		tb.complaints = append(tb.complaints, s)
	}
	switch ev := ev.(type) {
	case *runtime.EventExceptionThrown:
		note((&chromedp.ExceptionError{ExceptionDetails: ev.ExceptionDetails}).Error())
	case *log.EventEntryAdded:
		// A refused filter is answered with 400, which Chromium logs too.
		if ev.Entry.Level == log.EntryLevelError && !strings.Contains(ev.Entry.Text, "400 (Bad Request)") {
			note(ev.Entry.Text + " " + ev.Entry.URL)
		}
	}
}

func (tb *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	tb.t.Helper()
	if err := chromedp.Do(tb.ctx, actions...); err != nil {
		tb.t.Fatal(err)
	}
}

// size sets the window's size and the theme of the system: light or dark.
func (tb *tab) size(w, h int64, theme string) {
	tb.t.Helper()
	tb.do(chromedp.EmulateViewport(w, h))
	media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}}
	if _, err := chromedp.Call(tb.ctx, emulation.SetEmulatedMedia, media); err != nil {
		tb.t.Fatal(err)
	}
}

func (tb *tab) open(url string) {
	tb.t.Helper()
	tb.do(chromedp.Navigate(url))
}

// shot takes a picture of the window, or of the whole page.
func (tb *tab) shot(name string, whole bool) []byte {
	tb.t.Helper()
	take := chromedp.CaptureScreenshot()
	if whole {
		take = chromedp.FullScreenshot(100)
	}
	png, err := chromedp.Run(tb.ctx, take)
	if err != nil {
		tb.t.Fatal(err)
	}
	file := filepath.Join(tb.shots, name+".png")
	if err := os.WriteFile(file, png, 0o644); err != nil {
		tb.t.Fatal(err)
	}
	return png
}

// eval runs JavaScript through the debugger, which the page's policy lets pass.
func eval[T any](tb *tab, script string) T {
	tb.t.Helper()
	v, err := chromedp.Run(tb.ctx, chromedp.Evaluate[T](script))
	if err != nil {
		tb.t.Fatalf("%s: %v", script, err)
	}
	return v
}

// until waits for a condition of the page.
func (tb *tab) until(condition string) {
	tb.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		if eval[bool](tb, "!!("+condition+")") {
			return
		}
		if time.Now().After(deadline) {
			text := eval[string](tb, "location.href + '\\n' + document.body.innerText")
			tb.shot("failed", true)
			tb.t.Fatalf("never came true: %s\nthe page says:\n%s", condition, text)
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// text reads what an element shows.
func (tb *tab) text(selector string) string {
	tb.t.Helper()
	return eval[string](tb, "document.querySelector("+quoteJS(selector)+")?.textContent ?? ''")
}

func (tb *tab) attribute(selector, name string) string {
	tb.t.Helper()
	return eval[string](tb, "document.querySelector("+quoteJS(selector)+")?.getAttribute("+quoteJS(name)+") ?? ''")
}

// click clicks in the middle of an element, as a mouse does.
func (tb *tab) click(selector string, options ...chromedp.MouseOption) {
	tb.t.Helper()
	tb.until("document.querySelector(" + quoteJS(selector) + ")")
	at := eval[[2]float64](tb, "(() => { const e = document.querySelector("+quoteJS(selector)+"); e.scrollIntoView({block: 'center'}); "+
		"const r = e.getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2]; })()")
	tb.do(chromedp.MouseClickXY(at[0], at[1], options...))
}

// address is the page's path and query.
func (tb *tab) address() string {
	tb.t.Helper()
	return eval[string](tb, "location.pathname + location.search")
}

func quoteJS(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}
