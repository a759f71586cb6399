//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"consilium"
	"consilium/he"
	"consilium/he/party"
	"consilium/internal/canon"
	"consilium/internal/seal"
	"consilium/internal/wire"
)

// actor is one hospital in one study. It answers every event as an honest
// member does: signatures, boxes, sets and sums are checked before it goes on.
// In the open (cluster.plain) the messages are the same ones, of the same
// lengths; the vector is float32, and nothing is dealt, opened or decrypted.
type actor struct {
	h     *hospital
	p     *proposal
	work  work
	queue queue
	ended chan struct{}
	err   error
	alarm *time.Timer

	// Enrolment.
	part    *party.Contribution
	key     *seal.Key
	draft   []byte
	drafted *consilium.Charter
	reveals map[string]*consilium.Reveal

	charter  *consilium.Charter
	digest   consilium.Digest
	position consilium.Position
	profile  he.Profile
	group    *party.GroupKey
	keys     map[consilium.Digest]*seal.Key            // by the header that published them
	public   map[consilium.Digest]consilium.SealingKey // likewise, of all members

	// The open attempt.
	opened   *consilium.RoundOpened
	at       consilium.At
	headers  map[consilium.Position]consilium.Digest
	shares   map[consilium.Position]*party.KeyShare
	early    bool // three quarters of the deadline have passed
	acked    int  // headers in the last acknowledgement
	set      *consilium.Contributors
	votes    map[consilium.Position]bool
	openings map[consilium.Position]*consilium.Opening
	summed   *consilium.Summed
	moved    bool
	released int
	tardy    int // contributions that came after their round
}

func newActor(h *hospital, p *proposal, w work) *actor {
	return &actor{h: h, p: p, work: w, queue: queue{ready: make(chan struct{}, 1)}, ended: make(chan struct{}),
		reveals: map[string]*consilium.Reveal{}, keys: map[consilium.Digest]*seal.Key{}, public: map[consilium.Digest]consilium.SealingKey{}}
}

func (a *actor) fail(err error) { a.err = err }

func (a *actor) post(ctx context.Context, kind consilium.MessageKind, body []byte) error {
	return a.h.post(ctx, kind, a.p.id, body)
}

func (a *actor) on(ctx context.Context, ev *consilium.Event) (done bool, err error) {
	switch ev.Kind {
	case consilium.EventMessage:
		m, err := consilium.ParseMessage(ev.Body)
		if err != nil {
			return false, err
		}
		// As a gate: the coordinator's word for who said something is worth nothing.
		if _, err := a.h.book.Verify(m); err != nil {
			return false, err
		}
		return false, a.message(ctx, m)
	case consilium.EventAdmitted:
		return false, a.enrol(ctx)
	case consilium.EventDrafted:
		return false, a.reveal(ctx, ev.Body)
	case consilium.EventChartered:
		return false, a.start(ev.Body)
	case consilium.EventOpened:
		return false, a.contribute(ctx, ev.Body)
	case consilium.EventProposed:
		return false, a.vote(ctx, ev.Body)
	case consilium.EventSummed:
		if a.summed, err = consilium.ParseSummed(ev.Body); err != nil {
			return false, err
		}
		return false, a.update(ctx)
	case consilium.EventReleasing:
		d := consilium.DomainResult.Digest([]byte(a.p.id))
		return false, a.post(ctx, consilium.KindRelease, (&consilium.Release{At: a.at, Result: d, Decision: d, Allow: true}).Encode())
	case consilium.EventDone:
		return true, nil
	case consilium.EventAborted, consilium.EventRefused, consilium.EventCancelled:
		return true, fmt.Errorf("the study ended with %s: %s", ev.Kind, ev.Body)
	}
	return false, nil
}

