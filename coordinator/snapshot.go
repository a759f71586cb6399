package coordinator

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sort"

	"consilium"
)

// codec writes or reads one binary encoding: fixed-width big-endian fields
// and length-prefixed lists. One walk function for each type serves both
// directions, so they cannot disagree. Reading is total: it remembers the first
// failure, and a count is never trusted beyond the bytes that are there.
type codec struct {
	write   bool
	version uint32 // of the snapshot that is read
	b       []byte
	err     error
}

var errShort = errors.New("too short")

func (c *codec) take(n int) []byte {
	if c.err != nil || n < 0 || n > len(c.b) {
		if c.err == nil {
			c.err = errShort
		}
		return nil
	}
	v := c.b[:n]
	c.b = c.b[n:]
	return v
}

func (c *codec) u8(p *uint8) {
	if c.write {
		c.b = append(c.b, *p)
	} else if v := c.take(1); v != nil {
		*p = v[0]
	}
}

func (c *codec) u16(p *uint16) {
	if c.write {
		c.b = binary.BigEndian.AppendUint16(c.b, *p)
	} else if v := c.take(2); v != nil {
		*p = binary.BigEndian.Uint16(v)
	}
}

func (c *codec) u32(p *uint32) {
	if c.write {
		c.b = binary.BigEndian.AppendUint32(c.b, *p)
	} else if v := c.take(4); v != nil {
		*p = binary.BigEndian.Uint32(v)
	}
}

func (c *codec) u64(p *uint64) {
	if c.write {
		c.b = binary.BigEndian.AppendUint64(c.b, *p)
	} else if v := c.take(8); v != nil {
		*p = binary.BigEndian.Uint64(v)
	}
}

func (c *codec) i64(p *int64) {
	v := uint64(*p)
	c.u64(&v)
	*p = int64(v)
}

func (c *codec) num(p *int) {
	v := uint32(*p)
	c.u32(&v)
	*p = int(v)
}

func (c *codec) bool(p *bool) {
	var v uint8
	if *p {
		v = 1
	}
	c.u8(&v)
	if v > 1 && c.err == nil {
		c.err = fmt.Errorf("a flag of %d", v)
	}
	*p = v == 1
}

// present writes have, or reads whether an optional value follows.
func (c *codec) present(have bool) bool {
	c.bool(&have)
	return have && c.err == nil
}

func (c *codec) digest(p *consilium.Digest) {
	if c.write {
		c.b = append(c.b, p[:]...)
	} else {
		copy(p[:], c.take(len(p)))
	}
}

func (c *codec) bytes(p *[]byte) {
	n := uint32(len(*p))
	c.u32(&n)
	if c.write {
		c.b = append(c.b, *p...)
		return
	}
	*p = nil
	if v := c.take(int(n)); len(v) > 0 {
		*p = bytes.Clone(v)
	}
}

func (c *codec) done() error {
	if c.err == nil && len(c.b) > 0 {
		c.err = fmt.Errorf("%d bytes left over", len(c.b))
	}
	return c.err
}

func text[T ~string](c *codec, p *T) {
	b := []byte(*p)
	c.bytes(&b)
	*p = T(b)
}

func list[T any](c *codec, p *[]T, walk func(*codec, *T)) {
	n := uint32(len(*p))
	c.u32(&n)
	if !c.write {
		*p = nil
		if int64(n) > int64(len(c.b)) { // every element has at least a byte
			c.take(len(c.b) + 1)
			return
		}
		for i := uint32(0); i < n && c.err == nil; i++ {
			var v T
			walk(c, &v)
			*p = append(*p, v)
		}
		return
	}
	for i := range *p {
		walk(c, &(*p)[i])
	}
}

func number[T ~uint16](c *codec, p *T) {
	v := uint16(*p)
	c.u16(&v)
	*p = T(v)
}

const snapshotMagic = "consilium coordinator state\x00"

// snapshotVersion is the version of the encoding of states. Version 2, which
// had no epochs and counted the rejected aggregates of a round where version 3
// says in which attempt it was, is still read, but for studies under a charter of
// protocol 1: this software knows no such charter, and refuses the snapshot.
const (
	snapshotVersion = 3
	noEpochs        = 2
)

// Snapshot is the state's one encoding: equal states have equal bytes.
func (s *State) Snapshot() []byte {
	size := len(s.rosterPayload) + 1<<16
	for _, st := range s.studies {
		size += int(st.size) + 96*len(st.events) + 2*len(st.draft)
	}
	c := &codec{write: true, version: snapshotVersion, b: append(make([]byte, 0, size), snapshotMagic...)}
	version := uint32(snapshotVersion)
	c.u32(&version)
	s.walk(c)
	return c.b
}

