package party

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"

	"consilium"
	"consilium/he"
	"consilium/internal/vec"
)

// Decryption is one summed round to open.
type Decryption struct {
	Profile   he.Profile
	Lanes     int              // of the vector, without tags
	Threshold int              // t
	Members   int              // N of the charter
	State     consilium.Digest // as in the contributions
	Set       *consilium.Contributors
	Group     *GroupKey // of the set's round
	Openings  []*OpeningShare

	buffer int // lanes kept in memory, in tests; 0 means maxBuffered
}

// maxBuffered is how many sums Open keeps in memory, 64 MiB of them, before
// it reads the aggregate twice instead.
const maxBuffered = 1 << 24

// Open reconstructs the summed round key from at least t opening shares, reads
// the aggregate from r and writes the sum over the set, lane by lane, to sink.
//
// Nothing reaches the sink before everything has held: the surplus shares lie
// on the polynomial of the first t, the key and the noise of every coefficient
// are within 9 standard deviations, every lane is a possible sum, the padding
// is empty and both tags fit. A vector of up to 2^24 lanes is buffered; for a
// longer one r must be an io.ReadSeeker, which is read twice.
//
// Every failure that depends on secret content is the one error
// consilium.ErrAggregateRejected, without a cause: which check failed and
// where would be an oracle.
func Open(ctx context.Context, in *Decryption, r io.Reader, sink Sink) error {
	e, err := engineFor(in.Profile)
	if err != nil {
		return err
	}
	if err := in.validate(); err != nil {
		return err
	}
	n := len(in.Set.Members)
	s := make([]int64, e.p.N())
	if !in.reconstruct(s, sumBound(n)) {
		return consilium.ErrAggregateRejected
	}
	rk := e.newKey(s)
	clear(s)
	defer rk.wipe()

	buffer := maxBuffered
	if in.buffer > 0 {
		buffer = in.buffer
	}
	if in.Lanes <= buffer {
		return in.openKept(ctx, e, rk, r, sink)
	}

	seeker, ok := r.(io.ReadSeeker)
	if !ok {
		return consilium.ErrInvalid.Withf("an aggregate of %d lanes is read twice and needs a file", in.Lanes)
	}
	start, err := seeker.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	first, second := sha256.New(), sha256.New()
	if err := in.openStream(ctx, e, rk, io.TeeReader(seeker, first), in.newDrainer(e)); err != nil {
		return err
	}
	if _, err := seeker.Seek(start, io.SeekStart); err != nil {
		return err
	}
	again := in.newDrainer(e)
	defer clear(again.buf[:])
	again.out = sink.Write
	if err := in.openStream(ctx, e, rk, io.TeeReader(seeker, second), again); err != nil {
		return err
	}
	if !bytes.Equal(first.Sum(nil), second.Sum(nil)) {
		return consilium.ErrAggregateRejected
	}
	return nil
}

// openKept is Open of a vector whose sums are kept, in one block of memory, until all
// has held.
func (in *Decryption) openKept(ctx context.Context, e *engine, rk key, r io.Reader, sink Sink) error {
	chunks := e.p.Chunks(in.Lanes)
	block, wiped := e.getKept(chunks), 0
	defer func() {
		clear((*block)[wiped*e.stride():])
		e.kept.Put(block)
	}()
	d := in.newDrainer(e)
	d.kept = *block
	if err := in.openStream(ctx, e, rk, r, d); err != nil {
		return err
	}
	defer clear(d.buf[:])
	for rest := in.Lanes; wiped < chunks; wiped++ {
		lanes := e.chunkOf(*block, wiped)
		n := min(rest, len(lanes)) // the last chunk may hold tags alone
		if err := d.write(lanes[:n], sink.Write); err != nil {
			return err
		}
		rest -= n
		clear(lanes[:cap(lanes)]) // while the processor has it
	}
	return nil
}

