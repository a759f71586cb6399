package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
	"consilium/internal/seal"
	"consilium/internal/wire"
)

// Team is a data-science team.
type Team struct {
	ID      consilium.ResearcherID
	Signer  consilium.Signer
	Sealing *seal.Key
	Wire    *wire.Client
	Book    *wire.Book
}

// Submit signs and posts a study. The same token and content again is the
// same study.
func (t *Team) Submit(ctx context.Context, spec []byte, policy consilium.Digest, token string, notAfter int64) (consilium.StudyID, error) {
	payload, err := canon.Marshal(&consilium.Submission{
		APIVersion: consilium.APIVersion, Kind: "Submission", Team: t.ID, Token: token, SpecBytes: spec, Policy: policy, NotAfter: notAfter,
	})
	if err != nil {
		return "", err
	}
	if _, err := consilium.ParseSubmission(payload); err != nil {
		return "", consilium.ErrInvalid.With(err)
	}
	id := consilium.NewStudyID(consilium.DomainSubmission.Digest(payload))
	return id, post(ctx, t.Wire, t.Signer, consilium.KindSubmission, id, string(t.ID), payload)
}

// Cancel ends a study at the team's request.
func (t *Team) Cancel(ctx context.Context, study consilium.StudyID, reason string) error {
	m := &consilium.Cancel{Study: study, Reason: reason}
	return post(ctx, t.Wire, t.Signer, consilium.KindCancel, study, string(t.ID), m.Encode())
}

func post(ctx context.Context, w *wire.Client, s consilium.Signer, kind consilium.MessageKind, study consilium.StudyID, by string, body []byte) error {
	sig, err := s.Sign(kind.Domain(), body)
	if err != nil {
		return err
	}
	return w.Post(ctx, &consilium.Message{Kind: kind, Study: study, By: by, Body: body, Signature: sig})
}

// Outcome is a study that ended, as its team can prove it.
type Outcome struct {
	Study    consilium.StudyID
	Phase    consilium.Phase
	Reason   string
	Charter  *consilium.Charter // nil if the study never got one
	Envelope *consilium.ResultEnvelope
	Salt     []byte // of the result's digest
	Events   []*consilium.Event
}

var errEnded = errors.New("the study has ended")

// Wait follows a study to its end. progress, if not nil, sees every event in
// order. A refused, aborted or cancelled study is an Outcome, not an error.
func (t *Team) Wait(ctx context.Context, study consilium.StudyID, progress func(*consilium.Event)) (*Outcome, error) {
	out := &Outcome{Study: study}
	err := t.Wire.FollowStudy(ctx, study, 0, func(ev *consilium.Event) error {
		out.Events = append(out.Events, ev)
		if progress != nil {
			progress(ev)
		}
		switch ev.Kind {
		case consilium.EventDone:
			out.Phase = consilium.PhaseDone
		case consilium.EventRefused:
			out.Phase, out.Reason = consilium.PhaseRefused, string(ev.Body)
		case consilium.EventAborted:
			out.Phase, out.Reason = consilium.PhaseAborted, string(ev.Body)
		case consilium.EventCancelled:
			out.Phase, out.Reason = consilium.PhaseCancelled, string(ev.Body)
		default:
			return nil
		}
		return errEnded
	})
	if !errors.Is(err, errEnded) {
		return nil, err
	}
	if out.Phase != consilium.PhaseDone {
		return out, nil
	}
	return out, t.open(ctx, out)
}

// open verifies charter, releases and publication, and unseals the result.
func (t *Team) open(ctx context.Context, out *Outcome) error {
	proof, err := Check(t.Book.Roster(), out.Study, out.Events)
	if err != nil {
		return err
	}
	out.Charter = proof.Charter
	if proof.Publish == nil {
		return consilium.ErrInvalid.Withf("no released result")
	}
	sealed, err := t.Wire.FetchBlob(ctx, proof.Publish.Blob, 1<<31)
	if err != nil {
		return err
	}
	plain, err := t.Sealing.Open(consilium.DomainTeamEnvelope, proof.Digest[:], sealed)
	if err != nil {
		return err
	}
	if len(plain) < 32 {
		return consilium.ErrInvalid.Withf("the sealed result is too short")
	}
	out.Salt = plain[:32]
	if consilium.DomainResult.Digest(out.Salt, plain[32:]) != proof.Publish.Result {
		return consilium.ErrInvalid.Withf("the sealed result is not the one that %d hospitals signed", proof.Charter.Threshold)
	}
	out.Envelope, err = consilium.ParseResultEnvelope(plain[32:])
	return err
}

// Proof is what the events of a study prove by signatures.
type Proof struct {
	Submission *consilium.Submission
	Charter    *consilium.Charter
	Digest     consilium.Digest // of the charter
	Publish    *consilium.Publish
	Signers    []consilium.Position // who allowed the release of that result
	Unvouched  error                // why Charter is nil though the events have one: its members are not the roster's
}

