package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"consilium"
	"consilium/he"
	"consilium/he/party"
	"consilium/internal/blob"
	"consilium/internal/durable"
	"consilium/internal/hatch"
	"consilium/internal/seal"
	"consilium/internal/wire"
)

// attempt is what this process works out about the open attempt. All of it
// can be worked out again after a crash.
type attempt struct {
	round, attempt uint32
	profile        he.Profile
	lanes          int
	layout         consilium.Digest
	group          *party.GroupKey
	shares         map[consilium.Position]*party.KeyShare
	bad            map[consilium.Position]string
	told           map[consilium.Position]bool // bad dealings that were complained about
	answers        int                         // of the round's answers, checked
	acked          int                         // dealings in the last acknowledgement that was taken
	ack            *consilium.Message          // the last that was signed
	quiet          bool                        // this hospital contributes nothing to this round
	next           *hatch.Shape
	rejected       bool
	lastRefused    consilium.Digest
	openings       map[consilium.Position]*party.OpeningShare
	tried          int       // openings when the sum last did not open
	failed         time.Time // when it first did not
}

func newAttempt(r *replica, shape *hatch.Shape, group *party.GroupKey) (*attempt, error) {
	if err := shape.Layout.Validate(); err != nil {
		return nil, err
	}
	lanes := shape.Layout.Lanes()
	profile, err := he.Choose(lanes, shape.Layout.Bits(), len(r.charter.Members))
	if err != nil {
		return nil, err
	}
	return &attempt{
		round: r.round.opened.Round, attempt: r.round.opened.Attempt,
		profile: profile, lanes: lanes, layout: layoutDigest(shape.Layout), group: group,
		shares:   map[consilium.Position]*party.KeyShare{},
		bad:      map[consilium.Position]string{},
		told:     map[consilium.Position]bool{},
		openings: map[consilium.Position]*party.OpeningShare{},
	}, nil
}

func layoutDigest(l consilium.Layout) consilium.Digest {
	return consilium.DomainState.Digest(l.Append(nil))
}

func (a *actor) slot(kind string, o *consilium.RoundOpened) string {
	return fmt.Sprintf("%s%s/%d/%d", epochPrefix(a.rep.charter.Epoch), kind, o.Round, o.Attempt)
}

// contribute makes this hospital's one contribution to the attempt and
// uploads it.
func (a *actor) contribute(ctx context.Context) error {
	r, rd, now := a.rep, a.rep.round, a.now
	name := a.slot("header", rd.opened)
	if a.posted[name] || now.quiet || rd.headers[r.position] != nil || rd.proposed != nil || a.outdated() {
		return nil
	}
	if f := a.gate.journal.freeze(a.study); f != nil && !slices.Contains(f.Members, r.position) {
		return nil
	}
	if b := a.gate.journal.binding(a.study, a.rep.charter.Epoch, rd.opened.Round); b.locked() && !slices.Contains(b.Members, r.position) {
		return nil
	}
	if _, ok := a.gate.journal.promise(a.study, name); !ok {
		if a.held = a.gate.hold(); a.held > 0 {
			return nil
		}
		made, err := a.makeContribution(ctx, name)
		if err != nil || !made {
			return err
		}
	}
	return a.upload(ctx, name)
}

