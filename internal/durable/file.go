package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
)

var tempCounter atomic.Uint64

// TempPrefix starts the name of every unfinished file. What bears it after a
// crash was never acknowledged.
const TempPrefix = ".tmp-"

func tempName(dir string) string {
	return filepath.Join(dir, fmt.Sprintf("%s%d-%d", TempPrefix, os.Getpid(), tempCounter.Add(1)))
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
