// Package cache groups packets into flows: the flow cache in Go memory.
//
// In: packet.Info in batches, in arrival order (Add); the clock (Tick). Out:
// flow.Record in batches to a flow.Sink, each with the reason why it ended.
//
// A flow is one direction of what the key says (RFC 7011 section 2; flow.Key).
// Octets count from the first byte of the IP header (IANA element 1); times are
// Unix nanoseconds, UTC; timers are decided at whole seconds, called ticks.
//
// The table is an array of 128-byte entries in small sets; a keyed hash gives
// each key two candidate sets and the full key is compared. A Cache belongs to
// one goroutine and allocates nothing after New. The kernel's table has the
// same entry, and this engine is its reference.
//
// What a naive reader would write is in model_test.go: a map, obvious code, a
// sweep over everything at every whole second. Both give the same records.
package cache
