package hook

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// A little netlink of our own, for what the library does not speak: the words
// in which the kernel refuses (extended acknowledgements), XDP's programs by
// attach mode, and the family `netdev`.

const (
	nlHeader     = unix.NLMSG_HDRLEN
	ctrlID       = 0x10 // GENL_ID_CTRL
	nlaTypeMask  = 0x3fff
	nlaNested    = 0x8000
	nlAnswerSize = 64 << 10 // a dump's message is 32 KiB at most, and one interface's less
)

// refusal is the kernel's error with its reason, if it gave one.
type refusal struct {
	unix.Errno
	reason string
}

func (r *refusal) Error() string {
	if r.reason != "" {
		return r.reason
	}
	return r.Errno.Error()
}

func (r *refusal) Unwrap() error { return r.Errno }

// ask sends one request, in the network namespace of the calling thread, and
// returns the payload of the first answer, nil if that is a bare
// acknowledgement.
func ask(protocol int, kind, flags uint16, payload []byte) ([]byte, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	defer unix.Close(fd)
	unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1) // without it there is no reason, no more
	unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)

	le := binary.NativeEndian
	m := make([]byte, nlHeader, nlHeader+len(payload))
	le.PutUint32(m, uint32(nlHeader+len(payload)))
	le.PutUint16(m[4:], kind)
	le.PutUint16(m[6:], flags|unix.NLM_F_REQUEST)
	le.PutUint32(m[8:], 1)
	m = append(m, payload...)
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	buf := make([]byte, nlAnswerSize)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return answer(buf[:n])
}

// answer takes a message apart.
func answer(b []byte) ([]byte, error) {
	le := binary.NativeEndian
	if len(b) < nlHeader || le.Uint32(b) < nlHeader || int(le.Uint32(b)) > len(b) {
		return nil, errors.New("netlink: a short answer")
	}
	kind, flags := le.Uint16(b[4:]), le.Uint16(b[6:])
	b = b[nlHeader:le.Uint32(b)]
	if kind != unix.NLMSG_ERROR {
		return b, nil
	}
	if len(b) < 4+nlHeader {
		return nil, errors.New("netlink: a short acknowledgement")
	}
	code := -int32(le.Uint32(b))
	if code == 0 {
		return nil, nil
	}
	r := &refusal{Errno: unix.Errno(code)}
	if flags&unix.NLM_F_ACK_TLVS != 0 {
		// After the header of our request, which NETLINK_CAP_ACK caps to that,
		// or after all of it.
		skip := 4 + nlHeader
		if flags&unix.NLM_F_CAPPED == 0 {
			skip = 4 + align4(int(le.Uint32(b[4:])))
		}
		if skip <= len(b) {
			attrs(b[skip:], func(kind uint16, value []byte) {
				if kind == 1 { // NLMSGERR_ATTR_MSG
					r.reason = text(value)
				}
			})
		}
	}
	return nil, r
}

// attrs walks attributes; what does not fit ends the walk.
func attrs(b []byte, each func(kind uint16, value []byte)) {
	le := binary.NativeEndian
	for len(b) >= 4 {
		n := int(le.Uint16(b))
		if n < 4 || n > len(b) {
			return
		}
		each(le.Uint16(b[2:])&nlaTypeMask, b[4:n])
		b = b[min(align4(n), len(b)):]
	}
}

// attr appends one attribute.
func attr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func attr32(b []byte, kind uint16, v uint32) []byte {
	return attr(b, kind, binary.NativeEndian.AppendUint32(nil, v))
}

func align4(n int) int { return (n + 3) &^ 3 }

// text is a C string.
func text(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// number reads an attribute of 4 or 8 octets.
func number(b []byte) uint64 {
	switch len(b) {
	case 4:
		return uint64(binary.NativeEndian.Uint32(b))
	case 8:
		return binary.NativeEndian.Uint64(b)
	}
	return 0
}

// ifinfo is the fixed head of a message about an interface.
func ifinfo(ifindex uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], ifindex)
	return b
}

// generic asks a family of generic netlink by its name.
func generic(family string, command uint8, payload []byte) ([]byte, error) {
	const getFamily, familyID, familyName = 3, 1, 2 // CTRL_CMD_…, CTRL_ATTR_…
	a, err := ask(unix.NETLINK_GENERIC, ctrlID, 0, attr([]byte{getFamily, 1, 0, 0}, familyName, append([]byte(family), 0)))
	if err != nil {
		return nil, err
	}
	id := uint16(0)
	if len(a) >= 4 {
		attrs(a[4:], func(kind uint16, value []byte) {
			if kind == familyID && len(value) == 2 {
				id = binary.NativeEndian.Uint16(value)
			}
		})
	}
	if id == 0 {
		return nil, fmt.Errorf("netlink: no family %s", family)
	}
	a, err = ask(unix.NETLINK_GENERIC, id, 0, append([]byte{command, 1, 0, 0}, payload...))
	if err != nil || len(a) < 4 {
		return nil, err
	}
	return a[4:], nil
}
