package replay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"weir/flow"
	"weir/wire"
)

// clock is a time that only sleeping moves.
type clock struct {
	now  time.Time
	naps []time.Duration
}

func (c *clock) pace(speed float64) *Pace {
	return &Pace{
		Speed: speed, Now: func() time.Time { return c.now },
		Sleep: func(_ context.Context, d time.Duration) error {
			c.naps = append(c.naps, d)
			c.now = c.now.Add(d)
			return nil
		},
	}
}

const second = int64(time.Second)

func TestPace(t *testing.T) {
	for _, c := range []struct {
		speed float64
		want  []time.Duration
	}{
		{1, []time.Duration{2 * time.Second, 3 * time.Second}},
		{10, []time.Duration{200 * time.Millisecond, 300 * time.Millisecond}},
		{0.5, []time.Duration{4 * time.Second, 6 * time.Second}},
		{0, nil},
	} {
		clk := &clock{now: time.Unix(5000, 0)}
		p := clk.pace(c.speed)
		for _, at := range []int64{100, 102, 101, 105} { // one out of order
			if err := p.Wait(t.Context(), at*second); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(clk.naps, c.want) {
			t.Errorf("speed %v: waited %v, want %v", c.speed, clk.naps, c.want)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	for _, speed := range []float64{0, 1} {
		p := &Pace{Speed: speed}
		p.Wait(ctx, 0)
		if err := p.Wait(ctx, 1000*second); !errors.Is(err, context.Canceled) {
			t.Errorf("speed %v: %v after the end", speed, err)
		}
	}
}

func TestParseSpeed(t *testing.T) {
	for text, want := range map[string]float64{"1": 1, "10": 10, "0.5": 0.5, "max": 0} {
		if v, err := ParseSpeed(text); err != nil || v != want {
			t.Errorf("%s: %v, %v", text, v, err)
		}
	}
	for _, text := range []string{"", "0", "-1", "fast", "NaN", "Inf", "1e99"} {
		if v, err := ParseSpeed(text); err == nil {
			t.Errorf("%q is %v", text, v)
		}
	}
}

// TestFlows: every record leaves once, when it is due, with the stamps of a
// network that runs so much faster.
func TestFlows(t *testing.T) {
	const both = flow.HasFirst | flow.HasLast
	batch := []flow.Record{
		{First: 90 * second, Last: 100 * second, Packets: 1, Bytes: 10, Has: both},
		{First: 99 * second, Last: 100*second + 1e6, Packets: 2, Bytes: 20, Has: both},
		{First: 80 * second, Last: 110 * second, Packets: 3, Bytes: 30, Has: both},
	}
	clk := &clock{now: time.Unix(5000, 0)}
	var got []flow.Record
	var sizes []int
	f := &Flows{
		Ctx: t.Context(), Pace: clk.pace(10), Times: Times{From: 100 * second, To: clk.now.UnixNano(), Speed: 10},
		Next: flow.SinkFunc(func(b []flow.Record) error {
			got, sizes = flow.AppendCopies(got, b), append(sizes, len(b))
			return nil
		}),
	}
	if err := f.WriteRecords(batch); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(sizes, []int{2, 1}) || f.Records != 3 || f.Packets != 6 || f.Bytes != 60 {
		t.Errorf("handed on %v: %d records, %d packets, %d octets", sizes, f.Records, f.Packets, f.Bytes)
	}
	if !reflect.DeepEqual(clk.naps, []time.Duration{time.Second}) {
		t.Errorf("waited %v", clk.naps)
	}
	if got[0].Last != 5000*second || got[0].First != 4999*second || got[2].Last != 5001*second || got[2].First != 4998*second {
		t.Errorf("stamps %+v", got)
	}
	if batch[0].Last != 100*second {
		t.Error("the giver's records were changed")
	}
	f = &Flows{Ctx: t.Context(), Pace: &Pace{}, Next: flow.SinkFunc(func(b []flow.Record) error {
		if !reflect.DeepEqual(b, batch) {
			t.Errorf("%+v", b)
		}
		return errors.New("full")
	})}
	if err := f.WriteRecords(batch); err == nil || f.Records != 0 {
		t.Errorf("%v, %d records counted that were not taken", err, f.Records)
	}
}

// receive collects datagrams by their sender.
func receive(t *testing.T, c *net.UDPConn, n int) map[netip.AddrPort][]string {
	t.Helper()
	got := map[netip.AddrPort][]string{}
	b := make([]byte, 65536)
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	for range n {
		k, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			t.Fatalf("%d datagrams, then %v", len(got), err)
		}
		got[from] = append(got[from], string(b[:k]))
	}
	return got
}

// TestDatagrams: exporters stay apart: by port, by addresses of a prefix, or by
// their own addresses.
func TestDatagrams(t *testing.T) {
	collector, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer collector.Close()
	to := collector.LocalAddr().(*net.UDPAddr).AddrPort()
	a := wire.Source{Addr: flow.AddrFrom4([4]byte{192, 0, 2, 1}), Port: 30001}
	b := wire.Source{Addr: flow.AddrFrom4([4]byte{192, 0, 2, 2}), Port: 30001}
	aToo := wire.Source{Addr: a.Addr, Port: 30002}
	send := func(rewrite string) (*Datagrams, error) {
		from, err := ParseRewrite(rewrite)
		if err != nil {
			t.Fatal(err)
		}
		d := &Datagrams{To: to, From: from, Pace: &Pace{}}
		t.Cleanup(d.Close)
		for _, m := range []struct {
			src wire.Source
			msg string
		}{{a, "a1"}, {b, "b1"}, {aToo, "A1"}, {a, "a2"}} {
			if err := d.Send(t.Context(), m.src, 0, []byte(m.msg)); err != nil {
				return d, err
			}
		}
		return d, nil
	}
	check := func(d *Datagrams, got map[netip.AddrPort][]string, addr map[string]string) {
		t.Helper()
		if len(got) != 3 || d.Exporters() != 3 || d.Sent != 4 || d.Octets != 8 {
			t.Fatalf("%v of %d exporters, %d sent", got, d.Exporters(), d.Sent)
		}
		for from, msgs := range got {
			who := msgs[0][:1]
			if want := addr[who]; from.Addr().String() != want || who == "a" && !reflect.DeepEqual(msgs, []string{"a1", "a2"}) {
				t.Errorf("%s from %v, want %s: %v", who, from, want, msgs)
			}
		}
	}
	d, err := send("")
	if err != nil {
		t.Fatal(err)
	}
	check(d, receive(t, collector, 4), map[string]string{"a": "127.0.0.1", "A": "127.0.0.1", "b": "127.0.0.1"})
	if d, err = send("127.9.0.0/29"); err != nil {
		t.Fatal(err)
	}
	check(d, receive(t, collector, 4), map[string]string{"a": "127.9.0.1", "A": "127.9.0.1", "b": "127.9.0.2"})
	if _, err = send("127.9.0.0/31"); err == nil || !strings.Contains(err.Error(), "no address left") {
		t.Errorf("a prefix that is too long: %v", err)
	}
	receive(t, collector, 1)
	if _, err = send("2001:db8::/64"); err == nil || !strings.Contains(err.Error(), "other family") {
		t.Errorf("an IPv6 prefix to an IPv4 collector: %v", err)
	}
	d, err = send("keep")
	switch {
	case err == nil:
		got := receive(t, collector, 4)
		check(d, got, map[string]string{"a": "192.0.2.1", "A": "192.0.2.1", "b": "192.0.2.2"})
		for from, msgs := range got {
			if want := map[string]uint16{"a": 30001, "A": 30002, "b": 30001}[msgs[0][:1]]; from.Port() != want {
				t.Errorf("%v from port %d, want %d", msgs, from.Port(), want)
			}
		}
	case os.Geteuid() == 0 && !strings.Contains(err.Error(), "only root"):
		t.Error(err)
	default:
		t.Logf("not tried whether root sends as others: %v", err)
		if !strings.Contains(err.Error(), "only root (CAP_NET_ADMIN) may send from addresses of others") {
			t.Error(err)
		}
	}
}

// What a TCP connection carried may be too long for a datagram.
func TestTooLong(t *testing.T) {
	d := &Datagrams{To: netip.MustParseAddrPort("127.0.0.1:9"), Pace: &Pace{}}
	defer d.Close()
	if err := d.Send(t.Context(), wire.Source{}, 0, make([]byte, 65508)); err != nil || d.TooLong != 1 || d.Sent != 0 {
		t.Errorf("%v, %+v", err, d)
	}
}

func TestRate(t *testing.T) {
	clk := &clock{now: time.Unix(5000, 0)}
	d := &Datagrams{To: netip.MustParseAddrPort("127.0.0.1:9"), Pace: clk.pace(0), Rate: 10}
	defer d.Close()
	for range 21 {
		if err := d.Send(t.Context(), wire.Source{}, 0, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if took := clk.now.Sub(time.Unix(5000, 0)); took != 2*time.Second {
		t.Errorf("21 datagrams at 10/s took %v", took)
	}
}

func TestParseRewrite(t *testing.T) {
	for text, want := range map[string]Rewrite{
		"": {}, "keep": {Keep: true}, "192.0.2.1": {Prefix: netip.MustParsePrefix("192.0.2.1/32")},
		"192.0.2.9/24": {Prefix: netip.MustParsePrefix("192.0.2.0/24")}, "2001:db8::/48": {Prefix: netip.MustParsePrefix("2001:db8::/48")},
	} {
		if got, err := ParseRewrite(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if _, err := ParseRewrite("everyone"); err == nil {
		t.Error("everyone is accepted")
	}
}
