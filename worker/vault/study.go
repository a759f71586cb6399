package vault

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/apache/arrow/go/v17/arrow"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/fixed"
	"consilium/internal/hatch"
	"consilium/models"
	"consilium/policy"
)

// study is what the vault holds of one study between its calls.
type study struct {
	id         consilium.StudyID
	submission *consilium.Submission
	approval   *consilium.Approval
	spec       *consilium.Spec
	roster     *consilium.Roster
	site       *consilium.Site
	engine     *policy.Engine
	decided    *policy.Decision // of the study rules, while the study is being admitted
	needs      uint64           // bytes, estimated while it is being admitted

	// From Start on.
	charter  *consilium.Charter
	digest   consilium.Digest
	position consilium.Position
	places   []consilium.Position // of the charter's members among facts.Sites, by position
	facts    consilium.Facts
	analysis models.Analysis
	state    *models.State // nil: lost in an update that did not end; Adopt brings it back
	round    uint32        // the round that state is for

	// The rows, from the first use on.
	data    *dataset
	record  arrow.Record // projected and derived
	people  *people
	control *control
	kept    *kept

	memory *siteMemory
	given  *pendingCohort // of the last contribution computed, as it is on disk; nil: the disk says
	lanes  *fixed.Vector
	made   uint32 // the round of lanes, contributed or audited
	sums   *openedSums
	opened uint32 // the round of sums
	tidier tidier
}

// begin parses what a request names and finds the pinned policy.
func (v *Vault) begin(id consilium.StudyID, submission, approval, roster []byte) (*study, error) {
	st := &study{id: id}
	var err error
	if st.submission, st.approval, st.spec, err = parseStudy(submission, approval); err != nil {
		return nil, err
	}
	if consilium.NewStudyID(consilium.DomainSubmission.Digest(submission)) != id || st.approval.Study != id {
		return nil, consilium.ErrInvalid.Withf("submission and approval are of another study")
	}
	now := v.cfg.Now().Unix()
	if now < st.approval.NotBefore || now >= st.approval.NotAfter {
		err := consilium.ErrStale.Withf("the board's approval is valid from %s to %s",
			time.Unix(st.approval.NotBefore, 0).UTC().Format(time.DateOnly), time.Unix(st.approval.NotAfter, 0).UTC().Format(time.DateOnly))
		if now < st.approval.NotBefore { // the time comes, or the clock was set back
			return nil, &consilium.Error{Code: consilium.ErrUnavailable.Code, Msg: "the study waits", Next: "set this machine's clock", Err: err}
		}
		return nil, err
	}
	if st.roster, st.site, err = v.parseRoster(roster); err != nil {
		return nil, err
	}
	if st.engine, err = v.cfg.Policies(st.submission.Policy); err != nil {
		return nil, err
	}
	if st.engine.Digest() != st.submission.Policy {
		return nil, consilium.ErrPolicy.Withf("the installed policy is not the one that the study names")
	}
	return st, nil
}

