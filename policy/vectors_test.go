package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"consilium/internal/canon"
)

// vectorFile is one table of questions: a base document, and for each case
// what differs from it and which codes must come out, exactly.
type vectorFile struct {
	Point Point        `json:"point"`
	Base  string       `json:"base"`
	Cases []vectorCase `json:"cases"`
}

type vectorCase struct {
	ID          string              `json:"id"`
	Patch       []patchOp           `json:"patch"`
	Codes       []string            `json:"codes"` // exactly these; none means allow
	Dropped     map[string][]string `json:"dropped,omitempty"`
	Obligations []string            `json:"obligations,omitempty"`
	MinCohort   int                 `json:"min_cohort,omitempty"`
	Board       []patchOp           `json:"board,omitempty"`   // of the board's own file
	Law         []patchOp           `json:"law,omitempty"`     // of the dated law
	NoBoard     bool                `json:"noboard,omitempty"` // the core alone
}

// patchOp is the part of RFC 6902 that the tables use.
type patchOp struct {
	Op    string `json:"op"` // add, remove, replace
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

func apply(t testing.TB, doc any, ops []patchOp) any {
	t.Helper()
	for _, op := range ops {
		parts := strings.Split(strings.TrimPrefix(op.Path, "/"), "/")
		var err error
		if doc, err = applyOne(doc, parts, op); err != nil {
			t.Fatalf("patch %s %s: %v", op.Op, op.Path, err)
		}
	}
	return doc
}

func applyOne(doc any, path []string, op patchOp) (any, error) {
	last := len(path) == 1
	switch d := doc.(type) {
	case map[string]any:
		child, ok := d[path[0]]
		switch {
		case !last:
			if !ok {
				return nil, fmt.Errorf("no %s", path[0])
			}
			v, err := applyOne(child, path[1:], op)
			d[path[0]] = v
			return d, err
		case op.Op != "add" && !ok:
			return nil, fmt.Errorf("no %s", path[0])
		case op.Op == "remove":
			delete(d, path[0])
		default:
			d[path[0]] = op.Value
		}
		return d, nil
	case []any:
		if last && op.Op == "add" && path[0] == "-" {
			return append(d, op.Value), nil
		}
		i, err := strconv.Atoi(path[0])
		if err != nil || i < 0 || i >= len(d) {
			return nil, fmt.Errorf("no item %s", path[0])
		}
		switch {
		case !last:
			d[i], err = applyOne(d[i], path[1:], op)
			return d, err
		case op.Op == "remove":
			return slices.Delete(d, i, i+1), nil
		default:
			d[i] = op.Value
		}
		return d, nil
	}
	return nil, fmt.Errorf("nothing at %s", path[0])
}

// parts of a base document that a point's question holds.
var pointParts = map[Point][]string{
	PointStudy: {"study", "federation"}, PointSite: {"study", "federation", "site", "cohort"}, PointColumns: {"study", "federation", "site"},
	PointRows: {"study", "federation", "site", "record"}, PointTransfer: {"study", "federation", "site", "artefact"},
	PointRelease: {"study", "federation", "site", "release"}, PointWithdrawal: {"site", "event"},
}

// question makes a case's encoded input.
func question(t testing.TB, f *vectorFile, c *vectorCase) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "base", f.Base+".json"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := decode(b)
	if err != nil {
		t.Fatal(err)
	}
	doc = apply(t, doc, c.Patch)
	all := doc.(map[string]any)
	m := map[string]any{"point": string(f.Point), "now": all["now"]}
	for _, part := range pointParts[f.Point] {
		if v, ok := all[part]; ok {
			m[part] = v
		}
	}
	out, err := canon.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func readVectors(t testing.TB) map[string]*vectorFile {
	t.Helper()
	names, err := filepath.Glob("testdata/vectors/*.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	out := map[string]*vectorFile{}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		var f vectorFile
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.DisallowUnknownFields()
		dec.UseNumber()
		if err := dec.Decode(&f); err != nil {
			t.Fatalf("%s: %v", n, err)
		}
		out[filepath.Base(n)] = &f
	}
	return out
}

// ask decides an encoded question.
func (e *Engine) ask(ctx context.Context, t testing.TB, point Point, b []byte) Decision {
	t.Helper()
	var head struct{ Now int64 }
	if err := json.Unmarshal(b, &head); err != nil {
		t.Fatal(err)
	}
	p := e.p.Load()
	doc, digest, bad := p.read(point, b, head.Now)
	if bad != nil {
		return p.seal(*bad, digest)
	}
	d, err := e.evaluate(ctx, p, &p.query, point, doc)
	if err != nil {
		t.Fatal(err)
	}
	return p.seal(d, digest)
}

func codes(d Decision) []string {
	var out []string
	for _, r := range d.Reasons {
		out = append(out, r.Code)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (c *vectorCase) check(d Decision) error {
	if got := codes(d); !slices.Equal(got, c.Codes) {
		return fmt.Errorf("codes %v, want %v", got, c.Codes)
	}
	if d.Allow != (len(c.Codes) == 0) {
		return fmt.Errorf("allow %v with codes %v", d.Allow, c.Codes)
	}
	if c.Dropped != nil {
		got := map[string][]string{}
		for _, col := range d.Columns {
			if col.Action == Drop {
				got[col.Name] = col.Codes
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(c.Dropped) {
			return fmt.Errorf("dropped %v, want %v", got, c.Dropped)
		}
	}
	if c.Obligations != nil && !slices.Equal(d.Obligations, c.Obligations) {
		return fmt.Errorf("obligations %v, want %v", d.Obligations, c.Obligations)
	}
	if c.MinCohort != 0 && d.MinCohort != c.MinCohort {
		return fmt.Errorf("k %d, want %d", d.MinCohort, c.MinCohort)
	}
	return nil
}

// bundle is the policy that the case is decided under.
func (c *vectorCase) bundle(t testing.TB) Bundle {
	t.Helper()
	b := DemoBundle()
	if c.NoBoard {
		b = DefaultBundle()
	}
	for name, ops := range map[string][]patchOp{"board/cgd/board.json": c.Board, "law/law.json": c.Law} {
		if len(ops) == 0 {
			continue
		}
		file, _ := b.File(name)
		v, err := decode(file)
		if err != nil {
			t.Fatal(err)
		}
		out, err := json.Marshal(apply(t, v, ops))
		if err != nil {
			t.Fatal(err)
		}
		b = b.With(name, out)
	}
	return b
}

// engines compiles each policy of the tables once for all tests.
type engines struct{}

var compiledVectors = struct {
	sync.Mutex
	by map[string]*Engine
}{by: map[string]*Engine{}}

func (engines) of(t testing.TB, c *vectorCase) *Engine {
	t.Helper()
	compiledVectors.Lock()
	defer compiledVectors.Unlock()
	m := compiledVectors.by
	b := c.bundle(t)
	key := b.Digest().String()
	if m[key] == nil {
		e, err := Compile(b)
		if err != nil {
			t.Fatalf("%s: %v", c.ID, err)
		}
		m[key] = e
	}
	return m[key]
}

func demoEngine(t testing.TB) *Engine {
	t.Helper()
	e, err := Compile(DemoBundle())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestVectors holds every rule to its table: which codes come out, exactly.
func TestVectors(t *testing.T) {
	e, all := demoEngine(t), engines{}
	files := readVectors(t)
	denied, applied := map[string]int{}, map[string]int{}
	for _, name := range sortedKeys(files) {
		f := files[name]
		for i := range f.Cases {
			c := &f.Cases[i]
			d := all.of(t, c).ask(t.Context(), t, f.Point, question(t, f, c))
			if err := c.check(d); err != nil {
				t.Errorf("%s: %s: %v\n%s", name, c.ID, err, Explain(d))
			}
			for _, code := range c.Codes {
				denied[code]++
			}
			for _, col := range c.Dropped {
				for _, code := range col {
					denied[code]++
				}
			}
			if len(c.Codes) == 0 {
				for _, r := range e.Rules() {
					if slices.Contains(r.Points, f.Point) || f.Point == PointSite && slices.Equal(r.Points, []Point{PointColumns}) {
						applied[r.Code]++
					}
				}
			}
		}
	}
	for _, r := range e.Rules() {
		if denied[r.Code] == 0 {
			t.Errorf("%s: no vector is denied by it", r.Code)
		}
		if applied[r.Code] == 0 {
			t.Errorf("%s: no vector passes it", r.Code)
		}
	}
}
