package table

import (
	"fmt"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"consilium"
)

// Limits of a cohort expression. Without macros an expression has no loop, so
// its cost is bounded by its size; the cost limit holds even if that changed.
const (
	maxExpression = 4096  // characters
	maxNodes      = 1000  // of the syntax tree
	maxDepth      = 50    // of nesting
	maxCost       = 20000 // per row, in CEL's units
)

// cohortFunctions is all that an expression may call.
var cohortFunctions = []string{
	operators.Conditional, operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot,
	operators.Equals, operators.NotEquals, operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals,
	operators.Add, operators.Subtract, operators.Multiply, operators.Divide, operators.Modulo, operators.Negate, operators.In,
	"double", "int", "size", "contains", "startsWith", "endsWith",
}

// cohort is a compiled expression.
type cohort struct {
	program cel.Program
	used    []string
}

// cohortError is a fault in the study's expression, at a character counted from
// 1. The expression is public, so the text may quote it.
func cohortError(at int, next, format string, args ...any) error {
	s := fmt.Sprintf(format, args...)
	if at > 0 {
		s = fmt.Sprintf("cohort, character %d: %s", at, s)
	} else {
		s = "cohort: " + s
	}
	if next != "" {
		s += "; " + next
	}
	return consilium.ErrData.Withf("%s", s)
}

// compileCohort checks the expression against the study's columns. It returns
// nil for an empty one.
func compileCohort(spec *consilium.Spec) (*cohort, error) {
	if spec.Cohort == "" {
		return nil, nil
	}
	subset := &env.LibrarySubset{DisableMacros: true}
	for _, f := range cohortFunctions {
		subset.IncludeFunctions = append(subset.IncludeFunctions, env.NewFunction(f))
	}
	options := []cel.EnvOption{
		cel.StdLib(cel.StdLibSubset(subset)), cel.ClearMacros(), cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(maxExpression), cel.ParserRecursionLimit(maxDepth),
		cel.ExpressionNodeLimit(maxNodes), cel.ExpressionNestingDepthLimit(maxDepth),
	}
	var names []string
	for i := range spec.Columns {
		c := &spec.Columns[i]
		var t *cel.Type
		switch c.Type {
		case consilium.TypeNumber:
			t = cel.DoubleType
		case consilium.TypeInteger:
			t = cel.IntType
		case consilium.TypeFlag:
			t = cel.BoolType
		case consilium.TypeLevels, consilium.TypeDate:
			t = cel.StringType
		default:
			continue // an identifier must not choose patients
		}
		names = append(names, c.Name)
		options = append(options, cel.Variable(c.Name, t))
	}
	e, err := cel.NewCustomEnv(options...)
	if err != nil {
		return nil, cohortError(0, "", "%v", err)
	}
	compiled, issues := e.Compile(spec.Cohort)
	if issues != nil && len(issues.Errors()) > 0 {
		first := issues.Errors()[0]
		at := first.Location.Column() + 1
		return nil, cohortError(at, cohortNext(spec, names, first.Message), "%s", first.Message)
	}
	if compiled.OutputType() != cel.BoolType {
		return nil, cohortError(0, "compare it with something, for example age >= 18", "the expression is a %s, want true or false", compiled.OutputType())
	}
	c := &cohort{}
	native := compiled.NativeRep()
	seen := map[string]bool{}
	for _, name := range names {
		for _, ref := range native.ReferenceMap() {
			if ref.Name == name && !seen[name] {
				seen[name] = true
				c.used = append(c.used, name)
			}
		}
	}
	if err := checkLiterals(spec, native); err != nil {
		return nil, err
	}
	c.program, err = e.Program(compiled, cel.CostLimit(maxCost))
	if err != nil {
		return nil, cohortError(0, "", "%v", err)
	}
	return c, nil
}

// cohortNext turns CEL's most common complaints into a next step.
func cohortNext(spec *consilium.Spec, names []string, msg string) string {
	if _, rest, ok := strings.Cut(msg, "undeclared reference to '"); ok {
		word, _, _ := strings.Cut(rest, "'")
		if c, ok := spec.Column(word); ok && c.Type == consilium.TypeID {
			return "a cohort cannot be chosen by identifier"
		}
		for _, d := range spec.Derive {
			if d.Name == word {
				return "a cohort is over declared columns; write the expression of " + word + " out"
			}
		}
		for _, f := range cohortFunctions {
			if f == word {
				return ""
			}
		}
		return suggest(word, names)
	}
	switch {
	case strings.Contains(msg, "(double, int)") || strings.Contains(msg, "(int, double)"):
		return "write a number column with a decimal point, for example 2.0"
	case strings.Contains(msg, "(bool, int)"):
		return "a flag stands alone: flag, or !flag"
	case strings.Contains(msg, "(string, int)") || strings.Contains(msg, "(string, double)"):
		return "put a level in quotes"
	case strings.Contains(msg, "Syntax error"):
		return "join conditions with && and ||, and put levels in quotes"
	}
	return ""
}

