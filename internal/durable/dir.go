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

// DirVersion is the version of the layout of data directories.
const DirVersion = 1

// Dir is a data directory that this process holds.
type Dir struct {
	path string
	id   string
	lock *os.File
}

// ErrLocked says that another process works in the directory.
var ErrLocked = errors.New("the data directory is in use by another process")

// Prepare takes the data directory for this process, creating it if needed,
// and makes sure that it holds:
//
//	VERSION  one line: what the directory is for, and its layout version
//	LOCK     locked while a process works here
//	node-id  32 random hexadecimal characters, made once
//	README   one page for whoever finds the directory; about adds lines to it
//
// What killed processes left unfinished in it, and right below it, is removed.
// kind is a word such as "worker". It fails with ErrLocked if another process
// holds the directory, and refuses one of another kind or version.
func Prepare(dir, kind string, about ...string) (*Dir, error) {
	if kind == "" || strings.ContainsAny(kind, " \n") {
		return nil, fmt.Errorf("data directory kind %q: want one word", kind)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", Full(err))
	}
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", Full(err))
	}
	held, err := lock(f)
	if err == nil && held {
		err = ErrLocked
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("data directory %s: %w", dir, err)
	}
	d := &Dir{path: dir, lock: f}
	if err := d.fill(kind, about); err != nil {
		f.Close()
		return nil, fmt.Errorf("data directory %s: %w", dir, err)
	}
	return d, nil
}

func (d *Dir) fill(kind string, about []string) error {
	want := fmt.Sprintf("consilium %s %d\n", kind, DirVersion)
	have, err := os.ReadFile(d.Join("VERSION"))
	fresh := errors.Is(err, fs.ErrNotExist)
	switch {
	case fresh:
		entries, err := os.ReadDir(d.path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			switch n := e.Name(); {
			case n == "LOCK", n == "node-id", n == "README", strings.HasPrefix(n, TempPrefix):
			default:
				return fmt.Errorf("it holds %s and no VERSION: give an empty directory", n)
			}
		}
	case err != nil:
		return err
	case string(have) != want:
		return fmt.Errorf("VERSION says %q, this process needs %q", strings.TrimSpace(string(have)), strings.TrimSpace(want))
	}
	if err := sweep(d.path); err != nil {
		return err
	}
	if err := d.loadID(fresh); err != nil {
		return err
	}
	page := readme(kind, about)
	if old, err := os.ReadFile(d.Join("README")); err != nil || string(old) != page {
		if err := WriteFile(d.Join("README"), []byte(page), 0o600); err != nil {
			return err
		}
	}
	if fresh {
		// Last: a directory with a VERSION has everything else.
		return WriteFile(d.Join("VERSION"), []byte(want), 0o600)
	}
	return nil
}

func (d *Dir) loadID(fresh bool) error {
	b, err := os.ReadFile(d.Join("node-id"))
	if errors.Is(err, fs.ErrNotExist) {
		if !fresh {
			return errors.New("node-id is missing: what this directory promised under it cannot be trusted; join with an empty directory")
		}
		var id [16]byte
		rand.Read(id[:])
		b = []byte(hex.EncodeToString(id[:]) + "\n")
		if err := WriteFile(d.Join("node-id"), b, 0o600); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	d.id = strings.TrimSpace(string(b))
	if raw, err := hex.DecodeString(d.id); err != nil || len(raw) != 16 {
		return errors.New("node-id does not hold 32 hexadecimal characters")
	}
	return nil
}

func readme(kind string, about []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `This is the data directory of a Consilium %s.

One process works here at a time (LOCK). VERSION says what the directory is
for; node-id names this very directory to other nodes.

Do not edit, copy back or restore single files. What is here includes promises
that were already made to others, and an older copy contradicts them: a
restored directory counts as dishonest. To move it, stop the process, move the
whole directory, start again. To give it up, delete it whole and join anew with
an empty one.

Files whose names start with %s are unfinished and may be deleted while no
process runs.
`, kind, TempPrefix)
	if len(about) > 0 {
		b.WriteString("\n")
		for _, line := range about {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// ID is the directory's random name, 32 hexadecimal characters. A new
// directory has a new one.
func (d *Dir) ID() string { return d.id }

// Path is the directory.
func (d *Dir) Path() string { return d.path }

// Join is a path inside the directory.
func (d *Dir) Join(elem ...string) string {
	return filepath.Join(append([]string{d.path}, elem...)...)
}

// Close gives the directory back.
func (d *Dir) Close() error { return d.lock.Close() }