// Restore is the inverse of Snapshot, for this version and older ones. It
// accepts nothing else.
func Restore(b []byte) (*State, error) {
	rest, ok := bytes.CutPrefix(b, []byte(snapshotMagic))
	if !ok {
		return nil, errors.New("snapshot: these bytes are not a coordinator's state")
	}
	c := &codec{b: rest}
	var version uint32
	c.u32(&version)
	if c.err == nil && version != snapshotVersion && version != noEpochs {
		return nil, fmt.Errorf("snapshot of version %d, this software reads %d", version, snapshotVersion)
	}
	c.version = version
	s := NewState()
	s.walk(c)
	if err := c.done(); err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	if err := s.rebuild(); err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	if version == snapshotVersion && !bytes.Equal(s.Snapshot(), b) {
		return nil, errors.New("snapshot: not in its one encoding")
	}
	if version == noEpochs {
		for _, st := range s.live() {
			if st.rejected > 0 { // the one retry follows a rejection at once
				st.rejected = int(st.attempt) - 1
			}
		}
	}
	return s, nil
}

func (s *State) walk(c *codec) {
	c.u64(&s.index)
	c.i64(&s.now)
	c.u64(&s.seq)
	list(c, &s.edge, (*codec).digest)
	c.bytes(&s.rosterPayload)
	list(c, &s.garbage, (*codec).digest)
	list(c, &s.collected, (*codec).digest)
	live := s.live()
	list(c, &live, func(c *codec, p **study) {
		if *p == nil {
			*p = &study{}
		}
		(*p).walk(c)
	})
	ended := s.endedList()
	list(c, &ended, func(c *codec, p **endedStudy) {
		if *p == nil {
			*p = &endedStudy{}
		}
		(*p).walk(c)
	})
	if c.write || c.err != nil {
		return
	}
	for _, st := range live {
		s.studies[st.id] = st
	}
	for _, e := range ended {
		s.ended[e.info.ID] = e
	}
}

func (e *endedStudy) walk(c *codec) {
	i := &e.info
	text(c, &i.ID)
	text(c, &i.Name)
	text(c, &i.Team)
	text(c, &e.token)
	c.u8((*uint8)(&i.Phase))
	c.u32(&i.Round)
	c.u32(&i.Attempt)
	c.num(&i.Members)
	c.num(&i.Contributed)
	text(c, &i.Reason)
	c.digest(&i.Submission)
	c.digest(&i.Charter)
	c.digest(&i.Result)
	c.u64(&e.resultSize)
	list(c, &i.Sites, text[consilium.SiteID])
	c.u64(&i.FirstSeq)
	c.u64(&i.LastSeq)
	c.num(&i.Events)
	c.num(&i.Approvals)
	c.i64(&i.Submitted)
	c.i64(&i.Ended)
}

