package policy

import (
	"bytes"
	"embed"
	"strings"
)

// Questions finds the questions of a log by their keyed digest.
type Questions struct {
	a  *Audit
	by map[string]Input
}

// NewQuestions makes an empty set for logs written with key.
func NewQuestions(key []byte) *Questions {
	return &Questions{a: &Audit{key: key}, by: map[string]Input{}}
}

// Add takes in an encoded question.
func (q *Questions) Add(b []byte) error {
	p, in, err := ParseQuestion(b)
	if err != nil {
		return err
	}
	enc, err := in.encode(p)
	if err != nil {
		return err
	}
	q.by[q.a.mac("input", enc)] = in
	return nil
}

// Find is what Engine.Replay asks.
func (q *Questions) Find(rec AuditRecord) (Input, bool) {
	in, ok := q.by[rec.InputMAC]
	return in, ok
}

// ExampleAssessment is the identifiability assessment that ExampleQuestions
// name.
const ExampleAssessment = "example-1"

//go:embed testdata/base/*.json
var baseQuestions embed.FS

// ExampleQuestions are whole questions to start examples from, by the law that
// they stand under: the same from which the vectors of this package start. All
// of them are allowed at every point.
func ExampleQuestions() map[string][]byte {
	out := map[string][]byte{}
	entries, err := baseQuestions.ReadDir("testdata/base")
	if err != nil {
		panic("policy: " + err.Error()) // embedded
	}
	for _, e := range entries {
		b, err := baseQuestions.ReadFile("testdata/base/" + e.Name())
		if err != nil {
			panic("policy: " + err.Error())
		}
		// They rely on the assessment that a new desk's board files.
		b = bytes.ReplaceAll(b, []byte(`"cgd-2026-1"`), []byte(`"`+ExampleAssessment+`"`))
		out[strings.TrimSuffix(e.Name(), ".json")] = b
	}
	return out
}
