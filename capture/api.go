package capture

// Stats is offered by live sources.
type Stats interface {
	// Stats is how many packets passed the filter since the source was opened,
	// and how many of them the kernel dropped because the ring was full. It may
	// be called from any goroutine.
	Stats() (packets, drops uint64)
}
