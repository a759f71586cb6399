package party

import (
	"crypto/subtle"
	"encoding/binary"

	"consilium"
	"consilium/he"
	"consilium/internal/seal"
)

// Who is to blame is found without opening anything but shares, and of those
// never as many as open a key: a dealer answers a complaint with the one share
// that the complaining hospital has anyway, an accused hospital shows the shares
// that it added. Both are sealed to the group of the round.

// RecordSize is the length of Dealing.Record.
const RecordSize = 64

// Record is what the dealer journals, secretly, until the round has closed:
// seed and masks, from which Audit and Answer make the contribution again.
func (d *Dealing) Record() []byte { return append([]byte(nil), d.record[:]...) }

// RecordSeed is the seed in a record.
func RecordSeed(record []byte) (*Seed, error) {
	if len(record) != RecordSize {
		return nil, consilium.ErrInvalid.Withf("dealing record of %d bytes: want %d", len(record), RecordSize)
	}
	return ParseSeed(record[:32])
}

// Answer makes the share of one holder again, from the record of the dealing,
// checks that it is the one that the header commits to, and seals it to the
// group. in is the dealing's Encryption; its seed and source are not used.
func Answer(in *Encryption, record []byte, header []byte, to consilium.Position) ([]byte, error) {
	h, err := consilium.ParseHeader(header)
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	if h.At != in.At || len(h.Commitments) != len(in.Holders) || to < 1 || int(to) > len(in.Holders) || to == in.At.Position {
		return nil, consilium.ErrInvalid.Withf("an answer to position %d under a header of another contribution", to)
	}
	if in.Threshold < 2 || in.Threshold > len(in.Holders) {
		return nil, consilium.ErrInvalid.Withf("threshold %d of %d members", in.Threshold, len(in.Holders))
	}
	again := *in
	if again.Seed, err = RecordSeed(record); err != nil {
		return nil, err
	}
	defer again.Seed.Wipe()
	e, err := engineFor(in.Profile)
	if err != nil {
		return nil, err
	}
	var fresh secret
	copy(fresh.b[:], record[32:])
	defer fresh.Wipe()
	s := e.roundKey(&again)
	d := &Dealing{at: in.At, p: e.p, threshold: in.Threshold}
	masks := d.share(&again, s, &fresh)
	clear(s)
	defer d.Wipe()
	share := make([]uint64, len(d.poly))
	defer clear(share)
	var plain []byte
	defer func() { clear(plain) }()
	for i := 1; i <= int(to); i++ { // the salts come one after the other
		plain = d.plain(plain[:0], share, masks, i)
	}
	if commitment(in.At, to, plain) != h.Commitments[to-1] {
		return nil, consilium.ErrInvalid.Withf("the journalled record does not give the share that the header commits to")
	}
	return in.Group.seal(consilium.DomainAnswerKey, answerPlace(in.At, consilium.HeaderDigest(header), to), plain)
}

// AnswerSize is the length of a sealed answer.
func AnswerSize(p he.Profile) int { return 32 + he.SaltSize + p.ShareSize() + 16 }

func answerPlace(dealer consilium.At, header consilium.Digest, to consilium.Position) []byte {
	return binary.BigEndian.AppendUint16(append(dealer.Encode(), header[:]...), uint16(to))
}

// CheckAnswer opens a dealer's answer and checks the share against the header
// as OpenBox does. The share is that of the hospital at to: whoever is it may
// use it. header is the exact body whose signature the caller has verified.
func CheckAnswer(p he.Profile, lanes, members, threshold int, g *GroupKey, header []byte, to consilium.Position, sealed []byte) (*KeyShare, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	h, err := consilium.ParseHeader(header)
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	if err := p.CheckHeader(h, lanes, members, threshold); err != nil {
		return nil, err
	}
	if g.round != h.Round || to < 1 || int(to) > members || len(sealed) != AnswerSize(p) {
		return nil, consilium.ErrInvalid.Withf("an answer of %d bytes to position %d in round %d", len(sealed), to, h.Round)
	}
	digest := consilium.HeaderDigest(header)
	plain, err := g.unseal(consilium.DomainAnswerKey, answerPlace(h.At, digest, to), sealed)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	elements, err := checkPlain(p, threshold, h, to, plain)
	if err != nil {
		return nil, err
	}
	return &KeyShare{p: p, at: h.At, header: digest, holder: to, elements: elements}, nil
}

// ShowSize is the length of what ShowShares returns for a set of n.
func ShowSize(p he.Profile, n int) int { return 32 + n*(he.SaltSize+p.ShareSize()) + 16 }

func showPlace(holder consilium.At, set consilium.Digest) []byte {
	return append(holder.Encode(), set[:]...)
}

