package wire

type plan struct{}
