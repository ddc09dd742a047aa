// Package capture gives packets in batches: from capture files, from standard
// input, and from this machine's interfaces.
//
// In: pcap and pcapng of every byte order and resolution, plain, gzip or zstd;
// or an interface's frames through AF_PACKET. Out: Packet, in the order of the
// file or of the kernel. Times are Unix nanoseconds, UTC; lengths are octets of
// the frame, link header included.
//
// Nothing is copied for a packet and nothing allocated: Packet.Data points into
// the buffer the file was read into, or into the ring the kernel writes, and is
// valid until the next Read. A Source belongs to one goroutine; Close may be
// called from another one, and so may Progress and Stats.
//
// Filters are the language of tcpdump, compiled to classic BPF: attached to the
// socket for an interface, run here for a file.
package capture
