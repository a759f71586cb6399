package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"consilium"
	"consilium/he/party"
	"consilium/internal/blob"
	"consilium/internal/hatch"
	"consilium/internal/hybrid"
)

// A study goes from one charter to the next in four steps, and what the two
// sides could open of one round must not differ.
//
//   - Depart: this hospital has opened nothing from a round on and never will; the
//     journalled statement is what holds it to that. One that has opened says nothing.
//   - It enrols again, reveals and signs only a charter that names this epoch, round
//     and certified state, after N-t+f+1 departures that it verified itself: then
//     fewer than t members can ever open that round under the old charter. It signs one
//     charter after another, never two after the same.
//   - It crosses: journal first (epoch, frozen set), then the secrets. From then on
//     nothing is said under the old charter, whatever a log shows.
//   - Round, vector and ledger of opened sums are the study's: the round that was in
//     flight is computed to the same vector or not at all.

// epochPrefix leads the slots of later epochs, so that each epoch has its own.
func epochPrefix(epoch uint32) string {
	if epoch <= 1 {
		return ""
	}
	return fmt.Sprintf("e%d/", epoch)
}

// enrolSlot names what is said on the way to a charter: once for every time
// that the coordinator asks. The charter itself is signed once an epoch.
func (r *replica) enrolSlot(kind string) string {
	if r.renewal == nil {
		return kind
	}
	return fmt.Sprintf("e%d.%d/%s", r.making(), r.renewal.Try, kind)
}

// maxCharters bounds what a log may make a hospital keep.
const maxCharters = 256

// next is the first round that has not closed in this epoch, and the certified
// state that it starts from.
func (r *replica) next() (uint32, consilium.Digest) {
	switch rd := r.round; {
	case rd == nil && r.charter.Handover != nil:
		return r.charter.Handover.Round, r.charter.Handover.State
	case rd == nil:
		return 1, consilium.Digest{}
	case rd.closed:
		return rd.opened.Round + 1, rd.next
	default:
		return rd.opened.Round, rd.opened.State
	}
}

// begins reports whether o is the first round of the charter.
func (r *replica) begins(o *consilium.RoundOpened) bool {
	round, state := r.next()
	return o.Round == round && o.State == state
}

// renew takes the coordinator's request to leave the epoch.
func (r *replica) renew(body []byte) error {
	v, err := consilium.ParseRenewal(body)
	if err != nil {
		return err
	}
	if r.charter == nil && r.prior != nil && v.Charter == r.prior.digest {
		if v.Try <= r.renewal.Try || v.Round != r.renewal.Round || v.State != r.renewal.State {
			return fmt.Errorf("%w: the epoch after %s was asked for otherwise", errForged, v.Charter.Short())
		}
		r.newEpoch()
		r.renewal = v
		return nil
	}
	prior := &epoch{digest: v.Charter}
	if r.charter != nil {
		round, state := r.next()
		switch {
		case v.Charter != r.digest:
			return fmt.Errorf("%w: an epoch after %s, which is not in force", errForged, v.Charter.Short())
		case r.round != nil && r.round.closed && r.round.done:
			return fmt.Errorf("%w: an epoch after the analysis has ended", errForged)
		case v.Round != round || v.State != state:
			return fmt.Errorf("%w: the next epoch begins with round %d, not %d", errForged, round, v.Round)
		}
		prior.charter, prior.position, prior.verified = r.charter, r.position, true
		if prior.last = r.prev; r.round != nil && r.round.closed {
			prior.last = r.round
		}
		if prior.last != nil {
			r.fixed = map[consilium.SiteID]consilium.Digest{}
			for _, m := range prior.last.proposed.Members {
				if sh := prior.last.headers[m.Position]; sh != nil && sh.digest == m.Header {
					r.fixed[r.charter.Members[m.Position-1].Site] = sh.header.RowSet
				}
			}
			if len(r.fixed) != len(prior.last.proposed.Members) {
				return fmt.Errorf("%w: a closed round without its contributions", errForged)
			}
		}
	} else {
		// An epoch that this hospital has not followed: it was not there, or the
		// roster has changed since. Its digest names its bytes.
		if prior.charter, err = consilium.ParseCharter(r.charters[v.Charter]); err != nil {
			return fmt.Errorf("%w: an epoch after %s, which the log does not show: %w", errForged, v.Charter.Short(), err)
		}
		if prior.charter.Study != r.id {
			return fmt.Errorf("%w: the charter of study %s", errForged, prior.charter.Study)
		}
		if r.known[prior.charter.Epoch] != nil {
			return fmt.Errorf("%w: this hospital signed a charter of epoch %d, and the log does not show how it was made", errForged, prior.charter.Epoch)
		}
		r.fixed = nil
	}
	r.newEpoch()
	r.prior, r.renewal, r.departs = prior, v, map[consilium.Position]bool{}
	return nil
}