func (in *Decryption) validate() error {
	switch {
	case in.Set == nil || in.Group == nil:
		return consilium.ErrInvalid.Withf("opening needs the certified set and the group key")
	case in.Group.round != in.Set.Round:
		return consilium.ErrInvalid.Withf("group key of round %d for a set of round %d", in.Group.round, in.Set.Round)
	case in.Lanes < 1 || in.Lanes > he.MaxLanes:
		return consilium.ErrInvalid.Withf("%d lanes", in.Lanes)
	case in.Members < 1 || in.Members > in.Profile.MaxN || len(in.Set.Members) < 1 || len(in.Set.Members) > in.Members:
		return consilium.ErrInvalid.Withf("a set of %d of %d members, the encryption profile holds %d", len(in.Set.Members), in.Members, in.Profile.MaxN)
	case in.Threshold < 2 || in.Threshold > in.Members:
		return consilium.ErrInvalid.Withf("threshold %d of %d members", in.Threshold, in.Members)
	case len(in.Openings) < in.Threshold:
		return consilium.ErrInvalid.Withf("%d opening shares, %d are needed", len(in.Openings), in.Threshold)
	}
	set := in.Set.Digest()
	seen := map[consilium.Position]bool{}
	for _, o := range in.Openings {
		want := consilium.At{Charter: in.Set.Charter, Round: in.Set.Round, Attempt: in.Set.Attempt, Position: o.at.Position}
		if o.at != want || o.set != set || len(o.elements) != in.Profile.Elements() {
			return consilium.ErrInvalid.Withf("the opening share of position %d is for another set", o.at.Position)
		}
		if o.at.Position < 1 || int(o.at.Position) > in.Members || seen[o.at.Position] {
			return consilium.ErrInvalid.Withf("opening share of position %d: not a member, or twice", o.at.Position)
		}
		seen[o.at.Position] = true
	}
	return nil
}

// reconstruct interpolates the summed key at 0 and checks every share beyond
// the first t.
func (in *Decryption) reconstruct(s []int64, bound int64) bool {
	openings := slices.Clone(in.Openings)
	slices.SortFunc(openings, func(a, b *OpeningShare) int { return int(a.at.Position) - int(b.at.Position) })
	base, surplus := openings[:in.Threshold], openings[in.Threshold:]
	points := make([]uint64, len(base))
	for i, o := range base {
		points[i] = uint64(o.at.Position)
	}
	sum := make([]uint64, in.Profile.Elements())
	defer clear(sum)
	ok := true
	for _, o := range surplus {
		combine(sum, base, lagrange(points, uint64(o.at.Position)))
		var diff uint64
		for i, v := range o.elements {
			diff |= v ^ sum[i]
		}
		ok = ok && diff == 0
	}
	combine(sum, base, lagrange(points, 0))
	return unpackKey(s, sum, bound) && ok
}

func combine(sum []uint64, shares []*OpeningShare, weights []uint64) {
	clear(sum)
	for i, o := range shares {
		w := weights[i]
		for j, v := range o.elements {
			sum[j] = addF(sum[j], mulF(v, w))
		}
	}
}

// errReject marks a failure of content inside the pipeline.
var errReject = errors.New("rejected")

// openStream decrypts the aggregate once, passing the lanes to d as they come
// and failing at the end if anything was wrong.
func (in *Decryption) openStream(ctx context.Context, e *engine, rk key, r io.Reader, d *drainer) error {
	n, masks := len(in.Set.Members), newMasks(e.p.Encode(), in.attempt(), in.State)
	chunks := e.p.Chunks(in.Lanes)
	slots := e.newSlots(chunks, true)
	if d.kept != nil {
		for _, s := range slots {
			e.putLanes(s.lanes)
			s.lanes = nil
		}
	}
	err := pipeline(ctx, chunks, slots,
		func(j int, s *slot) error {
			if d.kept != nil {
				s.lanes = e.chunkOf(d.kept, j)
			}
			if _, err := io.ReadFull(r, s.bytes); err != nil {
				if err == io.EOF || err == io.ErrUnexpectedEOF {
					return errReject
				}
				return err
			}
			return nil
		},
		func(j int, s *slot) error {
			masks.block(&s.cipher, j)
			if !e.decrypt(s, rk, &s.cipher, sumBound(n)) {
				return errReject
			}
			return nil
		},
		func(_ int, s *slot) error { return d.drain(s) })
	if d.kept != nil {
		for _, s := range slots {
			s.lanes = nil // the block's, not the slot's
		}
	}
	e.release(slots)
	if err == nil && !d.holds() {
		err = errReject
	}
	if err == nil {
		var b [1]byte
		if k, rerr := io.ReadFull(r, b[:]); k > 0 {
			err = errReject
		} else if rerr != io.EOF {
			err = rerr
		}
	}
	if errors.Is(err, errReject) {
		return consilium.ErrAggregateRejected
	}
	return err
}

