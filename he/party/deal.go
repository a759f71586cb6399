package party

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"consilium"
	"consilium/he"
	"consilium/internal/seal"
	"consilium/internal/vec"
)

// NewSeed derives the seed of one contribution from fresh system randomness,
// the hospital's identity secret, the attempt and the vector's digest. Two
// clones of one machine with the same random numbers still get different
// seeds for different attempts and vectors; nobody without the identity gets
// any from broken randomness.
func NewSeed(identity []byte, at consilium.At, vector consilium.Digest) (*Seed, error) {
	if len(identity) < 32 {
		return nil, consilium.ErrInvalid.Withf("identity secret of %d bytes: want at least 32", len(identity))
	}
	ikm := make([]byte, 32, 32+len(identity))
	if _, err := io.ReadFull(rand.Reader, ikm); err != nil {
		return nil, err
	}
	return newSeed(append(ikm, identity...), at, vector)
}

func newSeed(ikm []byte, at consilium.At, vector consilium.Digest) (*Seed, error) {
	prk, err := hkdf.Extract(sha256.New, ikm, consilium.DomainRoundKey.Message(at.Encode()))
	clear(ikm)
	if err != nil {
		return nil, err
	}
	s := &Seed{}
	s.b = derive(prk, consilium.DomainRoundKey, at.Encode(), vector[:])
	clear(prk)
	return s, nil
}

// ParseSeed restores Secret's bytes.
func ParseSeed(b []byte) (*Seed, error) {
	if len(b) != 32 {
		return nil, consilium.ErrInvalid.Withf("seed of %d bytes: want 32", len(b))
	}
	s := &Seed{}
	copy(s.b[:], b)
	return s, nil
}

// sub derives the stream key for one use of the seed. The parameter set is
// bound, so a seed used twice by mistake gives unrelated keys in two rings.
func (s *Seed) sub(p he.Profile, at consilium.At, use string) [32]byte {
	return derive(s.b[:], consilium.DomainRoundKey, []byte(use), p.Encode(), at.Encode())
}

// Encryption is one contribution to make.
type Encryption struct {
	Profile   he.Profile
	Lanes     int                    // of the vector, without tags
	At        consilium.At           // of this hospital
	Threshold int                    // t
	State     consilium.Digest       // salted digest of the certified state; zero in round 1
	Salt      [32]byte               // VectorSalt of this hospital and At.Round
	Vector    consilium.Digest       // VectorDigest of the lanes under Salt, journalled before
	Holders   []consilium.SealingKey // this round's keys, by position
	Group     *GroupKey              // of At.Round
	Seed      *Seed                  // a new one for each call, journalled before the header is signed
	Source    Source                 // the lanes

	// Fingerprint that gave Vector as its Digest under Salt, if this process has just
	// digested the lanes. Without it Contribute computes the digest again.
	Fingerprint *Fingerprint
}

// Dealing is a made contribution: what the header says and the boxes. Its
// sharing polynomials are secret until Header has published their check.
type Dealing struct {
	Boxes       [][]byte           // by position
	Commitments []consilium.Digest // by position
	Ciphertext  consilium.Digest   // of the encrypted vector
	Size        uint64

	at        consilium.At
	state     consilium.Digest
	vector    consilium.Digest
	p         he.Profile
	threshold int
	poly      [][]uint64 // per element and mask element: t coefficients
	record    [RecordSize]byte
}

