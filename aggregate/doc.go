// Package aggregate holds aggregation caches, as `ip flow-aggregation cache` makes them
// on IOS: flows that have left the main cache are merged by what a scheme keeps of them
// (AS, protocol and ports, prefixes, …), and the sums leave by timers of their own.
//
// In: flow.Record, as flows leave the main cache; a Cache is the flow.Sink of its meter.
// Out: flow.Record in batches to another flow.Sink, with Flows, the number of records
// merged (IE 3), and the reason why the aggregate left.
//
// Sums are exact: records, packets and octets in = out + held (Stats). What a full cache
// has no room for makes the aggregate leave early that has been idle for longest.
// Times are Unix ns, as everywhere; timers are decided at whole seconds or whenever
// records come.
package aggregate
