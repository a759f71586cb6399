//go:build !linux

package main

import (
	"errors"
	"os/exec"
	"syscall"
)

// isolate reports that this system has no network namespaces.
func isolate(*exec.Cmd) bool { return false }

// bind does nothing here: a child whose parent has ended sees its standard
// input end, and ends.
func bind(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{} }

// dropSockets has no list of open files to go by here.
func dropSockets() error { return nil }

// room is not known here.
func room(string) (uint64, error) { return 0, errors.ErrUnsupported }
