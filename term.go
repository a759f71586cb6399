package consilium

import (
	"fmt"
	"strconv"
	"strings"
)

// Term is one product of factors, for example treat:age.
type Term struct {
	Factors []Factor
}

// Factor is a column, possibly transformed. Column "site" stands for the
// hospitals as levels.
type Factor struct {
	Column string
	Func   string  // "", "log", "sqrt" or "pow"
	Power  float64 // for "pow"
}

// ParseTerm reads the canonical form of a term: factors joined by ":", each
// a, log(a), sqrt(a) or a^2. It accepts no blanks.
func ParseTerm(s string) (Term, error) {
	var t Term
	for _, part := range strings.Split(s, ":") {
		f, err := parseFactor(part)
		if err != nil {
			return Term{}, fmt.Errorf("term %q: %w", clip(s), err)
		}
		for _, g := range t.Factors {
			if g == f {
				return Term{}, fmt.Errorf("term %q: %s stands twice", clip(s), f)
			}
		}
		t.Factors = append(t.Factors, f)
	}
	return t, nil
}

func parseFactor(s string) (Factor, error) {
	for _, fn := range []string{"log", "sqrt"} {
		if inner, ok := strings.CutPrefix(s, fn+"("); ok {
			inner, ok = strings.CutSuffix(inner, ")")
			if !ok || !isName(inner) {
				return Factor{}, fmt.Errorf("%q: want %s(column)", clip(s), fn)
			}
			return Factor{Column: inner, Func: fn}, nil
		}
	}
	if base, exp, ok := strings.Cut(s, "^"); ok {
		p, err := strconv.ParseFloat(exp, 64)
		if err != nil || !isName(base) || !(p >= 2 && p <= 9 && p == float64(int(p))) {
			return Factor{}, fmt.Errorf("%q: want column^n with n from 2 to 9", clip(s))
		}
		return Factor{Column: base, Func: "pow", Power: p}, nil
	}
	if !isName(s) {
		return Factor{}, fmt.Errorf("%q is not a column, log(column), sqrt(column) or column^n", clip(s))
	}
	return Factor{Column: s}, nil
}

func (f Factor) String() string {
	switch f.Func {
	case "":
		return f.Column
	case "pow":
		return f.Column + "^" + strconv.FormatFloat(f.Power, 'g', -1, 64)
	default:
		return f.Func + "(" + f.Column + ")"
	}
}

func (t Term) String() string {
	parts := make([]string, len(t.Factors))
	for i, f := range t.Factors {
		parts[i] = f.String()
	}
	return strings.Join(parts, ":")
}
