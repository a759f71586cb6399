package vault

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hatch"
	"consilium/policy"
)

// asked is a vault with what decisions need, and a study that its rules allow.
func asked(t *testing.T, minCohort int) (*Vault, *study) {
	t.Helper()
	bounds := [2]float64{0, 89}
	spec := &consilium.Spec{
		APIVersion: consilium.APIVersion, Kind: "Study", Name: "interferon", Question: "Does it help?", Purpose: policy.DefaultPurpose(),
		Data: consilium.DataRef{Dataset: "cgd", Patient: "id"}, Sites: consilium.SiteRule{Min: 5, Missing: "wait"},
		Columns: []consilium.Column{{Name: "id", Type: consilium.TypeID, Tag: "R"}, {Name: "age", Type: consilium.TypeInteger, Bounds: &bounds}},
		Seed:    1, Analyses: []consilium.AnalysisSpec{{Name: "ages", Type: consilium.AnalysisDescribe, Variables: []string{"age"}}},
		Privacy: consilium.Privacy{MinCohort: 11, Permits: []string{}}, Rounds: consilium.Rounds{Max: 25, Tolerance: 1e-9, Deadline: 120},
	}
	spec.Legal = policy.DefaultLegal(spec)
	payload, err := canon.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	roster := &consilium.Roster{Researchers: []consilium.Researcher{{ID: policy.DefaultTeam, Country: policy.DefaultCountry}},
		Coordinators: []consilium.Coordinator{{ID: "c1", Country: policy.DefaultCountry}}}
	for i := range 6 {
		id := consilium.SiteID(fmt.Sprintf("h%d", i))
		roster.Sites = append(roster.Sites, consilium.Site{ID: id, Operator: string(id), Country: policy.DefaultCountry, Regimes: policy.DefaultRegimes()})
	}
	engine, err := policy.Compile(policy.DefaultBoard([]string{}))
	if err != nil {
		t.Fatal(err)
	}
	facts, err := policy.DefaultSite("h0")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	v := &Vault{cfg: Config{Site: "h0", Dir: dir, Pseudonym: bytes.Repeat([]byte{7}, 32), Facts: facts, Now: time.Now}}
	if err := v.openDecisions(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.decisions.Close() })
	if v.book, err = openCohortBook(filepath.Join(dir, "cohorts")); err != nil {
		t.Fatal(err)
	}
	return v, &study{id: consilium.NewStudyID(consilium.DomainSubmission.Digest([]byte("now"))), spec: spec, roster: roster, engine: engine,
		submission: &consilium.Submission{SpecBytes: payload, Team: policy.DefaultTeam}, decided: &policy.Decision{Allow: true, MinCohort: minCohort}}
}

func (v *Vault) logged(t *testing.T) (out []policy.AuditRecord) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(v.cfg.Dir, "decisions.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 1<<22)
	for lines.Scan() {
		var rec policy.AuditRecord
		if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
			t.Fatal(err)
		}
		out = append(out, rec)
	}
	return out
}

// TestEveryDecisionIsLogged: each transfer has its record, up to the one that is
// denied; and where the comparison in code refuses what the rule allows, the log
// does not end with the rule's permission.
func TestEveryDecisionIsLogged(t *testing.T) {
	v, st := asked(t, 20)
	in, err := v.question(st)
	if err != nil {
		t.Fatal(err)
	}
	in.Site = v.cfg.Facts
	d, err := v.decideTransfers(t.Context(), st, in)
	if err != nil || !d.Allow {
		t.Fatal(err, policy.Explain(d))
	}
	want := len(v.transfers(st, in.Federation))
	log := v.logged(t)
	if len(log) != want || want != 4+2*5+1 {
		t.Errorf("%d of %d transfers are logged", len(log), want)
	}
	seen := map[string]bool{}
	for _, rec := range log {
		if rec.Decision.Point != policy.PointTransfer || seen[rec.InputMAC] {
			t.Errorf("line %d: %s, a question that stands twice: %t", rec.Seq, rec.Decision.Point, seen[rec.InputMAC])
		}
		seen[rec.InputMAC] = true
	}

	// The rule's k is 11; the study's is 20, as all hospitals agreed.
	people := func(n int) (out []policy.Member) {
		for i := range n {
			m := consilium.DomainCohort.Digest(fmt.Appendf(nil, "%d", i))
			out = append(out, policy.Member(m[:]))
		}
		return out
	}
	cohort := func(study string, n int) openedCohort {
		return openedCohort{OpenedCohort: policy.OpenedCohort{Study: consilium.NewStudyID(consilium.DomainSubmission.Digest([]byte(study))), Columns: []string{"age"}, Patients: people(n)},
			Dataset: "cgd", Contents: people(n)}
	}
	if err := v.book.add(cohort("before", 60)); err != nil {
		t.Fatal(err)
	}
	next := cohort("now", 45)
	d, why, err := v.decideCohort(t.Context(), st, &next)
	if err != nil || !errors.Is(why, consilium.ErrOverlap) || d.Allow {
		t.Fatalf("15 patients fewer where 20 are asked for: %v, %v, %s", err, why, policy.Explain(d))
	}
	log = v.logged(t)[want:]
	if len(log) != 2 || !log[0].Decision.Allow || log[1].Decision.Allow || log[1].Decision.Code() != "COHORT_OVERLAP" || log[1].Decision.Reasons[0].Regime != "ENGINE" {
		t.Errorf("the log says %+v", log)
	}
}

// TestCutLog: a decision log that lacks the line which the hospital's signed trail
// names decides nothing. The naive twin, which trusts its own chain, goes on.
func TestCutLog(t *testing.T) {
	v, st := asked(t, 11)
	if _, err := v.decideStudy(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	if _, err := v.decideStudy(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	head, _ := v.decisions.Head()
	if err := v.holds(head); err != nil {
		t.Fatal(err)
	}
	v.decisions.Close()
	path := filepath.Join(v.cfg.Dir, "decisions.jsonl")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, rest := range map[string][]byte{"removed": nil, "cut short": b[:bytes.IndexByte(b, '\n')+1]} {
		if err := os.WriteFile(path, rest, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := v.openDecisions(); err != nil {
			t.Errorf("%s: the naive twin notices something: %v", name, err)
		}
		if _, err := v.Admit(t.Context(), hatch.AdmitRequest{Log: head}); !errors.Is(err, consilium.ErrPolicy) || !strings.Contains(err.Error(), "signed trail names") {
			t.Errorf("%s: admission goes on: %v", name, err)
		}
		if _, err := v.Start(t.Context(), hatch.StartRequest{Log: head}); !errors.Is(err, consilium.ErrPolicy) {
			t.Errorf("%s: a start goes on: %v", name, err)
		}
		v.decisions.Close()
	}
	if err := v.openDecisions(); err != nil {
		t.Fatal(err)
	}
}

// TestStopsAreThere: the directory of stops is made with the vault, and a vault
// whose directory was taken away reads nothing.
func TestStopsAreThere(t *testing.T) {
	v, st := asked(t, 11)
	if err := v.stopped(st, policy.PointRows); !errors.Is(err, consilium.ErrPolicy) {
		t.Errorf("no directory of stops: %v", err)
	}
	if err := os.Mkdir(StopDir(v.cfg.Dir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := v.stopped(st, policy.PointRows); err != nil {
		t.Error(err)
	}
}
