package durable_test

import (
	"errors"
	"io/fs"
	"strings"
	"sync"

	"consilium/internal/durable"
)

var errPower = errors.New("the power failed")

// faulty is a file system whose operations ask fail first. Whatever fail
// allows happens, also when it returns an error: a write may be half done.
type faulty struct {
	durable.FS
	mu   sync.Mutex
	ops  []string
	fail func(op string) (part float64, err error) // part of a write that still happens
}

func (f *faulty) check(op string) (float64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops = append(f.ops, op)
	if f.fail == nil {
		return 1, nil
	}
	return f.fail(op)
}

func (f *faulty) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	if _, err := f.check("open"); err != nil {
		return nil, err
	}
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultyFile{file, f}, nil
}

func (f *faulty) Rename(from, to string) error {
	if _, err := f.check("rename"); err != nil {
		return err
	}
	return f.FS.Rename(from, to)
}

func (f *faulty) Remove(name string) error { return f.FS.Remove(name) }

func (f *faulty) SyncDir(name string) error {
	if _, err := f.check("syncdir"); err != nil {
		return err
	}
	return f.FS.SyncDir(name)
}

type faultyFile struct {
	durable.File
	fs *faulty
}

func (f *faultyFile) Write(b []byte) (int, error) {
	part, err := f.fs.check("write")
	n, werr := f.File.Write(b[:int(float64(len(b))*part)])
	return n, errors.Join(err, werr)
}

func (f *faultyFile) WriteAt(b []byte, off int64) (int, error) {
	part, err := f.fs.check("write")
	n, werr := f.File.WriteAt(b[:int(float64(len(b))*part)], off)
	return n, errors.Join(err, werr)
}

func (f *faultyFile) Sync() error {
	if _, err := f.fs.check("sync"); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultyFile) Truncate(n int64) error {
	if _, err := f.fs.check("truncate"); err != nil {
		return err
	}
	return f.File.Truncate(n)
}

// once fails the n-th operation of a kind with err, after part of it.
func once(kind string, n int, part float64, err error) func(string) (float64, error) {
	return func(op string) (float64, error) {
		if !strings.HasPrefix(op, kind) {
			return 1, nil
		}
		n--
		if n != 0 {
			return 1, nil
		}
		return part, err
	}
}
