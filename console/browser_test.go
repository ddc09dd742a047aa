package console

import (
	"cmp"
	"context"
	"encoding/csv"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"weir/flow"
	"weir/query"
	"weir/store"
)

// stored writes records to a store of their own and opens the engine over it.
func stored(t *testing.T, records []flow.Record) query.Engine {
	t.Helper()
	dir := t.TempDir()
	st, err := store.Open(dir, store.Options{NoCompact: true})
	if err != nil {
		t.Fatal(err)
	}
	for batch := range slices.Chunk(records, 1000) {
		if err := st.WriteRecords(batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	for _, l := range st.Losses() {
		if amount(l) > 0 {
			t.Fatalf("the store lost %+v", l)
		}
	}
	reader, err := store.OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	engine, err := query.Open(reader, query.Options{})
	if err != nil {
		t.Logf("no engine over the store in this build (%v): the naive one answers", err)
		return fixed(records)
	}
	if c, ok := engine.(interface{ Close() error }); ok {
		t.Cleanup(func() { c.Close() })
	}
	return engine
}

// serve runs a console and returns its address.
func serve(t *testing.T, opt Options) string {
	t.Helper()
	opt.Listen = "127.0.0.1:0"
	s := New(opt)
	addr, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "http://" + addr.String()
}

// grouped prints a number as the titles do.
func grouped(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// among gives the sums of the records that a filter passes and that end in
// [from, to).
type among struct {
	t       *testing.T
	records []flow.Record
}

func (a among) sum(filter string, from, to time.Time) (flows, packets, octets uint64) {
	a.t.Helper()
	f, err := query.Parse(filter)
	if err != nil {
		a.t.Fatal(err)
	}
	for i := range a.records {
		r := &a.records[i]
		if r.Last >= from.UnixNano() && r.Last < to.UnixNano() && f.Match(r) {
			flows++
			packets += r.Packets
			octets += r.Bytes
		}
	}
	return flows, packets, octets
}

// TestBrowser loads real flows, clicks through the screens as a person does,
// and compares the numbers on them with the truth.
func TestBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: the screens are not tried in a browser")
	}
	tb := openTab(t)
	end := time.Now().Add(-20 * time.Second).Truncate(time.Second)
	start := end.Add(-50 * time.Minute)
	records := traffic(3, start, end, 6000)
	real := among{t, records}
	always, never := time.Unix(0, 0), time.Unix(1<<33, 0)
	opt := parts(Options{Engine: stored(t, records)}, time.Now(), hostile)
	opt.Store = func() Store {
		return Store{Kind: "parquet", Path: "/var/lib/weir", Records: uint64(len(records)), Bytes: 312_000, Segments: 1, Oldest: start, Newest: end}
	}
	opt.Metrics = http.NotFoundHandler()
	base := serve(t, opt)

	// wantTotals compares the line above the histogram with the truth.
	wantTotals := func(filter string, from, to time.Time) {
		t.Helper()
		flows, packets, octets := real.sum(filter, from, to)
		for name, want := range map[string]string{"flows": grouped(flows) + " flows", "packets": grouped(packets) + " packets", "bytes": grouped(octets) + " bytes"} {
			tb.until(fmt.Sprintf(`document.querySelector('[data-total="%s"]')?.title === %q`, name, want))
		}
	}
	// filter is the filter that the address holds.
	filter := func() string {
		t.Helper()
		u, err := url.Parse(tb.address())
		if err != nil {
			t.Fatal(err)
		}
		return u.Query().Get("filter")
	}

	tb.size(1440, 900, "dark")
	tb.open(base + "/?range=1h")
	tb.until(`document.querySelector(".card li a")`)

	t.Run("figures", func(t *testing.T) {
		flows, packets, octets := real.sum("", always, never)
		for name, want := range map[string]string{"volume": grouped(octets) + " bytes", "packets": grouped(packets) + " packets", "flows": grouped(flows) + " flows"} {
			if got := tb.attribute(`[data-figure="`+name+`"] .figure`, "title"); got != want {
				t.Errorf("%s: %s; want %s", name, got, want)
			}
		}
		for class, f := range map[string]string{"in": "flowdir ingress", "out": "flowdir egress"} {
			_, _, octets := real.sum(f, always, never)
			if got := tb.attribute(".figures ."+class+" .figure", "title"); !strings.HasPrefix(got, grouped(octets)+" bytes in ") {
				t.Errorf("%s: %s; want %s bytes", class, got, grouped(octets))
			}
		}
		if rows := eval[int](tb, `document.querySelectorAll(".chart .sr tbody tr").length`); rows < 119 || rows > 122 {
			t.Errorf("the chart has %d bins of 30 s in an hour", rows)
		}
	})

	t.Run("losses", func(t *testing.T) {
		losses := opt.Losses()
		if n := eval[int](tb, `document.querySelectorAll(".ledger [data-reason]").length`); n != len(losses) {
			t.Errorf("%d counters are shown; there are %d", n, len(losses))
		}
		for _, l := range losses {
			if l.Reason == "sequence-gap" {
				continue // grows meanwhile
			}
			want := "0"
			if n := amount(l); n > 0 {
				want = map[uint64]string{1874: "1.87\u00a0k", 3: "3"}[n]
			}
			if got := tb.text(`[data-stage="` + l.Stage + `"] [data-reason="` + l.Reason + `"] dd`); got != want {
				t.Errorf("%s %s: %q; want %q", l.Stage, l.Reason, got, want)
			}
		}
	})

	t.Run("cards", func(t *testing.T) {
		sums := map[string]uint64{}
		for i := range records {
			sums[records[i].Src.String()] += records[i].Bytes
		}
		top := slices.SortedFunc(maps.Keys(sums), func(a, b string) int { return cmp.Compare(sums[b], sums[a]) })
		for i := range 6 {
			li := fmt.Sprintf(`[data-card="sources"] li:nth-child(%d)`, i+1)
			if got := tb.text(li + " a"); got != top[i] {
				t.Errorf("source %d is %s; want %s", i+1, got, top[i])
			}
			if got, want := tb.attribute(li, "title"), top[i]+": "+grouped(sums[top[i]])+" bytes in"; !strings.HasPrefix(got, want) {
				t.Errorf("source %d: %s; want %s", i+1, got, want)
			}
		}
		if names := eval[int](tb, `document.querySelectorAll(".card").length`); names != len(nowTops) {
			t.Errorf("%d cards", names)
		}
	})

	t.Run("hostile names", func(t *testing.T) {
		tb.until(`document.querySelector(".metered").textContent.includes("<img src=x onerror=")`)
		tb.until(`document.querySelector('[data-card="exporters"]').textContent.includes("<img src=x")`)
		if n := eval[int](tb, `document.images.length + document.querySelectorAll("[onerror]").length`); n != 0 {
			t.Errorf("%d names became elements", n)
		}
		if title := eval[string](tb, "document.title"); title != "Now – weir" {
			t.Errorf("the title is %q", title)
		}
	})

	t.Run("from a name to its flows", func(t *testing.T) {
		name := tb.text(`[data-card="sources"] li:nth-child(1) a`)
		tb.click(`[data-card="sources"] li:nth-child(1) a`)
		tb.until(`location.pathname === "/flows"`)
		if got := filter(); got != "src ip "+name {
			t.Fatalf("the filter is %q", got)
		}
		wantTotals("src ip "+name, always, never)
		tb.until(`document.querySelectorAll("table.flows tbody tr").length > 5`)

		// Click on a port: and; Alt-click on a protocol: and not.
		tb.click(`tbody tr:nth-child(2) td[data-column="dport"] button`)
		tb.until(`location.search.includes("dst+port")`)
		f := filter()
		if !strings.HasPrefix(f, "src ip "+name+" and dst port ") {
			t.Fatalf("the filter is %q", f)
		}
		wantTotals(f, always, never)
		tb.do(chromedp.NavigateBack())
		tb.until(`!location.search.includes("dst+port")`)
		wantTotals("src ip "+name, always, never)
		if v := eval[string](tb, `document.querySelector(".filter input").value`); v != "src ip "+name {
			t.Errorf("after going back the bar holds %q", v)
		}
		tb.until(`document.querySelectorAll("table.flows tbody tr").length > 5 && !document.querySelector(".stale")`)
		tb.click(`tbody tr:nth-child(1) td[data-column="proto"] button`, chromedp.ButtonModifiers(chromedp.ModifierAlt))
		tb.until(`location.search.includes("not+proto")`)
		f = filter()
		wantTotals(f, always, never)
	})

	t.Run("the filter bar", func(t *testing.T) {
		tb.open(base + "/flows?range=1h")
		wantTotals("", always, never)
		tb.click(".filter input")
		tb.do(chromedp.KeyEvent("src port 443 and dst prot 5"))
		tb.until(`document.querySelector(".filter-error")?.textContent.includes("column 22")`)
		if caret := tb.text(".filter-error pre span"); caret != strings.Repeat(" ", 21)+"^^^^" {
			t.Errorf("the caret line is %q", caret)
		}
		tb.shot("flows-error-1440-dark", false)
		tb.do(chromedp.KeyEvent(kb.Enter))
		tb.until(`location.search.includes("prot")`)
		tb.until(`document.querySelector(".filter.wrong .filter-error")?.textContent.includes("Did you mean port")`)
		// A word begun is completed with Tab.
		tb.click(`.filter [aria-label="Clear the filter"]`)
		tb.until(`location.search === "?range=1h"`)
		tb.click(".filter input")
		tb.do(chromedp.KeyEvent("ds"))
		tb.until(`[...document.querySelectorAll(".offer li .mono")].map((e) => e.textContent).join() === "dst"`)
		tb.do(chromedp.KeyEvent(kb.Tab))
		tb.until(`document.querySelector(".filter input").value === "dst "`)
		tb.until(`[...document.querySelectorAll(".offer li .mono")].some((e) => e.textContent === "port")`)
		tb.shot("flows-complete-1440-dark", false)
		tb.do(chromedp.KeyEvent("port 443 and bytes > 1k" + kb.Enter))
		tb.until(`location.search.includes("1k")`)
		wantTotals("dst port 443 and bytes > 1k", always, never)
	})

	t.Run("sorted", func(t *testing.T) {
		tb.open(base + "/flows?range=1h&limit=25")
		tb.click(`th[data-column="bytes"] button`)
		tb.until(`location.search.includes("order=bytes") && document.querySelector('th[data-column="bytes"]').ariaSort === "descending"`)
		largest := slices.MaxFunc(records, func(a, b flow.Record) int { return cmp.Compare(a.Bytes, b.Bytes) })
		tb.until(fmt.Sprintf(`document.querySelector('tbody td[data-column="bytes"]')?.title === %q`, grouped(largest.Bytes)+" bytes"))
		tb.click(`th[data-column="last"] button`)
		tb.click(`th[data-column="last"] button`)
		oldest := slices.MinFunc(records, func(a, b flow.Record) int { return cmp.Compare(a.Last, b.Last) })
		tb.until(fmt.Sprintf(`document.querySelector('tbody td[data-column="last"]')?.title.includes(%q)`, instant(oldest.Last)))
	})

	t.Run("top", func(t *testing.T) {
		tb.open(base + "/flows?range=1h&by=dstport:p")
		tb.until(`document.querySelectorAll("table.top tbody tr").length === 25`)
		rows := eval[[][]string](tb, `[...document.querySelectorAll("table.top tbody tr")].map((r) => ["dport", "proto", "flows", "packets", "bytes"].map((c) => r.querySelector('td[data-column="' + c + '"] button, td[data-column="' + c + '"]').title))`)
		for _, r := range rows {
			port, _, _ := strings.Cut(strings.SplitN(r[0], "\n", 2)[0], ":")
			f := "dst port " + port + " and proto " + strings.Fields(r[1])[1]
			flows, packets, octets := real.sum(f, always, never)
			if r[2] != grouped(flows) || r[3] != grouped(packets) || r[4] != grouped(octets)+" bytes" {
				t.Errorf("%s: %v; want %d %d %d", f, r[2:], flows, packets, octets)
			}
		}
		tb.click(`table.top tbody tr:nth-child(3) .link`)
		tb.until(`!location.search.includes("by=")`)
		wantTotals(filter(), always, never)
	})

	t.Run("a row's details", func(t *testing.T) {
		tb.open(base + "/flows?range=1h&filter=exporter+ip+2001:db8:ff::9+and+proto+tcp")
		tb.until(`document.querySelectorAll("table.flows tbody tr").length > 5`)
		eval[any](tb, `document.querySelector("tbody tr").focus()`)
		tb.do(chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(kb.Enter))
		tb.until(`document.querySelector(".drawer [data-field]")`)
		if got := tb.text(`.drawer [data-element="applicationName"] dd`); got != "<b>bold</b>" {
			t.Errorf("the element is %q", got)
		}
		if n := eval[int](tb, `document.querySelectorAll(".drawer dd b").length`); n != 0 {
			t.Error("an element's text became markup")
		}
		src := tb.text(`tbody tr:nth-child(2) td[data-column="src"]`)
		if got := tb.text(`.drawer [data-field="src"] dd`); got != src {
			t.Errorf("the drawer is of %s, the row of %s", got, src)
		}
		tb.shot("flows-drawer-1440-dark", false)
		tb.do(chromedp.KeyEvent(kb.Escape))
		tb.until(`!document.querySelector(".drawer")`)
	})

	t.Run("zoom", func(t *testing.T) {
		tb.open(base + "/flows?range=1h")
		tb.until(`document.querySelector(".histogram .u-over")`)
		wantTotals("", always, never)
		box := eval[[4]float64](tb, `(() => { const r = document.querySelector(".histogram .u-over").getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()`)
		x := func(part float64) float64 { return box[0] + part*box[2] }
		y := box[1] + box[3]/2
		tb.do(
			chromedp.MouseEvent("mousePressed", x(0.5), y, chromedp.ButtonLeft, chromedp.ClickCount(1)),
			chromedp.MouseEvent("mouseMoved", x(0.6), y, chromedp.ButtonLeft),
			chromedp.MouseEvent("mouseMoved", x(0.7), y, chromedp.ButtonLeft),
			chromedp.MouseEvent("mouseReleased", x(0.7), y, chromedp.ButtonLeft, chromedp.ClickCount(1)),
		)
		tb.until(`location.search.includes("from=")`)
		u, _ := url.Parse(tb.address())
		from, err1 := time.Parse(time.RFC3339, u.Query().Get("from"))
		to, err2 := time.Parse(time.RFC3339, u.Query().Get("to"))
		if d := to.Sub(from); err1 != nil || err2 != nil || d < 11*time.Minute || d > 13*time.Minute {
			t.Errorf("a fifth of an hour became %s to %s", from, to)
		}
		wantTotals("", from, to)
		tb.do(chromedp.NavigateBack())
		wantTotals("", always, never)
	})

	t.Run("elsewhere", func(t *testing.T) {
		const f = "src port 53 and proto udp"
		tb.open(base + "/flows?range=1h&filter=" + url.QueryEscape(f))
		wantTotals(f, always, never)
		tb.click(`[data-menu="export"] > button`)
		tb.until(`document.querySelector('[data-export="csv"]')`)
		if line, want := tb.text(`[data-export="Command line"]`), "weir query --store /var/lib/weir -t -1h -n 100 '"+f+"'"; line != want {
			t.Errorf("the command line is %s; want %s", line, want)
		}
		resp, err := http.Get(base + tb.attribute(`[data-export="csv"]`, "href"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		rows, err := csv.NewReader(resp.Body).ReadAll()
		flows, _, octets := real.sum(f, always, never)
		if err != nil || uint64(len(rows)) != flows+1 {
			t.Fatalf("%d rows of CSV, %v; want %d", len(rows), err, flows+1)
		}
		var sum uint64
		at := slices.Index(rows[0], "bytes")
		for _, r := range rows[1:] {
			n, _ := strconv.ParseUint(r[at], 10, 64)
			sum += n
		}
		if sum != octets {
			t.Errorf("the CSV sums to %d bytes; want %d", sum, octets)
		}
		tb.shot("flows-export-1440-dark", false)
	})

	t.Run("preferences", func(t *testing.T) {
		tb.open(base + "/?range=1h")
		tb.until(`document.querySelector('[data-figure="rate"] .unit')?.textContent.endsWith("bit/s")`)
		tb.do(chromedp.KeyEvent("u"))
		tb.until(`document.querySelector('[data-figure="rate"] .unit').textContent.endsWith("B/s")`)
		tb.do(chromedp.KeyEvent("t"))
		tb.until(`document.documentElement.dataset.theme === "light" && getComputedStyle(document.body).backgroundColor === "rgb(245, 246, 248)"`)
		tb.open(base + "/flows")
		tb.until(`document.documentElement.dataset.theme === "light" && document.querySelector('.segmented [aria-pressed="true"]').textContent === "B/s"`)
		tb.until(`document.querySelector("[data-total]")`) // the keys are heard
		tb.do(chromedp.KeyEvent("u"))
		tb.until(`document.querySelector('.segmented [aria-pressed="true"]').textContent === "bit/s"`)
		tb.do(chromedp.KeyEvent("t"))
		tb.until(`document.documentElement.dataset.theme === "dark"`)
		tb.do(chromedp.KeyEvent("t"))
		tb.until(`!document.documentElement.dataset.theme`)
		tb.do(chromedp.KeyEvent("g"), chromedp.KeyEvent("n"))
		tb.until(`location.pathname === "/"`)
	})

	t.Run("pictures", func(t *testing.T) {
		for _, theme := range []string{"dark", "light"} {
			for _, size := range [][2]int64{{1440, 900}, {390, 844}} {
				tb.size(size[0], size[1], theme)
				for name, path := range map[string]string{
					"now": "/?range=1h", "flows": "/flows?range=1h&filter=" + url.QueryEscape("proto tcp"), "top": "/flows?range=1h&by=srcip",
				} {
					tb.open(base + path)
					if name == "now" {
						tb.until(`document.querySelector(".card li a") && document.querySelector(".u-over")`)
					} else {
						tb.until(`document.querySelectorAll("tbody tr, .flow-list li").length > 5 && document.querySelector(".u-over")`)
					}
					time.Sleep(150 * time.Millisecond) // fonts and fades settle
					if over := eval[float64](tb, "document.documentElement.scrollWidth - innerWidth"); over > 0 {
						t.Errorf("%s at %d, %s: %v pixels too wide", name, size[0], theme, over)
					}
					png := tb.shot(fmt.Sprintf("%s-%d-%s", name, size[0], theme), name == "now")
					if len(png) < 20_000 {
						t.Errorf("%s at %d, %s: a picture of %d octets is empty", name, size[0], theme, len(png))
					}
				}
			}
		}
	})

	t.Run("nothing there", func(t *testing.T) {
		tb.size(1440, 900, "dark")
		tb.open(base + "/flows?range=1h&filter=src+port+1")
		tb.until(`document.querySelector(".notice")?.textContent.includes("No flow of this time passes the filter")`)
		bare := serve(t, Options{Version: "0.1.0"})
		tb.open(bare + "/")
		tb.until(`document.querySelector(".notice")?.textContent.includes("No store here")`)
		tb.shot("now-bare-1440-dark", false)
		fresh := parts(Options{Engine: fixed(nil)}, time.Now(), "transit")
		fresh.Store = func() Store { return Store{Kind: "parquet", Path: "/var/lib/weir"} }
		tb.open(serve(t, fresh) + "/")
		tb.until(`document.querySelector(".notice")?.textContent.includes("No flows in this time")`)
		tb.shot("now-fresh-1440-dark", false)
		tb.open("about:blank") // before the servers end
	})
}

// TestPicture makes the picture of the README.
func TestPicture(t *testing.T) {
	if !*update {
		t.Skip("without -update no picture is made")
	}
	tb := openTab(t)
	end := time.Now().Add(-16 * time.Second)
	start := end.Add(-70 * time.Minute)
	opt := parts(Options{Engine: fixed(traffic(11, start, end, 40_000))}, end.Add(-26*time.Hour), "branch")
	losses := opt.Losses()
	for i := range losses {
		losses[i].Records = 0
	}
	opt.Losses = func() []flow.Loss { return losses }
	opt.Store = func() Store {
		return Store{Kind: "parquet", Path: "/var/lib/weir", Records: 40_000, Bytes: 1_510_000, Segments: 14, Oldest: start, Newest: end}
	}
	base := serve(t, opt)
	tb.size(1440, 900, "dark")
	tb.open(base + "/?range=1h")
	tb.until(`document.querySelector(".card li a") && document.querySelector(".u-over")`)
	time.Sleep(300 * time.Millisecond)
	if err := os.MkdirAll("../docs", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("../docs/console.png", tb.shot("console", false), 0o644); err != nil {
		t.Fatal(err)
	}
}
