package main

import (
	"os"
	"os/exec"
	"syscall"
)

// isolate gives a child an empty network namespace: not even loopback is up in
// it. As an ordinary user that takes a user namespace too, which some systems
// refuse; the caller decides what then.
func isolate(cmd *exec.Cmd) bool {
	attr := cmd.SysProcAttr
	attr.Cloneflags |= syscall.CLONE_NEWNET
	if uid := os.Geteuid(); uid != 0 {
		gid := os.Getegid()
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	}
	return true
}

// bind makes a child end with its parent, however that ends. The kernel ties
// this to the thread that starts the child, so the caller stays on its thread.
func bind(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