// makeContribution computes, encrypts, spools and signs. It reports false
// when this hospital has nothing to contribute.
func (a *actor) makeContribution(ctx context.Context, name string) (bool, error) {
	r, rd, now := a.rep, a.rep.round, a.now
	round := rd.opened.Round
	local, end := a.step(ctx, "local")
	reply, err := a.gate.cfg.Vault.Local(local, hatch.LocalRequest{Study: a.study, Round: round, State: a.sec.State, Included: a.rep.included})
	end(err)
	if err != nil {
		return false, err
	}
	a.moved = false
	if err := a.record(round, reply.Records); err != nil {
		return false, err
	}
	if !reply.Contribute {
		now.quiet = true
		a.log.Info("nothing to contribute", "round", round)
		return false, nil
	}
	if reply.Lanes != now.lanes {
		return false, fmt.Errorf("the vault computed %d lanes, the layout has %d", reply.Lanes, now.lanes)
	}
	rowSet := a.salted(consilium.DomainRowSet, reply.RowSet)
	if f := a.gate.journal.freeze(a.study); f != nil {
		i := slices.Index(f.Members, r.position)
		if i < 0 || f.RowSets[i] != rowSet {
			return false, consilium.ErrFrozen.Withf("the rows that may be used have changed since the study was first opened")
		}
	}
	source := &laneSource{ctx: ctx, vault: a.gate.cfg.Vault, study: a.study, round: round, lanes: now.lanes}
	salt, err := party.VectorSalt(a.gate.salt, a.study, round)
	if err != nil {
		return false, err
	}
	fingerprint, err := digestLanes(salt, source)
	if err != nil {
		return false, err
	}
	defer fingerprint.Wipe()
	digest := fingerprint.Digest()
	// One vector per round, in whatever attempt and epoch: the same numbers under
	// fresh keys. Two different vectors would give away their difference.
	if have, ok := a.gate.journal.vectorOf(a.study, round); !ok {
		v := vector{Vector: digest, Rows: consilium.DomainRowSet.Digest([]byte("ledger"), a.gate.salt, reply.RowSet[:])}
		if err := a.gate.journal.setVector(a.study, round, v); err != nil {
			return false, fmt.Errorf("%w: %w", errDisk, err)
		}
	} else if have.Vector != digest {
		return false, consilium.ErrFrozen.Withf("the vector of round %d is not the one that this hospital committed to", round)
	}
	holders, err := r.sealingKeys()
	if err != nil {
		return false, err
	}
	at := r.at(r.position)
	seed, err := party.NewSeed(a.gate.cfg.Secret, at, digest)
	if err != nil {
		return false, err
	}
	next, err := seal.Generate()
	if err != nil {
		return false, err
	}
	nextBytes, err := next.Bytes()
	if err != nil {
		return false, err
	}
	a.gate.cfg.Crash("contribute/before-spool")
	source.offset = 0
	file, err := a.createSpool(name)
	if err != nil {
		return false, fmt.Errorf("%w: %w", errDisk, err)
	}
	defer file.Close()
	dealing, err := party.Contribute(ctx, &party.Encryption{
		Profile: now.profile, Lanes: now.lanes, At: at, Threshold: r.charter.Threshold, State: rd.opened.State,
		Salt: salt, Vector: digest, Holders: holders, Group: now.group, Seed: seed, Source: source, Fingerprint: fingerprint,
	}, onDisk{file})
	if err != nil {
		return false, err
	}
	if _, err := (onDisk{file}).Write(dealing.Bundle()); err != nil {
		return false, err
	}
	if err := errors.Join(file.Sync(), file.Close(), a.gate.cfg.FS.SyncDir(filepath.Dir(a.spoolPath(name)))); err != nil {
		return false, fmt.Errorf("%w: %w", errDisk, durable.Full(err))
	}
	h := &consilium.Header{
		Sealing: rd.opened.SealingDigest(), Layout: now.layout, RowSet: rowSet, Decision: reply.Decision,
		Ledger: a.salted(consilium.DomainBatch, reply.Ledger), NextSealing: next.Public(),
	}
	if err := dealing.Header(h); err != nil {
		return false, err
	}
	body := h.Encode()
	a.sec.Sealing[consilium.HeaderDigest(body).String()] = nextBytes
	if a.sec.Dealt == nil {
		a.sec.Dealt = map[string][]byte{}
	}
	a.sec.Dealt[name] = dealing.Record()
	if err := a.gate.secrets.save(a.study, a.sec); err != nil {
		return false, fmt.Errorf("%w: %w", errDisk, err)
	}
	a.gate.cfg.Crash("contribute/before-promise")
	// If we crash before this promise, Open finds no header and a new attempt
	// at this contribution starts with a new seed; nothing was sent.
	_, err = a.promised(name, consilium.KindHeader, func() ([]byte, error) {
		return body, a.note(round, "contribution", map[string]any{
			"header": consilium.HeaderDigest(body), "attempt": rd.opened.Attempt, "ciphertext": h.Ciphertext, "decision": h.Decision, "rowSet": h.RowSet, "ledger": h.Ledger,
		})
	})
	if err != nil {
		return false, err
	}
	return true, nil
}

// salted hides a digest of secret content under a salt that only this
// hospital has, the same for the whole study, so that members can see that it
// stays the same without learning what it is of.
func (a *actor) salted(domain consilium.Domain, d consilium.Digest) consilium.Digest {
	return domain.Digest([]byte("salted"), a.gate.salt, []byte(a.study), d[:])
}

