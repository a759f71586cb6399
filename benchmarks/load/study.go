//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/wire"
)

// proposal is a study and what is needed to post it.
type proposal struct {
	id         consilium.StudyID
	digest     consilium.Digest
	deadline   int64 // seconds
	submission *consilium.Message
	approvals  []*consilium.Message
}

// propose makes a study of learned type that asks the first sites hospitals and
// goes on without those that miss the deadline, in seconds.
func (c *cluster) propose(sites, least int, rounds uint32, deadline int64) (*proposal, error) {
	var only []consilium.SiteID
	if sites < len(c.roster.Sites) {
		for i := range sites {
			only = append(only, siteID(i+1))
		}
	}
	spec, err := canon.Marshal(&consilium.Spec{APIVersion: consilium.APIVersion, Kind: "Study", Name: "load", Question: "How long does a round take?",
		Data:    consilium.DataRef{Dataset: "load", Patient: "id"},
		Sites:   consilium.SiteRule{Min: least, Missing: "continue", Only: only},
		Columns: []consilium.Column{{Name: "id", Type: consilium.TypeID}}, Legal: []byte("{}"),
		Analyses: []consilium.AnalysisSpec{{Name: "main", Type: consilium.AnalysisTrain}},
		Privacy:  consilium.Privacy{MinCohort: 11}, Rounds: consilium.Rounds{Max: int(max(rounds, 1)), Tolerance: 1e-9, Deadline: deadline}})
	if err != nil {
		return nil, err
	}
	policy := consilium.DomainPolicy.Digest([]byte("load"))
	var token [16]byte
	rand.Read(token[:])
	sub, err := canon.Marshal(&consilium.Submission{APIVersion: consilium.APIVersion, Kind: "Submission", Team: "team", Token: hex.EncodeToString(token[:]),
		SpecBytes: spec, Policy: policy, NotAfter: time.Now().Add(24 * time.Hour).Unix()})
	if err != nil {
		return nil, err
	}
	p := &proposal{digest: consilium.DomainSubmission.Digest(sub), deadline: deadline}
	p.id = consilium.NewStudyID(p.digest)
	if p.submission, err = c.signed("researcher/team", consilium.KindSubmission, p.id, sub); err != nil {
		return nil, err
	}
	approval, err := canon.Marshal(&consilium.Approval{APIVersion: consilium.APIVersion, Kind: "Approval", Study: p.id, Spec: consilium.SpecDigest(spec), Policy: policy,
		NotBefore: time.Now().Add(-time.Hour).Unix(), NotAfter: time.Now().Add(24 * time.Hour).Unix()})
	if err != nil {
		return nil, err
	}
	for _, m := range c.roster.Board.Members {
		a, err := c.signed("board/"+m.ID, consilium.KindApproval, p.id, approval)
		if err != nil {
			return nil, err
		}
		p.approvals = append(p.approvals, a)
	}
	return p, nil
}

// desk is the team and the board.
type desk struct {
	c     *cluster
	each  func(*consilium.Event) // of the studies that it runs, or nil
	team  *wire.Client
	board []*wire.Client
}

func (c *cluster) desk() (*desk, error) {
	d := &desk{c: c}
	var err error
	if d.team, err = c.client("researcher/team"); err != nil {
		return nil, err
	}
	for _, m := range c.roster.Board.Members {
		w, err := c.client("board/" + m.ID)
		if err != nil {
			return nil, err
		}
		d.board = append(d.board, w)
	}
	return d, nil
}

func (d *desk) submit(ctx context.Context, p *proposal) error { return d.team.Post(ctx, p.submission) }

func (d *desk) approve(ctx context.Context, p *proposal) error {
	for i, w := range d.board {
		if err := w.Post(ctx, p.approvals[i]); err != nil {
			return err
		}
	}
	return nil
}

func (d *desk) cancel(ctx context.Context, p *proposal) error {
	m, err := d.c.signed("researcher/team", consilium.KindCancel, p.id, (&consilium.Cancel{Study: p.id, Reason: "not needed"}).Encode())
	if err != nil {
		return err
	}
	return d.team.Post(ctx, m)
}

// lap is one round by the coordinators' clock, in seconds since it opened.
type lap struct {
	uploaded, certified, summed, closed float64
	members                             int // of the certified set
}

// run submits a study for hospitals and returns its rounds once it has ended.
func (d *desk) run(ctx context.Context, p *proposal, members []*hospital, w func(consilium.Position) work) ([]lap, []*actor, error) {
	var actors []*actor
	for i, h := range members {
		actors = append(actors, h.take(p, w(consilium.Position(i+1))))
	}
	if err := d.submit(ctx, p); err != nil {
		return nil, nil, err
	}
	if err := d.approve(ctx, p); err != nil {
		return nil, nil, err
	}
	laps, err := d.watch(ctx, p, actors)
	if err != nil {
		return nil, nil, err
	}
	for _, a := range actors {
		select {
		case <-a.ended:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		if a.err != nil {
			return nil, nil, a.err
		}
	}
	return laps, actors, nil
}

var errEnded = errors.New("the study has ended")

// watch follows a study to its end. It fails as soon as a hospital does.
func (d *desk) watch(ctx context.Context, p *proposal, actors []*actor) ([]lap, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, a := range actors {
		go func() {
			select {
			case <-a.ended:
				if a.err != nil {
					cancel(a.err)
				}
			case <-ctx.Done():
			}
		}()
	}
	var laps []lap
	var opened int64
	since := func(ev *consilium.Event) float64 { return float64(ev.Time-opened) / 1000 }
	var now lap
	err := d.team.FollowStudy(ctx, p.id, 0, func(ev *consilium.Event) error {
		if d.each != nil {
			d.each(ev)
		}
		switch ev.Kind {
		case consilium.EventOpened:
			opened, now = ev.Time, lap{}
		case consilium.EventMessage:
			m, err := consilium.ParseMessage(ev.Body)
			if err != nil {
				return err
			}
			if m.Kind == consilium.KindHeader {
				now.uploaded = since(ev)
			}
		case consilium.EventProposed:
			u, err := consilium.ParseContributors(ev.Body)
			if err != nil {
				return err
			}
			now.members = len(u.Members)
		case consilium.EventCertified:
			now.certified = since(ev)
		case consilium.EventSummed:
			now.summed = since(ev)
		case consilium.EventClosed:
			now.closed = since(ev)
			laps = append(laps, now)
		case consilium.EventDone:
			return errEnded
		case consilium.EventAborted, consilium.EventRefused, consilium.EventCancelled:
			return fmt.Errorf("the study ended with %s: %s", ev.Kind, ev.Body)
		}
		return nil
	})
	if !errors.Is(err, errEnded) {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, err
	}
	return laps, nil
}

// fastest is the shortest round.
func fastest(laps []lap) lap {
	best := laps[0]
	for _, l := range laps {
		if l.closed < best.closed {
			best = l
		}
	}
	return best
}