// Contribute encrypts in.Source under a fresh round key, writes the encrypted
// vector to w and deals the key to the holders. Memory is a few chunks and the
// dealing. The bytes at w mean nothing until Contribute returns without error;
// then fill the header with Dealing.Header, sign it, journal it, and send.
//
// It fails when the source is not the vector that in.Vector names: a round has
// one vector, or two attempts would give away their difference.
func Contribute(ctx context.Context, in *Encryption, w io.Writer) (*Dealing, error) {
	n := len(in.Holders)
	switch {
	case in.Group == nil || in.Seed == nil || in.Source == nil || in.Salt == [32]byte{}:
		return nil, consilium.ErrInvalid.Withf("a contribution needs group key, seed, salt and source")
	case in.Group.round != in.At.Round:
		return nil, consilium.ErrInvalid.Withf("group key of round %d for a contribution to round %d", in.Group.round, in.At.Round)
	case in.At.Attempt == 0 || in.At.Position < 1 || int(in.At.Position) > n:
		return nil, consilium.ErrInvalid.Withf("attempt %d, position %d of %d members", in.At.Attempt, in.At.Position, n)
	case n > in.Profile.MaxN:
		return nil, consilium.ErrInvalid.Withf("%d members, the encryption profile holds %d", n, in.Profile.MaxN)
	case in.Threshold < 2 || in.Threshold > n:
		return nil, consilium.ErrInvalid.Withf("threshold %d of %d members", in.Threshold, n)
	case in.Lanes < 1 || in.Lanes > he.MaxLanes:
		return nil, consilium.ErrInvalid.Withf("%d lanes", in.Lanes)
	}
	e, err := engineFor(in.Profile)
	if err != nil {
		return nil, err
	}

	s := e.roundKey(in)
	d := &Dealing{at: in.At, state: in.State, vector: in.Vector, p: e.p, threshold: in.Threshold, Size: e.p.Size(in.Lanes)}
	if err := d.deal(in, s); err != nil {
		return nil, err
	}
	rk := e.newKey(s)
	clear(s)
	defer rk.wipe()

	if err := e.encryptStream(ctx, in, rk, d, w); err != nil {
		d.Wipe()
		return nil, err
	}
	return d, nil
}

// Audit makes a past contribution's encrypted vector again, from the journalled
// seed and the vector, and compares its digest with what the header said. A
// hospital does it when a sum was rejected, to know that it was not the cause.
func Audit(ctx context.Context, in *Encryption, header *consilium.Header) error {
	if header.At != in.At || header.Vector != in.Vector || header.State != in.State {
		return consilium.ErrInvalid.Withf("the header is of another contribution")
	}
	if in.Group.round != in.At.Round {
		return consilium.ErrInvalid.Withf("group key of round %d for a contribution to round %d", in.Group.round, in.At.Round)
	}
	e, err := engineFor(in.Profile)
	if err != nil {
		return err
	}
	s := e.roundKey(in)
	rk := e.newKey(s)
	clear(s)
	defer rk.wipe()
	var d Dealing
	if err := e.encryptStream(ctx, in, rk, &d, io.Discard); err != nil {
		return err
	}
	if d.Ciphertext != header.Ciphertext {
		return consilium.ErrInvalid.Withf("the journalled seed and vector give %s, the header says %s", d.Ciphertext.Short(), header.Ciphertext.Short())
	}
	return nil
}

// roundKey is s_i. Nothing but its caller and the shares ever hold it.
func (e *engine) roundKey(in *Encryption) []int64 {
	s := make([]int64, e.p.N())
	k := in.Seed.sub(e.p, in.At, "key")
	var r stream
	r.open(newBlock(&k), 0)
	r.gaussians(s)
	clear(r.buf[:])
	return s
}

func (e *engine) encryptStream(ctx context.Context, in *Encryption, rk key, d *Dealing, w io.Writer) error {
	k := in.Seed.sub(e.p, in.At, "error")
	errors := newBlock(&k)
	masks := newMasks(e.p.Encode(), in.At, in.State)
	hash := he.NewCiphertextHash()
	f := &feeder{in: in, tags: newTagger(e.p, in.Group, in.At).below(e.p.Bits), offset: 1 << (e.p.Bits - 1)}
	if in.Fingerprint != nil {
		var err error
		if f.again, err = in.Fingerprint.again(in); err != nil {
			return err
		}
		defer f.again.wipe()
	} else {
		f.vector = NewVectorHash(in.Salt)
		defer f.vector.Wipe()
	}
	defer func() { clear(f.buf[:]); clear(f.tags.buf[:]) }()
	if e.wide != nil && e.wide.narrow {
		f.tags.signed16()
	}
	chunks := e.p.Chunks(in.Lanes)
	slots := e.newSlots(chunks, false)
	err := pipeline(ctx, chunks, slots,
		func(_ int, s *slot) error {
			if s.narrow != nil {
				return f.fillNarrow(s.narrow)
			}
			return f.fill(s.lanes)
		},
		func(j int, s *slot) error {
			masks.block(&s.cipher, j)
			e.encrypt(s, rk, errors, &s.cipher, j)
			return nil
		},
		func(_ int, s *slot) error {
			hash.Write(s.bytes)
			_, err := w.Write(s.bytes)
			return err
		})
	e.release(slots)
	errors.aes.Wipe()
	if err != nil {
		return err
	}
	if err := f.same(); err != nil {
		return err
	}
	d.Ciphertext = hash.Digest()
	return nil
}

