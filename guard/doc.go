// Package guard finds floods in the deltas of flow entries, says what could be done
// about them, and has it done as far as its operators let it.
//
// In: Delta, one for each flow entry that counted since the last tick, in any order.
// Out: Attack and Action, told as Events, and rules for an Enforcer, which is the kernel
// or, in tests, a Fake.
//
// The way of a flood: Engine.Add sums deltas up by destination, source, network and
// hostgroup (Rates, exact for as many keys as it may hold, lower bounds beyond);
// Engine.Tick compares the sums of one second and of ten with the thresholds of the
// hostgroup (Policy). What exceeds one is an Attack, with Evidence from a sample that is
// spread evenly over the tick's packets. From the evidence follows the narrowest Match
// that hits most of the attack and little else. What then happens is the hostgroup's Mode:
// it is noted, proposed, put in force when somebody approves, or put in force at once.
//
// Packets that a rule dropped are in the deltas all the same, so the end of an attack is
// seen while it is being dropped. Rules end by themselves, in the enforcer's clock.
//
// Units: packets, octets from the first byte of the IP header, flows; rates a second;
// bit/s where a name says so. Times are Unix ns. Nothing here reads a clock: time comes
// with Tick, so tests are exact.
//
// An Engine may be used by many goroutines. Add and Tick are one goroutine's.
package guard
