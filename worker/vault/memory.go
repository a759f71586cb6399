package vault

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"consilium"
	"consilium/internal/durable"
)

// siteMemory is what an analysis remembers at this site from one round to the
// next (SCAFFOLD's control variate). The gate commits to a vector before it is
// sent, and after a restart the same round must give the same one: so both the
// memory that a round was computed from and the one that follows are on disk
// before the vector leaves Local. Which of them counts is decided by the log: the
// second, once the round was opened with this hospital in its set.
type siteMemory struct {
	path    string
	opened  []byte // as of the last opened round with this hospital in it
	round   uint32 // that pending was computed in; 0: none
	pending []byte // replaces opened if that round is opened with this hospital
	stored  bool   // there is a file
}

// memoryVersion is the first byte of the file.
const memoryVersion = 1

// loadMemory reads a study's memory from the vault's directory; none is empty.
func loadMemory(dir string, id consilium.StudyID) (*siteMemory, error) {
	if _, err := consilium.ParseStudyID(string(id)); err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	m := &siteMemory{path: filepath.Join(dir, "memory", string(id))}
	b, err := os.ReadFile(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	damaged := fmt.Errorf("%s is damaged: this hospital cannot go on with study %s; withdraw from it, or restore the vault's directory as it was", m.path, id)
	if len(b) < 1+4+8+sha256.Size || b[0] != memoryVersion {
		return nil, damaged
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if got := sha256.Sum256(body); string(got[:]) != string(sum) {
		return nil, damaged
	}
	m.round = binary.BigEndian.Uint32(body[1:])
	n := binary.BigEndian.Uint64(body[5:])
	if rest := body[13:]; n <= uint64(len(rest)) {
		m.opened, m.pending, m.stored = rest[:n:n], rest[n:], true
		return m, nil
	}
	return nil, damaged
}

// settle takes over what was computed in the last round that was opened with
// this hospital in its set. Doing it again changes nothing.
func (m *siteMemory) settle(included uint32) {
	if m.round != 0 && m.round == included {
		m.opened = m.pending
	}
}

// put keeps what the round's local step left, durably if it is anything.
func (m *siteMemory) put(round uint32, pending []byte) error {
	m.round, m.pending = round, pending
	if len(m.opened) == 0 && len(pending) == 0 && !m.stored {
		return nil
	}
	b := binary.BigEndian.AppendUint32([]byte{memoryVersion}, m.round)
	b = binary.BigEndian.AppendUint64(b, uint64(len(m.opened)))
	b = append(append(b, m.opened...), pending...)
	sum := sha256.Sum256(b)
	if err := os.MkdirAll(filepath.Dir(m.path), 0o700); err != nil {
		return stored(err)
	}
	// If we crash before this, the round has left nothing and is computed from
	// the same memory again; after it, the log says whether pending counts.
	if err := durable.WriteFile(m.path, append(b, sum[:]...), 0o600); err != nil {
		return stored(err)
	}
	m.stored = true
	return nil
}

// forget removes the file of an ended study.
func forgetMemory(dir string, id consilium.StudyID) error {
	if _, err := consilium.ParseStudyID(string(id)); err != nil {
		return nil // nothing was ever kept under such a name
	}
	err := os.Remove(filepath.Join(dir, "memory", string(id)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