// ShowShares opens the boxes of every member of set once more and seals what
// was in them to the group: an accused hospital's proof of what it had to add.
// headers, boxes and answers are parallel to set.Members; an answer, nil where
// the dealer gave this hospital none, stands in for a box that holds nothing
// sound. The caller has t signatures on one list of accused that holds this
// hospital, and shows nothing otherwise.
func ShowShares(p he.Profile, g *GroupKey, holder consilium.At, set *consilium.Contributors, headers, boxes, answers [][]byte, key *seal.Key) ([]byte, error) {
	if n := len(set.Members); len(headers) != n || len(boxes) != n || len(answers) != n || g.round != set.Round {
		return nil, consilium.ErrInvalid.Withf("%d headers, %d boxes and %d answers for a set of %d", len(headers), len(boxes), len(answers), n)
	}
	all := make([]byte, 0, ShowSize(p, len(set.Members)))
	defer func() { clear(all[:cap(all)]) }()
	for i, m := range set.Members {
		h, err := consilium.ParseHeader(headers[i])
		if err != nil || consilium.HeaderDigest(headers[i]) != m.Header {
			return nil, consilium.ErrInvalid.Withf("header %d is not the set's", i)
		}
		plain, err := received(p, g, h, m.Header, holder.Position, boxes[i], answers[i], key)
		if err != nil {
			return nil, err
		}
		all = append(all, plain...)
		clear(plain)
	}
	return g.seal(consilium.DomainShowKey, showPlace(holder, set.Digest()), all)
}

// received is what a dealer gave a holder: what its box holds, or the answer
// where that is not what the header commits to.
func received(p he.Profile, g *GroupKey, h *consilium.Header, header consilium.Digest, holder consilium.Position, box, answer []byte, key *seal.Key) ([]byte, error) {
	if holder < 1 || int(holder) > len(h.Commitments) {
		return nil, consilium.ErrInvalid.Withf("position %d of %d members", holder, len(h.Commitments))
	}
	open := []func() ([]byte, error){
		func() ([]byte, error) {
			if len(box) != p.BoxSize() {
				return nil, consilium.ErrInvalid.Withf("box of %d bytes: want %d", len(box), p.BoxSize())
			}
			return key.Open(consilium.DomainBox, boxContext(h.At, holder), box)
		},
		func() ([]byte, error) {
			if len(answer) != AnswerSize(p) {
				return nil, consilium.ErrInvalid.Withf("the box of position %d holds nothing sound, and there is no answer", h.Position)
			}
			return g.unseal(consilium.DomainAnswerKey, answerPlace(h.At, header, holder), answer)
		},
	}
	var err error
	for _, f := range open {
		var plain []byte
		if plain, err = f(); err != nil {
			continue
		}
		if commitment(h.At, holder, plain) == h.Commitments[holder-1] {
			return plain, nil
		}
		clear(plain)
		err = consilium.ErrInvalid.Withf("position %d received something else than the header commits to", holder)
	}
	return nil, err
}

// CheckShow checks what an accused hospital shows: each share against its
// dealer's header. It returns the opening share that they add up to, which the
// accused had to send and which serves in its place. headers are the exact
// bodies, whose signatures the caller has verified, parallel to set.Members.
func CheckShow(p he.Profile, lanes, members, threshold int, g *GroupKey, holder consilium.At, set *consilium.Contributors, headers [][]byte, sealed []byte) (*OpeningShare, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if len(headers) != len(set.Members) || g.round != set.Round || len(sealed) != ShowSize(p, len(set.Members)) {
		return nil, consilium.ErrInvalid.Withf("%d bytes are not the shares of a set of %d", len(sealed), len(set.Members))
	}
	all, err := g.unseal(consilium.DomainShowKey, showPlace(holder, set.Digest()), sealed)
	if err != nil {
		return nil, err
	}
	defer clear(all)
	size := he.SaltSize + p.ShareSize()
	shares := make([]*KeyShare, len(set.Members))
	for i, m := range set.Members {
		h, err := consilium.ParseHeader(headers[i])
		if err != nil || consilium.HeaderDigest(headers[i]) != m.Header || h.Position != m.Position {
			return nil, consilium.ErrInvalid.Withf("header %d is not the set's", i)
		}
		if err := p.CheckHeader(h, lanes, members, threshold); err != nil {
			return nil, err
		}
		elements, err := checkPlain(p, threshold, h, holder.Position, all[i*size:(i+1)*size])
		if err != nil {
			return nil, err
		}
		shares[i] = &KeyShare{p: p, at: h.At, header: m.Header, holder: holder.Position, elements: elements}
	}
	defer func() {
		for _, s := range shares {
			s.Wipe()
		}
	}()
	return NewOpeningShare(set, holder.Position, shares)
}

// Equal compares two opening shares in constant time.
func (o *OpeningShare) Equal(other *OpeningShare) bool {
	if other == nil || o.at != other.at || o.set != other.set || len(o.elements) != len(other.elements) {
		return false
	}
	var diff uint64
	for i, v := range o.elements {
		diff |= v ^ other.elements[i]
	}
	return subtle.ConstantTimeEq(int32(diff>>32), 0)&subtle.ConstantTimeEq(int32(diff), 0) == 1
}

