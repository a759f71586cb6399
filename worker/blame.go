package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"consilium"
	"consilium/he"
	"consilium/he/party"
	"consilium/internal/blob"
	"consilium/internal/hatch"
)

// answerComplaints publishes, to the group, the shares that this hospital dealt
// to those who complain about its dealing: at most f of them in an attempt. An
// honest dealer's shares are sound, so whoever complains is dishonest and has
// the share already; f answers tell the dishonest nothing new.
func (a *actor) answerComplaints(ctx context.Context) error {
	r, rd, now := a.rep, a.rep.round, a.now
	own := rd.headers[r.position]
	if own == nil || len(rd.complaints[r.position]) == 0 || r.certified() {
		return nil
	}
	name := func(p consilium.Position) string { return a.slot(fmt.Sprintf("answer-%d", p), rd.opened) }
	answered := 0
	for p := consilium.Position(1); int(p) <= len(r.charter.Members); p++ {
		if _, ok := a.gate.journal.promise(a.study, name(p)); ok {
			answered++
		}
	}
	for _, by := range rd.complaints[r.position] {
		_, promised := a.gate.journal.promise(a.study, name(by))
		if !promised && answered >= r.charter.Faults {
			continue
		}
		err := a.promise(ctx, name(by), consilium.KindAnswer, func() ([]byte, error) {
			record := a.sec.Dealt[a.slot("header", rd.opened)]
			if record == nil {
				return nil, consilium.ErrStale.Withf("what this hospital dealt is gone from its disk")
			}
			sealed, err := party.Answer(&party.Encryption{
				Profile: now.profile, At: r.at(r.position), Threshold: r.charter.Threshold,
				Holders: make([]consilium.SealingKey, len(r.charter.Members)), Group: now.group,
			}, record, own.body, by)
			if err != nil {
				return nil, err
			}
			m := &consilium.Answer{At: r.at(r.position), Header: own.digest, To: by, Sealed: sealed}
			return m.Encode(), a.note(rd.opened.Round, "answer", map[string]any{"to": r.charter.Members[by-1].Site})
		})
		if err != nil {
			return err
		}
		if !promised {
			answered++
		}
	}
	return nil
}

// takeAnswers checks what dealers answered. A sound answer to this hospital
// serves as its box; a false one, to whomever, is a bad dealing.
func (a *actor) takeAnswers() {
	r, rd, now := a.rep, a.rep.round, a.now
	for _, v := range rd.answers[now.answers:] {
		now.answers++
		dealer, sh := v.Position, rd.headers[v.Position]
		share, err := party.CheckAnswer(now.profile, now.lanes, len(r.charter.Members), r.charter.Threshold, now.group, sh.body, v.To, v.Sealed)
		switch {
		case err != nil:
			if s := now.shares[dealer]; s != nil {
				s.Wipe()
				delete(now.shares, dealer)
			}
			now.bad[dealer] = fmt.Sprintf("its answer to %s is false: %v", r.charter.Members[v.To-1].Site, err)
			delete(now.told, dealer)
		case v.To == r.position && now.shares[dealer] == nil:
			now.shares[dealer] = share
			delete(now.bad, dealer)
		default:
			share.Wipe()
		}
	}
}

// verdict is what this process works out about the rejected attempt before
// the open one. All of it follows from the log and the disk.
type verdict struct {
	round, attempt uint32
	audited        bool
	openings       map[consilium.Position]*party.OpeningShare
	guilty         map[consilium.Position]bool
	innocent       map[consilium.Position]bool
}