func (a *actor) message(ctx context.Context, m *consilium.Message) error {
	switch m.Kind {
	case consilium.KindReveal:
		r, err := consilium.ParseReveal(m.Body)
		if err != nil {
			return err
		}
		a.reveals[m.By] = r
		return a.sign(ctx)
	case consilium.KindHeader:
		return a.header(ctx, m)
	case consilium.KindVote:
		v, err := consilium.ParseVote(m.Body)
		if err != nil || a.set == nil || v.Round != a.at.Round || v.Attempt != a.at.Attempt || v.Set != a.set.Digest() {
			return err
		}
		a.votes[v.Position] = true
		if len(a.votes) == a.charter.Threshold {
			return a.open(ctx)
		}
	case consilium.KindOpening:
		o, err := consilium.ParseOpening(m.Body)
		if err != nil || o.Round != a.at.Round || o.Attempt != a.at.Attempt {
			return err
		}
		a.openings[o.Position] = o
		return a.update(ctx)
	case consilium.KindRelease:
		a.released++
		if a.released != a.charter.Threshold || a.position != 1 {
			return nil
		}
		sealed := []byte("a result of study " + string(a.p.id))
		d, err := a.h.wire.PutBlob(ctx, bytes.NewReader(sealed), uint64(len(sealed)))
		if err != nil {
			return err
		}
		return a.post(ctx, consilium.KindPublish, (&consilium.Publish{At: a.at, Result: consilium.DomainResult.Digest([]byte(a.p.id)), Blob: d}).Encode())
	}
	return nil
}

func (a *actor) enrol(ctx context.Context) error {
	var err error
	if a.key, err = seal.Generate(); err != nil {
		return err
	}
	if a.part, err = party.NewContribution(); err != nil {
		return err
	}
	var nonce consilium.Digest
	rand.Read(nonce[:])
	e := consilium.Enrol{Study: a.p.id, Submission: a.p.digest, Roster: consilium.RosterDigest(a.h.c.payload), Sealing: a.key.Public(), Nonce: nonce,
		Commitment: a.part.Commitment(a.p.id, a.h.id, nonce), Decision: consilium.DomainDecision.Digest([]byte(a.h.id))}
	return a.post(ctx, consilium.KindEnrol, e.Encode())
}

func revealContext(draft consilium.Digest, from, to consilium.SiteID) []byte {
	d := consilium.DomainSealedReveal.Digest(draft[:], []byte(from), []byte(to))
	return d[:]
}

func (a *actor) reveal(ctx context.Context, draft []byte) error {
	a.draft, a.drafted = draft, &consilium.Charter{}
	if err := json.Unmarshal(draft, a.drafted); err != nil {
		return err
	}
	p, ok := a.drafted.Position(a.h.id)
	if !ok {
		return errors.New("this hospital is not in the draft")
	}
	a.position = p
	d := consilium.CharterDigest(draft)
	r := consilium.Reveal{Draft: d}
	for i, m := range a.drafted.Members {
		box, err := seal.Seal(m.Sealing, consilium.DomainSealedReveal, revealContext(d, a.h.id, m.Site), a.part.Secret())
		if err != nil {
			return err
		}
		r.Boxes = append(r.Boxes, consilium.SealedBox{To: consilium.Position(i + 1), Sealed: box})
	}
	return a.post(ctx, consilium.KindReveal, r.Encode())
}

// sign computes the group key once all parts are there, and signs the charter.
func (a *actor) sign(ctx context.Context) error {
	if a.drafted == nil || len(a.reveals) < len(a.drafted.Members) {
		return nil
	}
	d := consilium.CharterDigest(a.draft)
	parts := make([]*party.Contribution, len(a.drafted.Members))
	for i, m := range a.drafted.Members {
		b, err := a.key.Open(consilium.DomainSealedReveal, revealContext(d, m.Site, a.h.id), a.reveals[string(m.Site)].Boxes[a.position-1].Sealed)
		if err != nil {
			return fmt.Errorf("the reveal of %s: %w", m.Site, err)
		}
		if parts[i], err = party.ParseContribution(b); err != nil {
			return err
		}
	}
	clear(a.reveals)
	var err error
	if a.group, err = party.Combine(d, a.drafted, parts); err != nil {
		return err
	}
	c := *a.drafted
	c.Confirmation = a.group.Confirmation()
	payload, err := canon.Marshal(&c)
	if err != nil {
		return err
	}
	return a.post(ctx, consilium.KindCharter, payload)
}

