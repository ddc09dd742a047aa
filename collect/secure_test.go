package collect

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/export"
	"weir/flow"
)

// certify makes an authority, and a certificate of it for a name; files in PEM.
func certify(t *testing.T, name string) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of " + name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, caKey.Public(), caKey)
	must(err)
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), caKey)
	must(err)
	keyDER, err := x509.MarshalECPrivateKey(leafKey)
	must(err)
	file := func(n, kind string, der []byte) string {
		p := filepath.Join(dir, n)
		must(os.WriteFile(p, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return p
	}
	return file("ca", "CERTIFICATE", rootDER), file("cert", "CERTIFICATE", leafDER), file("key", "EC PRIVATE KEY", keyDER)
}

// What weir exports over TLS and DTLS weir collects, whole; who shows no certificate
// that is known, or one of a name that is not allowed, is counted and not let in.
func TestSecureConnections(t *testing.T) {
	ca, cert, key := certify(t, "probe.test")
	otherCA, otherCert, otherKey := certify(t, "probe.test")
	_ = otherCA
	for _, network := range []string{"tls", "dtls"} {
		t.Run(network, func(t *testing.T) {
			sink := &memory{}
			files := fmt.Sprintf("cert=%s&key=%s&ca=%s", cert, key, ca)
			c, stop := start(t, Options{Listen: []string{
				network + "://127.0.0.1:0?" + files + "&allow=probe.test,other",
				network + "://127.0.0.1:0?" + files + "&allow=other",
			}, Sink: sink})
			sent := func(to net.Addr, params string) export.Stats {
				t.Helper()
				d, err := export.ParseDestination(fmt.Sprintf("%s://%s?flush=1ms&%s", network, to, params))
				if err != nil {
					t.Fatal(err)
				}
				e, err := export.New(export.Options{Destinations: []export.Destination{d}})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan error, 1)
				go func() { done <- e.Run(ctx) }()
				for i := range 300 {
					e.WriteRecords([]flow.Record{{
						Src: flow.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Dst: flow.AddrFrom4([4]byte{10, 0, 1, 1}), Packets: 1, Bytes: 100, First: 1, Last: 2,
						Has: flow.HasSrc | flow.HasDst | flow.HasPackets | flow.HasBytes | flow.HasFirst | flow.HasLast,
					}})
				}
				until(t, "an outcome", func() bool { st := e.Stats()[0]; return st.Records == 300 || st.Error != "" })
				cancel()
				<-done
				return e.Stats()[0]
			}
			if st := sent(c.Addrs()[0], files); st.Records != 300 {
				t.Fatalf("%+v", st)
			}
			until(t, "all records", func() bool { return sink.len() == 300 })
			if ex := c.Exporters(); len(ex) == 1 && ex[0].Sequence.Lost != 0 {
				t.Errorf("%+v", ex)
			}
			if n := lossOf(t, c, "handshake").Datagrams; n != 0 {
				t.Errorf("%d not let in", n)
			}
			sent(c.Addrs()[0], "ca="+ca)
			sent(c.Addrs()[0], fmt.Sprintf("cert=%s&key=%s&ca=%s", otherCert, otherKey, ca))
			sent(c.Addrs()[1], files)
			until(t, "three refusals", func() bool { return lossOf(t, c, "handshake").Datagrams >= 3 })
			if sink.len() != 300 {
				t.Errorf("%d records: strangers were let in", sink.len())
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
	for _, c := range []struct{ query, want string }{
		{"", "cert=FILE&key=FILE&ca=FILE, all three"},
		{"cert=a&key=b", "all three"},
		{"cert=a&key=b&ca=c&x=y", "x is unknown"},
		{"cert=a&key=b&ca=c&ca=d", "ca is given twice"},
	} {
		if _, err := New(Options{Listen: []string{"tls://:4740?" + c.query}, Sink: &memory{}}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.query, err)
		}
	}
	// Files that are not there are told before anything runs.
	x, err := New(Options{Listen: []string{"tls://127.0.0.1:0?cert=/no&key=/no&ca=/no"}, Sink: &memory{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Listen(); err == nil || !strings.Contains(err.Error(), "/no") {
		t.Error(err)
	}
}

// A collector that takes another one's place goes on accepting at its TCP ports.
func TestSucceedTCP(t *testing.T) {
	sink := &memory{}
	old, stop := start(t, Options{Listen: []string{"tcp://127.0.0.1:0", "udp://127.0.0.1:0"}, Sink: sink})
	addr := old.Addrs()[1].String()
	old.where[0].url = "tcp://" + addr
	old.tcp[0].e.url = old.where[0].url
	next, err := New(Options{Listen: []string{"tcp://" + addr}, Sink: sink})
	if err != nil {
		t.Fatal(err)
	}
	if err := next.ListenAfter(old); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", addr) // accepted by nobody yet
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := next.Take(old); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- next.Run(ctx) }()
	send(t, conn, ipfix(0, templateSet, dataSet))
	until(t, "a record", func() bool { return sink.len() == 1 })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A collector that takes another one's place has its ports, also of TLS and DTLS, with
// other rules for who is let in, while connections were open; a file that is not there
// leaves the old one as it was.
func TestSucceedSecure(t *testing.T) {
	ca, cert, key := certify(t, "probe.test")
	files := fmt.Sprintf("cert=%s&key=%s&ca=%s", cert, key, ca)
	for _, network := range []string{"tls", "dtls"} {
		t.Run(network, func(t *testing.T) {
			sink := &memory{}
			old, stop := start(t, Options{Listen: []string{network + "://127.0.0.1:0?" + files + "&allow=other"}, Sink: sink})
			addr := old.Addrs()[0].String()
			d, err := export.ParseDestination(fmt.Sprintf("%s://%s?flush=1ms&%s", network, addr, files))
			if err != nil {
				t.Fatal(err)
			}
			e, err := export.New(export.Options{Destinations: []export.Destination{d}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			exported := make(chan error, 1)
			go func() { exported <- e.Run(ctx) }()
			write := func() {
				e.WriteRecords([]flow.Record{{Packets: 1, Bytes: 100, Has: flow.HasPackets | flow.HasBytes}})
			}
			write()
			until(t, "a refusal", func() bool { return lossOf(t, old, "handshake").Datagrams > 0 })

			broken, err := New(Options{Listen: []string{network + "://" + addr + "?cert=/no&key=/no&ca=/no"}, Sink: sink})
			if err != nil {
				t.Fatal(err)
			}
			if err := broken.ListenAfter(old); err == nil || !strings.Contains(err.Error(), "/no") {
				t.Fatalf("files that are not there: %v", err)
			}
			for _, listen := range []string{network + "://" + addr + "?" + files, network + "://" + addr + "?" + files + "&allow=probe.test"} {
				before := sink.len()
				next, err := New(Options{Listen: []string{listen}, Sink: sink})
				if err != nil {
					t.Fatal(err)
				}
				if err := next.ListenAfter(old); err != nil {
					t.Fatal(err)
				}
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				if err := next.Take(old); err != nil {
					t.Fatal(err)
				}
				if got := next.Addrs()[0].String(); got != addr {
					t.Errorf("the successor listens at %s, not at %s", got, addr)
				}
				run, end := context.WithCancel(context.Background())
				done := make(chan error, 1)
				go func() { done <- next.Run(run) }()
				old, stop = next, sync.OnceValue(func() error { end(); return <-done })
				defer stop()
				until(t, "a record", func() bool { write(); return sink.len() > before })
			}
			cancel()
			<-exported
		})
	}
}