// digestLanes reads a vector for its digest, and so that Contribute recognises it when
// it reads it again.
func digestLanes(salt [32]byte, s *laneSource) (*party.Fingerprint, error) {
	f, err := party.NewFingerprint(salt)
	if err != nil {
		return nil, err
	}
	for {
		lanes, err := s.Next(lanesPerCall)
		f.Write(lanes)
		if err == io.EOF {
			return f, nil
		}
		if err != nil {
			f.Wipe()
			return nil, err
		}
	}
}

// lanesPerCall is how many lanes pass the hatch at once: 256 KiB.
const lanesPerCall = 1 << 16

// laneSource reads a vector from the vault piece by piece.
type laneSource struct {
	ctx    context.Context
	vault  hatch.Vault
	study  consilium.StudyID
	round  uint32
	lanes  int
	offset int
	buf    []int32
}

func (s *laneSource) Read(dst []int32) (int, error) {
	lent, err := s.Next(len(dst))
	return copy(dst, lent), err
}

// Next implements party.Lender.
func (s *laneSource) Next(most int) ([]int32, error) {
	if s.offset >= s.lanes && len(s.buf) == 0 {
		return nil, io.EOF
	}
	if len(s.buf) == 0 {
		n := min(lanesPerCall, s.lanes-s.offset)
		b, err := s.vault.Lanes(s.ctx, s.study, s.round, s.offset, n)
		if err != nil {
			return nil, err
		}
		if len(b) != n {
			return nil, fmt.Errorf("the vault gave %d of %d lanes", len(b), n)
		}
		s.buf = b
		s.offset += n
	}
	n := min(most, len(s.buf))
	lent := s.buf[:n:n]
	s.buf = s.buf[n:]
	return lent, nil
}

// upload sends the promised contribution from the spool.
func (a *actor) upload(ctx context.Context, name string) error {
	m, err := a.promised(name, consilium.KindHeader, func() ([]byte, error) { return nil, errors.New("no header is promised") })
	if err != nil {
		return err
	}
	h, err := consilium.ParseHeader(m.Body)
	if err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	bundle, err := a.readSpool(name, int64(h.Size), int64(a.now.profile.BundleSize(len(h.Boxes))))
	if err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	boxes, err := a.now.profile.SplitBundle(bundle, len(h.Boxes))
	if err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	bounded, cancel := context.WithTimeout(ctx, slowly(h.Size+uint64(len(bundle))))
	defer cancel()
	uploading, end := a.step(bounded, "upload")
	err = a.gate.cfg.Coordinator.Upload(uploading, m, boxes, wire.Shape{Lanes: a.now.lanes, Bits: a.now.profile.Bits}, h.Size,
		func() (io.ReadCloser, error) { return a.openSpool(name, int64(h.Size)) })
	end(err)
	if late(err) {
		a.log.Info("contribution came late", "round", h.Round, "err", err)
		err = nil
	}
	if err == nil {
		a.posted[name] = true
		a.gate.cfg.Crash("contribute/after-upload")
	}
	return err
}

// verifyDealings checks every contribution that came: the signature was
// verified when it was observed; here its form, its state and layout, and this
// hospital's own box.
func (a *actor) verifyDealings(ctx context.Context) error {
	r, rd, now := a.rep, a.rep.round, a.now
	key, err := a.sealingSecret()
	if err != nil {
		return err
	}
	a.takeAnswers()
	for p := consilium.Position(1); int(p) <= len(r.charter.Members); p++ {
		sh := rd.headers[p]
		if sh == nil || now.shares[p] != nil || now.told[p] {
			continue
		}
		if now.bad[p] != "" {
			// found by its answer to somebody
		} else if sh.header.Sealing != rd.opened.SealingDigest() {
			if err := a.otherKeys(p); err != nil {
				return err
			}
			continue
		} else if sh.header.State != rd.opened.State || sh.header.Layout != now.layout {
			now.bad[p] = "it builds on another state or layout"
		} else {
			box, err := a.fetchBox(ctx, sh.header.Boxes)
			if err != nil {
				return err
			}
			share, err := party.OpenBox(now.profile, now.lanes, len(r.charter.Members), r.charter.Threshold, r.at(p), sh.body, r.position, box, key)
			if err == nil {
				now.shares[p] = share
				continue
			}
			now.bad[p] = err.Error()
		}
		reason := cut(now.bad[p], consilium.MaxReasonSize)
		a.log.Warn("bad dealing", "round", rd.opened.Round, "dealer", string(r.charter.Members[p-1].Site), "reason", reason)
		err := a.promise(ctx, a.slot(fmt.Sprintf("complaint-%d", p), rd.opened), consilium.KindComplaint, func() ([]byte, error) {
			c := &consilium.Complaint{At: r.at(r.position), Header: sh.digest, Reason: reason}
			return c.Encode(), a.note(rd.opened.Round, "complaint", map[string]any{"dealer": r.charter.Members[p-1].Site, "reason": reason})
		})
		if err != nil {
			return err
		}
		now.told[p] = true
	}
	return a.answerComplaints(ctx)
}