// takeDepart counts who has left the epoch before.
func (r *replica) takeDepart(m *consilium.Message) error {
	if r.prior == nil || r.charter != nil {
		return fmt.Errorf("%w: a departure that nobody asked for", errForged)
	}
	p, ok := r.prior.charter.Position(consilium.SiteID(m.By))
	if !ok {
		return fmt.Errorf("%w: a departure of %s, who was not a member", errForged, m.By)
	}
	if err := hybrid.Verify(r.prior.charter.Members[p-1].Key, m.Kind.Domain(), m.Body, &m.Signature); err != nil {
		return fmt.Errorf("%s by %s: %w", m.Kind, m.By, err)
	}
	v, err := consilium.ParseDepart(m.Body)
	if err != nil {
		return err
	}
	if v.Charter != r.prior.digest || v.Position != p || v.Round != r.renewal.Round || v.State != r.renewal.State {
		return fmt.Errorf("%w: a departure from another charter or round", errForged)
	}
	r.departs[p] = true
	return nil
}

// succeeds says why a drafted charter may not follow the epoch before.
func (r *replica) succeeds(c *consilium.Charter) error {
	if err := c.Succeeds(r.prior.charter, r.prior.digest); err != nil {
		return err
	}
	if c.Handover.Round != r.renewal.Round || c.Handover.State != r.renewal.State {
		return fmt.Errorf("it begins with round %d from another state", c.Handover.Round)
	}
	if n, q := len(r.departs), r.prior.charter.ReleaseQuorum(); n < q {
		return fmt.Errorf("%d members have left epoch %d, %d must: round %d may still be opened under it", n, r.prior.charter.Epoch, q, c.Handover.Round)
	}
	if !r.spec.FixedContributors() {
		return nil
	}
	// The rounds of an exact study are over one set of hospitals.
	if !r.prior.verified {
		return errors.New("an exact study takes nobody in: this hospital has not followed the epoch before")
	}
	for i := range c.Members {
		if _, ok := r.prior.charter.Position(c.Members[i].Site); !ok {
			return fmt.Errorf("an exact study takes nobody in: %s was not a member", c.Members[i].Site)
		}
	}
	for site := range r.fixed {
		if _, ok := c.Position(site); !ok {
			return fmt.Errorf("%s contributed to the sums of this exact study and is left out", site)
		}
	}
	return nil
}

// before is the charter that c follows, as the log showed its bytes: c names them
// by their digest.
func (r *replica) before(c *consilium.Charter) (*consilium.Charter, error) {
	p, err := consilium.ParseCharter(r.charters[c.Previous])
	if err != nil || p.Epoch+1 != c.Epoch {
		return nil, consilium.ErrInvalid.Withf("the charter %s of epoch %d is not in the log: %v", c.Previous.Short(), c.Epoch-1, err)
	}
	return p, nil
}

// roll lists the study's hospitals in the order of the analysis: the members of
// the first charter, then those whom later ones added.
func (r *replica) roll() ([]consilium.SiteID, error) {
	chain := []*consilium.Charter{r.charter}
	for c := r.charter; c.Epoch > 1; {
		p, err := r.before(c)
		if err != nil {
			return nil, err
		}
		chain, c = append(chain, p), p
	}
	var out []consilium.SiteID
	for _, c := range slices.Backward(chain) {
		for i := range c.Members {
			if !slices.Contains(out, c.Members[i].Site) {
				out = append(out, c.Members[i].Site)
			}
		}
	}
	return out, nil
}

// epochOf is the epoch that the secrets belong to.
func (s *secrets) epochOf() uint32 { return max(s.Epoch, 1) }

// hasLeft reports whether this hospital has left the epoch of a charter for
// good: it has said so, or has signed the charter after it.
func (a *actor) hasLeft(epoch uint32) bool {
	if _, ok := a.gate.journal.promise(a.study, epochPrefix(epoch)+"depart"); ok {
		return true
	}
	_, ok := a.gate.journal.promise(a.study, epochPrefix(epoch+1)+"charter")
	return ok || a.gate.journal.epochOf(a.study) > epoch
}

// outdated reports whether the roster here no longer has every member of the
// charter with its key: nothing new begins under such a charter.
func (a *actor) outdated() bool {
	for i := range a.rep.charter.Members {
		m := &a.rep.charter.Members[i]
		if s, ok := a.gate.roster.Site(m.Site); !ok || s.Key != m.Key {
			return true
		}
	}
	return false
}

