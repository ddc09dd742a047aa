package route

// Settings are the kernel's that routing goes by and that no message, and no answer
// of the routing table, tells of.
type Settings struct {
	// Forwards6 says that IPv6 is forwarded at all (net.ipv6.conf.all.forwarding):
	// the kernel wants it besides the interface's own setting, of which
	// bpf_fib_lookup tells.
	Forwards6 bool
	// ByPorts4 and ByPorts6 say that multipath routes look at more than addresses
	// (fib_multipath_hash_policy): at ports, or what stands in their place.
	ByPorts4, ByPorts6 bool
}

// ReadSettings reads those of the calling thread's network namespace.
func ReadSettings() Settings {
	return Settings{
		Forwards6: sysctl("ipv6/conf/all/forwarding") != 0,
		ByPorts4:  sysctl("ipv4/fib_multipath_hash_policy") != 0,
		ByPorts6:  sysctl("ipv6/fib_multipath_hash_policy") != 0,
	}
}