// otherKeys passes over a dealing by other sealing keys than this hospital was
// told of. The list is the coordinator's word: told to the dealer and to this
// hospital differently, it makes an honest box that does not open. A complaint
// would make the dealer publish the share of an honest hospital, and a few of
// those with what the dishonest hold are its key. So nobody is accused: the
// dealing is no member of any set that this hospital votes for, and the trail
// keeps the dealer's signed word for the list that it was told.
func (a *actor) otherKeys(p consilium.Position) error {
	rd, now, site := a.rep.round, a.now, a.rep.charter.Members[p-1].Site
	now.bad[p], now.told[p] = "it was dealt by other sealing keys than this hospital was told of", true
	a.log.Error("the coordinator told another hospital of other sealing keys, or that hospital says so", "round", rd.opened.Round, "dealer", string(site))
	return a.note(rd.opened.Round, "other-keys", map[string]any{
		"attempt": rd.opened.Attempt, "dealer": site, "header": rd.headers[p].digest, "dealt": rd.headers[p].header.Sealing, "told": rd.opened.SealingDigest(),
	})
}

// fetchBox reads the box that a header lists for this hospital.
func (a *actor) fetchBox(ctx context.Context, boxes []consilium.Digest) ([]byte, error) {
	if len(boxes) != len(a.rep.charter.Members) {
		return nil, nil // OpenBox says what is wrong
	}
	// The spool keeps what this hospital received until the round has closed: it
	// may have to show it when the coordinators hold it no more.
	if b := a.keptBox(boxes[a.rep.position-1]); b != nil {
		return b, nil
	}
	src, err := a.gate.cfg.Coordinator.Fetch(ctx, boxes[a.rep.position-1], 0, 0)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	box, err := io.ReadAll(io.LimitReader(src, consilium.MaxBoxSize))
	if err != nil {
		return nil, err
	}
	// Other bytes are the coordinator's doing: no complaint about the dealer.
	if consilium.DomainBox.Digest(box) != boxes[a.rep.position-1] {
		return nil, consilium.ErrBlobMissing.Withf("the coordinator gave another box than the header lists")
	}
	if err := a.keepBox(boxes[a.rep.position-1], box); err != nil {
		return nil, fmt.Errorf("%w: %w", errDisk, err)
	}
	return box, nil
}

// sealingSecret is the key to which this round's boxes for this hospital were
// sealed.
func (a *actor) sealingSecret() (*seal.Key, error) { return a.sealingSecretOf(a.rep.round) }

// It is derived once: every box of the round is opened with it.
func (a *actor) sealingSecretOf(rd *round) (*seal.Key, error) {
	name := charterKey
	if d := rd.opened.Sealing[a.rep.position-1]; !d.IsZero() {
		name = d.String()
	}
	if rd.sealing != nil && rd.sealingName == name {
		return rd.sealing, nil
	}
	b, ok := a.sec.Sealing[name]
	if !ok {
		return nil, consilium.ErrStale.Withf("this hospital no longer has the sealing key that the round names")
	}
	key, err := seal.Parse(b)
	rd.sealing, rd.sealingName = key, name
	return key, err
}

