package export

import (
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/flow"
	"weir/wire"
)

// locked is a buffer that a process writes to while a test reads.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}

// OpenSSL's server, which asks for a certificate, gets every octet over TLS and DTLS:
// one lawful session of IPFIX.
func TestOpenSSL(t *testing.T) {
	openssl := peer(t, "openssl")
	c := newAuthority(t)
	for _, network := range []string{"tls", "dtls"} {
		t.Run(network, func(t *testing.T) {
			port := freePort(t)
			args := []string{
				"s_server", "-accept", "127.0.0.1:" + strconv.Itoa(port), "-cert", c.cert, "-key", c.key, "-CAfile", c.ca,
				"-Verify", "2", "-verify_return_error", "-quiet", "-naccept", "1",
			}
			if network == "dtls" {
				args = append(args, "-dtls1_2")
			}
			cmd := exec.Command(openssl, args...)
			var out, log locked
			cmd.Stdout, cmd.Stderr = &out, &log
			in, err := cmd.StdinPipe() // else it ends at once
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { cmd.Process.Kill(); cmd.Wait() }()
			time.Sleep(500 * time.Millisecond) // until it listens; a connection to see would be the one it accepts
			e, stop := running(t, Options{Destinations: []Destination{parse(t, fmt.Sprintf("%s://127.0.0.1:%d?flush=5ms&template=security&name=collector.test&%s", network, port, c.params()))}})
			records, total := mixed(3000, time.Now().UnixNano())
			give(e, records)
			var got sum
			for range 500 {
				time.Sleep(20 * time.Millisecond)
				if got = decodeStream(t, out.bytes()); got.records >= total.records {
					break
				}
			}
			stop()
			st := e.Stats()[0]
			if got != (sum{total.records, total.records, total.packets, total.octets}) || st.Connections != 1 {
				t.Errorf("openssl has %+v; given %+v\n%+v\n%s", got, total, st, log.bytes())
			}
			if strings.Contains(string(log.bytes()), "error:") {
				t.Errorf("openssl complains: %s", log.bytes())
			}
		})
	}
}

// decodeStream adds up whole messages that stand one behind the other.
func decodeStream(t *testing.T, b []byte) (total sum) {
	t.Helper()
	dec := wire.NewDecoder(wire.Options{})
	src := wire.Source{Addr: flow.AddrFrom4([4]byte{127, 0, 0, 1}), Port: 1, Reliable: true}
	var batch wire.Batch
	seq := uint32(0)
	for len(b) >= 16 && int(be.Uint16(b[2:])) <= len(b) {
		n := int(be.Uint16(b[2:]))
		if n < 16 {
			t.Fatalf("no message: %x", b[:16])
		}
		m, err := dec.Decode(&batch, src, time.Now().UnixNano(), b[:n])
		if err != nil || m.Sequence != seq || m.Waiting > 0 {
			t.Fatalf("%+v, %v; want sequence %d", m, err, seq)
		}
		seq += uint32(m.Records + m.Options)
		b = b[n:]
	}
	for _, r := range batch.Records {
		total.add(sum{1, 1, r.Packets, r.Bytes})
	}
	return total
}
