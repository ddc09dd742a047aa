package main

import (
	"errors"
	"os/exec"
	"strconv"
)

// exitStatus is the number a command ended with.
func exitStatus(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return strconv.Itoa(exit.ExitCode())
	}
	return err.Error()
}