// depart leaves the epoch before, if this hospital was in it and has opened
// nothing from the handed over round on. It reports false if this hospital knows
// more than the log shows.
func (a *actor) depart(ctx context.Context) (bool, error) {
	r, pr := a.rep, a.rep.prior
	if pr == nil || !pr.verified || pr.position == 0 || pr.charter.Members[pr.position-1].Key != a.gate.cfg.Signer.Public() {
		return true, nil
	}
	epoch, first := pr.charter.Epoch, r.renewal.Round
	if e := a.sec.epochOf(); e > epoch || e == epoch && a.sec.Round > first {
		a.log.Warn("the log is behind this hospital", "renewal", first, "closed", a.sec.Round-1)
		return false, nil
	}
	name := epochPrefix(epoch) + "depart"
	if _, promised := a.gate.journal.promise(a.study, name); !promised && a.gate.journal.openedFrom(a.study, epoch, first) {
		a.log.Info("this hospital has opened in the round that the next epoch begins with", "round", first)
		return true, nil
	}
	return true, a.promise(ctx, name, consilium.KindDepart, func() ([]byte, error) {
		v := &consilium.Depart{Charter: pr.digest, Round: first, State: r.renewal.State, Position: pr.position}
		return v.Encode(), a.note(first, "depart", map[string]any{"charter": pr.digest, "reason": r.renewal.Reason})
	})
}

// cross takes this hospital into the charter's epoch. It may be called again at
// any time: all that it changes follows from the log and the disk.
func (a *actor) cross() error {
	r := a.rep
	c := r.charter
	if c.Epoch <= a.sec.epochOf() {
		return nil
	}
	next := &secrets{Epoch: c.Epoch, Round: c.FirstRound(), Sealing: map[string][]byte{}}
	var f *frozen
	if r.position > 0 {
		e := a.sec.Enrol
		if e == nil || e.Epoch != c.Epoch || e.Group == nil {
			return consilium.ErrStale.Withf("the group key of epoch %d is gone from the hospital's disk", c.Epoch)
		}
		next.Group, next.Sealing[charterKey], next.Memory = e.Group, e.Key, a.sec.Memory
		if err := a.carry(next); err != nil {
			return err
		}
		if r.spec.FixedContributors() && len(r.fixed) > 0 {
			f = &frozen{Round: c.FirstRound() - 1}
			for i := range c.Members {
				if rows, ok := r.fixed[c.Members[i].Site]; ok {
					f.Members, f.RowSets = append(f.Members, consilium.Position(i+1)), append(f.RowSets, rows)
				}
			}
			if err := a.sameFrozen(f); err != nil {
				return err
			}
		}
	}
	if err := a.note(c.FirstRound(), "epoch", map[string]any{"epoch": c.Epoch, "charter": r.digest, "previous": c.Previous, "members": memberSites(c, nil)}); err != nil {
		return err
	}
	a.gate.cfg.Crash("epoch/before-journal")
	if a.gate.journal.epochOf(a.study) < c.Epoch {
		if err := a.gate.journal.setEpoch(a.study, c.Epoch, f); err != nil {
			return fmt.Errorf("%w: %w", errDisk, err)
		}
	}
	a.gate.cfg.Crash("epoch/after-journal")
	if err := a.gate.secrets.save(a.study, next); err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	a.gate.cfg.Crash("epoch/after-secret")
	a.sec, a.shape, a.now, a.verdict, a.offer = next, nil, nil, nil, nil
	a.dropSpool()
	a.log.Info("in a new epoch", "epoch", c.Epoch, "round", c.FirstRound(), "members", len(c.Members))
	return nil
}

// carry takes over what the epoch before leaves: the certified state, if this
// hospital has it.
func (a *actor) carry(next *secrets) error {
	c, old := a.rep.charter, a.sec
	if old.Group == nil || old.epochOf() != c.Epoch-1 {
		return nil // it was not in the epoch before
	}
	group, err := party.ParseGroupKey(old.Group)
	if err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	if next.Round == 1 {
		return nil // the analysis starts anew
	}
	state, salt := old.State, old.Salt
	if old.Round == next.Round-1 { // it had not moved on yet
		s := group.Salt(consilium.DomainState)
		state, salt = old.Next, s[:]
	} else if old.Round != next.Round {
		return nil
	}
	if state == nil || len(salt) != 32 || consilium.DomainState.Digest(salt, state) != c.Handover.State {
		return nil // it takes the state from those who have it
	}
	next.State, next.Salt = state, salt
	return nil
}

