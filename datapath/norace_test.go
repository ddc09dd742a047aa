//go:build !race

package datapath

const racing = false
