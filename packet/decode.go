package packet

// Decode reads the headers of one frame.
func Decode(link LinkType, data []byte, wire uint32, in *Info) Reason {
	return UnknownLink
}
