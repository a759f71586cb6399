package models

import (
	"context"
	"errors"
	"fmt"
	"math"

	"consilium"
	"consilium/internal/canon"
)

// Permits are the named exceptions that a board may grant.
const (
	PermitTail        = "km-tail"      // estimates where fewer than k are at risk
	PermitFineGrid    = "km-fine-grid" // grid cells narrower than minCellDays
	PermitSmallLevels = "small-levels" // model levels of one or two patients
	PermitSmallCells  = "small-cells"  // published counts below k
)

// single is an analysis of one round: counts and sums, and what follows from
// them.
type single struct {
	facts  consilium.Facts
	spec   *consilium.AnalysisSpec
	levels int // counts after the fixed part of the cohort block
	blocks []consilium.Block
	// local computes a hospital's blocks, the cohort block first.
	local func(*Rows) ([][]float64, error)
	// judge ends the analysis without a result (see problem), or returns 0.
	judge func(v map[string][]float64) (code, index int)
	name  func(code, index int) string
	// scale is the largest magnitude that one row adds to each value after the
	// cohort block, and norm2 the largest squared norm of one row in these units
	// over those values; nil where a row has no bound (differential privacy).
	scale func() (scale []float64, norm2 float64, err error)
	// render makes the result's object.
	render func(v map[string][]float64) (any, error)
}

func exactBlock(name string, n int) consilium.Block {
	return consilium.Block{Name: name, Kind: consilium.Exact, Length: n}
}

// Start implements Analysis.
func (a *single) Start(consilium.Facts) (*State, error) { return &State{}, nil }

func (a *single) layout() consilium.Layout {
	return consilium.Layout{Blocks: append([]consilium.Block{exactBlock("cohort", cohortFixed+a.levels)}, a.blocks...)}
}

// Layout implements Analysis.
func (a *single) Layout(s *State) (consilium.Layout, error) {
	if s.Done || s.Phase != 0 || len(s.F64) != 0 {
		return consilium.Layout{}, errors.New("state: not before the only round")
	}
	return a.layout(), nil
}

