package bpf

import _ "github.com/cilium/ebpf" // until the loader is here
