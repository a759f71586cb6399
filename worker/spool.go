package worker

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"consilium/internal/durable"
)

// The spool holds contributions between encryption and the coordinators'
// acknowledgement: the encrypted vector, then the box bundle. Nothing in it is
// secret.

func (g *Gate) spoolDir() string { return filepath.Join(g.cfg.Dir, "spool") }

func (a *actor) spoolPath(slot string) string {
	return filepath.Join(a.gate.spoolDir(), string(a.study), strings.ReplaceAll(slot, "/", "-"))
}

// onDisk marks what the hospital's own disk refuses: whatever writes through it
// into the spool, a full disk stops the gate and ends no study.
type onDisk struct{ io.Writer }

func (w onDisk) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	if err != nil {
		err = fmt.Errorf("%w: %w", errDisk, durable.Full(err))
	}
	return n, err
}

func (a *actor) createSpool(slot string) (durable.File, error) {
	path := a.spoolPath(slot)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, durable.Full(err)
	}
	if err := a.gate.cfg.FS.SyncDir(a.gate.spoolDir()); err != nil {
		return nil, durable.Full(err)
	}
	f, err := a.gate.cfg.FS.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	return f, durable.Full(err)
}

// readSpool returns the box bundle, which follows size bytes of ciphertext.
func (a *actor) readSpool(slot string, size, bundle int64) ([]byte, error) {
	f, err := os.Open(a.spoolPath(slot))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() != size+bundle {
		return nil, fmt.Errorf("spooled contribution of %d bytes, want %d", info.Size(), size+bundle)
	}
	b := make([]byte, bundle)
	_, err = f.ReadAt(b, size)
	return b, err
}

type spooled struct {
	io.Reader
	io.Closer
}

// openSpool reads the ciphertext.
func (a *actor) openSpool(slot string, size int64) (io.ReadCloser, error) {
	f, err := os.Open(a.spoolPath(slot))
	if err != nil {
		return nil, err
	}
	return spooled{io.LimitReader(f, size), f}, nil
}

// dropSpool removes what closed rounds left.
func (a *actor) dropSpool() {
	a.forgetBoxes()
	if err := os.RemoveAll(filepath.Join(a.gate.spoolDir(), string(a.study))); err != nil {
		a.log.Warn("spool not removed", "err", err)
	}
}