// feeder turns a source into chunks of unsigned lanes followed by the tags.
type feeder struct {
	in     *Encryption
	tags   *tagger
	vector *VectorHash // either this
	again  *universal  // or this, to see that the source is the round's vector
	offset int32
	read   int
	ended  bool
	buf    [4096]int32
	tail   []uint32 // tag lanes not yet placed
}

func (f *feeder) fill(lanes []uint32) error {
	for len(lanes) > 0 && f.read < f.in.Lanes {
		part, err := f.next(len(lanes))
		if err != nil {
			return err
		}
		if !raise(lanes[:len(part)], part, f.offset) {
			return f.misfit()
		}
		if f.vector != nil {
			f.vector.Write(part)
		}
		f.tags.add(lanes[:len(part)])
		lanes = lanes[len(part):]
	}
	if err := f.end(); err != nil {
		return err
	}
	n := copy(lanes, f.tail)
	if f.read == f.in.Lanes {
		f.tail = f.tail[n:]
		clear(lanes[n:])
	}
	return nil
}

// fillNarrow is fill for lanes of 16 bits as vec.Gather16 takes them, which is also
// how the vector's digest has them.
func (f *feeder) fillNarrow(b []byte) error {
	vector := b[:2*min(len(b)/2, f.in.Lanes-f.read)]
	tagged := 0
	for at := 0; at < len(vector); {
		part, err := f.next((len(vector) - at) / 2)
		if err != nil {
			return err
		}
		if !narrow(vector[at:at+2*len(part)], part) {
			return f.misfit()
		}
		at += 2 * len(part)
		whole := at - (at-tagged)%f.tags.block16()
		f.tags.add16(vector[tagged:whole])
		tagged = whole
	}
	f.tags.add16(vector[tagged:])
	if f.vector != nil {
		f.vector.write16(vector)
	}
	if err := f.end(); err != nil {
		return err
	}
	rest := b[len(vector):]
	for ; len(rest) > 0 && len(f.tail) > 0; rest, f.tail = rest[2:], f.tail[1:] {
		binary.LittleEndian.PutUint16(rest, uint16(f.tail[0])-1<<15)
	}
	for ; len(rest) > 0; rest = rest[2:] {
		binary.LittleEndian.PutUint16(rest, 1<<15)
	}
	return nil
}

// next reads up to most lanes, at least one.
func (f *feeder) next(most int) ([]int32, error) {
	want := min(most, f.in.Lanes-f.read, len(f.buf))
	var lanes []int32
	var n int
	var err error
	if l, ok := f.in.Source.(Lender); ok {
		lanes, err = l.Next(want)
		n = len(lanes)
	} else {
		n, err = f.in.Source.Read(f.buf[:want])
		lanes = f.buf[:max(0, min(n, want))]
	}
	if n < 0 || n > want || (n == 0 && err == nil) {
		return nil, consilium.ErrInvalid.Withf("lane source returned %d lanes of %d", n, want)
	}
	if err != nil && (err != io.EOF || f.read+n < f.in.Lanes) {
		return nil, fmt.Errorf("lane %d of %d: %w", f.read+n, f.in.Lanes, noEOF(err))
	}
	f.read += n
	f.ended = f.ended || err == io.EOF
	if f.again != nil {
		f.again.write(lanes)
	}
	return lanes, nil
}

// same fails unless the lanes were those that the encryption names.
func (f *feeder) same() error {
	if f.again != nil {
		if f.again.sum() != f.in.Fingerprint.sum {
			return consilium.ErrInvalid.Withf("the lanes are not those that were digested as the vector of this round, %s", f.in.Vector.Short())
		}
		return nil
	}
	if got := f.vector.Digest(); got != f.in.Vector {
		return consilium.ErrInvalid.Withf("the lanes are not the vector of this round: digest %s, journalled %s", got.Short(), f.in.Vector.Short())
	}
	return nil
}

