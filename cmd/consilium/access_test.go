package main

import (
	"encoding/json"
	"strings"
	"testing"

	"consilium/internal/trail"
)

// A hospital that refused a release has released nothing, and one that does not
// say is not believed either way.
func TestRefusedReleaseIsNone(t *testing.T) {
	for body, want := range map[string]string{`{"allow":true}`: "1970-01-01 00:00", `{"allow":false,"code":"X"}`: "", `{}`: "error", `{"allow":null}`: "error", `x`: "error"} {
		a := access{Released: "before"}
		err := a.read([]trail.Entry{{Type: "use", Round: 1, Time: 1000}, {Type: "release", Time: 2000, Body: json.RawMessage(body)}})
		if (err != nil) != (want == "error") || err == nil && a.Released != want {
			t.Errorf("%s: %q %v", body, a.Released, err)
		}
	}
}

// A study that this hospital read rows for and then declined is in the list, and
// does not run here.
func TestDeclinedIsOver(t *testing.T) {
	use, decline, enrol := trail.Entry{Type: "use", Time: 1000}, trail.Entry{Type: "decline", Time: 2000}, trail.Entry{Type: "enrol", Time: 3000}
	for name, c := range map[string]struct {
		entries []trail.Entry
		ended   bool
	}{
		"admitted":                  {[]trail.Entry{use, enrol}, false},
		"declined":                  {[]trail.Entry{use, decline}, true},
		"declined one epoch of two": {[]trail.Entry{use, decline, use, enrol}, false},
	} {
		a := access{Study: "s-aaaaaaaaaaaaaaaa", Columns: []string{"age"}}
		if err := a.read(c.entries); err != nil || a.ended != c.ended || a.First == "" || a.Rounds != 0 {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
		var said strings.Builder
		if showAccesses(&said, []access{a}); !strings.Contains(said.String(), "to see whether the study can use the rows") {
			t.Errorf("%s: %s", name, said.String())
		}
	}
}
