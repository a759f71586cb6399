package provenance

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"consilium"
)

// ID names a stream or a batch. It is random, so it says nothing about what
// it names.
type ID [16]byte

// NewID draws an ID from system randomness.
func NewID() ID {
	var id ID
	rand.Read(id[:]) // never fails, see crypto/rand
	return id
}

// ParseID accepts exactly what String prints.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) || strings.ToLower(s) != s {
		return id, errors.New("id: want 32 lower-case hexadecimal characters")
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, errors.New("id: want 32 lower-case hexadecimal characters")
	}
	return id, nil
}

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id was never set.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler with ParseID's rules.
func (id *ID) UnmarshalText(b []byte) error {
	v, err := ParseID(string(b))
	if err != nil {
		return err
	}
	*id = v
	return nil
}

// Pseudonym is how a hospital's records name a patient: it never leaves the
// hospital. It is personal data, and prints as such nowhere but in String.
type Pseudonym [16]byte

// NewPseudonym keys the hospital's own patient number with a secret of the
// hospital (at least 32 bytes): equal within the hospital, unlinkable outside.
func NewPseudonym(siteKey []byte, patient string) (Pseudonym, error) {
	var p Pseudonym
	if len(siteKey) < 32 {
		return p, fmt.Errorf("pseudonym key: %d bytes, want at least 32", len(siteKey))
	}
	if patient == "" {
		return p, errors.New("pseudonym: empty patient number")
	}
	m := hmac.New(sha256.New, siteKey)
	m.Write(consilium.DomainPseudonym.Message([]byte(patient)))
	copy(p[:], m.Sum(nil))
	return p, nil
}

func (p Pseudonym) String() string { return hex.EncodeToString(p[:]) }

// IsZero reports whether p names nobody.
func (p Pseudonym) IsZero() bool { return p == Pseudonym{} }

// enc and dec are the package's one binary form: fixed width, big-endian.
type enc struct{ b []byte }

func (e *enc) u8(v uint8)                { e.b = append(e.b, v) }
func (e *enc) u32(v uint32)              { e.b = binary.BigEndian.AppendUint32(e.b, v) }
func (e *enc) u64(v uint64)              { e.b = binary.BigEndian.AppendUint64(e.b, v) }
func (e *enc) raw(v []byte)              { e.b = append(e.b, v...) }
func (e *enc) bytes(v []byte)            { e.u32(uint32(len(v))); e.raw(v) }
func (e *enc) digest(v consilium.Digest) { e.raw(v[:]) }

var errShort = errors.New("too short")

type dec struct {
	b   []byte
	err error
}

func (d *dec) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

func (d *dec) take(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n < 0 || len(d.b) < n {
		d.err = errShort
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *dec) u8() uint8 {
	if v := d.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *dec) u32() uint32 {
	if v := d.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (d *dec) u64() uint64 {
	if v := d.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (d *dec) digest() (v consilium.Digest) { copy(v[:], d.take(len(v))); return v }
func (d *dec) id() (v ID)                   { copy(v[:], d.take(len(v))); return v }

// bytes copies a length-prefixed field of at most limit bytes.
func (d *dec) bytes(limit int) []byte {
	n := d.u32()
	if d.err == nil && uint64(n) > uint64(limit) {
		d.fail("a field of %d bytes, at most %d", n, limit)
	}
	v := d.take(int(n))
	if v == nil {
		return nil
	}
	return append([]byte{}, v...)
}

// count reads a number of items of at least size bytes each, so a forged
// count cannot make us allocate more than the input holds.
func (d *dec) count(size int) int {
	n := d.u32()
	if d.err == nil && uint64(n)*uint64(size) > uint64(len(d.b)) {
		d.err = errShort
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

func (d *dec) done(what string) error {
	if d.err == nil && len(d.b) > 0 {
		d.err = fmt.Errorf("%d bytes left over", len(d.b))
	}
	if d.err != nil {
		return fmt.Errorf("%s: %w", what, d.err)
	}
	return nil
}

// clip keeps foreign text short enough for an error message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