func (in *Decryption) attempt() consilium.At {
	return consilium.At{Charter: in.Set.Charter, Round: in.Set.Round, Attempt: in.Set.Attempt}
}

// drainPart is how many sums go to a sink at a time, a multiple of what the tags
// take. It stays in the processor's first cache.
const drainPart = 3 * tagBlock * 10

// drainer splits the decrypted lanes into sums, tags and padding.
type drainer struct {
	in     *Decryption
	tags   *tagger
	kept   []uint32            // takes the lanes of all chunks, if not nil: getKept
	out    func([]int64) error // else takes the sums, if not nil
	offset int64
	most   uint32
	read   int // lanes and tag lanes so far
	tail   [he.TagLanes]uint32
	bad    uint32 // its top bit, or any in the padding: an impossible lane
	buf    [drainPart]int64
}

func (in *Decryption) newDrainer(e *engine) *drainer {
	n := len(in.Set.Members)
	return &drainer{in: in, tags: newTagger(e.p, in.Group, in.attempt()).below(e.p.W),
		offset: int64(n) << (e.p.Bits - 1), most: uint32(n) * (1<<e.p.Bits - 1)}
}

func (d *drainer) drain(s *slot) error {
	lanes := s.lanes
	n := max(0, min(len(lanes), d.in.Lanes-d.read))
	for part := range slices.Chunk(lanes[:n], drainPart) {
		d.tags.add(part)
		d.check(part)
	}
	if d.out != nil {
		if err := d.write(lanes[:n], d.out); err != nil {
			return err
		}
	}
	d.read += n
	lanes = lanes[n:]
	if d.read >= d.in.Lanes {
		n := 0
		if have := d.read - d.in.Lanes; have < len(d.tail) {
			n = copy(d.tail[have:], lanes)
		}
		for _, u := range lanes[:n] {
			d.bad |= (uint32(len(d.in.Set.Members))*0xffff - u) &^ (1<<31 - 1)
		}
		for _, u := range lanes[n:] {
			d.bad |= u
		}
		d.read += n
	}
	return nil
}

// check notes a lane that no sum can have.
func (d *drainer) check(lanes []uint32) {
	if whole := len(lanes) &^ 15; vec.Enabled && whole > 0 {
		if vec.Above(lanes[:whole], d.most) {
			d.bad |= 1 << 31
		}
		lanes = lanes[whole:]
	}
	var bad uint32
	for _, u := range lanes {
		bad |= d.most - u
	}
	d.bad |= bad &^ (1<<31 - 1)
}

// write passes lanes on as signed sums.
func (d *drainer) write(lanes []uint32, out func([]int64) error) error {
	for part := range slices.Chunk(lanes, drainPart) {
		v := d.buf[:len(part)]
		i := 0
		if whole := len(part) &^ 7; vec.Enabled && whole > 0 {
			vec.Signed(v[:whole], part[:whole], d.offset)
			i = whole
		}
		for ; i < len(part); i++ {
			v[i] = int64(part[i]) - d.offset
		}
		if err := out(v); err != nil {
			return err
		}
	}
	return nil
}

// holds reports whether all ranges and both tags fit.
func (d *drainer) holds() bool {
	got, want := d.tags.sum(), parseTagLanes(d.tail[:])
	var diff uint64
	for i := range got {
		diff |= got[i] ^ want[i]
	}
	return d.bad == 0 && diff == 0
}