// blame looks for the cause of a rejected sum without opening anybody's part:
// this hospital audits its own contribution; t hospitals that find the same
// opening shares off the polynomial of the others ask their authors to show what
// they added; and what is shown is checked against the dealers' headers.
func (a *actor) blame(ctx context.Context) error {
	r, sp := a.rep, a.rep.round.spoilt
	if sp == nil {
		return nil
	}
	if v := a.verdict; v == nil || v.round != sp.opened.Round || v.attempt != sp.opened.Attempt {
		a.verdict = &verdict{round: sp.opened.Round, attempt: sp.opened.Attempt, openings: map[consilium.Position]*party.OpeningShare{},
			guilty: map[consilium.Position]bool{}, innocent: map[consilium.Position]bool{}}
		for _, p := range sp.present {
			o := sp.openings[p]
			share, err := party.UnsealOpening(a.now.profile, a.now.group, r.atRound(sp, p), o.Set, o.Sealed)
			if err != nil || o.Set != sp.set {
				if err := a.find(p, "an opening share that is none", true); err != nil {
					return err
				}
				continue
			}
			a.verdict.openings[p] = share
		}
	}
	if err := a.auditOwn(ctx, sp); err != nil {
		return err
	}
	if err := a.suspect(ctx, sp); err != nil {
		return err
	}
	accused := sp.accused(r.charter.Threshold)
	if slices.Contains(accused, r.position) {
		if err := a.show(ctx, sp); err != nil {
			return err
		}
	}
	for _, p := range accused {
		if err := a.judge(ctx, sp, p); err != nil {
			return err
		}
	}
	return nil
}

// find records who is to blame, or not.
func (a *actor) find(p consilium.Position, what string, guilty bool) error {
	set := a.verdict.innocent
	if guilty {
		set = a.verdict.guilty
	}
	set[p] = true
	site := a.rep.charter.Members[p-1].Site
	a.log.Warn("a rejected sum was looked into", "round", a.verdict.round, "hospital", string(site), "guilty", guilty, "found", what)
	if err := a.note(a.verdict.round, "blame", map[string]any{"attempt": a.verdict.attempt, "site": site, "guilty": guilty, "found": what}); err != nil {
		return err
	}
	return nil
}

// auditOwn makes this hospital's contribution again from what it journalled.
// A hospital whose disk or memory failed it says so and leaves.
func (a *actor) auditOwn(ctx context.Context, sp *round) error {
	r, now := a.rep, a.now
	if _, in := sp.proposed.Has(r.position); !in || a.verdict.audited {
		return nil
	}
	record := a.sec.Dealt[a.slot("header", sp.opened)]
	seed, err := party.RecordSeed(record)
	if err != nil {
		return consilium.ErrStale.Withf("what this hospital dealt is gone from its disk")
	}
	v, ok := a.gate.journal.vectorOf(a.study, sp.opened.Round)
	if !ok {
		return consilium.ErrStale.Withf("the vector's digest is gone from the journal")
	}
	reply, err := a.gate.cfg.Vault.Local(ctx, hatch.LocalRequest{Study: a.study, Round: sp.opened.Round, State: a.sec.State, Included: a.rep.included, Audit: true})
	if err != nil {
		return err
	}
	if err := a.record(sp.opened.Round, reply.Records); err != nil {
		return err
	}
	if !reply.Contribute || reply.Lanes != now.lanes || a.salted(consilium.DomainRowSet, reply.RowSet) != sp.headers[r.position].header.RowSet {
		// Other rows may be used now than then, or none: there is nothing to compare
		// with, and the contribution to the open attempt says what follows.
		a.verdict.audited = true
		return nil
	}
	salt, err := party.VectorSalt(a.gate.salt, a.study, sp.opened.Round)
	if err != nil {
		return err
	}
	audit := party.Audit(ctx, &party.Encryption{
		Profile: now.profile, Lanes: now.lanes, At: r.atRound(sp, r.position), Threshold: r.charter.Threshold, State: sp.opened.State,
		Salt: salt, Vector: v.Vector, Group: now.group, Seed: seed,
		Source: &laneSource{ctx: ctx, vault: a.gate.cfg.Vault, study: a.study, round: sp.opened.Round, lanes: now.lanes},
	}, sp.headers[r.position].header)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if audit != nil && !errors.Is(audit, consilium.ErrInvalid) {
		return audit // the vault failed, not the contribution
	}
	a.verdict.audited = true
	if err := a.note(sp.opened.Round, "audit", map[string]any{"attempt": sp.opened.Attempt, "sound": audit == nil}); err != nil {
		return err
	}
	if audit != nil {
		a.log.Error("this hospital's own contribution is not what it should be", "round", sp.opened.Round, "err", audit)
		return consilium.ErrBlobCorrupt.With(audit)
	}
	return nil
}

