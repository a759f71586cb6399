package policy

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"consilium"
)

var auditKey = []byte("0123456789abcdef0123456789abcdef")

// logged writes three decisions and returns the log and the questions.
func logged(t *testing.T, e *Engine, path string) map[uint64]Input {
	t.Helper()
	a, err := OpenAudit(path, auditKey)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	inputs := map[uint64]Input{}
	for _, c := range []struct {
		point  Point
		change func(*consilium.Spec)
	}{{PointSite, nil}, {PointSite, func(s *consilium.Spec) { s.Purpose.Class = "insurance" }}, {PointColumns, nil}} {
		in := testInput(t, "amsterdam", c.change)
		d, err := e.Decide(t.Context(), c.point, in)
		if err != nil {
			t.Fatal(err)
		}
		rec, err := a.Append(AuditEntry{Time: testNow, Node: "amsterdam", Point: c.point, Input: in, Decision: d})
		if err != nil {
			t.Fatal(err)
		}
		inputs[rec.Seq] = in
	}
	in := testInput(t, "amsterdam", nil)
	spec, _ := testSpec(t, nil)
	rows, err := e.FilterRows(t.Context(), in, SubjectRecord([]Subject{DefaultSubject([16]byte{1}, spec, testNow)}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Append(AuditEntry{Time: testNow, Node: "amsterdam", Round: 1, Point: PointRows, Input: in, Rows: &rows}); err != nil {
		t.Fatal(err)
	}
	return inputs
}

func TestAudit(t *testing.T) {
	e := demoEngine(t)
	path := filepath.Join(t.TempDir(), "decisions.jsonl")
	inputs := logged(t, e, path)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, n, err := VerifyAudit(bytes.NewReader(b))
	if err != nil || n != 4 {
		t.Fatal(n, err)
	}
	// Another byte anywhere, a line left out, doubled or moved: found, or the
	// head differs.
	for i := 0; i < len(b); i += 97 {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if h, m, err := VerifyAudit(bytes.NewReader(bad)); err == nil && h == head && m == n {
			t.Fatalf("byte %d changed unseen", i)
		}
	}
	lines := bytes.SplitAfter(b, []byte("\n"))
	for name, l := range map[string][][]byte{"left out": {lines[0], lines[2]}, "doubled": {lines[0], lines[0]}, "moved": {lines[1], lines[0]}, "first cut": {lines[1]}} {
		if _, _, err := VerifyAudit(bytes.NewReader(bytes.Join(l, nil))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// Masked: what the schema does not allow to stand is not there.
	for _, hidden := range []string{"retention justification", "identifiableReason", "Does it help?", "withdrawn_at", "hra_genetic", "persons"} {
		if bytes.Contains(b, []byte(hidden)) {
			t.Errorf("%q stands in the log", hidden)
		}
	}
	if !bytes.Contains(b, []byte(`"country":"NL"`)) || !bytes.Contains(b, []byte(`"rows_in":1`)) {
		t.Error("the log lacks what the schema keeps")
	}
	// Reopened, it goes on; a line that a crash cut short is gone.
	if err := os.WriteFile(path, append(bytes.Clone(b), []byte(`{"seq":5,"ti`)...), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := OpenAudit(path, auditKey)
	if err != nil {
		t.Fatal(err)
	}
	if h, m := a.Head(); h != head || m != 4 {
		t.Errorf("reopened at %d", m)
	}
	// What another record says of this log, it holds; a log that was removed or cut
	// short is a valid chain and does not.
	if !a.Holds(head) || !a.Holds(consilium.Digest{}) || a.Holds(consilium.Digest{1}) {
		t.Error("the log does not know its own lines")
	}
	for name, rest := range map[string][]byte{"removed": nil, "cut": b[:bytes.LastIndexByte(b[:len(b)-1], '\n')+1]} {
		short := filepath.Join(t.TempDir(), "decisions.jsonl")
		if err := os.WriteFile(short, rest, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := OpenAudit(short, auditKey)
		if err != nil {
			t.Fatal(err)
		}
		if c.Holds(head) {
			t.Errorf("%s: holds a line that is not there", name)
		}
		c.Close()
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Append(AuditEntry{Point: PointSite}); err == nil {
		t.Error("a closed log is written")
	}
	if err := os.WriteFile(path, bytes.Replace(b, []byte("amsterdam"), []byte("amsterdan"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAudit(path, auditKey); err == nil {
		t.Error("an altered log is continued")
	}
	// Replayed under its own policy nothing changes; under the core alone the
	// board's part does.
	find := func(r AuditRecord) (Input, bool) { in, ok := inputs[r.Seq]; return in, ok }
	changed, err := e.Replay(t.Context(), bytes.NewReader(b), auditKey, find)
	if err != nil || len(changed) != 0 {
		t.Errorf("%v: %+v", err, changed)
	}
	changed, err = Default().Replay(t.Context(), bytes.NewReader(b), auditKey, find)
	if err != nil || len(changed) != 2 || !changed[0].Before.Allow || changed[0].After.Allow {
		t.Errorf("under the core alone: %v, %d changed", err, len(changed))
	}
	inputs[1] = inputs[2]
	changed, err = e.Replay(t.Context(), bytes.NewReader(b), auditKey, find)
	if err != nil || len(changed) != 1 || changed[0].Unproven == "" {
		t.Errorf("another question passes for the logged one: %v %+v", err, changed)
	}
	changed, _ = e.Replay(t.Context(), bytes.NewReader(b), auditKey, func(AuditRecord) (Input, bool) { return Input{}, false })
	if len(changed) != 3 || changed[0].Unproven == "" {
		t.Errorf("missing questions pass: %+v", changed)
	}
}

type failing struct{ lines int }

func (f *failing) Append([]byte) error {
	if f.lines--; f.lines < 0 {
		return errors.New("no space left")
	}
	return nil
}

// TestAuditFails: no log, no action, and no record after a failed one.
func TestAuditFails(t *testing.T) {
	to := &failing{lines: 1}
	a, err := NewAudit(to, auditKey, 0, consilium.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	in := testInput(t, "utah", nil)
	entry := AuditEntry{Time: 1, Node: "utah", Point: PointSite, Input: in, Decision: deny(PointSite, CodeUndefined, "x")}
	if _, err := a.Append(entry); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if out := fmt.Sprintf(verb, a); out != "Audit(redacted)" {
			t.Errorf("%s prints %s", verb, out)
		}
	}
	if _, err := a.Append(entry); err == nil || !strings.Contains(err.Error(), "nothing may be done") {
		t.Errorf("%v", err)
	}
	to.lines = 10
	if _, err := a.Append(entry); err == nil {
		t.Error("the log goes on after its end became unknown")
	}
	for _, c := range []struct {
		to   Appender
		key  []byte
		seq  uint64
		prev consilium.Digest
	}{{nil, auditKey, 0, consilium.Digest{}}, {to, auditKey[:8], 0, consilium.Digest{}}, {to, auditKey, 1, consilium.Digest{}}, {to, auditKey, 0, consilium.Digest{1}}} {
		if _, err := NewAudit(c.to, c.key, c.seq, c.prev); err == nil {
			t.Error("a log without its means is made")
		}
	}
}
