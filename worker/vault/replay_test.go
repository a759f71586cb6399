package vault

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"consilium"
)

// TestRetention: a replay goes at the study's own date for working copies, or at
// the hospital's limit, whichever comes first; and one that names no date goes at
// once.
func TestRetention(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	legal := func(retention string) *consilium.Spec {
		return &consilium.Spec{Legal: json.RawMessage(`{"retention": [` + retention + `]}`)}
	}
	day := func(s string) string {
		return fmt.Sprintf(`{"object": "working_copies", "deleteBy": %q, "keepUntil": null}`, s)
	}
	for name, c := range map[string]struct {
		spec *consilium.Spec
		keep time.Duration
		age  time.Duration // of the last record
		kept bool
	}{
		"in time":                    {legal(day("2026-07-01")), 240 * time.Hour, time.Hour, true},
		"the study's date":           {legal(day("2026-06-01")), 240 * time.Hour, time.Hour, false},
		"the earlier of two":         {legal(day("2027-06-01") + "," + day("2026-05-01")), 240 * time.Hour, time.Hour, false},
		"the hospital's limit":       {legal(day("2026-07-01")), 240 * time.Hour, 241 * time.Hour, false},
		"no date":                    {legal(`{"object": "evidence", "deleteBy": null, "keepUntil": "2100-01-01"}`), 240 * time.Hour, time.Hour, false},
		"a date that cannot be read": {legal(day("soon")), 240 * time.Hour, time.Hour, false},
		"no legal block":             {&consilium.Spec{}, 240 * time.Hour, time.Hour, false},
	} {
		dir := t.TempDir()
		r, err := openReplays(dir, c.keep, func() time.Time { return now })
		if err != nil {
			t.Fatal(err)
		}
		if err := r.add("s-1", replayStart, startedReplay{DeleteBy: deleteBy(c.spec)}); err != nil {
			t.Fatal(err)
		}
		if err := r.sweep(); err != nil { // a live study is not swept
			t.Fatal(err)
		}
		if _, err := os.Stat(r.path("s-1")); err != nil {
			t.Errorf("%s: gone while the study runs", name)
		}
		if err := r.closeAll(); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(r.path("s-1"), now.Add(-c.age), now.Add(-c.age)); err != nil {
			t.Fatal(err)
		}
		if _, err := openReplays(dir, c.keep, func() time.Time { return now }); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(r.path("s-1")); (err == nil) != c.kept {
			t.Errorf("%s: kept %v", name, err == nil)
		}
	}
	r, err := openReplays(t.TempDir(), -1, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	if err := r.add("s-1", replayStart, startedReplay{DeleteBy: now.Add(time.Hour).Unix()}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.path("s-1")); err == nil {
		t.Error("a hospital that keeps nothing keeps something")
	}
}
