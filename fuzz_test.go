package consilium_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"consilium"
)

// FuzzDocuments feeds arbitrary bytes to every parser of a JSON document that
// a peer, a board or a disk hands over: none may panic, and what one accepts it
// accepts again after encoding it.
func FuzzDocuments(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `[]`, `{"apiVersion":"consilium/v1","kind":"Charter","protocol":1,"members":[{}]}`,
		`{"apiVersion":"consilium/v1","kind":"Roster","version":1,"sites":[{"id":"a"}]}`,
		`{"apiVersion":"consilium/v1","kind":"Submission","team":"team","token":"t","spec":"e30=","policy":"00"}`,
		`{"apiVersion":"consilium/v1","kind":"Approval","study":"s","notBefore":1,"notAfter":2}`,
		`{"apiVersion":"consilium/v1","kind":"Study","name":"s","question":"?","data":{"dataset":"d","patient":"id"},"sites":{"min":3,"missing":"wait"},"columns":[{"name":"id","type":"id"}],"analyses":[{"name":"a","type":"cox"}],"privacy":{"minCohort":5},"rounds":{"max":1,"tolerance":1,"deadline":1}}`,
	} {
		f.Add([]byte(s))
	}
	parse := map[string]func([]byte) (any, error){
		"charter":    func(b []byte) (any, error) { return consilium.ParseCharter(b) },
		"roster":     func(b []byte) (any, error) { return consilium.ParseRoster(b) },
		"submission": func(b []byte) (any, error) { return consilium.ParseSubmission(b) },
		"approval":   func(b []byte) (any, error) { return consilium.ParseApproval(b) },
		"spec":       func(b []byte) (any, error) { return consilium.ParseSpec(b) },
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, p := range parse {
			v, err := p(b)
			if err != nil {
				continue
			}
			again, err := json.Marshal(v)
			if err != nil {
				t.Fatalf("%s: accepted and cannot be encoded: %v", name, err)
			}
			if _, err := p(again); err != nil {
				t.Errorf("%s: accepted, encoded, refused: %v", name, err)
			}
		}
		if env, err := consilium.ParseResultEnvelope(b); err == nil {
			if again, err := env.Encode(); err != nil || !bytes.Equal(again, b) {
				t.Error("result envelope: accepted bytes re-encode differently")
			}
		}
		for _, s := range []func(string) error{
			func(s string) error { _, err := consilium.ParseStudyID(s); return err },
			func(s string) error { _, err := consilium.ParseTerm(s); return err },
		} {
			s(string(b))
		}
	})
}
