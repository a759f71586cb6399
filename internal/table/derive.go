package table

import (
	"fmt"
	"math"
	"strconv"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"consilium"
)

// derived is a compiled expression over numeric columns.
type derived struct {
	name string
	used []string // columns, in the order of the row that eval gets
	eval node
}

// node computes a value from the used columns of one row. Every operation is a
// call of its own that returns a float64, so no compiler can fuse a product
// with a sum and the bits are the same everywhere.
type node func(row []float64) float64

// deriveError is a fault in the study's expression, at a character from 1.
type deriveError struct {
	at        int
	msg, next string
}

const maxDerive = 1024 // characters of an expression

// compileDerive compiles the study's derived columns in their order; each may
// use those before it.
func compileDerive(spec *consilium.Spec) ([]derived, error) {
	var out []derived
	var names []string
	for i := range spec.Columns {
		switch spec.Columns[i].Type {
		case consilium.TypeNumber, consilium.TypeInteger, consilium.TypeFlag, consilium.TypeDate:
			names = append(names, spec.Columns[i].Name)
		}
	}
	for _, d := range spec.Derive {
		p := &deriveParser{src: d.Expr, spec: spec, names: names, at: map[string]int{}}
		eval, err := p.compile()
		if err != nil {
			s := fmt.Sprintf("derive %s, character %d: %s", d.Name, err.at+1, err.msg)
			if err.next != "" {
				s += "; " + err.next
			}
			return nil, consilium.ErrData.Withf("%s", s)
		}
		out = append(out, derived{name: d.Name, used: p.used, eval: eval})
		names = append(names, d.Name)
	}
	return out, nil
}

type deriveParser struct {
	src   string
	pos   int
	depth int
	spec  *consilium.Spec
	names []string
	used  []string
	at    map[string]int
}

func (p *deriveParser) compile() (n node, err *deriveError) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *deriveError:
			n, err = nil, r
		default:
			panic(r)
		}
	}()
	if len(p.src) > maxDerive {
		p.fail(0, "", "more than %d characters", maxDerive)
	}
	n = p.sum()
	if p.pos < len(p.src) {
		p.fail(p.pos, "operators are + - * / ^", "%q is not expected here", p.src[p.pos:p.pos+p.width()])
	}
	return n, nil
}

func (p *deriveParser) fail(at int, next, format string, args ...any) {
	panic(&deriveError{at, fmt.Sprintf(format, args...), next})
}

// width is the length in bytes of the character at pos.
func (p *deriveParser) width() int {
	n := 1
	for p.pos+n < len(p.src) && p.src[p.pos+n]&0xc0 == 0x80 {
		n++
	}
	return n
}

// next is the character at pos after blanks, or 0 at the end.
func (p *deriveParser) next() byte {
	for p.pos < len(p.src) && (p.src[p.pos] == ' ' || p.src[p.pos] == '\t' || p.src[p.pos] == '\n') {
		p.pos++
	}
	if p.pos == len(p.src) {
		return 0
	}
	return p.src[p.pos]
}

func (p *deriveParser) accept(c byte) bool {
	if p.next() == c {
		p.pos++
		return true
	}
	return false
}

func (p *deriveParser) enter() {
	if p.depth++; p.depth > 50 {
		p.fail(p.pos, "", "nested too deeply")
	}
}

func (p *deriveParser) sum() node {
	p.enter()
	defer func() { p.depth-- }()
	n := p.product()
	for {
		a := n
		switch {
		case p.accept('+'):
			b := p.product()
			n = func(row []float64) float64 { return a(row) + b(row) }
		case p.accept('-'):
			b := p.product()
			n = func(row []float64) float64 { return a(row) - b(row) }
		default:
			return n
		}
	}
}

func (p *deriveParser) product() node {
	n := p.unary()
	for {
		a := n
		switch {
		case p.accept('*'):
			b := p.unary()
			n = func(row []float64) float64 { return a(row) * b(row) }
		case p.accept('/'):
			b := p.unary()
			n = func(row []float64) float64 { return a(row) / b(row) }
		default:
			return n
		}
	}
}