// sameFrozen holds the set that the log shows against what this hospital froze
// itself. Its positions are of the charter of the epoch that it is in, which is not
// the one before if it signed that one and went down before it crossed.
func (a *actor) sameFrozen(f *frozen) error {
	own, epoch := a.gate.journal.freeze(a.study), a.gate.journal.epochOf(a.study)
	if own == nil || own.Round > f.Round || epoch >= a.rep.charter.Epoch {
		return nil
	}
	then := a.rep.prior.charter
	for then.Epoch > epoch {
		var err error
		if then, err = a.rep.before(then); err != nil {
			return err
		}
	}
	same := then.Epoch == epoch && len(own.Members) == len(f.Members) && len(own.Members) == len(own.RowSets)
	for i, p := range own.Members {
		m := then.Member(p)
		if same = same && m != nil; !same {
			break
		}
		rows, ok := a.rep.fixed[m.Site]
		same = ok && rows == own.RowSets[i]
	}
	if !same {
		return consilium.ErrFrozen.Withf("the log shows other contributors or rows of the closed rounds than this hospital opened")
	}
	return nil
}

// takeOver gets the state that the epoch before certified from a member that
// has it. A positive duration means that none has left it yet.
func (a *actor) takeOver(ctx context.Context) (time.Duration, error) {
	c := a.rep.charter
	group, err := party.ParseGroupKey(a.sec.Group)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errDisk, err)
	}
	at := consilium.At{Charter: a.rep.digest, Round: c.FirstRound(), Attempt: 1}
	for _, o := range a.rep.offered[c.FirstRound()-1] {
		if a.badOffer[o.Blob] {
			continue
		}
		salt, state, err := a.fetchHandover(ctx, group, at, o)
		switch {
		case err == nil:
			shape, err := a.gate.cfg.Vault.Adopt(ctx, hatch.AdoptRequest{Study: a.study, Round: c.FirstRound() - 1, State: state})
			if err != nil {
				return 0, err
			}
			a.sec.State, a.sec.Salt, a.shape, a.moved = state, salt, &shape, false
			if err := a.gate.secrets.save(a.study, a.sec); err != nil {
				return 0, fmt.Errorf("%w: %w", errDisk, err)
			}
			a.log.Info("took the state over from the epoch before", "round", c.FirstRound())
			return 0, nil
		case retryable(err) || ctx.Err() != nil:
			return 0, err
		}
		by := c.Members[o.Position-1].Site
		a.log.Warn("bad handover", "by", string(by), "err", err)
		if a.badOffer == nil {
			a.badOffer = map[consilium.Digest]bool{}
		}
		a.badOffer[o.Blob] = true
		if err := a.note(c.FirstRound(), "bad-state", map[string]any{"by": by}); err != nil {
			return 0, err
		}
	}
	return 2 * time.Second, nil
}

func (a *actor) fetchHandover(ctx context.Context, group *party.GroupKey, at consilium.At, o *consilium.SealedState) (salt, state []byte, err error) {
	src, err := a.gate.cfg.Coordinator.Fetch(ctx, o.Blob, 0, 0)
	if err != nil {
		return nil, nil, err
	}
	defer src.Close()
	limit := a.stateLimit() + party.HandoverOverhead
	if !a.rep.prior.verified {
		limit = mostState // who is new has not followed what the rounds before were about
	}
	sealed, err := io.ReadAll(io.LimitReader(src, limit+1))
	if err != nil {
		return nil, nil, consilium.ErrUnavailable.With(err)
	}
	if int64(len(sealed)) > limit {
		return nil, nil, consilium.ErrInvalid.Withf("a state of more than %d bytes is handed over", limit)
	}
	if blob.Sum(sealed) != o.Blob {
		return nil, nil, otherBytes(o.Blob)
	}
	s, state, err := group.OpenHandover(at, a.rep.charter.Handover.State, sealed)
	return s[:], state, err
}

// handOver makes ready to leave the state for members that do not have it.
func (a *actor) handOver() error {
	c := a.rep.charter
	if c.Handover == nil || c.FirstRound() == 1 || a.sec.Round != c.FirstRound() || a.sec.State == nil || len(a.sec.Salt) != 32 ||
		a.offer != nil || a.enoughOffers(c.FirstRound()-1) {
		return nil
	}
	group, err := party.ParseGroupKey(a.sec.Group)
	if err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	at := consilium.At{Charter: a.rep.digest, Round: c.FirstRound(), Attempt: 1}
	o := &offer{at: at, next: c.Handover.State, since: a.gate.cfg.Now(), slot: epochPrefix(c.Epoch) + "handover"}
	o.at.Round, o.at.Position = c.FirstRound()-1, a.rep.position
	for i := range c.Members {
		o.signers = append(o.signers, consilium.Position(i+1))
	}
	o.sealed, err = group.SealHandover(at, [32]byte(a.sec.Salt), a.sec.State)
	a.offer = o
	return err
}
