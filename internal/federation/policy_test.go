package federation_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/federation"
	"consilium/policy"
	"consilium/worker/vault"
)

// holdDecisions reads every hospital's decision log after a study: it chains,
// every point on the way was decided before the study went on, rows were decided by
// kernels, and nothing in it names a patient or a column's value.
func holdDecisions(t *testing.T, f *federation.Federation, rounds, threshold int) {
	t.Helper()
	released := 0 // a study ends when threshold hospitals have released it
	for _, s := range f.Sites() {
		b, err := os.ReadFile(filepath.Join(s.Dir(), "vault", "decisions.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		if _, n, err := policy.VerifyAudit(bytes.NewReader(b)); err != nil || n == 0 {
			t.Errorf("%s: %d decisions: %v", s.Dir(), n, err)
		}
		points := map[policy.Point]int{}
		lines := bufio.NewScanner(bytes.NewReader(b))
		lines.Buffer(nil, 1<<22)
		for lines.Scan() {
			var rec policy.AuditRecord
			if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
				t.Fatal(err)
			}
			points[rec.Decision.Point]++
			switch {
			case !rec.Decision.Allow:
				t.Errorf("%s: a denial in a study that ended: %s", rec.Node, policy.Explain(rec.Decision))
			case rec.Decision.Point == policy.PointRows && (rec.Path != policy.PathVectorised || rec.Counts == nil || rec.Counts.Out != 0 || rec.Counts.In == 0):
				t.Errorf("%s: rows were decided %s: %+v", rec.Node, rec.Path, rec.Counts)
			case rec.PolicyDigest.IsZero() || len(rec.InputMAC) != 64 || len(rec.InputMasked) < 3:
				t.Errorf("%s: record %d lacks the policy or the input", rec.Node, rec.Seq)
			}
		}
		if points[policy.PointStudy] == 0 || points[policy.PointSite] < rounds+2 || points[policy.PointTransfer] <= 2*(len(f.Sites())-1) ||
			points[policy.PointRows] < rounds || points[policy.PointColumns] < rounds {
			t.Errorf("%s: decided %v in %d rounds", s.Dir(), points, rounds)
		}
		released += min(points[policy.PointRelease], 1)
	}
	if released < threshold {
		t.Errorf("%d hospitals decided about the release, want %d", released, threshold)
	}
}

// stopAll puts one member's stop into every hospital: the same study, asked
// again, is declined by its name.
func stopAll(t *testing.T, f *federation.Federation, spec []byte, digest consilium.Digest) {
	t.Helper()
	payload, err := policy.Stop{Policies: []consilium.Digest{digest}, Reason: "a doubt about the assessment"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := f.Board[1].Signer.Sign(consilium.DomainStop, payload)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := canon.Marshal(consilium.Signed{Payload: payload, Signatures: []consilium.Countersign{{By: f.Board[1].ID, Signature: sig}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range f.Sites() {
		dir := vault.StopDir(filepath.Join(s.Dir(), "vault"))
		if _, err := os.Stat(dir); err != nil {
			t.Fatal("the vault did not make its directory of stops:", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "one.json"), doc, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := f.Run(t.Context(), spec, digest, nil)
	if err != nil {
		t.Fatal(err)
	}
	if out.Phase == consilium.PhaseDone || !strings.Contains(out.Reason, "0 enrolled") || !strings.Contains(out.Reason, "declined: ") {
		t.Errorf("a stopped study is %s: %s", out.Phase, out.Reason)
	}
	for _, s := range f.Sites() {
		b, err := os.ReadFile(filepath.Join(s.Dir(), "vault", "decisions.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
		var rec policy.AuditRecord
		if err := json.Unmarshal(lines[len(lines)-1], &rec); err != nil || rec.Decision.Code() != policy.CodeStopped {
			t.Errorf("%s: the last decision is not the stop: %v %s", s.Dir(), err, policy.Explain(rec.Decision))
		}
	}
}