func (st *study) walk(c *codec) {
	text(c, &st.id)
	c.digest(&st.submission)
	text(c, &st.team)
	text(c, &st.token)
	text(c, &st.name)
	st.spec.walk(c)
	c.u8((*uint8)(&st.phase))
	c.bool(&st.waiting)
	text(c, &st.reason)
	c.i64(&st.submitted)
	list(c, &st.events, walkEvent)
	c.digest(&st.approval)
	list(c, &st.approvers, text[string])
	c.digest(&st.roster)
	list(c, &st.asked, func(c *codec, a *asked) { a.walk(c) })
	copyKey(c, st.teamKey[:])
	c.i64(&st.deadline)
	c.u8(&st.late)
	c.bytes(&st.draft)
	c.bytes(&st.charterPayload)
	list(c, &st.revealed, (*codec).bool)
	list(c, &st.signed, (*codec).digest)
	list(c, &st.withdrawn, (*codec).bool)
	c.u32(&st.round)
	c.u32(&st.attempt)
	c.digest(&st.state)
	list(c, &st.sealing, (*codec).digest)
	list(c, &st.frozen, number[consilium.Position])
	c.u32(&st.frozenIn)
	list(c, &st.pinned, number[consilium.Position])
	c.num(&st.rejected)
	list(c, &st.contributions, func(c *codec, p **contribution) {
		if c.present(*p != nil) {
			if *p == nil {
				*p = &contribution{}
			}
			(*p).walk(c)
		}
	})
	list(c, &st.acks, func(c *codec, p *[]consilium.Position) { list(c, p, number[consilium.Position]) })
	list(c, &st.complaints, func(c *codec, p *complaint) {
		number(c, &p.by)
		number(c, &p.dealer)
		c.bool(&p.answered)
	})
	list(c, &st.set, func(c *codec, p *consilium.Contributor) {
		number(c, &p.Position)
		c.digest(&p.Header)
	})
	list(c, &st.votes, (*codec).digest)
	list(c, &st.opened, (*codec).bool)
	if c.present(st.sum != nil) {
		if st.sum == nil {
			st.sum = &BlobRef{}
		}
		st.sum.walk(c)
	}
	list(c, &st.outcomes, func(c *codec, o *outcome) {
		c.bool(&o.cast)
		c.digest(&o.next)
		c.bool(&o.done)
		c.bool(&o.reject)
	})
	list(c, &st.renounced, (*codec).u32)
	list(c, &st.everOpened, (*codec).bool)
	list(c, &st.suspected, (*codec).bool)
	c.u32(&st.closedAttempt)
	list(c, &st.stale, func(c *codec, b *BlobRef) { b.walk(c) })
	for _, p := range []*[]sealedState{&st.sealed, &st.shown} {
		list(c, p, func(c *codec, b *sealedState) {
			number(c, &b.by)
			b.blob.walk(c)
		})
	}
	list(c, &st.releases, func(c *codec, r *release) {
		c.bool(&r.cast)
		c.bool(&r.allow)
		c.digest(&r.result)
		text(c, &r.code)
	})
	if c.version == noEpochs {
		st.epoch = 1
		return
	}
	c.u32(&st.epoch)
	text(c, &st.renewal)
	c.u32(&st.tries)
	c.bytes(&st.priorPayload)
	list(c, &st.departed, (*codec).bool)
	list(c, &st.left, text[consilium.SiteID])
}

func copyKey(c *codec, key []byte) {
	if c.write {
		c.b = append(c.b, key...)
	} else {
		copy(key, c.take(len(key)))
	}
}

func walkEvent(c *codec, ev *consilium.Event) {
	c.u64(&ev.Seq)
	c.i64(&ev.Time)
	text(c, &ev.Study)
	c.u8((*uint8)(&ev.Kind))
	c.bytes(&ev.Body)
}

func (f *specFacts) walk(c *codec) {
	c.digest(&f.digest)
	c.digest(&f.policy)
	c.i64(&f.notAfter)
	c.num(&f.min)
	c.num(&f.faults)
	c.u8(&f.missing)
	list(c, &f.only, text[consilium.SiteID])
	c.i64(&f.deadline)
	c.num(&f.rounds)
	c.bool(&f.exact)
}

func (a *asked) walk(c *codec) {
	text(c, &a.id)
	text(c, &a.operator)
	copyKey(c, a.key[:])
	c.bool(&a.declined)
	if c.present(a.enrol != nil) {
		if a.enrol == nil {
			a.enrol = &enrolment{}
		}
		copyKey(c, a.enrol.sealing[:])
		c.digest(&a.enrol.nonce)
		c.digest(&a.enrol.commitment)
		c.digest(&a.enrol.decision)
	}
}

func (k *contribution) walk(c *codec) {
	c.digest(&k.header)
	c.digest(&k.layout)
	c.digest(&k.ciphertext)
	list(c, &k.boxes, (*codec).digest)
	k.upload.walk(c)
}

// rebuild restores what the encoding does not carry and checks what Apply
// relies on.
func (s *State) rebuild() error {
	if s.rosterPayload != nil {
		r, err := consilium.ParseRoster(s.rosterPayload)
		if err != nil {
			return err
		}
		s.roster, s.rosterDigest = r, consilium.RosterDigest(s.rosterPayload)
	}
	if len(s.edge) != bits.OnesCount64(s.seq) {
		return fmt.Errorf("a right edge of %d hashes for %d leaves", len(s.edge), s.seq)
	}
	if s.roster == nil && len(s.studies)+len(s.ended) > 0 {
		return errors.New("studies without a roster")
	}
	for _, st := range s.live() {
		if err := st.rebuild(); err != nil {
			return fmt.Errorf("study %s: %w", st.id, err)
		}
		if _, twice := s.ended[st.id]; twice {
			return fmt.Errorf("study %s has ended and lives", st.id)
		}
		s.tokens[tokenKey{st.team, st.token}] = st.id
	}
	for _, e := range s.endedList() {
		if !e.info.Phase.Ended() || e.info.Phase > consilium.PhaseCancelled {
			return fmt.Errorf("study %s has ended in phase %s", e.info.ID, e.info.Phase)
		}
		s.tokens[tokenKey{e.info.Team, e.token}] = e.info.ID
	}
	return nil
}