// unary binds weaker than a power: -a^2 is -(a^2).
func (p *deriveParser) unary() node {
	p.enter()
	defer func() { p.depth-- }()
	if p.accept('-') {
		a := p.unary()
		return func(row []float64) float64 { return -a(row) }
	}
	if p.accept('+') {
		return p.unary()
	}
	return p.power()
}

// power is a^n for a whole n: products in a fixed order. Other powers would
// need exp and log, whose bits differ between processors.
func (p *deriveParser) power() node {
	a := p.atom()
	if !p.accept('^') {
		return a
	}
	p.next()
	at := p.pos
	neg := p.accept('-')
	p.next()
	text := p.digits()
	n, err := strconv.Atoi(text)
	if err != nil || n > 9 {
		p.fail(at, "for a root write sqrt( )", "a power is a whole number from -9 to 9")
	}
	if p.next() == '^' {
		p.fail(p.pos, "use brackets", "a power of a power")
	}
	return func(row []float64) float64 {
		x, v := a(row), 1.0
		for range n {
			v = float64(v * x)
		}
		if neg {
			return 1 / v
		}
		return v
	}
}

// digits reads a decimal number.
func (p *deriveParser) digits() string {
	start := p.pos
	digit := func() bool { return p.pos < len(p.src) && p.src[p.pos] >= '0' && p.src[p.pos] <= '9' }
	for digit() {
		p.pos++
	}
	if p.pos < len(p.src) && p.src[p.pos] == '.' {
		p.pos++
		for digit() {
			p.pos++
		}
	}
	if p.pos < len(p.src) && (p.src[p.pos] == 'e' || p.src[p.pos] == 'E') {
		mark := p.pos
		p.pos++
		if p.pos < len(p.src) && (p.src[p.pos] == '-' || p.src[p.pos] == '+') {
			p.pos++
		}
		if !digit() {
			p.pos = mark
		}
		for digit() {
			p.pos++
		}
	}
	return p.src[start:p.pos]
}

var deriveFunctions = []string{"sqrt", "abs", "min", "max"}

func (p *deriveParser) atom() node {
	c := p.next()
	at := p.pos
	switch {
	case c == 0:
		p.fail(at, "", "the expression ends early")
	case c == '(':
		p.pos++
		n := p.sum()
		p.closing()
		return n
	case c >= '0' && c <= '9' || c == '.':
		v, err := strconv.ParseFloat(p.digits(), 64)
		if err != nil || math.IsInf(v, 0) {
			p.fail(at, "", "not a number")
		}
		return func([]float64) float64 { return v }
	case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_':
		for p.pos < len(p.src) && wordByte(p.src[p.pos]) {
			p.pos++
		}
		word := p.src[at:p.pos]
		if p.next() == '(' {
			return p.call(word, at)
		}
		return p.column(word, at)
	}
	p.fail(at, "use columns, numbers, brackets, + - * / ^, sqrt, abs, min and max", "%q is not expected here", p.src[at:at+p.width()])
	return nil
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.'
}

func (p *deriveParser) closing() {
	if !p.accept(')') {
		p.fail(p.pos, "close the bracket", "a ) is missing")
	}
}

func (p *deriveParser) call(word string, at int) node {
	p.accept('(')
	args := []node{p.sum()}
	for p.accept(',') {
		args = append(args, p.sum())
	}
	p.closing()
	one := func() node {
		if len(args) != 1 {
			p.fail(at, "", "%s takes one value", word)
		}
		return args[0]
	}
	switch word {
	case "sqrt": // correctly rounded by IEEE 754
		a := one()
		return func(row []float64) float64 { return math.Sqrt(a(row)) }
	case "abs":
		a := one()
		return func(row []float64) float64 { return math.Abs(a(row)) }
	case "min", "max":
		if len(args) < 2 {
			p.fail(at, "", "%s takes at least two values", word)
		}
		pick := math.Min
		if word == "max" {
			pick = math.Max
		}
		return func(row []float64) float64 {
			v := args[0](row)
			for _, a := range args[1:] {
				v = pick(v, a(row))
			}
			return v
		}
	case "log", "exp", "pow":
		p.fail(at, "use the term log(column) in the analysis", "%s( ) is not available: its last bits differ between processors", word)
	}
	p.fail(at, suggest(word, deriveFunctions), "unknown function %s", clip(word))
	return nil
}