func (a *actor) start(charter []byte) error {
	var err error
	if a.charter, err = consilium.ParseCharter(charter); err != nil {
		return err
	}
	a.digest = consilium.CharterDigest(charter)
	if a.group.Confirmation() != a.charter.Confirmation {
		return errors.New("the charter confirms another group key")
	}
	return nil
}

// contribute makes and uploads this hospital's vector of a round.
func (a *actor) contribute(ctx context.Context, opened []byte) error {
	o, err := consilium.ParseRoundOpened(opened)
	if err != nil {
		return err
	}
	if a.opened != nil && o.Round != a.opened.Round {
		a.group = a.group.Ratchet()
	}
	a.opened, a.at = o, consilium.At{Charter: a.digest, Round: o.Round, Attempt: o.Attempt, Position: a.position}
	a.headers, a.shares = map[consilium.Position]consilium.Digest{}, map[consilium.Position]*party.KeyShare{}
	a.votes, a.openings = map[consilium.Position]bool{}, map[consilium.Position]*consilium.Opening{}
	a.early, a.acked, a.set, a.summed, a.moved = false, 0, nil, nil, false
	a.alarm.Reset(time.Duration(a.p.deadline) * time.Second * 3 / 4)
	if err := a.work.local(ctx, a.p.id, o.Round); err != nil {
		return err
	}
	if a.profile, err = he.Choose(a.work.lanes(), a.work.bits(), len(a.charter.Members)); err != nil {
		return err
	}
	next, err := seal.Generate()
	if err != nil {
		return err
	}
	d := func(s string) consilium.Digest { return consilium.DomainState.Digest([]byte(s), []byte(a.h.id)) }
	h := &consilium.Header{Sealing: o.SealingDigest(), Layout: consilium.DomainState.Digest([]byte("layout")), RowSet: d("rows"), Decision: d("decision"),
		Ledger: d("ledger"), NextSealing: next.Public()}
	var boxes [][]byte
	var vector func() (io.ReadCloser, error)
	if a.h.c.plain {
		boxes, vector, err = a.inTheOpen(h)
	} else {
		boxes, vector, err = a.encrypt(ctx, h)
	}
	if err != nil {
		return err
	}
	body := h.Encode()
	a.keys[consilium.HeaderDigest(body)] = next
	m, err := a.h.c.signed(a.h.name, consilium.KindHeader, a.p.id, body)
	if err != nil {
		return err
	}
	err = a.h.wire.Upload(ctx, m, boxes, wire.Shape{Lanes: a.work.lanes(), Bits: a.work.bits()}, h.Size, vector)
	if late(err) {
		a.tardy++
		return nil
	}
	return err
}

func (a *actor) encrypt(ctx context.Context, h *consilium.Header) ([][]byte, func() (io.ReadCloser, error), error) {
	secret := a.h.c.who[a.h.name].key.Seed()
	salt, err := party.VectorSalt(secret, a.p.id, a.at.Round)
	if err != nil {
		return nil, nil, err
	}
	again, err := party.NewFingerprint(salt)
	if err != nil {
		return nil, nil, err
	}
	defer again.Wipe()
	buf := make([]int32, 1<<12)
	for src := a.work.source(); ; {
		n, err := src.Read(buf)
		again.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, nil, err
		}
	}
	vector := again.Digest()
	seed, err := party.NewSeed(secret, a.at, vector)
	if err != nil {
		return nil, nil, err
	}
	holders := make([]consilium.SealingKey, len(a.charter.Members))
	for i, d := range a.opened.Sealing {
		holders[i] = a.charter.Members[i].Sealing
		if !d.IsZero() {
			k, ok := a.public[d]
			if !ok {
				return nil, nil, fmt.Errorf("no header published the sealing key of position %d", i+1)
			}
			holders[i] = k
		}
	}
	out := bytes.NewBuffer(make([]byte, 0, a.profile.Size(a.work.lanes())))
	dealing, err := party.Contribute(ctx, &party.Encryption{Profile: a.profile, Lanes: a.work.lanes(), At: a.at, Threshold: a.charter.Threshold,
		State: a.opened.State, Salt: salt, Vector: vector, Holders: holders, Group: a.group, Seed: seed, Source: a.work.source(), Fingerprint: again}, out)
	if err != nil {
		return nil, nil, err
	}
	if err := dealing.Header(h); err != nil {
		return nil, nil, err
	}
	b := out.Bytes()
	return dealing.Boxes, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }, nil
}