// Start implements hatch.Vault.
func (v *Vault) Start(ctx context.Context, r hatch.StartRequest) (hatch.Shape, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.holds(r.Log); err != nil {
		return hatch.Shape{}, err
	}
	old := v.studies[r.Study]
	if old != nil && old.digest == consilium.CharterDigest(r.Charter) && old.state != nil {
		return old.shape()
	}
	st, err := v.begin(r.Study, r.Submission, r.Approval, r.Roster)
	if err != nil {
		return hatch.Shape{}, err
	}
	if err := v.stopped(st, policy.PointSite); err != nil {
		return hatch.Shape{}, err
	}
	if st.charter, err = consilium.ParseCharter(r.Charter); err != nil {
		return hatch.Shape{}, consilium.ErrInvalid.With(err)
	}
	st.digest, st.position = consilium.CharterDigest(r.Charter), r.Position
	if m := st.charter.Member(r.Position); m == nil || m.Site != v.cfg.Site {
		return hatch.Shape{}, consilium.ErrNotMember.Withf("position %d is not %s", r.Position, v.cfg.Site)
	}
	if st.charter.Spec != consilium.SpecDigest(st.submission.SpecBytes) || st.charter.Policy != st.submission.Policy {
		return hatch.Shape{}, consilium.ErrInvalid.Withf("the charter is of another study")
	}
	decision, err := v.decideStudy(ctx, st)
	if err != nil {
		return hatch.Shape{}, err
	}
	if err := decision.Err(); err != nil {
		return hatch.Shape{}, err
	}
	st.facts = consilium.Facts{Spec: st.spec, MinCohort: decision.MinCohort, Permits: decision.Permits}
	st.facts.Sites = slices.Clone(r.Sites)
	for i := range st.charter.Members {
		if r.Sites == nil {
			st.facts.Sites = append(st.facts.Sites, st.charter.Members[i].Site)
		}
		at := slices.Index(st.facts.Sites, st.charter.Members[i].Site)
		if at < 0 {
			return hatch.Shape{}, consilium.ErrInvalid.Withf("%s is a member and not among the study's hospitals", st.charter.Members[i].Site)
		}
		st.places = append(st.places, consilium.Position(at+1))
	}
	if st.analysis, err = models.New(st.facts, v.cfg.Learned); err != nil {
		return hatch.Shape{}, err
	}
	if st.state, err = st.analysis.Start(st.facts); err != nil {
		return hatch.Shape{}, err
	}
	if st.memory, err = loadMemory(v.cfg.Dir, r.Study); err != nil {
		return hatch.Shape{}, err
	}
	st.round = 1
	if err := v.replays.sweep(); err != nil {
		return hatch.Shape{}, err
	}
	if err := v.replays.add(st.id, replayStart, startedReplay{Submission: r.Submission, Approval: r.Approval, Roster: r.Roster, Charter: r.Charter, Sites: st.facts.Sites, Position: st.places[st.position-1],
		MinCohort: st.facts.MinCohort, Permits: st.facts.Permits, Assume: v.cfg.Assume, DeleteBy: deleteBy(st.spec)}); err != nil {
		return hatch.Shape{}, err
	}
	if old != nil { // another epoch: the rows, and what is remembered of them, are the study's
		st.data, st.record, st.people, st.given = old.data, old.record, old.people, old.given
		st.memory = old.memory
		old.drop()
	}
	v.studies[r.Study] = st
	return st.shape()
}

// frozen reports whether the study's sums are exact: then contributors and
// rows are frozen by the first opening. Only a learned model whose study lets
// hospitals go missing, or differential privacy, may go on with others.
func (st *study) frozen() bool {
	if st.spec.Privacy.DP != nil {
		return false
	}
	for i := range st.spec.Analyses {
		if st.spec.Analyses[i].Type != consilium.AnalysisTrain {
			return true
		}
	}
	return st.spec.Sites.Missing != "continue"
}

// shape describes the state that the study has. A long one is not part of it:
// State reads it.
func (st *study) shape() (hatch.Shape, error) {
	out := hatch.Shape{Size: st.state.Size(), Frozen: st.frozen(), Done: st.state.Done}
	if out.Size <= hatch.WholeState {
		out.State = st.state.Append(nil)
	}
	if out.Done {
		return out, nil
	}
	var err error
	out.Layout, err = st.analysis.Layout(st.state)
	return out, err
}

// take is the state that the gate hands over or names: the one that is here, if it
// is that.
func (st *study) take(b []byte, held consilium.Digest) (*models.State, error) {
	if !held.IsZero() {
		if st.state == nil || stateDigest(st.state) != held {
			return nil, consilium.ErrBlobMissing.Withf("the vault does not have this state")
		}
		return st.state, nil
	}
	if st.state != nil && st.state.Is(b) {
		return st.state, nil
	}
	s, err := models.Parse(st.analysis, b)
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	return s, nil
}

// drop lets go of what is about one round.
func (st *study) drop() {
	st.sums.close()
	st.sums, st.lanes = nil, nil
}

