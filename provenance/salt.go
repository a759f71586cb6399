package provenance

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"

	"consilium"
)

// Salts holds one random key for each patient of a hospital, from which the
// salts of the patient's leaves derive. A key is never derived from anything
// that outlives it: once it is erased, nobody can link the patient's leaf
// hashes to any value again, and the hashes stay as they are.
//
// On disk the keys are sealed under the caller's KEK. Erase replaces the
// file; it cannot reach backups, snapshots or worn flash blocks: keep those
// shorter than the deadline by which an erasure must hold.
//
// It is safe for concurrent use.
type Salts struct {
	path string // "" keeps the keys in memory
	kek  *KEK

	mu   sync.RWMutex // guards keys
	keys map[Pseudonym]*patientKey
	made uint64 // how often keys was replaced; a map that is there never changes
}

// changes is another number after every change of a key.
func (s *Salts) changes() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.made
}

// patientKey is HMAC-SHA256 (RFC 2104) with the padded key blocks hashed once:
// a salt then costs two compressions of SHA-256 instead of four, which is most
// of what re-deriving a row costs beside the row itself.
type patientKey struct {
	key          [32]byte
	inner, outer [32]byte // chaining values after the key blocks
}

// chain is SHA-256's compression, block by block from any chaining value, with
// nothing allocated. The standard library writes its state as magic, eight
// words, a block's buffer and a length; after whole blocks only the words
// differ, and the state after a padded last block is the digest.
//
// It is not safe for concurrent use: one a goroutine.
type chain struct {
	hash  hash.Hash
	set   encoding.BinaryUnmarshaler
	get   encoding.BinaryAppender
	state []byte // after one block, with room for the eight words
	out   []byte
	block [sha256.BlockSize]byte
}

const (
	chainAt  = 4                        // of the eight words
	maxShort = sha256.BlockSize - 1 - 8 // bytes that fit a last block with their padding
)

func newChain() *chain {
	h := sha256.New()
	c := &chain{hash: h, set: h.(encoding.BinaryUnmarshaler), get: h.(encoding.BinaryAppender)}
	h.Write(c.block[:])
	state, err := c.get.AppendBinary(nil)
	if err != nil || len(state) < chainAt+sha256.Size {
		panic("provenance: the standard library's SHA-256 does not give its state")
	}
	c.state, c.out = state, make([]byte, 0, len(state))
	return c
}

var chains = sync.Pool{New: func() any { return newChain() }}

// value is the chaining value after the blocks written so far.
func (c *chain) value() (v [32]byte) {
	state, err := c.get.AppendBinary(c.out)
	if err != nil {
		panic(err) // SHA-256 always has a state
	}
	copy(v[:], state[chainAt:])
	return v
}

// first is the chaining value after c.block alone.
func (c *chain) first() [32]byte {
	c.hash.Reset()
	c.hash.Write(c.block[:])
	return c.value()
}

// last is the digest of the block behind value followed by the n bytes that
// stand in c.block (FIPS 180-4 §5.1.1: a one, zeros, the length in bits).
func (c *chain) last(value *[32]byte, n int) consilium.Digest {
	c.block[n] = 0x80 // n > maxShort would not leave room: a domain name grew too long
	clear(c.block[n+1 : maxShort+1])
	binary.BigEndian.PutUint64(c.block[maxShort+1:], uint64(sha256.BlockSize+n)*8)
	copy(c.state[chainAt:], value[:])
	if err := c.set.UnmarshalBinary(c.state); err != nil {
		panic(err) // a state that the library wrote
	}
	c.hash.Write(c.block[:])
	return c.value()
}

func newPatientKey(key [32]byte) *patientKey {
	c := chains.Get().(*chain)
	defer chains.Put(c)
	p := &patientKey{key: key}
	for _, pad := range []struct {
		b  byte
		to *[32]byte
	}{{0x36, &p.inner}, {0x5c, &p.outer}} {
		for i := range c.block {
			c.block[i] = pad.b
			if i < len(key) {
				c.block[i] ^= key[i]
			}
		}
		*pad.to = c.first()
	}
	clear(c.block[:]) // the key goes; chaining values stay in c until its next use
	return p
}

var rowSaltPrefix = shortPrefix(consilium.DomainRowSalt)
var auditMaskPrefix = shortPrefix(consilium.DomainAuditMask)

// shortPrefix is a domain's prefix that leaves room for a batch and an index
// in one block.
func shortPrefix(d consilium.Domain) []byte {
	p := d.Message(nil)
	if len(p)+len(ID{})+4 > maxShort {
		panic("provenance: domain " + string(d) + " is too long for one block")
	}
	return p
}

// mac is HMAC-SHA256(K_patient, prefix || batch || index).
func (p *patientKey) mac(c *chain, prefix []byte, batch *ID, index uint32) consilium.Digest {
	n := copy(c.block[:], prefix)
	n += copy(c.block[n:], batch[:])
	binary.BigEndian.PutUint32(c.block[n:], index)
	inner := c.last(&p.inner, n+4)
	return c.last(&p.outer, copy(c.block[:], inner[:]))
}