// suspect signs whose opening shares are off the polynomial of the others, if
// that can be told, once.
func (a *actor) suspect(ctx context.Context, sp *round) error {
	r := a.rep
	name := a.slot("suspect", sp.opened)
	if _, promised := a.gate.journal.promise(a.study, name); !promised {
		odd, ok := party.Suspects(a.verdict.list(), r.charter.Threshold)
		if ok || len(odd) == 0 || len(odd) > r.charter.MaxAccused() {
			return nil
		}
		return a.promise(ctx, name, consilium.KindSuspect, func() ([]byte, error) {
			m := &consilium.Suspect{At: r.atRound(sp, r.position), Set: sp.set, Accused: odd}
			return m.Encode(), a.note(sp.opened.Round, "suspect", map[string]any{"attempt": sp.opened.Attempt, "sites": memberSites(r.charter, odd)})
		})
	}
	return a.promise(ctx, name, consilium.KindSuspect, nil)
}

func (v *verdict) list() []*party.OpeningShare { return inOrder(v.openings) }

// inOrder lists opening shares by ascending position.
func inOrder(openings map[consilium.Position]*party.OpeningShare) []*party.OpeningShare {
	out := make([]*party.OpeningShare, 0, len(openings))
	for p := consilium.Position(1); p <= consilium.MaxSites && len(out) < len(openings); p++ {
		if o := openings[p]; o != nil {
			out = append(out, o)
		}
	}
	return out
}

// show gives the group what this hospital received and had to add. t members
// signed one list of at most t-1-f accused, so with what the dishonest hold no t
// shares of anybody's key come together. Who did not open has nothing to answer
// for, and shows nothing.
func (a *actor) show(ctx context.Context, sp *round) error {
	r, now := a.rep, a.now
	name := a.slot("show", sp.opened)
	if a.posted[name] {
		return nil
	}
	if _, promised := a.gate.journal.promise(a.study, name); promised {
		return a.promise(ctx, name, consilium.KindShow, nil)
	}
	if _, opened := a.gate.journal.promise(a.study, a.slot("opening", sp.opened)); !opened {
		return nil
	}
	key, err := a.sealingSecretOf(sp)
	if err != nil {
		return err
	}
	var headers, boxes [][]byte
	answers := make([][]byte, len(sp.proposed.Members))
	for i, m := range sp.proposed.Members {
		for _, v := range sp.answers {
			if v.Position == m.Position && v.To == r.position {
				answers[i] = v.Sealed
			}
		}
		box, err := a.fetchBox(ctx, sp.headers[m.Position].header.Boxes)
		if err != nil {
			return err
		}
		headers, boxes = append(headers, sp.headers[m.Position].body), append(boxes, box)
	}
	sealed, err := party.ShowShares(now.profile, now.group, r.atRound(sp, r.position), sp.proposed, headers, boxes, answers, key)
	if err != nil {
		return err
	}
	d, err := a.putBlob(ctx, sealed)
	if err != nil {
		return err
	}
	return a.promise(ctx, name, consilium.KindShow, func() ([]byte, error) {
		m := &consilium.Show{At: r.atRound(sp, r.position), Set: sp.set, Blob: d}
		return m.Encode(), a.note(sp.opened.Round, "show", map[string]any{"attempt": sp.opened.Attempt, "set": sp.set})
	})
}

// judge checks what an accused hospital shows.
func (a *actor) judge(ctx context.Context, sp *round, p consilium.Position) error {
	r, now, v := a.rep, a.now, a.verdict
	s := sp.shows[p]
	if s == nil || v.guilty[p] || v.innocent[p] {
		return nil
	}
	size := party.ShowSize(now.profile, len(sp.proposed.Members))
	src, err := a.gate.cfg.Coordinator.Fetch(ctx, s.Blob, 0, 0)
	if err != nil {
		return err
	}
	sealed, err := io.ReadAll(io.LimitReader(src, int64(size)+1))
	src.Close()
	if err != nil {
		return consilium.ErrUnavailable.With(err)
	}
	if len(sealed) <= size && blob.Sum(sealed) != s.Blob {
		return otherBytes(s.Blob)
	}
	var headers [][]byte
	for _, m := range sp.proposed.Members {
		headers = append(headers, sp.headers[m.Position].body)
	}
	want, err := party.CheckShow(now.profile, now.lanes, len(r.charter.Members), r.charter.Threshold, now.group, r.atRound(sp, p), sp.proposed, headers, sealed)
	if err != nil {
		return a.find(p, "it shows shares that its dealers did not give it", true)
	}
	defer want.Wipe()
	if want.Equal(v.openings[p]) {
		return a.find(p, "it opened what it had received", false)
	}
	return a.find(p, "it opened something else than it had received", true)
}

