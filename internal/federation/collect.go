package federation

import (
	"context"
	"fmt"
	"slices"
	"time"

	"consilium"
	"consilium/internal/archive"
	"consilium/internal/client"
	"consilium/provenance"
)

// Collect gathers what an archive of an ended study holds: the events with
// their proofs from the coordinators' audit log, and every running hospital's
// trail with its anchor.
func (f *Federation) Collect(ctx context.Context, out *client.Outcome) (*archive.Contents, error) {
	c := &archive.Contents{Roster: f.signed, Study: out.Study, Events: out.Events, Salt: out.Salt}
	if out.Envelope != nil {
		var err error
		if c.Envelope, err = out.Envelope.Encode(); err != nil {
			return nil, err
		}
	}
	var err error
	if c.Checkpoint, c.Inclusion, err = Prove(ctx, f.Team, out.Events); err != nil {
		return nil, err
	}
	for _, s := range f.Sites() {
		g := s.Gate()
		if g == nil {
			continue
		}
		patience := 10 * time.Second
		if slices.ContainsFunc(out.Events, func(ev *consilium.Event) bool { return saidBy(ev, s.ID()) }) {
			patience = 2 * time.Minute
		}
		rec, err := s.anchored(ctx, out.Study, patience)
		if err != nil {
			return nil, fmt.Errorf("site %s: %w", s.ID(), err)
		}
		if rec == nil {
			continue // not asked
		}
		if rec.Trail, err = g.Trail(out.Study); err != nil {
			return nil, fmt.Errorf("site %s: %w", s.ID(), err)
		}
		c.Sites = append(c.Sites, *rec)
	}
	return c, nil
}

// Prove fetches a checkpoint of the coordinators' audit log that covers all
// events, and the proof that each of them is in it.
func Prove(ctx context.Context, team *client.Team, events []*consilium.Event) ([]byte, [][]consilium.Digest, error) {
	if len(events) == 0 {
		return nil, nil, consilium.ErrInvalid.Withf("no events")
	}
	for {
		note, err := team.Wire.Checkpoint(ctx)
		if err != nil {
			return nil, nil, err
		}
		cp, err := provenance.ParseCheckpoint(note)
		if err != nil {
			return nil, nil, err
		}
		if last := events[len(events)-1].Seq; cp.Size <= last {
			select {
			case <-ctx.Done():
				return nil, nil, ctx.Err()
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		proofs := make([][]consilium.Digest, len(events))
		for i, ev := range events {
			if proofs[i], err = team.Wire.Inclusion(ctx, ev.Seq, cp.Size); err != nil {
				return nil, nil, fmt.Errorf("event %d: %w", ev.Seq, err)
			}
		}
		return note, proofs, nil
	}
}

// saidBy reports whether an event is a statement of a hospital's.
func saidBy(ev *consilium.Event, id consilium.SiteID) bool {
	if ev.Kind != consilium.EventMessage {
		return false
	}
	m, err := consilium.ParseMessage(ev.Body)
	return err == nil && m.By == string(id)
}

// anchored finds the ledger entry that pins the hospital's trail at a study's
// end. It waits for it: a hospital anchors a moment after the study has ended.
func (s *Site) anchored(ctx context.Context, study consilium.StudyID, patience time.Duration) (*archive.SiteRecord, error) {
	deadline := time.Now().Add(patience)
	for {
		raw, err := s.ledger.Checkpoint(ctx)
		if err != nil {
			return nil, err
		}
		cp, err := provenance.ParseCheckpoint(raw)
		if err != nil {
			return nil, err
		}
		entries, err := s.ledger.Entries(ctx, 0, cp.Size, cp.Size)
		if err != nil {
			return nil, err
		}
		for i := len(entries) - 1; i >= 0; i-- {
			e, err := provenance.ParseEntry(entries[i])
			if err != nil || e.Domain != consilium.DomainAuditRecord {
				continue
			}
			r, err := provenance.ParseRecord(e.Payload)
			if err != nil || r.Study != study || r.Outcome != "trail" {
				continue
			}
			proof, err := s.ledger.Inclusion(ctx, uint64(i), cp.Size)
			if err != nil {
				return nil, err
			}
			return &archive.SiteRecord{Entry: entries[i], Index: uint64(i), Inclusion: proof, Checkpoint: raw}, nil
		}
		if time.Now().After(deadline) {
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
