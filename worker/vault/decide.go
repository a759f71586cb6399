package vault

import (
	"context"
	"errors"
	"fmt"

	"consilium"
	"consilium/internal/hatch"
	"consilium/policy"
)

// question is what every decision about a study starts from.
func (v *Vault) question(st *study) (policy.Input, error) {
	s, err := policy.NewStudy(st.id, st.submission.SpecBytes)
	if err != nil {
		return policy.Input{}, err
	}
	f, err := policy.NewFederation(st.roster, st.submission.Team, st.spec.Sites.Only)
	if err != nil {
		return policy.Input{}, err
	}
	return policy.Input{Now: v.cfg.Now().Unix(), Study: s, Federation: f}, nil
}

// decideStudy evaluates the study rules alone. All hospitals get the same k
// and the same permits from it, since they ask the same question under the same
// policy.
func (v *Vault) decideStudy(ctx context.Context, st *study) (policy.Decision, error) {
	in, err := v.question(st)
	if err != nil {
		return policy.Decision{}, err
	}
	return v.decide(ctx, st, policy.PointStudy, in)
}

// Admit implements hatch.Vault: the study rules, this hospital's own rules,
// every transfer that the protocol will make, the rows as they are now, and the
// cohorts opened before. Whatever refuses names its rule.
func (v *Vault) Admit(ctx context.Context, r hatch.AdmitRequest) (hatch.AdmitReply, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.holds(r.Log); err != nil {
		return hatch.AdmitReply{}, err
	}
	st, err := v.begin(r.Study, r.Submission, r.Approval, r.Roster)
	if err != nil {
		return hatch.AdmitReply{}, err
	}
	// The gate asks again for as long as the ledger must be waited for, and every
	// answer below goes into the decision log.
	if err := v.witnessed(ctx, st.site); errors.Is(err, consilium.ErrUnavailable) {
		return hatch.AdmitReply{}, err
	}
	if d, err := v.stop(st, policy.PointSite); err != nil {
		return hatch.AdmitReply{}, err
	} else if d != nil {
		return refusal(*d, nil)
	}
	in, err := v.question(st)
	if err != nil {
		return hatch.AdmitReply{}, err
	}
	study, err := v.decide(ctx, st, policy.PointStudy, in)
	if err != nil {
		return hatch.AdmitReply{}, err
	}
	if !study.Allow {
		return refusal(study, nil)
	}
	st.decided = &study
	in.Site = v.cfg.Facts
	site, err := v.decide(ctx, st, policy.PointSite, in)
	if err != nil {
		return hatch.AdmitReply{}, err
	}
	if !site.Allow {
		return refusal(site, nil)
	}
	if site.MinCohort > study.MinCohort {
		return reply(hatch.AdmitReply{Code: "MIN_COHORT", Reason: fmt.Sprintf("this hospital's rules ask for cohorts of at least %d; set privacy.min_cohort to that", site.MinCohort)}, site, nil)
	}
	columns, err := v.decide(ctx, st, policy.PointColumns, in)
	if err != nil {
		return hatch.AdmitReply{}, err
	}
	if !columns.Allow {
		return refusal(columns, nil)
	}
	sent, err := v.decideTransfers(ctx, st, in)
	if err != nil {
		return hatch.AdmitReply{}, err
	}
	if !sent.Allow {
		return refusal(sent, nil)
	}
	// The rows are judged now, so that a study that could not run is declined
	// before anybody enrols; every round judges them again.
	u, err := v.use(ctx, st, 0)
	if err != nil {
		if errors.Is(err, consilium.ErrUnavailable) {
			return hatch.AdmitReply{}, err
		}
		if errors.Is(err, consilium.ErrData) || errors.Is(err, consilium.ErrLedger) {
			v.cfg.Log.Error("study declined", "study", string(st.id), "err", err)
			return declined(site, string(consilium.CodeOf(err)), err, nil)
		}
		return hatch.AdmitReply{}, err
	}
	cohort := v.openedCohort(st, u)
	site, why, err := v.decideCohort(ctx, st, cohort)
	switch {
	case err != nil:
		return hatch.AdmitReply{}, err
	case errors.Is(why, consilium.ErrOverlap):
		return declined(site, string(consilium.CodeOf(why)), why, nil)
	case why != nil:
		return refusal(site, nil)
	}
	// A rehearsal reads the rows as a round does: the book and the trail say so,
	// whatever comes of it.
	if err := v.book.reads(*cohort); err != nil {
		return hatch.AdmitReply{}, err
	}
	if err := v.rehearse(ctx, st, in.Federation, u); err != nil {
		if ctx.Err() != nil {
			return hatch.AdmitReply{}, ctx.Err()
		}
		if errors.Is(err, hatch.ErrStorage) {
			return hatch.AdmitReply{}, err
		}
		v.cfg.Log.Error("study declined", "study", string(st.id), "err", err)
		if errors.Is(err, errBudget) { // how much is left stays here
			return reply(hatch.AdmitReply{Code: "BUDGET", Reason: "this hospital's privacy budget does not last for this study; ask for a smaller privacy.dp.epsilon"}, site, u.records)
		}
		return declined(site, string(consilium.CodeOf(err)), err, u.records)
	}
	return allowed(st.needs, site, u.records)
}

