package models

import (
	"context"
	"encoding/json"

	"github.com/apache/arrow/go/v17/arrow"

	"consilium"
)

// Analysis is one analysis. All methods but Local are deterministic functions
// of their arguments, with the same bits on every processor.
type Analysis interface {
	// Start makes the state of the first round from the facts of the charter
	// alone.
	Start(consilium.Facts) (*State, error)
	// Layout is the shape of the vector that the round of s asks for.
	Layout(*State) (consilium.Layout, error)
	// Local computes one site's vector and writes its blocks, in the order of
	// the layout. memory is the site's own state from the last round in which
	// it contributed, or nil; the returned memory replaces it once the round is
	// opened with this site in the set.
	Local(ctx context.Context, s *State, memory []byte, rows *Rows, w Writer) ([]byte, error)
	// Update makes the next state from the opened sum.
	Update(*State, Opened) (*State, error)
	// Result describes a finished analysis (State.Done).
	Result(*State) (*Result, error)
}

// Constructor makes an analysis of one type from its specification; it
// refuses keys that the type does not use and names the nearest right one.
type Constructor func(consilium.Facts, *consilium.AnalysisSpec) (Analysis, error)

// Rows is what one site's analysis may read: verified, permitted rows.
type Rows struct {
	Site     consilium.Position // of this hospital; Facts.Sites[Site-1] is its name
	Seed     consilium.Digest   // KDF(study seed, site, round): the only randomness of Local
	Noise    consilium.Digest   // secret of this hospital for this study, round and these rows: seeds the noise of differential privacy
	Batches  []Batch
	Patients int      // distinct patients, ordinals 0 to Patients-1
	Excluded Excluded // what never came this far
	Kept     *Kept    // what analyses keep of these very rows for the next round; nil: nothing is kept
}

// Batch is one verified Arrow record. Its columns are the study's declared and
// derived ones: TypeNumber Float64, TypeInteger Int64, TypeFlag Boolean,
// TypeLevels Dictionary(Int32, String) whose dictionary is the declared levels
// in their order, TypeDate Date32, derived Float64. Null means missing.
type Batch struct {
	Record   arrow.Record
	Selected []bool    // permitted by policy and in the cohort; same length as the record
	Patient  []int32   // ordinal of each row's patient
	Holdout  []float64 // of each row's patient: uniform in [0,1), from a hash under the study's salt
}

// Excluded counts rows that were left out before the analysis, by reason.
// They leave the hospital only inside the sum.
type Excluded struct {
	Consent   int64
	Integrity int64
	Cohort    int64
}

// Writer takes a vector block by block. Values of an Exact block are any
// float64 below 2^62 in magnitude; of a Learned block they are clipped.
type Writer interface {
	// Block must name the layout's next block; values are appended by one or
	// more Write calls.
	Block(name string) error
	Write(values []float64) error
	Write32(values []float32) error
}

// Opened is the sum of one round over the contributor set.
type Opened struct {
	Round        uint32
	Contributors []consilium.Position
	// Values holds for each block of the layout the summed values. For Exact
	// blocks each is the exact sum, rounded once to float64.
	Values map[string][]float64
}

// Result is one analysis's part of result.json: a JSON object in canonical
// form, and files beside it (weights, curves) by name.
type Result struct {
	JSON  json.RawMessage
	Files map[string][]byte
	// Problem is set when the data cannot answer (no events, separation, a
	// level with too few patients): the first of them, also in JSON under
	// "error". The study itself is done all the same.
	Problem *Problem
}