// acknowledge tells the leader which dealings are sound: when all that can
// come have come, and once more shortly before the deadline.
func (a *actor) acknowledge(ctx context.Context) (time.Duration, error) {
	r, rd, now := a.rep, a.rep.round, a.now
	if rd.proposed != nil {
		return 0, a.verifyDealings(ctx)
	}
	if err := a.verifyDealings(ctx); err != nil {
		return 0, err
	}
	// Nobody waits for a hospital that left before its contribution: a forged
	// withdrawal does not verify, and an early acknowledgement permits nothing.
	expected := 0
	f := a.gate.journal.freeze(a.study)
	for i := range r.charter.Members {
		p := consilium.Position(i + 1)
		if f != nil && !slices.Contains(f.Members, p) || rd.headers[p] == nil && r.gone[r.charter.Members[i].Site] {
			continue
		}
		expected++
	}
	have := len(now.shares)
	if have == now.acked {
		return 0, nil
	}
	early := rd.since.Add(rd.wait * 3 / 4)
	if wait := early.Sub(a.gate.cfg.Now()); have < expected && wait > 0 {
		return wait, nil
	}
	ack := &consilium.Ack{At: r.at(r.position)}
	for p := consilium.Position(1); int(p) <= len(r.charter.Members); p++ {
		if now.shares[p] != nil {
			ack.Good = append(ack.Good, consilium.Contributor{Position: p, Header: rd.headers[p].digest})
		}
	}
	// It is signed once, however often it is sent: a hospital that is cut off tries
	// again every minute.
	if body := ack.Encode(); now.ack == nil || !bytes.Equal(now.ack.Body, body) {
		sig, err := a.gate.cfg.Signer.Sign(consilium.DomainAck, body)
		if err != nil {
			return 0, err
		}
		now.ack = &consilium.Message{Kind: consilium.KindAck, Study: a.study, By: string(a.gate.cfg.Site), Body: body, Signature: sig}
	}
	posting, cancel := context.WithTimeout(ctx, postTime)
	defer cancel()
	err := a.gate.cfg.Coordinator.Post(posting, now.ack)
	if err == nil || late(err) {
		now.acked = have
		return 0, nil
	}
	return 0, err
}

// admissible says why this hospital would not open u, or nil. Everything that
// keeps a sum from being about too few stands here, once, for the vote and
// again for the opening.
func (a *actor) admissible(u *consilium.Contributors) error {
	r, rd, now := a.rep, a.rep.round, a.now
	c := r.charter
	positions := u.Positions()
	if a.hasLeft(c.Epoch) {
		return consilium.ErrLocked.Withf("this hospital has left epoch %d", c.Epoch)
	}
	if n := c.Operators(positions); n < c.MinSites {
		return consilium.ErrBelowMinimum.Withf("%d hospitals of different operators, min_sites is %d", n, c.MinSites)
	}
	for _, m := range u.Members {
		sh := rd.headers[m.Position]
		switch {
		case int(m.Position) > len(c.Members):
			return fmt.Errorf("%w: position %d", errForged, m.Position)
		case sh == nil || sh.digest != m.Header:
			return consilium.ErrInvalid.Withf("no verified contribution of %s with this header", c.Members[m.Position-1].Site)
		case now.shares[m.Position] == nil:
			return consilium.ErrInvalid.Withf("the dealing of %s is bad: %s", c.Members[m.Position-1].Site, now.bad[m.Position])
		}
	}
	if own, ok := u.Has(r.position); ok {
		b, promised := a.gate.journal.promise(a.study, a.slot("header", rd.opened))
		if !promised {
			return consilium.ErrStale.Withf("the set holds a contribution of this hospital that its journal does not")
		}
		m, err := consilium.ParseMessage(b)
		if err != nil || consilium.HeaderDigest(m.Body) != own {
			return consilium.ErrConflictingContribution.Withf("the set holds another contribution of this hospital")
		}
	}
	if err := a.gate.journal.binding(a.study, a.rep.charter.Epoch, u.Round).allows(u.Attempt, positions); err != nil {
		return err
	}
	if f := a.gate.journal.freeze(a.study); f != nil {
		if !slices.Equal(f.Members, positions) {
			return consilium.ErrFrozen.Withf("the contributors are %v, not %v", f.Members, positions)
		}
		for i, m := range u.Members {
			if rd.headers[m.Position].header.RowSet != f.RowSets[i] {
				return consilium.ErrFrozen.Withf("the rows of %s have changed since the first opening", c.Members[m.Position-1].Site)
			}
		}
	}
	return a.checkLineage(memberSites(c, positions))
}

// vote casts the one vote of the attempt for the proposed set.
func (a *actor) vote(ctx context.Context) error {
	r, rd := a.rep, a.rep.round
	if rd.proposed == nil {
		return nil
	}
	name := a.slot("vote", rd.opened)
	if a.posted[name] {
		return nil
	}
	if _, ok := a.gate.journal.promise(a.study, name); !ok {
		if a.outdated() {
			return nil // the roster has changed under this charter: the next epoch decides
		}
		if err := a.admissible(rd.proposed); err != nil {
			if a.now.refused(rd.set) {
				a.log.Warn("no vote", "round", rd.opened.Round, "err", err)
				if err := a.note(rd.opened.Round, "refused-set", map[string]any{"set": rd.set, "reason": publicReason(err), "members": memberSites(r.charter, rd.proposed.Positions())}); err != nil {
					return err
				}
			}
			return nil
		}
		a.gate.cfg.Crash("vote/before-promise")
	}
	err := a.promise(ctx, name, consilium.KindVote, func() ([]byte, error) {
		v := &consilium.Vote{At: r.at(r.position), Set: rd.set}
		return v.Encode(), a.note(rd.opened.Round, "vote", map[string]any{"set": rd.set, "members": memberSites(r.charter, rd.proposed.Positions())})
	})
	return err
}