func (st *study) rebuild() error {
	if st.phase == 0 || st.phase.Ended() || st.phase == consilium.PhaseWaiting {
		return fmt.Errorf("lives in phase %s", st.phase)
	}
	if len(st.events) == 0 {
		return errors.New("no events")
	}
	st.seen = map[consilium.Digest]bool{}
	for i := range st.events {
		ev := &st.events[i]
		st.size += uint64(len(ev.Body))
		if ev.Kind != consilium.EventMessage {
			continue
		}
		m, err := consilium.ParseMessage(ev.Body)
		if err != nil {
			return err
		}
		st.seen[statement(m)] = true
	}
	if !sort.SliceIsSorted(st.asked, func(i, k int) bool { return st.asked[i].id < st.asked[k].id }) {
		return errors.New("hospitals out of order")
	}
	if (st.phase >= consilium.PhaseContributing) != (st.charterPayload != nil) || st.charterPayload != nil && st.draft == nil {
		return errors.New("a charter in the wrong phase")
	}
	var err error
	if st.epoch == 0 || (st.epoch == 1) != (st.priorPayload == nil) || (st.epoch == 1) != (st.tries == 0) {
		return errors.New("an epoch that does not fit")
	}
	if st.priorPayload != nil {
		if st.prior, err = consilium.ParseCharter(st.priorPayload); err != nil {
			return err
		}
		st.priorDigest = consilium.CharterDigest(st.priorPayload)
		if st.prior.Epoch+1 != st.epoch || len(st.departed) != len(st.prior.Members) || st.charterPayload == nil && len(st.everOpened) != len(st.prior.Members) {
			return errors.New("the charter of another epoch before")
		}
	}
	if st.charterPayload == nil && st.prior != nil {
		for i, p := range st.frozen {
			if p < 1 || int(p) > len(st.prior.Members) || i > 0 && st.frozen[i-1] >= p {
				return errors.New("positions out of order")
			}
		}
	}
	switch {
	case st.charterPayload != nil:
		st.charter, err = consilium.ParseCharter(st.charterPayload)
		st.charterDigest = consilium.CharterDigest(st.charterPayload)
	case st.draft != nil:
		st.charter, err = consilium.ParseDraft(st.draft)
	}
	if err != nil {
		return err
	}
	if st.charter == nil {
		return nil
	}
	n := len(st.charter.Members)
	if len(st.revealed) != n || len(st.signed) != n || len(st.withdrawn) != n || len(st.sealing) != n || len(st.releases) != n {
		return errors.New("a list is not as long as the charter has members")
	}
	if st.charterPayload != nil {
		if st.round == 0 || st.attempt == 0 || len(st.contributions) != n || len(st.acks) != n || len(st.votes) != n || len(st.opened) != n ||
			len(st.outcomes) != n || len(st.renounced) != n || len(st.everOpened) != n || len(st.suspected) != n {
			return errors.New("a round's list is not as long as the charter has members")
		}
	}
	valid := func(p consilium.Position) bool { return p >= 1 && int(p) <= n }
	lists := append([][]consilium.Position{st.pinned}, st.acks...)
	if st.charterPayload != nil {
		lists = append(lists, st.frozen)
	}
	for _, list := range lists {
		for i, p := range list {
			if !valid(p) || i > 0 && list[i-1] >= p {
				return errors.New("positions out of order")
			}
		}
	}
	for _, k := range st.complaints {
		if !valid(k.by) || !valid(k.dealer) {
			return errors.New("a complaint of nobody")
		}
	}
	for _, list := range [][]sealedState{st.sealed, st.shown} {
		for _, k := range list {
			if !valid(k.by) {
				return errors.New("a blob of nobody")
			}
		}
	}
	for _, k := range st.set {
		if !valid(k.Position) || st.phase != consilium.PhaseReleasing && st.contributions[k.Position-1] == nil {
			return errors.New("a set of nobody")
		}
	}
	for _, k := range st.contributions {
		if k != nil && len(k.boxes) != n {
			return errors.New("a contribution with too few boxes")
		}
	}
	if (st.phase >= consilium.PhaseCertifying && st.phase <= consilium.PhaseReleasing) != (len(st.set) > 0) {
		return errors.New("a set in the wrong phase")
	}
	return nil
}