func (f *feeder) misfit() error {
	return consilium.ErrInvalid.Withf("a lane does not fit %d bits", f.in.Profile.Bits)
}

// end, after the vector's last lane, makes sure that it was the source's last, and
// makes the tags.
func (f *feeder) end() error {
	if f.read < f.in.Lanes || f.tail != nil {
		return nil
	}
	if !f.ended {
		if n, err := f.in.Source.Read(f.buf[:1]); n != 0 || (err != nil && err != io.EOF) {
			return consilium.ErrInvalid.Withf("lane source has more than %d lanes", f.in.Lanes)
		}
	}
	f.tail = make([]uint32, he.TagLanes)
	tagLanes(f.tail, f.tags.sum())
	clear(f.buf[:])
	return nil
}

// raise is lanes = src + offset; it reports whether all of src were in
// [-offset, offset).
func raise(lanes []uint32, src []int32, offset int32) bool {
	ok := true
	if whole := len(src) &^ 15; vec.Enabled && whole > 0 {
		ok = vec.Raise(lanes[:whole], src[:whole], offset)
		lanes, src = lanes[whole:], src[whole:]
	}
	var bad int32
	limit := offset - 1
	for i, m := range src {
		bad |= (limit - m) | (limit + 1 + m)
		lanes[i] = uint32(m + offset)
	}
	return ok && bad >= 0
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// deal shares the key's coefficients, six of ten bits to a field element: a
// coefficient of a sum over 128 hospitals stays below 2^9, so six of them and
// their signs stay below 2^60 and never wrap the field.
func (d *Dealing) deal(in *Encryption, s []int64) error {
	// Masks and salts are new in every call, even for one seed: two check
	// polynomials over the same masks would publish linear equations of the
	// key.
	var fresh secret
	if err := fresh.fill(); err != nil {
		return err
	}
	copy(d.record[:32], in.Seed.b[:])
	copy(d.record[32:], fresh.b[:])
	defer fresh.Wipe()
	masks := d.share(in, s, &fresh)
	share := make([]uint64, len(d.poly))
	plain := make([]byte, 0, he.SaltSize+d.p.ShareSize())
	for i, to := range in.Holders {
		plain = d.plain(plain[:0], share, masks, i+1)
		at, holder := in.At, consilium.Position(i+1)
		d.Commitments = append(d.Commitments, commitment(at, holder, plain))
		box, err := sealBox(to, at, holder, plain)
		if err != nil {
			return fmt.Errorf("seal the key share for position %d: %w", holder, err)
		}
		d.Boxes = append(d.Boxes, box)
	}
	clear(plain)
	clear(share)
	return nil
}

// share makes the sharing polynomials from the seed and the masks from fresh,
// and returns the stream that the salts come from.
func (d *Dealing) share(in *Encryption, s []int64, fresh *secret) *stream {
	k := in.Seed.sub(d.p, in.At, "sharing")
	var r stream
	r.open(newBlock(&k), 0)
	k = derive(fresh.b[:], consilium.DomainRoundKey, []byte("masks"), in.Seed.b[:])
	masks := &stream{}
	masks.open(newBlock(&k), 0)
	t, elements := d.threshold, d.p.Elements()
	d.poly = make([][]uint64, elements+he.MaskElements)
	flat := make([]uint64, len(d.poly)*t)
	for i := range d.poly {
		d.poly[i] = flat[i*t : (i+1)*t : (i+1)*t]
		from := &r
		if i >= elements {
			from = masks
		}
		for c := range d.poly[i] {
			d.poly[i][c] = from.field()
		}
		if i < elements {
			d.poly[i][0] = packKey(s, i)
		}
	}
	return masks
}

// plain appends what the box of one holder contains: its salt, the next of
// masks, and its share. It uses share as scratch memory.
func (d *Dealing) plain(out []byte, share []uint64, masks *stream, holder int) []byte {
	x := uint64(holder)
	for j, poly := range d.poly {
		v := uint64(0)
		for c := d.threshold - 1; c >= 0; c-- {
			v = addF(mulF(v, x), poly[c])
		}
		share[j] = v
	}
	for range he.SaltSize / 8 {
		out = binary.BigEndian.AppendUint64(out, masks.uint64())
	}
	return appendF(out, share)
}

func sealBox(to consilium.SealingKey, at consilium.At, holder consilium.Position, plain []byte) ([]byte, error) {
	return seal.Seal(to, consilium.DomainBox, boxContext(at, holder), plain)
}

// boxContext binds a box to charter, round, attempt, dealer and holder.
func boxContext(at consilium.At, holder consilium.Position) []byte {
	return binary.BigEndian.AppendUint16(at.Encode(), uint16(holder))
}

// commitment is over the salt and the share, as they lie in the box.
func commitment(at consilium.At, holder consilium.Position, plain []byte) consilium.Digest {
	return consilium.DomainCommitment.Digest([]byte("share"), boxContext(at, holder), plain)
}

// packKey is element i of a key: its signed coefficients in base 2^10.
func packKey(s []int64, i int) uint64 {
	var v int64
	for c := he.CoefficientsPerElement - 1; c >= 0; c-- {
		v <<= 10
		if j := i*he.CoefficientsPerElement + c; j < len(s) {
			v += s[j]
		}
	}
	return small(v)
}

// unpackKey is the inverse of packKey for sums of keys whose coefficients are
// within bound, below 2^9. It reports false for anything else.
func unpackKey(s []int64, elements []uint64, bound int64) bool {
	const half = int64(1) << 9
	var offset uint64
	for range he.CoefficientsPerElement {
		offset = offset<<10 + uint64(half)
	}
	var bad uint64
	for i, v := range elements {
		u := addF(v, offset)
		for c := range he.CoefficientsPerElement {
			x := int64(u&(1<<10-1)) - half
			u >>= 10
			if j := i*he.CoefficientsPerElement + c; j < len(s) {
				s[j] = x
				bad |= uint64(bound-x) | uint64(bound+x)
			} else {
				bad |= uint64(x) | uint64(-x)
			}
		}
		bad |= u | -u
	}
	return bad>>63 == 0
}

// Bundle is the box bundle as it is sent.
func (d *Dealing) Bundle() []byte {
	out := make([]byte, 0, d.p.BundleSize(len(d.Boxes)))
	for _, b := range d.Boxes {
		out = append(out, b...)
	}
	return out
}

// Header completes h: it sets At, State, Vector, Ciphertext, Size, Boxes and
// Commitments, and from all other fields, which the caller has set before
// (Layout, RowSet, Decision, Ledger, NextSealing), the check polynomials. The
// caller changes nothing afterwards, signs h.Encode() and journals it. Header
// can be called once: a second set of check polynomials would give away linear
// relations of the shares.
func (d *Dealing) Header(h *consilium.Header) error {
	if d.poly == nil {
		return consilium.ErrInvalid.Withf("the header of this contribution is already made")
	}
	h.At, h.State, h.Vector = d.at, d.state, d.vector
	h.Ciphertext, h.Size = d.Ciphertext, d.Size
	h.Boxes, h.Commitments = nil, append([]consilium.Digest(nil), d.Commitments...)
	for _, b := range d.Boxes {
		h.Boxes = append(h.Boxes, consilium.DomainBox.Digest(b))
	}
	elements := d.p.Elements()
	check := make([]byte, 0, d.p.CheckSize(d.threshold))
	v := make([]uint64, d.threshold)
	for i := range he.MaskElements {
		copy(v, d.poly[elements+i])
		r := challenge(h, i)
		for e := range elements {
			x := r.field()
			for c, y := range d.poly[e] {
				v[c] = addF(v[c], mulF(x, y))
			}
		}
		check = appendF(check, v)
	}
	h.Check = check
	d.Wipe()
	return nil
}

// Wipe destroys the sharing polynomials, best effort.
func (d *Dealing) Wipe() {
	for _, p := range d.poly {
		clear(p)
	}
	d.poly = nil
}

// challenge is the stream of coefficients of check i: Fiat-Shamir over the
// header with empty check polynomials, which holds a commitment to every share.
// Three checks, because a dealer may try many headers: each has a chance of
// 2^-61 to pass a wrong sharing.
func challenge(h *consilium.Header, i int) *stream {
	bare := *h
	bare.Check = nil
	k := consilium.DomainCheck.Digest(bare.Encode())
	s := &stream{}
	s.open(newBlock((*[32]byte)(&k)), uint64(i))
	return s
}