// Suspects compares opening shares with one another. ok says whether all lie
// on one polynomial of degree below threshold. If not, and if few enough are
// wrong that the rest is one polynomial beyond doubt, (m - t)/2 of m, odd lists
// who is off it, ascending; otherwise odd is empty.
//
// Being odd is a suspicion, not a proof: of m shares, more than (m - t)/2 wrong
// ones can be dealt so that an honest hospital looks odd (two liars frame a
// third). A sum that opens with the others is a proof, and so is what the
// accused shows.
//
// Shares are compared through one random combination of their elements, whose
// coefficients are a hash of all of them: 2^-61 is the chance that differing
// shares look equal.
func Suspects(openings []*OpeningShare, threshold int) (odd []consilium.Position, ok bool) {
	m := len(openings)
	if m <= threshold {
		return nil, true // nothing to compare with
	}
	parts := make([][]byte, 0, m)
	for _, o := range openings {
		parts = append(parts, appendF(o.place(), o.elements))
	}
	k := consilium.DomainSuspect.Digest(parts...)
	for _, p := range parts {
		clear(p)
	}
	var r stream
	r.open(newBlock((*[32]byte)(&k)), 0)
	xs, ys := make([]uint64, m), make([]uint64, m)
	for i, o := range openings {
		xs[i] = uint64(o.at.Position)
	}
	for e := range openings[0].elements {
		c := r.field()
		for i, o := range openings {
			ys[i] = addF(ys[i], mulF(c, o.elements[e]))
		}
	}
	for wrong := 0; wrong <= (m-threshold)/2; wrong++ {
		poly := decode(xs, ys, threshold, wrong)
		if poly == nil {
			continue
		}
		for i, x := range xs {
			if evalF(poly, x) != ys[i] {
				odd = append(odd, openings[i].at.Position)
			}
		}
		if len(odd) <= wrong {
			return odd, len(odd) == 0
		}
		odd = nil
	}
	return nil, false
}

func evalF(poly []uint64, x uint64) uint64 {
	v := uint64(0)
	for i := len(poly) - 1; i >= 0; i-- {
		v = addF(mulF(v, x), poly[i])
	}
	return v
}

// decode is the Berlekamp-Welch decoder: the polynomial of degree below k that
// differs from ys at no more than e points, or nil. It finds a monic E of
// degree e and a Q of degree below e + k with Q(x) = y·E(x) at every point;
// then Q = P·E.
func decode(xs, ys []uint64, k, e int) []uint64 {
	n := 2*e + k // unknowns: e of E, e + k of Q
	rows := make([][]uint64, len(xs))
	for i, x := range xs {
		row := make([]uint64, n+1)
		pow := uint64(1)
		for j := 0; j < e+k; j++ {
			row[e+j] = pow
			if j < e {
				row[j] = subF(0, mulF(ys[i], pow))
			}
			if j == e {
				row[n] = mulF(ys[i], pow) // the leading coefficient of E is 1
			}
			pow = mulF(pow, x)
		}
		rows[i] = row
	}
	solution := solve(rows, n)
	if solution == nil {
		return nil
	}
	divisor := append(append([]uint64(nil), solution[:e]...), 1)
	rest := append([]uint64(nil), solution[e:]...)
	poly := make([]uint64, k)
	for i := len(rest) - 1; i >= e; i-- {
		c := rest[i]
		poly[i-e] = c
		for j, d := range divisor {
			rest[i-e+j] = subF(rest[i-e+j], mulF(c, d))
		}
	}
	for _, c := range rest {
		if c != 0 {
			return nil
		}
	}
	return poly
}

// solve returns one solution of a system of linear equations with n unknowns
// over the field, free unknowns zero, or nil. It changes rows.
func solve(rows [][]uint64, n int) []uint64 {
	at := make([]int, 0, n) // pivot column of each reduced row
	for col := 0; col < n && len(at) < len(rows); col++ {
		r := len(at)
		pivot := r
		for pivot < len(rows) && rows[pivot][col] == 0 {
			pivot++
		}
		if pivot == len(rows) {
			continue
		}
		rows[r], rows[pivot] = rows[pivot], rows[r]
		inv := invF(rows[r][col])
		for j := col; j <= n; j++ {
			rows[r][j] = mulF(rows[r][j], inv)
		}
		for i := range rows {
			if f := rows[i][col]; i != r && f != 0 {
				for j := col; j <= n; j++ {
					rows[i][j] = subF(rows[i][j], mulF(f, rows[r][j]))
				}
			}
		}
		at = append(at, col)
	}
	for _, row := range rows[len(at):] {
		if row[n] != 0 {
			return nil
		}
	}
	out := make([]uint64, n)
	for r, col := range at {
		out[col] = rows[r][n]
	}
	return out
}
