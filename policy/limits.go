package policy

import (
	"context"
	"errors"
	"fmt"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

// What one evaluation may take. A step is one expression that the evaluator
// tries. The lint of overlays and the
// allow-list of built-ins see to it that a step takes bounded time and memory, so
// a bound on steps bounds both; and it does not depend on the machine, so that a
// hostile rule is denied everywhere alike.
const (
	// MaxSteps is 1 900 times what a decision about the demonstration's study
	// takes and three times what one about 200 columns takes.
	MaxSteps = 5_000_000
	// maxHeap is how far the live heap may grow during an evaluation that has
	// taken more than watchAfter steps, in bytes. Other work of the process counts
	// too, so usual decisions, which end before that, are never measured.
	maxHeap    = 256 << 20
	watchAfter = 100_000
	watchEvery = 512
	// maxAnswer bounds the values of an answer, counted as if each were written
	// out: an answer that names one value many times is small in memory and large
	// as JSON.
	maxAnswer = 1 << 16
	// maxAnswerText bounds the bytes of an answer's strings.
	maxAnswerText = 4 << 20
	// MaxPartial ends a partial evaluation.
	MaxPartial = 2 * time.Second
)

// errSteps and errHeap say which limit an evaluation ran into.
var (
	errSteps  = errors.New("the rules take too many steps")
	errHeap   = errors.New("the rules take too much memory")
	errAnswer = errors.New("the rules' answer is too large")
)

// meter counts the steps of one evaluation and ends it at the limit. The
// evaluator asks it before every expression whether to go on, which costs
// nothing beside the expression; a tracer would cost three times the evaluation.
// Cancelled is called by the one goroutine that evaluates, Cancel by any.
type meter struct {
	ended atomic.Bool
	steps int
	live  uint64 // bytes, when the watch began
	why   error
}

// Cancel implements topdown.Cancel.
func (m *meter) Cancel() { m.ended.Store(true) }

// Cancelled implements topdown.Cancel.
func (m *meter) Cancelled() bool {
	m.steps++
	switch {
	case m.ended.Load():
		return true
	case m.steps >= MaxSteps:
		m.why = errSteps
	case m.steps < watchAfter || m.steps%watchEvery != 0:
		return false
	case m.live == 0:
		m.live = liveHeap()
		return false
	case liveHeap() <= m.live+maxHeap:
		return false
	default:
		m.why = errHeap
	}
	m.Cancel()
	return true
}

// liveHeap is what the last collection found in use. As a heap grows,
// collections come at every doubling at the latest.
func liveHeap() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return max(s[0].Value.Uint64(), 1)
}

// metered runs f with the options that hold it to the limits.
func metered(ctx context.Context, timeout time.Duration, f func(context.Context, ...rego.EvalOption) error) error {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	m := &meter{}
	defer context.AfterFunc(limited, m.Cancel)()
	if err := limited.Err(); err != nil {
		return err
	}
	err := recovering(func() error { return f(limited, rego.EvalExternalCancel(m)) })
	switch {
	case m.why != nil:
		return m.why
	case limited.Err() != nil:
		return limited.Err()
	}
	return err
}

// recovering turns a panic of the rule engine into an error, and so into a
// denial: some policies that compile make it read what is not there (an "every"
// over a value that was taken away is one; the mutation run found it), and no policy
// may take a hospital's process down.
func recovering(eval func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the rule engine failed: %v", v)
		}
	}()
	return eval()
}

// boundedJSON turns an answer into plain values if it is small.
func boundedJSON(t *ast.Term, _ *rego.EvalContext) (any, error) {
	values, text := maxAnswer, maxAnswerText
	if !measure(t.Value, &values, &text, maxDepth) {
		return nil, errAnswer
	}
	return ast.JSON(t.Value)
}

// measure takes v's values and bytes off what is left.
func measure(v ast.Value, values, text *int, depth int) bool {
	if *values--; *values < 0 || depth == 0 {
		return false
	}
	inner := func(t *ast.Term) bool { return !measure(t.Value, values, text, depth-1) }
	switch x := v.(type) {
	case ast.String:
		*text -= len(x)
	case ast.Number:
		*text -= len(x)
	case *ast.Array:
		return !x.Until(inner)
	case ast.Set:
		return !x.Until(inner)
	case ast.Object:
		return !x.Until(func(k, v *ast.Term) bool { return inner(k) || inner(v) })
	}
	return *text >= 0
}