// openSum answers a certificate with this hospital's opening share. Before
// the share exists the lock, the frozen set and the ledger of sums are durable;
// the share's bytes are journalled before they are sent.
func (a *actor) openSum(ctx context.Context) error {
	r, rd, now := a.rep, a.rep.round, a.now
	name := a.slot("opening", rd.opened)
	if a.posted[name] || !r.certified() {
		return nil
	}
	if _, ok := a.gate.journal.promise(a.study, name); !ok {
		if err := a.admissible(rd.proposed); err != nil {
			if now.refused(rd.set) {
				a.log.Warn("not opened", "round", rd.opened.Round, "err", err)
			}
			// What this hospital will never open it says, so that others that
			// did open are not locked to it for ever.
			return a.renounce(ctx, r.at(r.position), publicReason(err))
		}
		a.gate.cfg.Crash("open/before-lock")
		positions := rd.proposed.Positions()
		b := a.gate.journal.binding(a.study, a.rep.charter.Epoch, rd.opened.Round).lock(rd.opened.Attempt, positions)
		if err := a.gate.journal.setBinding(a.study, a.rep.charter.Epoch, rd.opened.Round, b); err != nil {
			return fmt.Errorf("%w: %w", errDisk, err)
		}
		if a.shape.Frozen && a.gate.journal.freeze(a.study) == nil {
			f := &frozen{Round: rd.opened.Round, Members: positions}
			for _, p := range positions {
				f.RowSets = append(f.RowSets, rd.headers[p].header.RowSet)
			}
			if err := a.gate.journal.setFrozen(a.study, f); err != nil {
				return fmt.Errorf("%w: %w", errDisk, err)
			}
		}
		if err := a.rememberSum(rd.proposed); err != nil {
			return fmt.Errorf("%w: %w", errDisk, err)
		}
		if _, in := rd.proposed.Has(r.position); in {
			if err := a.gate.cfg.Vault.Opening(ctx, a.study, rd.opened.Round); err != nil {
				return err
			}
		}
		a.gate.cfg.Crash("open/before-promise")
	}
	return a.promise(ctx, name, consilium.KindOpening, func() ([]byte, error) {
		shares := make([]*party.KeyShare, 0, len(rd.proposed.Members))
		for _, m := range rd.proposed.Members {
			shares = append(shares, now.shares[m.Position])
		}
		share, err := party.NewOpeningShare(rd.proposed, r.position, shares)
		if err != nil {
			return nil, err
		}
		defer share.Wipe()
		sealed, err := share.Seal(now.group)
		if err != nil {
			return nil, err
		}
		o := &consilium.Opening{At: r.at(r.position), Set: rd.set, Sealed: sealed}
		return o.Encode(), a.note(rd.opened.Round, "opening", map[string]any{"set": rd.set, "members": memberSites(r.charter, rd.proposed.Positions())})
	})
}

// update opens the sum once t openings and the aggregate are there, hands it
// to the vault and signs what the next state is.
func (a *actor) update(ctx context.Context) (time.Duration, error) {
	r, rd, now := a.rep, a.rep.round, a.now
	name := a.slot("state", rd.opened)
	if a.posted[name] || rd.summed == nil || !r.certified() || len(rd.openings) < r.charter.Threshold {
		return 0, nil
	}
	if _, ok := a.gate.journal.promise(a.study, name); !ok && now.next == nil && !now.rejected {
		if wait, err := a.openRound(ctx); err != nil || wait > 0 {
			return wait, err
		}
		if now.next == nil && !now.rejected {
			return 0, nil // too few sound openings yet
		}
		a.gate.cfg.Crash("update/before-promise")
	}
	return 0, a.promise(ctx, name, consilium.KindStateVote, func() ([]byte, error) {
		v := &consilium.StateVote{At: r.at(r.position), Set: rd.set, Reject: now.rejected}
		if !now.rejected {
			v.Next, v.Done = now.group.Salted(consilium.DomainState, a.sec.Next), now.next.Done
		}
		return v.Encode(), a.note(rd.opened.Round, "state", map[string]any{"set": rd.set, "next": v.Next, "done": v.Done, "reject": v.Reject})
	})
}

