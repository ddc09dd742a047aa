// Package datapath is the daemon's side of the kernel's flow cache: the table
// that the programs of package bpf count in, mapped into this process.
//
// In: bpf.Memory, which the programs write while it is read. Out: flow.Record
// in batches to a flow.Sink. Clocks: entries hold the kernel's (ns of
// bpf_jiffies64), timers are decided at its whole seconds, records say Unix ns.
// Rules are those of package cache, which tests hold the Sweeper to.
//
// # Who writes what
//
// A word of a set's head says who owns an entry (bpf/flow.h). The programs add
// to the counters of entries that are NEW or LIVE. The sweeper takes an entry
// out by one compare-and-exchange to DYING, after which nobody finds it; when
// every program that was running then has ended (Kernel.Grace), its counters
// are final. Key and the other plain fields are stable while the word is NEW,
// LIVE or DYING. What the programs change is read by sync/atomic.
//
// A packet adds its octets first and then itself. Whoever reads packets and
// then octets has all octets of those packets, and perhaps some of a packet
// that is still to be counted: that one's record has fewer. Sums over a flow's
// records are exact, and so is every flow's only record, read after the grace
// period. Octets without a packet are held back until there is one.
//
// # What is on its way when the daemon is killed
//
// Records leave in sub-batches. For each entry in one, Side says what will have
// been handed on of it:
//
//	note       = what the entry is about to forget: reason, flags, first packet
//	first, facts = none                      (an entry that stays)
//	word       = DYING, grace period         (an entry that leaves)
//	next.bytes, next.packets = the counters  from here on it is on its way
//	sink.WriteRecords, sink.Sync
//	dropped    - what the record tells of dropped packets
//	incarnation + 1                          from here on it has been handed on
//	note       = 0                           (it is of the incarnation before)
//
// bank[incarnation&1] is what was handed on before, next is the other bank.
// Something is on its way if and only if next counts more packets than that:
// octets are stored before packets, and after the commit the banks have changed
// places, so that the other one counts less. An entry that has left is then
// cleared, the word last:
//
//	leaving    = the port's sum, whose it is
//	retired    = the port's sum and the entry
//	packets    = 0                           from here on the new sum holds
//	leaving    = none
//	bytes, both banks = 0                    (the old one first)
//	word       = FREE
//
// So wherever a kill -9 strikes, the next daemon (Adopt) finds each entry in
// one of these states, and knows which:
//
//   - next counts more: the record is sent again, the same one under the same
//     flow id (IE 148 is made of slot and incarnation), and committed. These are
//     the entries of one sub-batch; the collector drops the repeats. Until next.packets is
//     stored nothing has been sent; from the commit on nothing is sent again.
//     Of dropped packets the record of an entry that stays says nothing then, as
//     how many it told of is nowhere: what is not taken off is in the entry's next
//     record. So each dropped packet is told of at least once, and those of one
//     sub-batch may be told of twice. Entries that leave tell the same again.
//   - DYING, next does not count more: what the counters exceed bank[incarnation&1]
//     by is handed on after a grace period as it would have been. If packets
//     is 0 the entry was being cleared, and is cleared on.
//   - NEW or LIVE with a note: first and facts may have been forgotten; they
//     are put back.
//   - leaving is not none: packets of that entry tells whether the new sum
//     holds; if not, the old one is put back.
//
// Stores of this process become visible to the next in their order: they are
// atomic, and memory outlives the process.
package datapath