// Local implements Analysis.
func (a *single) Local(_ context.Context, s *State, _ []byte, rows *Rows, w Writer) ([]byte, error) {
	l, err := a.Layout(s)
	if err != nil {
		return nil, err
	}
	v, err := a.local(rows)
	if err != nil {
		return nil, err
	}
	for i, b := range l.Blocks {
		if err := write(w, b.Name, v[i]); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// Update implements Analysis.
func (a *single) Update(s *State, o Opened) (*State, error) {
	l, err := a.Layout(s)
	if err != nil {
		return nil, err
	}
	out := &State{Phase: 1, Iteration: 1, Done: true}
	v := map[string][]float64{}
	for _, b := range l.Blocks {
		if v[b.Name], err = o.take(b.Name, b.Length); err != nil {
			return nil, err
		}
		out.F64 = append(out.F64, v[b.Name]...)
	}
	cohort := v["cohort"]
	switch {
	case cohort[cohortRows] < 1:
		return failed(1, failRows, 0), nil
	case cohort[cohortPatients] < float64(a.facts.MinCohort):
		return failed(1, failPatients, 0), nil
	}
	if a.judge != nil {
		if code, index := a.judge(v); code != 0 {
			return failed(1, code, index), nil
		}
	}
	return out, nil
}

// Result implements Analysis.
func (a *single) Result(s *State) (*Result, error) {
	if s.Phase == phaseFailed {
		name := a.name
		if name == nil {
			name = func(_, i int) string { return fmt.Sprintf("group %d", i) }
		}
		p, err := problem(s, a.facts.MinCohort, 1, name)
		if err != nil {
			return nil, err
		}
		return problemResult(a.spec, p)
	}
	l := a.layout()
	if s.Phase != 1 || !s.Done || len(s.F64) != l.Values() {
		return nil, errors.New("state: not of this analysis")
	}
	v := map[string][]float64{}
	at := 0
	for _, b := range l.Blocks {
		v[b.Name] = s.F64[at : at+b.Length]
		at += b.Length
	}
	r, err := a.render(v)
	if err != nil {
		return nil, err
	}
	b, err := canon.Marshal(r)
	if err != nil {
		return nil, err
	}
	return &Result{JSON: b}, nil
}

// grouping is the product of factor columns: their public levels decide how
// many groups there are, never the data.
type grouping struct {
	columns []string
	levels  [][]string
	n       int
}

// maxGroups bounds the groups of a table or curve.
const maxGroups = 512

func newGrouping(spec *consilium.Spec, what string, columns []string) (*grouping, error) {
	g := &grouping{columns: columns, n: 1}
	seen := map[string]bool{}
	for _, c := range columns {
		if c == "site" {
			return nil, consilium.ErrInvalid.Withf("%s: site would publish each hospital's own counts", what)
		}
		if err := needFactor(spec, what, c); err != nil {
			return nil, err
		}
		if seen[c] {
			return nil, consilium.ErrInvalid.Withf("%s: %s stands twice", what, c)
		}
		seen[c] = true
		l, _ := factorLevels(spec, c)
		g.levels = append(g.levels, l)
		if g.n *= len(l); g.n > maxGroups {
			return nil, consilium.ErrInvalid.Withf("%s: more than %d groups", what, maxGroups)
		}
	}
	return g, nil
}

// of is the group of a row: the last column varies fastest.
func (g *grouping) of(f *frame, row int) int {
	k := 0
	for i, c := range g.columns {
		k = k*len(g.levels[i]) + int(f.code[c][row])
	}
	return k
}

// values names a group's level in each column.
func (g *grouping) values(k int) map[string]string {
	out := map[string]string{}
	for i := len(g.columns) - 1; i >= 0; i-- {
		n := len(g.levels[i])
		out[g.columns[i]] = g.levels[i][k%n]
		k /= n
	}
	return out
}

// name is treat:placebo, or all without columns.
func (g *grouping) name(k int) string {
	if len(g.columns) == 0 {
		return "all"
	}
	v := g.values(k)
	out := ""
	for i, c := range g.columns {
		if i > 0 {
			out += "*"
		}
		out += c + ":" + v[c]
	}
	return out
}

// patients counts the distinct patients of each group.
func (g *grouping) patients(f *frame) []float64 {
	out := make([]float64, g.n)
	seen := make([]map[int32]bool, g.n)
	for i := 0; i < f.n; i++ {
		k := g.of(f, i)
		if seen[k] == nil {
			seen[k] = map[int32]bool{}
		}
		if !seen[k][f.patient[i]] {
			seen[k][f.patient[i]] = true
			out[k]++
		}
	}
	return out
}

// timeGrid is the public grid that times are rounded up to.
type timeGrid struct {
	step, max float64
	cells     int // 1..cells, and 0 for time 0
}

// minCellDays is the narrowest grid cell without the board's permission. On
// the CGD trial differences of consecutive risk-set sums gave away 79 of 128
// patients on a daily grid, 14 on a weekly one and none on a monthly one.
const minCellDays = 30

var daysPerUnit = map[string]float64{"": 1, "d": 1, "wk": 7, "mo": 30.4375, "a": 365.25, "h": 1.0 / 24, "min": 1.0 / 1440}

// cellBase is the public ruler of each unit: without the board's permission
// every edge of a grid or piece is a multiple of it. Two releases on grids of
// 30 and 31 days would differ by cells of one day.
var cellBase = map[string]float64{"": 30, "d": 30, "wk": 5, "mo": 1, "a": 0.25, "h": 720, "min": 43200}

func newTimeGrid(facts consilium.Facts, g *consilium.Grid, stop string) (*timeGrid, error) {
	if g == nil {
		return nil, consilium.ErrInvalid.Withf("grid: want {step, max}, the public times of the curve")
	}
	if !(g.Step > 0) || !(g.Max >= g.Step) || math.IsInf(g.Max, 0) || g.Max/g.Step > 20000 {
		return nil, consilium.ErrInvalid.Withf("grid: step %v and max %v; want 0 < step <= max and at most 20000 cells", g.Step, g.Max)
	}
	if err := checkWidth(facts, stop, g.Step, "grid: step"); err != nil {
		return nil, err
	}
	return &timeGrid{step: g.Step, max: g.Max, cells: int(math.Ceil(g.Max / g.Step))}, nil
}

// checkWidth refuses public stretches of time so narrow that they would give
// patients away.
func checkWidth(facts consilium.Facts, stop string, width float64, what string) error {
	if facts.Permitted(PermitFineGrid) {
		return nil
	}
	c, ok := facts.Spec.Column(stop)
	if !ok {
		// 30 * tstop on a grid of 30 would be a daily one, tstop + 1 has other edges.
		return consilium.ErrInvalid.Withf("%s: column %s is derived, so that the width of a cell cannot be judged; use a column of the table, or ask the board to permit %s", what, stop, PermitFineGrid)
	}
	unit := c.Unit
	if c.Type == consilium.TypeDate {
		unit = "d" // whatever it is said to be
	}
	days, known := daysPerUnit[unit]
	if !known {
		return consilium.ErrInvalid.Withf("%s: column %s has unit %q; want d, wk, mo, a, h or min, so that the width can be judged", what, stop, unit)
	}
	base := cellBase[unit]
	if n := width / base; n != math.Trunc(n) && float64(width*days) >= minCellDays {
		return consilium.ErrInvalid.Withf("%s %v %s is not a multiple of %v %s: grids that do not share their edges cut each other into narrow cells when two releases are subtracted; use a multiple, or ask the board to permit %s",
			what, width, unit, base, unit, PermitFineGrid)
	}
	if float64(width*days) < minCellDays {
		return consilium.ErrInvalid.Withf("%s %v %s is narrower than %d days, on which differences of risk sets give single patients away; widen it, or ask the board to permit %s",
			what, width, unit, minCellDays, PermitFineGrid)
	}
	return nil
}

// cell is the smallest c with time <= c·step, cells+1 beyond the grid.
func (g *timeGrid) cell(time float64) int {
	if time > float64(float64(g.cells)*g.step) {
		return g.cells + 1
	}
	c := int(math.Ceil(time / g.step))
	for c > 0 && float64(float64(c-1)*g.step) >= time {
		c--
	}
	for float64(float64(c)*g.step) < time {
		c++
	}
	return min(max(c, 0), g.cells+1)
}

// counts tallies events and censorings per group and cell; beyond counts rows
// that outlast the grid.
func (g *timeGrid) counts(f *frame, stop, event string, groups int, of func(row int) int) (events, censored, beyond []float64, total float64, err error) {
	w := g.cells + 1
	events, censored, beyond = make([]float64, groups*w), make([]float64, groups*w), make([]float64, groups)
	for i := 0; i < f.n; i++ {
		t, e := f.num[stop][i], f.num[event][i]
		if e != 0 && e != 1 {
			return nil, nil, nil, 0, consilium.ErrData.Withf("column %s: an event that is neither 0 nor 1", event)
		}
		if t < 0 {
			return nil, nil, nil, 0, consilium.ErrData.Withf("column %s: a time below 0", stop)
		}
		total += e
		k, c := of(i), g.cell(t)
		switch {
		case c > g.cells:
			beyond[k]++
		case e == 1:
			events[k*w+c]++
		default:
			censored[k*w+c]++
		}
	}
	return events, censored, beyond, total, nil
}

// atRisk turns one group's tallies into the number at risk at the start of
// each cell.
func atRisk(events, censored []float64, beyond float64) []float64 {
	n := make([]float64, len(events))
	left := beyond
	for c := len(events) - 1; c >= 0; c-- {
		left += events[c] + censored[c]
		n[c] = left
	}
	return n
}