func (v *Vault) find(id consilium.StudyID) (*study, error) {
	st, ok := v.studies[id]
	if !ok || st.analysis == nil {
		return nil, consilium.ErrUnknownStudy.Withf("study %s has not started in this vault", id)
	}
	return st, nil
}

// errLost is what a study without a state says. The gate has the state of every
// open round on its disk.
var errLost = &consilium.Error{Code: consilium.ErrUnavailable.Code, Msg: "the study's state was lost in an update that did not end", Next: "the gate hands it over again"}

// findState is find for what needs the study's state.
func (v *Vault) findState(id consilium.StudyID) (*study, error) {
	st, err := v.find(id)
	if err == nil && st.state == nil {
		return nil, errLost
	}
	return st, err
}

// State implements hatch.Vault.
func (v *Vault) State(_ context.Context, id consilium.StudyID, offset, count int) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	st, err := v.findState(id)
	if err != nil {
		return nil, err
	}
	have := st.state.Size()
	if offset < 0 || count < 0 || offset > have || count > min(have-offset, hatch.WholeState) {
		return nil, consilium.ErrInvalid.Withf("%d bytes from %d of a state of %d, %d at a time", count, offset, have, hatch.WholeState)
	}
	st.tidier.pass(count, have)
	b := make([]byte, count)
	if _, err := st.state.ReadAt(b, int64(offset)); err != nil {
		return nil, err
	}
	return b, nil
}

// Adopt implements hatch.Vault.
func (v *Vault) Adopt(_ context.Context, r hatch.AdoptRequest) (hatch.Shape, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	st, err := v.find(r.Study)
	if err != nil {
		return hatch.Shape{}, err
	}
	state, err := st.take(r.State, r.Held)
	if err != nil {
		return hatch.Shape{}, err
	}
	// What Update made here is known, and what was lost is what it began with.
	if keepable(state, consilium.Layout{}) && (st.round != r.Round+1 || state != st.state && st.state != nil) {
		if err := v.replays.add(st.id, replayAdopt, adoptReplay{r.Round, state.Append(nil)}); err != nil {
			return hatch.Shape{}, err
		}
	}
	st.state, st.round = state, r.Round+1
	return st.shape()
}

// Sums implements hatch.Vault.
func (v *Vault) Sums(_ context.Context, id consilium.StudyID, round uint32, offset int, sums []int64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	st, err := v.findState(id)
	if err != nil {
		return err
	}
	if round != st.round {
		return consilium.ErrRoundClosed.Withf("sums of round %d, the vault is at %d", round, st.round)
	}
	if offset == 0 {
		layout, err := st.analysis.Layout(st.state)
		if err != nil {
			return err
		}
		st.drop()
		if st.sums, err = newOpenedSums(v.cfg.Dir, layout.Lanes()); err != nil {
			return err
		}
		st.opened = round
	}
	if st.sums == nil || st.opened != round {
		return consilium.ErrInvalid.Withf("sums from %d, want from 0", offset)
	}
	st.tidier.pass(len(sums), st.state.Size())
	return st.sums.add(offset, sums)
}

// Opened implements hatch.Vault.
func (v *Vault) Opened(_ context.Context, id consilium.StudyID, round uint32) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	st, err := v.find(id)
	if err != nil {
		return err
	}
	st.memory.settle(round)
	return nil
}

// Opening implements hatch.Vault.
func (v *Vault) Opening(_ context.Context, id consilium.StudyID, round uint32) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	st, err := v.find(id)
	if err != nil {
		return err
	}
	cohort, err := v.contributed(st, round)
	if err != nil {
		return err
	}
	if err := v.stopped(st, policy.PointTransfer); err != nil {
		return err
	}
	if err := v.book.add(*cohort); err != nil {
		return err
	}
	// The vector is spooled, encrypted, by now; an attempt that must make it again
	// asks for Local again. Sums and lanes are never held together.
	if st.lanes = nil; st.state != nil {
		st.tidier.pass(st.state.Size(), st.state.Size()) // what the local step left
	}
	return nil
}

