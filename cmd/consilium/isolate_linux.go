package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
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
//
// Files that this process was itself handed, such as a service manager's
// sockets, are marked not to reach the child: Go marks only those that it opened.
func bind(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, f := range list {
		if fd, err := strconv.Atoi(f.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
}

// dropSockets puts nothing in the place of every socket that this process
// holds: a library of the gate's opens one to the system's journal before main
// begins, and a vault has none. The numbers stay taken, so that nobody who
// believes to hold such a socket meets another file.
func dropSockets() error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	const dir = "/proc/self/fd"
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range list {
		target, err := os.Readlink(filepath.Join(dir, f.Name()))
		if err != nil || !strings.HasPrefix(target, "socket:") {
			continue
		}
		fd, err := strconv.Atoi(f.Name())
		if err != nil {
			return err
		}
		if err := syscall.Dup3(int(null.Fd()), fd, syscall.O_CLOEXEC); err != nil {
			return err
		}
	}
	return nil
}

// room is how many bytes the file system of dir has left for this user.
func room(dir string) (uint64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return s.Bavail * uint64(s.Bsize), nil
}
