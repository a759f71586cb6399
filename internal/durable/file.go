package durable

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// TempPrefix starts the name of every unfinished file. What bears it after a
// crash was never acknowledged.
const TempPrefix = ".tmp-"

// tempName names a file that nothing else has: not another process, nor one that
// was killed here before, whose process id comes back (in a container it is 1 each
// time).
func tempName(dir string) string {
	var id [16]byte
	rand.Read(id[:])
	return filepath.Join(dir, TempPrefix+hex.EncodeToString(id[:]))
}

// sweep removes what killed processes left unfinished in a directory and in those
// right below it. Only who holds the directory may: what it removes could else be
// about to get its name. Some of it is secret, and nothing else would destroy it.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		inner := []fs.DirEntry{e}
		in := dir
		if e.IsDir() {
			in = filepath.Join(dir, e.Name())
			if inner, err = os.ReadDir(in); err != nil {
				return err
			}
		}
		for _, f := range inner {
			if !f.Type().IsRegular() || !strings.HasPrefix(f.Name(), TempPrefix) {
				continue
			}
			if err := os.Remove(filepath.Join(in, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// WriteFile replaces the file at path with data. When it returns nil the new
// bytes and the file's name are durable; when it fails, and after a crash at
// any moment, the file holds either its old bytes or the new ones, whole.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return WriteFileFS(OS, path, data, perm)
}

// WriteFileFS is WriteFile on a given file system.
func WriteFileFS(fsys FS, path string, data []byte, perm fs.FileMode) error {
	dir := filepath.Dir(path)
	tmp := tempName(dir)
	if err := writeTemp(fsys, tmp, data, perm); err != nil {
		fsys.Remove(tmp)
		return fmt.Errorf("write %s: %w", path, Full(err))
	}
	// If we crash here, the temporary file stays and nobody reads it.
	if err := fsys.Rename(tmp, path); err != nil {
		fsys.Remove(tmp)
		return fmt.Errorf("write %s: %w", path, Full(err))
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("write %s: %w", path, Full(err))
	}
	return nil
}

func writeTemp(fsys FS, name string, data []byte, perm fs.FileMode) error {
	f, err := fsys.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}
