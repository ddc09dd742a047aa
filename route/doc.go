// Package route knows what the kernel's routing says now, for a fast path that
// keeps its answers.
//
// In: netlink of one network namespace: links, addresses, routes, rules, next
// hop objects, neighbours (rtnetlink(7)). Out: a Table is told of every next hop
// that frames can be sent to, and of every destination whose route may have
// changed, before 100 ms have passed; Obstacles are what forwarding outside of
// the kernel's stack would bypass.
//
// The routing table itself is not copied: whoever forwards asks the kernel
// (bpf_fib_lookup), keeps the answer, and asks again when it is told to. So a
// route costs one message and one call, however many there are. Only of routes with
// an MTU of their own, of which that answer does not tell, a list is kept (mtu.go).
//
// Two sockets listen. One is for what is rare and must not wait (neighbours,
// links, addresses, rules); the other for routes, of which a BGP table brings
// a million. If either overflows, everything is asked again.
package route