// saltWith is rowSalt for a caller who has many to compute.
func (p *patientKey) saltWith(c *chain, batch *ID, index uint32) consilium.Digest {
	return p.mac(c, rowSaltPrefix, batch, index)
}

// rowSalt is HMAC-SHA256(K_patient, domain || batch || index).
func (p *patientKey) rowSalt(batch ID, index uint32) consilium.Digest {
	c := chains.Get().(*chain)
	defer chains.Put(c)
	return p.saltWith(c, &batch, index)
}

// rowName names a row in the audit: nobody without the patient's key can tell
// whose it is, and it says nothing about the leaf's salt.
func (p *patientKey) rowName(batch ID, index uint32) consilium.Digest {
	c := chains.Get().(*chain)
	defer chains.Put(c)
	return p.mac(c, auditMaskPrefix, &batch, index)
}

// NewSalts keeps keys in memory only.
func NewSalts() *Salts { return &Salts{keys: map[Pseudonym]*patientKey{}} }

// OpenSalts loads the keys at path, or starts an empty store there. A file
// that does not open under kek is an error and stays as it is.
func OpenSalts(path string, kek *KEK) (*Salts, error) {
	if kek == nil || path == "" {
		return nil, errors.New("salts: a path and a key-encryption key are needed")
	}
	s := &Salts{path: path, kek: kek, keys: map[Pseudonym]*patientKey{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("salts: %w", err)
	}
	plain, err := kek.open(consilium.DomainSaltStore, nil, b)
	if err != nil {
		return nil, fmt.Errorf("salts %w", err)
	}
	if s.keys, err = parseSalts(plain); err != nil {
		return nil, err
	}
	return s, nil
}

const saltsVersion = 1

func parseSalts(b []byte) (map[Pseudonym]*patientKey, error) {
	d := dec{b: b}
	if v := d.u8(); d.err == nil && v != saltsVersion {
		d.fail("version %d", v)
	}
	n := d.count(48)
	keys := make(map[Pseudonym]*patientKey, n)
	var last Pseudonym
	for i := 0; i < n; i++ {
		p, k := Pseudonym(d.id()), d.digest()
		if p.IsZero() || i > 0 && bytes.Compare(last[:], p[:]) >= 0 {
			d.fail("patients are not in ascending order")
		}
		keys[p], last = newPatientKey(k), p
	}
	if err := d.done("salts"); err != nil {
		return nil, err
	}
	return keys, nil
}

func encodeSalts(keys map[Pseudonym]*patientKey) []byte {
	order := make([]Pseudonym, 0, len(keys))
	for p := range keys {
		order = append(order, p)
	}
	slices.SortFunc(order, func(a, b Pseudonym) int { return bytes.Compare(a[:], b[:]) })
	w := enc{make([]byte, 0, 5+48*len(order))}
	w.u8(saltsVersion)
	w.u32(uint32(len(order)))
	for _, p := range order {
		w.raw(p[:])
		w.raw(keys[p].key[:])
	}
	return w.b
}

// store writes keys; s.mu is held. Memory changes only after the disk has.
func (s *Salts) store(keys map[Pseudonym]*patientKey) error {
	if s.path != "" {
		b, err := s.kek.seal(consilium.DomainSaltStore, nil, encodeSalts(keys))
		if err != nil {
			return fmt.Errorf("salts: %w", err)
		}
		if err := writeFile(s.path, b); err != nil {
			return fmt.Errorf("salts: %w", err)
		}
	}
	s.keys, s.made = keys, s.made+1
	return nil
}

// Ensure makes a key for every patient that has none. When it returns, the
// keys are on disk.
func (s *Salts) Ensure(patients ...Pseudonym) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var next map[Pseudonym]*patientKey
	for _, p := range patients {
		if p.IsZero() {
			return errors.New("salts: a patient without pseudonym")
		}
		if s.keys[p] != nil || next[p] != nil {
			continue
		}
		if next == nil {
			next = make(map[Pseudonym]*patientKey, len(s.keys)+len(patients))
			for q, k := range s.keys {
				next[q] = k
			}
		}
		var key [32]byte
		rand.Read(key[:])
		next[p] = newPatientKey(key)
	}
	if next == nil {
		return nil
	}
	return s.store(next)
}

// Erase destroys a patient's key and reports whether there was one.
func (s *Salts) Erase(p Pseudonym) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys[p] == nil {
		return false, nil
	}
	next := make(map[Pseudonym]*patientKey, len(s.keys))
	for q, k := range s.keys {
		if q != p {
			next[q] = k
		}
	}
	return true, s.store(next)
}

// Has reports whether p has a key.
func (s *Salts) Has(p Pseudonym) bool { return s.get(p) != nil }

// Len is the number of patients with a key.
func (s *Salts) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.keys)
}

func (s *Salts) get(p Pseudonym) *patientKey {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.keys[p]
}

func (s *Salts) String() string             { return "Salts(redacted)" }
func (s *Salts) GoString() string           { return "Salts(redacted)" }
func (s *Salts) LogValue() slog.Value       { return slog.StringValue("Salts(redacted)") }
func (s *Salts) Format(f fmt.State, _ rune) { io.WriteString(f, "Salts(redacted)") }