// decideTransfers asks about everything that the protocol sends, and records each
// answer. It returns the first denial, or the last permission.
func (v *Vault) decideTransfers(ctx context.Context, st *study, in policy.Input) (policy.Decision, error) {
	all, err := st.engine.DecideTransfers(ctx, in, v.transfers(st, in.Federation))
	if err != nil {
		return policy.Decision{}, err
	}
	_, err = v.decisions.AppendTransfers(v.entry(st, policy.AuditEntry{Input: in}), all)
	return all[len(all)-1].Decision, logged(err)
}

// transfers lists what the protocol sends, to whom.
func (v *Vault) transfers(st *study, f *policy.Federation) []policy.Artefact {
	n := len(f.Sites)
	faults := st.spec.Sites.Faults
	if faults == 0 {
		faults = consilium.DefaultFaults(n, st.spec.Sites.Min)
	}
	t := consilium.Threshold(n, faults)
	var out []policy.Artefact
	for _, c := range f.Coordinators {
		for _, class := range []string{policy.ClassCiphertext, policy.ClassKeyShare, policy.ClassOpeningShare, policy.ClassSealedState} {
			out = append(out, policy.Artefact{Class: class, To: c.ID, Role: "coordinator", KeySharesReachable: faults, Threshold: t})
		}
	}
	for _, s := range f.Sites {
		if s.ID == string(v.cfg.Site) {
			continue
		}
		for _, class := range []string{policy.ClassAggregate, policy.ClassRoundState} {
			out = append(out, policy.Artefact{Class: class, To: s.ID, Role: "site", KeySharesReachable: t, Threshold: t})
		}
	}
	return append(out, policy.Artefact{Class: policy.ClassResult, To: f.Team.ID, Role: "team", KeySharesReachable: 0, Threshold: t})
}

// reply completes an answer with the decision and its record.
func reply(out hatch.AdmitReply, d policy.Decision, records []hatch.Record) (hatch.AdmitReply, error) {
	var err error
	if out.Decision, err = d.Digest(); err != nil {
		return hatch.AdmitReply{}, err
	}
	rec, err := decisionRecord(d)
	if err != nil {
		return hatch.AdmitReply{}, err
	}
	out.Records = append([]hatch.Record{rec}, records...)
	return out, nil
}

func allowed(needs uint64, d policy.Decision, records []hatch.Record) (hatch.AdmitReply, error) {
	return reply(hatch.AdmitReply{Allow: true, Memory: needs}, d, records)
}

func refusal(d policy.Decision, records []hatch.Record) (hatch.AdmitReply, error) {
	return reply(hatch.AdmitReply{Code: d.Code(), Reason: d.Err().Error()}, d, records)
}

// declined refuses for a reason that is not a rule's: the outward text is the
// sentinel's, the hospital's own log has the rest.
func declined(d policy.Decision, code string, why error, records []hatch.Record) (hatch.AdmitReply, error) {
	reason := "an error at the hospital; its log says more"
	var e *consilium.Error
	if errors.As(why, &e) {
		reason = e.Msg
	}
	return reply(hatch.AdmitReply{Code: code, Reason: reason}, d, records)
}

// decideRelease asks whether the opened result may go to the team.
func (v *Vault) decideRelease(ctx context.Context, st *study, doc []byte, r hatch.ReleaseRequest) (policy.Decision, error) {
	in, err := v.question(st)
	if err != nil {
		return policy.Decision{}, err
	}
	in.Site = v.cfg.Facts
	if in.Release, err = v.releaseFacts(st, doc, r.Contributors); err != nil {
		return policy.Decision{}, err
	}
	return v.decide(ctx, st, policy.PointRelease, in)
}

// releaseFacts describes an opened result to the rules.
func (v *Vault) releaseFacts(st *study, doc []byte, contributors []consilium.Position) (*policy.ReleaseFacts, error) {
	patients, err := leastPatients(doc)
	if err != nil {
		return nil, err
	}
	prior, err := v.priors(st, contributors)
	if err != nil {
		return nil, err
	}
	out := &policy.ReleaseFacts{
		Patients: patients, Contributors: len(contributors), SmallestCell: smallestCell(doc, st.facts), DP: st.spec.Privacy.DP != nil,
		Prior: prior, ContainsRecords: len(contributors) < 2 || v.identifies(st, doc),
	}
	if out.DP {
		if out.EpsilonSpentMicro, out.EpsilonBudgetMicro, err = v.budget.account(v.cfg.Budget.orDefault()); err != nil {
			return nil, err
		}
	}
	return out, nil
}