// Release implements hatch.Vault.
func (v *Vault) Release(ctx context.Context, r hatch.ReleaseRequest) (hatch.ReleaseReply, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	st, err := v.findState(r.Study)
	if err != nil {
		return hatch.ReleaseReply{}, err
	}
	if !st.state.Done {
		return hatch.ReleaseReply{}, consilium.ErrWrongPhase.Withf("the analysis has not ended")
	}
	if err := v.stopped(st, policy.PointRelease); err != nil {
		return hatch.ReleaseReply{}, err
	}
	res, err := st.analysis.Result(st.state)
	if err != nil {
		return hatch.ReleaseReply{}, err
	}
	doc, err := v.resultDocument(st, res, r.Contributors)
	if err != nil {
		return hatch.ReleaseReply{}, err
	}
	decision, err := v.decideRelease(ctx, st, doc, r)
	if err != nil {
		return hatch.ReleaseReply{}, err
	}
	digest, err := decision.Digest()
	if err != nil {
		return hatch.ReleaseReply{}, err
	}
	rec, err := decisionRecord(decision)
	if err != nil {
		return hatch.ReleaseReply{}, err
	}
	if err := v.replays.add(st.id, replayResult, resultReplay{r.Contributors, consilium.DomainResult.Digest(doc)}); err != nil {
		return hatch.ReleaseReply{}, err
	}
	out := hatch.ReleaseReply{Allow: decision.Allow, Decision: digest, Result: doc, Files: res.Files, Records: []hatch.Record{rec}}
	if !decision.Allow {
		out.Code, out.Reason = decision.Code(), decision.Err().Error()
		out.Result, out.Files = nil, nil
	}
	return out, nil
}

// resultDocument is the `result` half of result.json: the same bytes at every
// hospital and on every run over the same rows.
func (v *Vault) resultDocument(st *study, res *models.Result, contributors []consilium.Position) ([]byte, error) {
	return v.document(st, res, contributors, v.cfg.Assume)
}

func (v *Vault) document(st *study, res *models.Result, contributors []consilium.Position, assume []string) ([]byte, error) {
	sites := resultSites{Enrolled: len(st.charter.Members), Contributed: len(contributors), Excluded: []consilium.SiteID{}, Contributors: []consilium.SiteID{}}
	for i := range st.charter.Members {
		if slices.Contains(contributors, consilium.Position(i+1)) {
			sites.Contributors = append(sites.Contributors, st.charter.Members[i].Site)
		} else {
			sites.Excluded = append(sites.Excluded, st.charter.Members[i].Site)
		}
	}
	for _, id := range st.facts.Sites {
		if _, member := st.charter.Position(id); !member {
			sites.Left = append(sites.Left, id)
		}
	}
	return assemble(res.JSON, map[string]any{
		"study": st.spec.Name, "question": st.spec.Question, "spec": consilium.SpecDigest(st.submission.SpecBytes),
		"sites": sites, "min_cohort": st.facts.MinCohort, "permits": append([]string{}, st.facts.Permits...), "dp": st.spec.Privacy.DP,
	}, assume)
}

type resultSites struct {
	Enrolled     int                `json:"enrolled"`
	Contributed  int                `json:"contributed"`
	Contributors []consilium.SiteID `json:"contributors"`
	Excluded     []consilium.SiteID `json:"excluded"`       // enrolled, not in the opened set
	Left         []consilium.SiteID `json:"left,omitempty"` // members of an earlier epoch only
}

func decisionRecord(d policy.Decision) (hatch.Record, error) {
	b, err := d.Encode()
	if err != nil {
		return hatch.Record{}, err
	}
	return hatch.Record{Type: "decision", JSON: b}, nil
}

func record(kind string, body any) (hatch.Record, error) {
	b, err := canon.Marshal(body)
	if err != nil {
		return hatch.Record{}, fmt.Errorf("%s record: %w", kind, err)
	}
	return hatch.Record{Type: kind, JSON: b}, nil
}
