package main

import (
	"encoding/json"
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
