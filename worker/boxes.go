package worker

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"sync"

	"consilium"
)

// boxShelf is what this hospital received of the open round: one file of the
// spool, each box preceded by its length in four bytes, and the same in memory.
// Boxes are named by their digest, so a copy that a crash tore or a disk changed
// is not found, and is fetched again.
type boxShelf struct {
	mu    sync.Mutex
	read  bool
	boxes map[consilium.Digest][]byte
}

func (a *actor) boxesPath() string { return a.spoolPath("boxes") }

// keptBox is a box that was kept, or nil.
func (a *actor) keptBox(d consilium.Digest) []byte {
	a.shelf.mu.Lock()
	defer a.shelf.mu.Unlock()
	a.readBoxes()
	return a.shelf.boxes[d]
}

// keepBox adds a box. It is not synced: what is lost is fetched again.
func (a *actor) keepBox(d consilium.Digest, box []byte) error {
	a.shelf.mu.Lock()
	defer a.shelf.mu.Unlock()
	a.readBoxes()
	path := a.boxesPath()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(box))), box...))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	a.shelf.boxes[d] = box
	return nil
}

// readBoxes reads the file once, and cuts off a torn end.
func (a *actor) readBoxes() {
	if a.shelf.read {
		return
	}
	a.shelf.read, a.shelf.boxes = true, map[consilium.Digest][]byte{}
	f, err := os.OpenFile(a.boxesPath(), os.O_RDWR, 0)
	if err != nil {
		return // none yet
	}
	defer f.Close()
	var whole int64
	for {
		var n [4]byte
		if _, err := io.ReadFull(f, n[:]); err != nil {
			break
		}
		size := binary.BigEndian.Uint32(n[:])
		if size > consilium.MaxBoxSize {
			break
		}
		box := make([]byte, size)
		if _, err := io.ReadFull(f, box); err != nil {
			break
		}
		a.shelf.boxes[consilium.DomainBox.Digest(box)] = box
		whole += 4 + int64(size)
	}
	f.Truncate(whole) // a failure shows when a box is not found
}

// forgetBoxes follows the removal of the spool.
func (a *actor) forgetBoxes() {
	a.shelf.mu.Lock()
	defer a.shelf.mu.Unlock()
	a.shelf.read, a.shelf.boxes = false, nil
}
