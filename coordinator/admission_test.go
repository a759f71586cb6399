package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/internal/canon"
	"consilium/policy"
)

type deadLog struct{}

func (deadLog) Append(policy.AuditEntry) (policy.AuditRecord, error) {
	return policy.AuditRecord{}, errors.New("no space left")
}

// admissible is a study that the default board's policy admits, and that policy.
func admissible(t *testing.T) (AdmissionRequest, func(consilium.Digest) (*policy.Engine, error)) {
	t.Helper()
	spec := &consilium.Spec{
		APIVersion: consilium.APIVersion, Kind: "Study", Name: "interferon", Question: "Does it help this one patient?", Purpose: policy.DefaultPurpose(),
		Data: consilium.DataRef{Dataset: "cgd", Patient: "id"}, Sites: consilium.SiteRule{Min: 5, Missing: "wait"},
		Columns: []consilium.Column{{Name: "id", Type: consilium.TypeID, Tag: "R"}, {Name: "age", Type: consilium.TypeInteger, Bounds: &[2]float64{0, 89}}},
		Seed:    1, Analyses: []consilium.AnalysisSpec{{Name: "ages", Type: consilium.AnalysisDescribe, Variables: []string{"age"}}},
		Privacy: consilium.Privacy{MinCohort: 11, Permits: []string{}}, Rounds: consilium.Rounds{Max: 25, Tolerance: 1e-9, Deadline: 120},
	}
	spec.Legal = policy.DefaultLegal(spec)
	payload, err := canon.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	engine, err := policy.Compile(policy.DefaultBoard([]string{}))
	if err != nil {
		t.Fatal(err)
	}
	roster := &consilium.Roster{Researchers: []consilium.Researcher{{ID: policy.DefaultTeam, Country: policy.DefaultCountry}},
		Coordinators: []consilium.Coordinator{{ID: "c1", Country: policy.DefaultCountry}}}
	for i := range 6 {
		id := consilium.SiteID(fmt.Sprintf("h%d", i))
		roster.Sites = append(roster.Sites, consilium.Site{ID: id, Operator: string(id), Country: policy.DefaultCountry, Regimes: policy.DefaultRegimes()})
	}
	sub := &consilium.Submission{APIVersion: consilium.APIVersion, Kind: "Submission", NotAfter: time.Now().Unix() + 3600, Team: policy.DefaultTeam, SpecBytes: payload, Policy: engine.Digest(), Token: strings.Repeat("t", 32)}
	submission, err := canon.Marshal(sub)
	if err != nil {
		t.Fatal(err)
	}
	req := AdmissionRequest{Study: consilium.NewStudyID(consilium.DomainSubmission.Digest(submission)), Submission: submission, Roster: roster}
	return req, func(consilium.Digest) (*policy.Engine, error) { return engine, nil }
}

// TestAdmissionIsLogged: the advisory decision is in the node's log, masked and
// chained as the hospitals' are, before it is proposed; without the log there is
// none.
func TestAdmissionIsLogged(t *testing.T) {
	req, find := admissible(t)
	dir := t.TempDir()
	log := NewDecisions(dir, []byte("the node's secret"))
	for range 2 { // a leader that tries again logs again
		allow, record, err := PolicyAdmission("c1", find, log, time.Now)(context.Background(), req)
		if err != nil || !allow {
			t.Fatal(err, string(record))
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "decisions.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if _, n, err := policy.VerifyAudit(bytes.NewReader(b)); err != nil || n != 2 {
		t.Errorf("%d decisions: %v", n, err)
	}
	if !bytes.Contains(b, []byte(`"node":"c1"`)) || bytes.Contains(b, []byte("this one patient")) {
		t.Errorf("the log says %s", b)
	}
	// It goes on where it ended; a changed one is not continued.
	if _, _, err := PolicyAdmission("c1", find, log, time.Now)(context.Background(), req); err != nil {
		t.Error(err)
	}
	log.Close()
	if err := os.WriteFile(filepath.Join(dir, "decisions.jsonl"), bytes.Replace(b, []byte("c1"), []byte("c2"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]DecisionLog{"a changed log": NewDecisions(dir, []byte("the node's secret")), "a full disk": deadLog{}, "no log": nil} {
		if allow, _, err := PolicyAdmission("c1", find, l, time.Now)(context.Background(), req); err == nil || allow {
			t.Errorf("%s: admitted %t", name, allow)
		}
	}
}