// checkLiterals refuses a comparison of a levels column with a word that is
// not one of its levels: it would silently choose nobody, or everybody.
func checkLiterals(spec *consilium.Spec, a *ast.AST) error {
	var fault error
	check := func(e ast.Expr, c *consilium.Column) {
		if e.Kind() != ast.LiteralKind || fault != nil {
			return
		}
		word, ok := e.AsLiteral().Value().(string)
		if !ok {
			return
		}
		at := int(a.SourceInfo().GetStartLocation(e.ID()).Column()) + 1
		if c.Type == consilium.TypeDate {
			if _, err := time.Parse("2006-01-02", word); err != nil {
				fault = cohortError(at, "write dates as 2006-01-31", "%q is not a date", clip(word))
			}
			return
		}
		for _, l := range c.Levels {
			if l == word {
				return
			}
		}
		fault = cohortError(at, suggest(word, c.Levels), "%q is not a level of %s", clip(word), c.Name)
	}
	column := func(e ast.Expr) *consilium.Column {
		ref, ok := a.ReferenceMap()[e.ID()]
		if !ok || ref.Name == "" {
			return nil
		}
		c, ok := spec.Column(ref.Name)
		if !ok || c.Type != consilium.TypeLevels && c.Type != consilium.TypeDate {
			return nil
		}
		return c
	}
	ast.PostOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind {
			return
		}
		call := e.AsCall()
		switch call.FunctionName() {
		case operators.Equals, operators.NotEquals, operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
			l, r := call.Args()[0], call.Args()[1]
			if c := column(l); c != nil {
				check(r, c)
			}
			if c := column(r); c != nil {
				check(l, c)
			}
		case operators.In:
			if c := column(call.Args()[0]); c != nil && call.Args()[1].Kind() == ast.ListKind {
				for _, item := range call.Args()[1].AsList().Elements() {
					check(item, c)
				}
			}
		}
	}))
	return fault
}

// Cohort says which rows of rec meet the study's cohort. A row in which a
// column that the expression names is missing does not. Without an expression
// all rows do.
func Cohort(spec *consilium.Spec, rec arrow.Record) ([]bool, error) {
	c, err := compileCohort(spec)
	if err != nil {
		return nil, err
	}
	out := make([]bool, rec.NumRows())
	if c == nil {
		for i := range out {
			out[i] = true
		}
		return out, nil
	}
	cells := make([]func(int) (any, bool), len(c.used))
	for i, name := range c.used {
		if cells[i], err = celCells(rec, name); err != nil {
			return nil, err
		}
	}
	vars := make(map[string]any, len(c.used))
rows:
	for r := range out {
		for i, name := range c.used {
			v, ok := cells[i](r)
			if !ok {
				continue rows
			}
			vars[name] = v
		}
		v, _, err := c.program.Eval(vars)
		if err != nil {
			// CEL's error may quote a value; its kind is in the expression alone.
			return nil, refuse(&Error{Rule: fmt.Sprintf("the cohort expression fails on row %d", r+1),
				Next: "guard divisions and overflows in the expression", note: err.Error()})
		}
		out[r] = v == types.True
	}
	return out, nil
}

// celCells reads a column as the values that expressions see.
func celCells(rec arrow.Record, name string) (func(int) (any, bool), error) {
	col, err := columnOf(rec, name)
	if err != nil {
		return nil, err
	}
	switch a := col.(type) {
	case *array.Float64:
		return func(i int) (any, bool) { return a.Value(i), a.IsValid(i) }, nil
	case *array.Int64:
		return func(i int) (any, bool) { return a.Value(i), a.IsValid(i) }, nil
	case *array.Boolean:
		return func(i int) (any, bool) { return a.Value(i), a.IsValid(i) }, nil
	case *array.Date32:
		return func(i int) (any, bool) { return a.Value(i).ToTime().Format("2006-01-02"), a.IsValid(i) }, nil
	case *array.Dictionary:
		words, ok := a.Dictionary().(*array.String)
		if !ok {
			break
		}
		return func(i int) (any, bool) {
			if a.IsNull(i) {
				return nil, false
			}
			return words.Value(a.GetValueIndex(i)), true
		}, nil
	}
	return nil, consilium.ErrData.Withf("column %s has the unexpected type %s", clip(name), col.DataType())
}

func columnOf(rec arrow.Record, name string) (arrow.Array, error) {
	at := rec.Schema().FieldIndices(name)
	if len(at) != 1 {
		return nil, consilium.ErrData.Withf("the record has %d columns %s, want one", len(at), clip(name))
	}
	return rec.Column(at[0]), nil
}