// patience is how long a sum that does not open waits for the opening shares
// that have not come: with more of them than t, false ones can be told apart.
func patience(rd *round) time.Duration { return min(rd.wait/4, 10*time.Second) }

// openRound reconstructs the summed key, opens the aggregate and lets the
// vault update. The next state is durable before anything about it is signed.
//
// A sum that does not open with the shares that have come waits for the others;
// then the contributions are added again, since the coordinator's sum is only
// its word; then it is rejected. Outward there is one verdict whatever failed.
// A positive duration means that more shares may come.
func (a *actor) openRound(ctx context.Context) (time.Duration, error) {
	r, rd, now := a.rep, a.rep.round, a.now
	for p, o := range rd.openings {
		if now.openings[p] != nil || o.Set != rd.set {
			continue
		}
		share, err := party.UnsealOpening(now.profile, now.group, r.at(p), o.Set, o.Sealed)
		if err != nil {
			a.log.Warn("bad opening", "round", rd.opened.Round, "by", string(r.charter.Members[p-1].Site), "err", err)
			continue
		}
		now.openings[p] = share
	}
	usable, aside := map[consilium.Position]*party.OpeningShare{}, a.aside()
	for p, o := range now.openings {
		if !aside[p] {
			usable[p] = o
		}
	}
	all := len(rd.openings) == len(r.charter.Members)
	if len(usable) < r.charter.Threshold {
		if len(aside) == 0 {
			return 0, nil
		}
		// Too few others: who was accused may be innocent after all, and a false
		// share only makes the sum fail.
		usable = now.openings
		if len(usable) < r.charter.Threshold {
			return 0, nil
		}
	}
	openings := inOrder(usable)
	if now.tried < len(openings) {
		now.tried = len(openings)
		if want := now.profile.Size(now.lanes); rd.summed.Size == want {
			aggregate, done, err := a.fetchBlob(ctx, rd.summed.Blob, rd.summed.Size)
			if err != nil {
				now.tried = 0
				return 0, err
			}
			opened, err := a.tryOpen(ctx, aggregate, openings)
			done()
			if err != nil {
				now.tried = 0
				return 0, err
			}
			if opened {
				return 0, a.takeNext(ctx)
			}
		} else {
			a.log.Warn("aggregate of the wrong size", "round", rd.opened.Round, "size", rd.summed.Size, "want", want)
		}
	}
	if now.failed.IsZero() {
		now.failed = a.gate.cfg.Now()
	}
	if wait := now.failed.Add(patience(rd)).Sub(a.gate.cfg.Now()); !all && wait > 0 {
		return wait, nil
	}
	again, done, err := a.addAgain(ctx)
	if err != nil {
		return 0, err
	}
	if again != nil {
		opened, err := a.tryOpen(ctx, again, openings)
		done()
		if err != nil {
			return 0, err
		}
		if opened {
			return 0, a.takeNext(ctx)
		}
	}
	a.log.Warn("aggregate rejected", "round", rd.opened.Round)
	now.rejected = true
	return 0, nil
}

// tryOpen opens an aggregate with some opening shares and hands the sums to
// the vault. Shares that are off the polynomial of the others are left out where
// that is beyond doubt; if the sum then opens, they are proved false, since noise,
// ranges and tags hold for one key only.
func (a *actor) tryOpen(ctx context.Context, aggregate io.ReadSeeker, openings []*party.OpeningShare) (bool, error) {
	r, rd, now := a.rep, a.rep.round, a.now
	odd, _ := party.Suspects(openings, r.charter.Threshold)
	openings = slices.DeleteFunc(openings, func(o *party.OpeningShare) bool { return slices.Contains(odd, o.Position()) })
	if a.moved {
		if _, err := a.gate.cfg.Vault.Adopt(ctx, hatch.AdoptRequest{Study: a.study, Round: rd.opened.Round - 1, State: a.sec.State}); err != nil {
			return false, err
		}
		a.moved = false
	}
	sink := &sumSink{ctx: ctx, gate: a.gate, study: a.study, round: rd.opened.Round, buf: make([]int64, 0, min(now.lanes, lanesPerCall))}
	err := party.Open(ctx, &party.Decryption{
		Profile: now.profile, Lanes: now.lanes, Threshold: r.charter.Threshold, Members: len(r.charter.Members),
		State: rd.opened.State, Set: rd.proposed, Group: now.group, Openings: openings,
	}, aggregate, sink)
	if errors.Is(err, consilium.ErrAggregateRejected) {
		return false, nil
	}
	if err == nil {
		err = sink.flush()
	}
	if err != nil {
		return false, err
	}
	for _, p := range odd {
		site := r.charter.Members[p-1].Site
		a.log.Error("a false opening share was left out", "round", rd.opened.Round, "by", string(site))
		if err := a.note(rd.opened.Round, "false-opening", map[string]any{"attempt": rd.opened.Attempt, "site": site}); err != nil {
			return false, err
		}
	}
	return true, nil
}