// Check verifies a study's events against a roster: the submission, every
// signature on the charter in force at the end and on those before it, and t
// releases of the published result. The members of the last charter are of the
// roster; who left with an earlier epoch need not be any more, and is known by that
// charter, which its successor names.
func Check(roster *consilium.Roster, study consilium.StudyID, events []*consilium.Event) (*Proof, error) {
	p := &Proof{}
	chain, err := charters(events)
	if err != nil {
		return nil, err
	}
	if len(chain) > 0 {
		err := p.takeCharter(roster, chain[len(chain)-1])
		if err != nil && ended(events) {
			return nil, err
		}
		// A study that ended on the way to its next epoch has no charter in force,
		// and a log that somebody made up has none that the roster vouches for.
		p.Unvouched = err
	}
	allowed := map[consilium.Digest]map[consilium.Position]bool{}
	var published []*consilium.Publish
	for _, ev := range events {
		if ev.Kind != consilium.EventMessage {
			continue
		}
		m, err := consilium.ParseMessage(ev.Body)
		if err != nil {
			return nil, fmt.Errorf("event %d: %w", ev.Seq, err)
		}
		if m.Study != study {
			return nil, consilium.ErrInvalid.Withf("event %d is of study %s", ev.Seq, m.Study)
		}
		switch m.Kind {
		case consilium.KindSubmission:
			team, ok := roster.Researcher(consilium.ResearcherID(m.By))
			if !ok {
				return nil, consilium.ErrSignature.Withf("event %d: %q is no researcher of the roster", ev.Seq, m.By)
			}
			if err := hybrid.Verify(team.Key, m.Kind.Domain(), m.Body, &m.Signature); err != nil {
				return nil, fmt.Errorf("event %d: %w", ev.Seq, err)
			}
			if consilium.NewStudyID(consilium.DomainSubmission.Digest(m.Body)) != study {
				return nil, consilium.ErrInvalid.Withf("event %d: the submission has another id", ev.Seq)
			}
			if p.Submission, err = consilium.ParseSubmission(m.Body); err != nil {
				return nil, fmt.Errorf("event %d: %w", ev.Seq, err)
			}
		case consilium.KindRelease, consilium.KindPublish:
			if p.Charter == nil {
				return nil, consilium.ErrInvalid.Withf("event %d: no charter before the release", ev.Seq)
			}
			pos, ok := p.Charter.Position(consilium.SiteID(m.By))
			if !ok {
				return nil, consilium.ErrNotMember.Withf("event %d: %s", ev.Seq, m.By)
			}
			if err := hybrid.Verify(p.Charter.Members[pos-1].Key, m.Kind.Domain(), m.Body, &m.Signature); err != nil {
				return nil, fmt.Errorf("event %d: %w", ev.Seq, err)
			}
			if m.Kind == consilium.KindRelease {
				r, err := consilium.ParseRelease(m.Body)
				if err != nil {
					return nil, fmt.Errorf("event %d: %w", ev.Seq, err)
				}
				if r.Charter == p.Digest && r.Position == pos && r.Allow {
					if allowed[r.Result] == nil {
						allowed[r.Result] = map[consilium.Position]bool{}
					}
					allowed[r.Result][pos] = true
				}
				continue
			}
			v, err := consilium.ParsePublish(m.Body)
			if err != nil {
				return nil, fmt.Errorf("event %d: %w", ev.Seq, err)
			}
			if v.Charter == p.Digest && v.Position == pos {
				published = append(published, v)
			}
		}
	}
	for _, v := range published {
		if len(allowed[v.Result]) < p.Charter.Threshold {
			continue
		}
		p.Publish = v
		for i := range p.Charter.Members {
			if allowed[v.Result][consilium.Position(i+1)] {
				p.Signers = append(p.Signers, consilium.Position(i+1))
			}
		}
		break
	}
	return p, nil
}

// ended reports whether the study was done.
func ended(events []*consilium.Event) bool {
	return slices.ContainsFunc(events, func(ev *consilium.Event) bool { return ev.Kind == consilium.EventDone })
}

// link is one charter of a study.
type link struct {
	charter *consilium.Charter
	digest  consilium.Digest
}

// charters lists a study's charters, one after another: each signed by all its
// members with the keys that it names, each the successor of the one before.
func charters(events []*consilium.Event) ([]link, error) {
	var out []link
	signed := map[consilium.SiteID]*consilium.Message{}
	for _, ev := range events {
		switch ev.Kind {
		case consilium.EventMessage:
			if m, err := consilium.ParseMessage(ev.Body); err == nil && m.Kind == consilium.KindCharter {
				signed[consilium.SiteID(m.By)] = m
			}
		case consilium.EventChartered:
			c, err := consilium.ParseCharter(ev.Body)
			if err != nil {
				return nil, fmt.Errorf("event %d: %w", ev.Seq, err)
			}
			for i := range c.Members {
				member := &c.Members[i]
				m := signed[member.Site]
				if m == nil || !bytes.Equal(m.Body, ev.Body) {
					return nil, consilium.ErrSignature.Withf("%s has not signed the charter", member.Site)
				}
				if err := hybrid.Verify(member.Key, consilium.DomainCharter, m.Body, &m.Signature); err != nil {
					return nil, fmt.Errorf("the charter, signed by %s: %w", member.Site, err)
				}
			}
			switch {
			case len(out) > 0:
				before := out[len(out)-1]
				if err := c.Succeeds(before.charter, before.digest); err != nil {
					return nil, consilium.ErrInvalid.Withf("event %d: %w", ev.Seq, err)
				}
			case c.Epoch != 1:
				return nil, consilium.ErrInvalid.Withf("event %d: the first charter is of epoch %d", ev.Seq, c.Epoch)
			}
			out = append(out, link{c, consilium.CharterDigest(ev.Body)})
		}
	}
	return out, nil
}

// takeCharter accepts the last charter if the roster knows all its members with
// their keys.
func (p *Proof) takeCharter(roster *consilium.Roster, l link) error {
	for i := range l.charter.Members {
		m := &l.charter.Members[i]
		if site, ok := roster.Site(m.Site); !ok || site.Key != m.Key {
			return consilium.ErrSignature.Withf("the charter has a member %s that the roster does not know with this key", m.Site)
		}
	}
	p.Charter, p.Digest = l.charter, l.digest
	return nil
}
