//go:build unix

package durable

import (
	"errors"
	"os"
	"syscall"
)

var fullErrors = []error{syscall.ENOSPC, syscall.EDQUOT}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// lock takes the file's advisory lock without waiting. The kernel drops it
// with the process, however that ends.
func lock(f *os.File) (held bool, err error) {
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}