// aside lists whose openings are left out as long as t others are there:
// those found guilty, and those accused who have not shown their shares.
func (a *actor) aside() map[consilium.Position]bool {
	out := map[consilium.Position]bool{}
	sp := a.rep.round.spoilt
	if sp == nil || a.verdict == nil {
		return out
	}
	for p := range a.verdict.guilty {
		out[p] = true
	}
	for _, p := range sp.accused(a.rep.charter.Threshold) {
		if !a.verdict.innocent[p] {
			out[p] = true
		}
	}
	return out
}

// addAgain adds up the contributions of the proposed set itself: the
// coordinator's sum is its word, the contributions are signed. It returns nil
// when the sum is the coordinator's after all, or when the contributions are not
// to be had.
func (a *actor) addAgain(ctx context.Context) (io.ReadSeeker, func(), error) {
	rd, now := a.rep.round, a.now
	var readers []io.Reader
	var inputs []*he.Input
	var named []consilium.Digest
	for _, m := range rd.proposed.Members {
		h := rd.headers[m.Position].header
		src, err := a.gate.cfg.Coordinator.Fetch(ctx, h.Ciphertext, 0, 0)
		if err != nil {
			return nil, nil, a.withheld(ctx, err)
		}
		defer src.Close()
		in := he.NewInput(src)
		readers, inputs, named = append(readers, in), append(inputs, in), append(named, h.Ciphertext)
	}
	sum := blob.NewHash()
	var file *os.File
	var memory bytes.Buffer
	out, drop := io.Writer(&memory), func() {}
	if now.profile.Size(now.lanes) > smallBlob {
		var err error
		if file, err = os.CreateTemp(a.gate.spoolDir(), "again-*"); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", errDisk, err)
		}
		out, drop = onDisk{file}, func() { file.Close(); os.Remove(file.Name()) }
	}
	err := he.Sum(now.profile, now.lanes, readers, io.MultiWriter(out, sum))
	for i, in := range inputs {
		if err == nil && in.Digest() != named[i] {
			err = consilium.ErrBlobCorrupt.Withf("the coordinator gave another contribution than its author's header names")
		}
	}
	if err != nil {
		drop()
		return nil, nil, a.withheld(ctx, err)
	}
	if bytes.Equal(sum.Sum(nil), rd.summed.Blob[:]) {
		drop()
		return nil, nil, nil
	}
	a.log.Error("the coordinator's sum is false", "round", rd.opened.Round)
	if err := a.note(rd.opened.Round, "false-sum", map[string]any{"attempt": rd.opened.Attempt, "sum": rd.summed.Blob}); err != nil {
		drop()
		return nil, nil, err
	}
	if file == nil {
		return bytes.NewReader(memory.Bytes()), drop, nil
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		drop()
		return nil, nil, fmt.Errorf("%w: %w", errDisk, err)
	}
	return file, drop, nil
}

// withheld notes that the contributions were not to be had.
func (a *actor) withheld(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, errDisk) {
		return err
	}
	if errors.Is(err, consilium.ErrUnavailable) || errors.Is(err, consilium.ErrNotLeader) {
		return err // nobody refused: try again
	}
	a.log.Warn("the contributions cannot be added again", "round", a.rep.round.opened.Round, "err", err)
	if err := a.note(a.rep.round.opened.Round, "withheld", map[string]any{"attempt": a.rep.round.opened.Attempt}); err != nil {
		return err
	}
	return nil
}
