package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"consilium"
)

// FS is what durability needs of a file system. OS is the real one; tests
// put a failing one in front of it.
type FS interface {
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	// SyncDir makes the directory's entries durable.
	SyncDir(name string) error
}

// File is what durability needs of an open file.
type File interface {
	io.Reader
	io.ReaderAt
	io.Writer
	io.WriterAt
	io.Seeker
	io.Closer
	Truncate(size int64) error
	Sync() error
	Stat() (fs.FileInfo, error)
}

// OS is the operating system's file system.
var OS FS = osFS{}

type osFS struct{}

func (osFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err // a nil *os.File must not become a non-nil File
	}
	return f, nil
}

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }
func (osFS) Remove(name string) error     { return os.Remove(name) }
func (osFS) SyncDir(name string) error    { return syncDir(name) }

// Full turns "no space left" and "quota exceeded" into consilium.ErrDiskFull
// and leaves every other error as it is.
func Full(err error) error {
	if isFull(err) && !errors.Is(err, consilium.ErrDiskFull) {
		return consilium.ErrDiskFull.With(err)
	}
	return err
}

func isFull(err error) bool {
	for _, e := range fullErrors {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