// sumSink hands opened sums to the vault, as many at once as lanes come from it.
type sumSink struct {
	ctx    context.Context
	gate   *Gate
	study  consilium.StudyID
	round  uint32
	offset int
	buf    []int64
}

func (s *sumSink) Write(sums []int64) error {
	for len(sums) > 0 {
		n := min(len(sums), cap(s.buf)-len(s.buf))
		s.buf, sums = append(s.buf, sums[:n]...), sums[n:]
		if len(s.buf) == cap(s.buf) {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *sumSink) flush() error {
	if len(s.buf) == 0 {
		return nil
	}
	err := s.gate.cfg.Vault.Sums(s.ctx, s.study, s.round, s.offset, s.buf)
	s.offset += len(s.buf)
	s.buf = s.buf[:0]
	s.gate.cfg.Crash("update/in-sums")
	return err
}

// takeNext lets the vault update and makes the next state durable. From then on the
// vault has the next state; one that fails may have lost that of the round. Should
// the others reject what this hospital has opened, the round begins again: the vault
// gets the round's state again before the sums.
func (a *actor) takeNext(ctx context.Context) error {
	rd := a.rep.round
	a.moved = true
	shape, err := a.gate.cfg.Vault.Update(ctx, hatch.UpdateRequest{Study: a.study, Round: rd.opened.Round, Contributors: rd.proposed.Positions()})
	if err != nil {
		a.now.tried = 0
		return err
	}
	a.gate.cfg.Crash("update/before-secret")
	next, err := hatch.ReadState(ctx, a.gate.cfg.Vault, a.study, &shape)
	if err != nil {
		a.now.tried = 0
		return err
	}
	a.sec.Next = next
	if err := a.gate.secrets.save(a.study, a.sec); err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	a.now.next = &shape
	return nil
}

// refused reports true the first time it is asked about a set.
func (n *attempt) refused(set consilium.Digest) bool {
	if n.lastRefused == set {
		return false
	}
	n.lastRefused = set
	return true
}

// smallBlob is what fetchBlob keeps in memory.
const smallBlob = 32 << 20

// otherBytes is what a blob that does not have its digest is: a blob that is
// missing. It may come whole at another time or from another coordinator, and is
// no reason for a hospital to leave.
func otherBytes(d consilium.Digest) error {
	return consilium.ErrBlobMissing.Withf("the coordinator gave other bytes than %s", d.Short())
}

// fetchBlob reads a blob whole and checks its digest before anything uses it.
func (a *actor) fetchBlob(ctx context.Context, d consilium.Digest, size uint64) (io.ReadSeeker, func(), error) {
	src, err := a.gate.cfg.Coordinator.Fetch(ctx, d, 0, size)
	if err != nil {
		return nil, nil, err
	}
	defer src.Close()
	h := blob.NewHash()
	if size <= smallBlob {
		b := make([]byte, size)
		if _, err := io.ReadFull(src, b); err != nil {
			return nil, nil, consilium.ErrBlobMissing.With(err)
		}
		h.Write(b)
		if !bytes.Equal(h.Sum(nil), d[:]) {
			return nil, nil, otherBytes(d)
		}
		return bytes.NewReader(b), func() {}, nil
	}
	f, err := os.CreateTemp(a.gate.spoolDir(), "aggregate-*")
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errDisk, err)
	}
	drop := func() { f.Close(); os.Remove(f.Name()) }
	if n, err := io.Copy(io.MultiWriter(onDisk{f}, h), io.LimitReader(src, int64(size))); err != nil || uint64(n) != size {
		drop()
		if errors.Is(err, errDisk) {
			return nil, nil, err
		}
		return nil, nil, consilium.ErrBlobMissing.Withf("%d of %d bytes: %v", n, size, err)
	}
	if !bytes.Equal(h.Sum(nil), d[:]) {
		drop()
		return nil, nil, otherBytes(d)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		drop()
		return nil, nil, fmt.Errorf("%w: %w", errDisk, err)
	}
	return f, drop, nil
}
