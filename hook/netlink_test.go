package hook

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// message is a netlink message.
func message(kind, flags uint16, payload []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(nlHeader+len(payload)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	return append(append(b, make([]byte, 8)...), payload...)
}

// acknowledgement is an error message, with what it answers.
func acknowledgement(code int32, flags uint16, request, rest []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(code))
	return message(unix.NLMSG_ERROR, flags, append(append(b, request...), rest...))
}

func TestAnswer(t *testing.T) {
	request := message(unix.RTM_SETLINK, 0, make([]byte, 21)) // of a length that is no multiple of 4
	reason := attr(nil, 1, []byte("too large\x00"))
	for _, c := range []struct {
		name   string
		in     []byte
		want   []byte
		errno  unix.Errno
		reason string
	}{
		{name: "payload", in: message(16, 0, []byte("data")), want: []byte("data")},
		{name: "acknowledged", in: acknowledgement(0, 0, request[:nlHeader], nil)},
		{name: "refused", in: acknowledgement(-int32(unix.EBUSY), 0, request[:nlHeader], nil), errno: unix.EBUSY},
		{
			name: "refused with a reason", in: acknowledgement(-int32(unix.EINVAL), unix.NLM_F_ACK_TLVS|unix.NLM_F_CAPPED, request[:nlHeader], reason),
			errno: unix.EINVAL, reason: "too large",
		},
		{
			name: "after the whole request", in: acknowledgement(-int32(unix.EINVAL), unix.NLM_F_ACK_TLVS, append(request, 0, 0, 0), reason),
			errno: unix.EINVAL, reason: "too large",
		},
		{name: "a reason that is cut off", in: acknowledgement(-int32(unix.EINVAL), unix.NLM_F_ACK_TLVS|unix.NLM_F_CAPPED, request[:nlHeader], reason[:6]), errno: unix.EINVAL},
	} {
		got, err := answer(c.in)
		var r *refusal
		switch {
		case c.errno == 0:
			if err != nil || !bytes.Equal(got, c.want) {
				t.Errorf("%s: %q, %v", c.name, got, err)
			}
		case !errors.As(err, &r) || !errors.Is(err, c.errno) || r.reason != c.reason:
			t.Errorf("%s: %v; want %v, %q", c.name, err, c.errno, c.reason)
		case c.reason != "" && err.Error() != c.reason:
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for n := range nlHeader + 4 + nlHeader {
		if _, err := answer(acknowledgement(-1, 0, request[:nlHeader], nil)[:n]); err == nil {
			t.Errorf("%d octets of an answer are taken", n)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	request := message(unix.RTM_SETLINK, 0, make([]byte, 21))
	f.Add(message(16, 0, []byte("data")))
	f.Add(acknowledgement(0, 0, request[:nlHeader], nil))
	f.Add(acknowledgement(-22, unix.NLM_F_ACK_TLVS|unix.NLM_F_CAPPED, request[:nlHeader], attr(nil, 1, []byte("no\x00"))))
	f.Add(acknowledgement(-22, unix.NLM_F_ACK_TLVS, append(request, 0, 0, 0), attr(nil, 1, []byte("no"))))
	f.Fuzz(func(t *testing.T, in []byte) {
		b, err := answer(in)
		if len(b) > len(in) || b != nil && err != nil {
			t.Fatalf("%d octets out of %d, %v", len(b), len(in), err)
		}
		// Attributes that were read come out of attr as they were.
		var again []byte
		attrs(b, func(kind uint16, value []byte) { again = attr(again, kind, value) })
		var n, m int
		attrs(b, func(uint16, []byte) { n++ })
		attrs(again, func(uint16, []byte) { m++ })
		if n != m {
			t.Fatalf("%d attributes, written again %d", n, m)
		}
	})
}

func TestWordsOfProc(t *testing.T) {
	if f := statFields(1); len(f) < 7 {
		t.Skipf("not tried: no /proc (%v)", f)
	}
	for folder, want := range map[string]uint64{"netns-7": 7, "netns-18446744073709551615": 1<<64 - 1} {
		if got, ok := namespaceOf(folder); !ok || got != want {
			t.Errorf("%s: %d, %v", folder, got, ok)
		}
	}
	for _, folder := range []string{"", "links", "netns-", "netns-x", "netns-7x", "netns-007", "netns--1", "table-1", "netns-18446744073709551616"} {
		if _, ok := namespaceOf(folder); ok {
			t.Errorf("%q is taken for a namespace's folder", folder)
		}
	}
}