// inTheOpen fills boxes and digests with noise of the same lengths.
func (a *actor) inTheOpen(h *consilium.Header) ([][]byte, func() (io.ReadCloser, error), error) {
	h.At, h.State = a.at, a.opened.State
	h.Vector = consilium.DomainState.Digest(a.at.Encode())
	hash := he.NewCiphertextHash()
	n, err := io.Copy(hash, &plainReader{src: a.work.source()})
	if err != nil {
		return nil, nil, err
	}
	h.Ciphertext, h.Size = hash.Digest(), uint64(n)
	h.Check = make([]byte, a.profile.CheckSize(a.charter.Threshold))
	noise := make([]byte, a.profile.BoxSize()*len(a.charter.Members))
	rand.Read(noise)
	boxes, err := a.profile.SplitBundle(noise, len(a.charter.Members))
	if err != nil {
		return nil, nil, err
	}
	for _, b := range boxes {
		h.Boxes = append(h.Boxes, consilium.DomainBox.Digest(b))
		h.Commitments = append(h.Commitments, consilium.DomainCommitment.Digest(b))
	}
	return boxes, func() (io.ReadCloser, error) { return io.NopCloser(&plainReader{src: a.work.source()}), nil }, nil
}

// header checks one dealing as it arrives.
func (a *actor) header(ctx context.Context, m *consilium.Message) error {
	h, err := consilium.ParseHeader(m.Body)
	if err != nil {
		return err
	}
	d := consilium.HeaderDigest(m.Body)
	a.public[d] = h.NextSealing
	if h.Round != a.at.Round || h.Attempt != a.at.Attempt {
		return nil
	}
	if !a.h.c.plain {
		key := a.key
		if k := a.opened.Sealing[a.position-1]; !k.IsZero() {
			key = a.keys[k]
		}
		box, err := a.fetch(ctx, h.Boxes[a.position-1])
		if errors.Is(err, consilium.ErrBlobMissing) {
			return nil // enough others were faster: the round is closed
		}
		if err != nil {
			return err
		}
		if a.shares[h.Position], err = party.OpenBox(a.profile, a.work.lanes(), len(a.charter.Members), a.charter.Threshold, h.At, m.Body, a.position, box, key); err != nil {
			return err
		}
	}
	a.headers[h.Position] = d
	return a.acknowledge(ctx)
}

func (a *actor) fetch(ctx context.Context, d consilium.Digest) ([]byte, error) {
	r, err := a.h.wire.Fetch(ctx, d, 0, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, consilium.MaxBoxSize))
}

// acknowledge says which dealings are sound: all, or late in the round those
// that came.
func (a *actor) acknowledge(ctx context.Context) error {
	if a.set != nil || len(a.headers) == a.acked || !a.early && len(a.headers) < len(a.charter.Members) {
		return nil
	}
	a.acked = len(a.headers)
	v := consilium.Ack{At: a.at}
	for p := range a.charter.Members {
		if d, ok := a.headers[consilium.Position(p+1)]; ok {
			v.Good = append(v.Good, consilium.Contributor{Position: consilium.Position(p + 1), Header: d})
		}
	}
	return a.post(ctx, consilium.KindAck, v.Encode())
}

func (a *actor) vote(ctx context.Context, set []byte) error {
	u, err := consilium.ParseContributors(set)
	if err != nil {
		return err
	}
	if u.Round != a.at.Round || u.Attempt != a.at.Attempt {
		return nil
	}
	if a.charter.Operators(u.Positions()) < a.charter.MinSites {
		return errors.New("the set has too few operators")
	}
	a.set = u
	for _, m := range u.Members {
		if a.headers[m.Position] != m.Header {
			return nil // no vote for what it has not verified
		}
	}
	return a.post(ctx, consilium.KindVote, (&consilium.Vote{At: a.at, Set: u.Digest()}).Encode())
}

