package main

import (
	"encoding/json"
	"testing"

	"consilium"
	"consilium/internal/trail"
)

// TestDisclosedTwice: after a lock is released a round may be opened for another
// set. Both openings are disclosures, and a list that kept the first of a round
// would leave out the one that t hospitals opened.
func TestDisclosedTwice(t *testing.T) {
	entry := func(kind string, body map[string]any) trail.Entry {
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		return trail.Entry{Study: "s", Round: 1, Type: kind, Body: b}
	}
	first, second := consilium.DomainBlob.Digest([]byte("first")), consilium.DomainBlob.Digest([]byte("second"))
	list, err := disclosures([]trail.Entry{
		entry("enrol", map[string]any{"team": "team"}),
		entry("contribution", map[string]any{"attempt": 1}),
		entry("opening", map[string]any{"set": first, "members": []string{"a", "b", "c"}}),
		entry("opening", map[string]any{"set": first, "members": []string{"a", "b", "c"}}), // a crash before it was sent
		entry("lock-released", nil),
		entry("contribution", map[string]any{"attempt": 2}),
		entry("contribution", map[string]any{"attempt": 2}),
		entry("opening", map[string]any{"set": second, "members": []string{"a", "b", "c", "d"}}),
	})
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	d := list[0]
	if len(d.Sums) != 2 || d.Sums[0].Set != first || d.Sums[1].Set != second || len(d.Sums[1].Members) != 4 {
		t.Errorf("sums %+v", d.Sums)
	}
	if len(d.Contributions) != 2 || d.Contributions[1].Attempt != 2 {
		t.Errorf("contributions %+v", d.Contributions)
	}
}
