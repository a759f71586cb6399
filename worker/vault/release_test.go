package vault

import (
	"testing"

	"consilium/policy"
)

// TestLeastPatients: an analysis that says why it has no result does not take
// part; everything else counts, and with nobody where it states no patients.
func TestLeastPatients(t *testing.T) {
	for doc, want := range map[string]int64{
		`{"patients":40}`: 40,
		`{"analyses":[{"patients":40},{"patients":12}]}`:                                       12,
		`{"analyses":[{"patients":40},{"error":{"code":"analysis.collinear","message":"m"}}]}`: 40,
		`{"analyses":[{"error":{"code":"analysis.collinear","message":"m"}}]}`:                 policy.Never,
		`{"error":{"code":"analysis.collinear","message":"m"}}`:                                policy.Never,
		`{"analyses":[{"patients":4,"error":null},{"patients":40}]}`:                           4,
		`{"analyses":[{"patients":4,"error":{}}]}`:                                             4,
		`{"analyses":[{"error":{"message":"no code"}},{"patients":40}]}`:                       0,
		`{"analyses":[]}`: 0,
		`{}`:              0,
	} {
		got, err := leastPatients([]byte(doc))
		if err != nil || got != want {
			t.Errorf("%s: %d %v, want %d", doc, got, err, want)
		}
	}
	for _, doc := range []string{``, `[]`, `{"analyses":[{"error":"text"}]}`, `{"patients":"many"}`} {
		if got, err := leastPatients([]byte(doc)); err == nil {
			t.Errorf("%q is taken for a result about %d patients", doc, got)
		}
	}
}
