package export

import (
	"errors"
	"syscall"

	"weir/flow"
)

// reason says why records did not go out.
type reason uint8

const (
	v5IPv6 reason = iota
	v5Counter
	refused
	unreachable
	tooBig
	bufferFull
	queueFull
	resolve
	denied
	sendError
	shutdown
	closed
	away
	spoolFull
	spoolError
	reasons
)

var reasonText = [reasons]struct{ name, help string }{
	v5IPv6:      {"v5-ipv6", "NetFlow v5, v1, v7 and v8 have no room for IPv6 addresses: export v9 or IPFIX"},
	v5Counter:   {"v5-counter", "a flow of more than 17 TB cannot be split into v5 records sensibly: export v9 or IPFIX"},
	refused:     {"refused", "the collector's machine said that nothing listens on the port: start the collector or correct the port"},
	unreachable: {"unreachable", "no route to the collector, or a router said so: look at routes and addresses"},
	tooBig:      {"too-big", "the path carries smaller datagrams than were sent; the next ones are smaller"},
	bufferFull:  {"buffer-full", "the kernel's send buffer or the interface's queue stayed full: the link is too slow for the exports"},
	queueFull:   {"queue-full", "datagrams came faster than they could be sent and the queue was full: raise queue= or rate="},
	resolve:     {"resolve", "the collector's name could not be resolved, or its socket not opened, and the queue was full"},
	denied:      {"denied", "the kernel refused to send, most likely a firewall rule of this machine"},
	sendError:   {"send-error", "sending failed for another reason; the log has it"},
	shutdown:    {"shutdown", "datagrams still waited when the time for stopping was over"},
	closed:      {"closed", "records came after the exporter had stopped"},
	away:        {"away", "the collector was not connected and the queue was full: raise queue= or give it a spool="},
	spoolFull:   {"spool-full", "the collector was away or too slow for so long that the spool was full: raise spool-size="},
	spoolError:  {"spool-error", "the spool's folder could not be written or read; the log has it"},
}

// causeOf is the reason that stands for an error of the socket.
func causeOf(err error) reason {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return sendError
	}
	switch errno {
	case syscall.ECONNREFUSED:
		return refused
	case syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EHOSTDOWN, syscall.EADDRNOTAVAIL, syscall.ENODEV:
		return unreachable
	case syscall.EMSGSIZE:
		return tooBig
	case syscall.ENOBUFS, syscall.ENOMEM, syscall.EAGAIN:
		return bufferFull
	case syscall.EPERM, syscall.EACCES:
		return denied
	}
	return sendError
}

// tally is what was lost for one reason.
type tally struct{ records, packets, octets, datagrams uint64 }

// ledger counts what did not go out, by reason.
type ledger [reasons]tally

func (l *ledger) record(why reason, r *flow.Record) {
	l[why].records++
	packets, octets := r.Total()
	l[why].packets += packets
	l[why].octets += octets
}

func (l *ledger) datagram(why reason, g *datagram) {
	l[why].records += g.sum.records
	l[why].packets += g.sum.packets
	l[why].octets += g.sum.octets
	l[why].datagrams++
}

// messages counts what a spool lost.
func (l *ledger) messages(why reason, o datagramLoss) {
	l[why].records += o.sum.records
	l[why].packets += o.sum.packets
	l[why].octets += o.sum.octets
	l[why].datagrams += uint64(o.messages)
}

func (l *ledger) add(o *ledger) {
	for i := range l {
		l[i].records += o[i].records
		l[i].packets += o[i].packets
		l[i].octets += o[i].octets
		l[i].datagrams += o[i].datagrams
	}
}

// total sums over all reasons.
func (l *ledger) total() (t tally) {
	for _, r := range l {
		t.records += r.records
		t.packets += r.packets
		t.octets += r.octets
		t.datagrams += r.datagrams
	}
	return t
}

// losses lists l in the ledger's common form, zeros included.
func (l *ledger) losses() []flow.Loss {
	all := make([]flow.Loss, reasons)
	for r := range reasons {
		all[r] = flow.Loss{
			Stage: "export", Reason: reasonText[r].name, Help: reasonText[r].help,
			Records: l[r].records, Packets: l[r].packets, Bytes: l[r].octets, Datagrams: l[r].datagrams,
		}
	}
	return all
}
