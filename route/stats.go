package route

import "time"

// Stats is what a Monitor has heard and told. All but Hops count from its start.
type Stats struct {
	// Messages heard, by kind. Those of the first listing and of later ones count.
	Links, Addresses, Routes4, Routes6, Rules, Neighbours, NextHops uint64
	Settings                                                        uint64 // forwarding switched on or off, and such
	Malformed                                                       uint64 // made no sense, or were too long: all was asked again

	Invalidations    uint64 // of a prefix; each is told twice and counted once
	InvalidationsAll uint64
	Overruns         uint64 // times that messages were lost: all was asked again
	Listings         uint64 // of links, addresses and neighbours: 1 at the start
	Hops             int    // next hops the table has now
	MTUs             int    // prefixes with a route that has an MTU of its own
	RouteListings    uint64 // of routes, for these: 1 after the start
	HopsRefused      uint64 // times that it had no room for one
	Refreshed        uint64 // neighbours in use that the kernel was asked to verify

	LastError     string
	LastErrorTime time.Time
}