// open answers t votes with this hospital's share of the summed key.
func (a *actor) open(ctx context.Context) error {
	o := consilium.Opening{At: a.at, Set: a.set.Digest()}
	if a.h.c.plain {
		o.Sealed = make([]byte, a.profile.OpeningSize())
		rand.Read(o.Sealed)
		return a.post(ctx, consilium.KindOpening, o.Encode())
	}
	var shares []*party.KeyShare
	for _, m := range a.set.Members {
		s := a.shares[m.Position]
		if s == nil {
			return nil
		}
		shares = append(shares, s)
	}
	share, err := party.NewOpeningShare(a.set, a.position, shares)
	if err != nil {
		return err
	}
	defer share.Wipe()
	if o.Sealed, err = share.Seal(a.group); err != nil {
		return err
	}
	return a.post(ctx, consilium.KindOpening, o.Encode())
}

// update opens the sum once t shares and the sum are there.
func (a *actor) update(ctx context.Context) error {
	if a.summed == nil || a.moved || a.set == nil || len(a.openings) < a.charter.Threshold {
		return nil
	}
	a.moved = true
	sum, drop, err := a.fetchSum(ctx, a.summed.Blob, a.summed.Size)
	if errors.Is(err, consilium.ErrBlobMissing) {
		return nil // enough others were faster
	}
	if err != nil {
		return err
	}
	defer drop()
	offset := 0
	sink := func(sums []int64) error {
		err := a.work.sums(offset, sums)
		offset += len(sums)
		return err
	}
	if a.h.c.plain {
		err = openPlain(sum, a.work.lanes(), sink)
	} else {
		err = a.decrypt(ctx, sum, sink)
	}
	if err != nil {
		return err
	}
	next, done, err := a.work.update(ctx, a.at.Round, a.set.Positions())
	if err != nil {
		return err
	}
	v := &consilium.StateVote{At: a.at, Set: a.set.Digest(), Next: a.group.Salted(consilium.DomainState, next), Done: done}
	return a.post(ctx, consilium.KindStateVote, v.Encode())
}

func (a *actor) decrypt(ctx context.Context, sum io.ReadSeeker, sink party.SinkFunc) error {
	var openings []*party.OpeningShare
	for p := range a.charter.Members {
		o := a.openings[consilium.Position(p+1)]
		if o == nil || len(openings) == a.charter.Threshold {
			continue
		}
		share, err := party.UnsealOpening(a.profile, a.group, o.At, o.Set, o.Sealed)
		if err != nil {
			return err
		}
		openings = append(openings, share)
	}
	return party.Open(ctx, &party.Decryption{Profile: a.profile, Lanes: a.work.lanes(), Threshold: a.charter.Threshold, Members: len(a.charter.Members),
		State: a.opened.State, Set: a.set, Group: a.group, Openings: openings}, sum, sink)
}

// inMemory is the longest sum that is kept in memory, as in package worker.
const inMemory = 32 << 20

// fetchSum reads a sum whole and checks its digest before anything uses it.
func (a *actor) fetchSum(ctx context.Context, d consilium.Digest, size uint64) (io.ReadSeeker, func(), error) {
	src, err := a.h.wire.Fetch(ctx, d, 0, 0)
	if err != nil {
		return nil, nil, err
	}
	defer src.Close()
	hash := wire.NewBlobHash()
	check := func(n int64) error {
		if uint64(n) != size || consilium.Digest(hash.Sum(nil)) != d {
			return fmt.Errorf("the sum is not %s", d.Short())
		}
		return nil
	}
	if size <= inMemory {
		b := bytes.NewBuffer(make([]byte, 0, size))
		n, err := io.Copy(io.MultiWriter(b, hash), src)
		if err != nil {
			return nil, nil, err
		}
		return bytes.NewReader(b.Bytes()), func() {}, check(n)
	}
	f, err := os.CreateTemp(a.h.dir, "sum-*")
	if err != nil {
		return nil, nil, err
	}
	drop := func() { f.Close(); os.Remove(f.Name()) }
	n, err := io.Copy(io.MultiWriter(f, hash), src)
	if err == nil {
		err = check(n)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		drop()
		return nil, nil, err
	}
	return f, drop, nil
}