func (p *deriveParser) column(word string, at int) node {
	known := false
	for _, n := range p.names {
		known = known || n == word
	}
	if !known {
		if c, ok := p.spec.Column(word); ok {
			p.fail(at, "derived columns use numbers, integers, flags and dates", "column %s of type %s is not a number", word, c.Type)
		}
		for _, d := range p.spec.Derive {
			if d.Name == word {
				p.fail(at, "put it before this one", "%s is derived later", word)
			}
		}
		p.fail(at, suggest(word, p.names), "column %s is not declared", clip(word))
	}
	i, ok := p.at[word]
	if !ok {
		i = len(p.used)
		p.at[word] = i
		p.used = append(p.used, word)
	}
	return func(row []float64) float64 { return row[i] }
}

// Derive returns rec with the study's derived columns after its own. A row that
// is not selected, or lacks a value that the expression uses, has none.
// Dividing by zero in a selected row is an error: the study must say in its
// cohort what to do with such rows.
func Derive(spec *consilium.Spec, rec arrow.Record, selected []bool) (arrow.Record, error) {
	list, err := compileDerive(spec)
	if err != nil {
		return nil, err
	}
	if int64(len(selected)) != rec.NumRows() {
		return nil, consilium.ErrData.Withf("%d marks for %d rows", len(selected), rec.NumRows())
	}
	fields := rec.Schema().Fields()
	arrays := append([]arrow.Array(nil), rec.Columns()...)
	for _, d := range list {
		now := array.NewRecord(arrow.NewSchema(fields, nil), arrays, rec.NumRows())
		cells := make([]func(int) (float64, bool), len(d.used))
		for i, name := range d.used {
			if cells[i], err = numbers(now, name); err != nil {
				return nil, err
			}
		}
		b := array.NewFloat64Builder(memory.NewGoAllocator())
		row := make([]float64, len(d.used))
	rows:
		for r := range selected {
			if !selected[r] {
				b.AppendNull()
				continue
			}
			for i := range cells {
				v, ok := cells[i](r)
				if !ok {
					b.AppendNull()
					continue rows
				}
				row[i] = v
			}
			v := d.eval(row)
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return nil, refuse(&Error{Column: d.name, Rule: fmt.Sprintf("the derived value of row %d is not finite", r+1),
					Next: "exclude such rows in the study's cohort, or bound the columns that it is derived from",
					note: fmt.Sprintf("the values are %v", row)})
			}
			b.Append(v + 0) // -0 and 0 are one value
		}
		fields = append(fields[:len(fields):len(fields)], arrow.Field{Name: d.name, Type: arrow.PrimitiveTypes.Float64, Nullable: true})
		arrays = append(arrays, b.NewArray())
	}
	meta := rec.Schema().Metadata()
	return array.NewRecord(arrow.NewSchema(fields, &meta), arrays, rec.NumRows()), nil
}

// numbers reads a column as float64; a flag is 0 or 1, a date is days since
// 1970-01-01.
func numbers(rec arrow.Record, name string) (func(int) (float64, bool), error) {
	col, err := columnOf(rec, name)
	if err != nil {
		return nil, err
	}
	switch a := col.(type) {
	case *array.Float64:
		return func(i int) (float64, bool) { return a.Value(i), a.IsValid(i) }, nil
	case *array.Int64:
		return func(i int) (float64, bool) { return float64(a.Value(i)), a.IsValid(i) }, nil
	case *array.Date32:
		return func(i int) (float64, bool) { return float64(a.Value(i)), a.IsValid(i) }, nil
	case *array.Boolean:
		return func(i int) (float64, bool) {
			if a.Value(i) {
				return 1, a.IsValid(i)
			}
			return 0, a.IsValid(i)
		}, nil
	}
	return nil, consilium.ErrData.Withf("column %s has the unexpected type %s", clip(name), col.DataType())
}

// Check compiles the study's cohort and derived columns without any row, so
// that a mistake is found before a hospital is asked.
func Check(spec *consilium.Spec) error {
	if _, err := compileCohort(spec); err != nil {
		return err
	}
	_, err := compileDerive(spec)
	return err
}
