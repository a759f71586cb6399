package studyfile

import (
	"fmt"
	"sort"
	"strings"

	"consilium"
)

// formula is what a model formula says, in canonical keys.
type formula struct {
	response    *consilium.Response
	terms       []string
	strata      []string
	cluster     string
	offset      *consilium.Offset
	noIntercept bool
	columns     []mention // every column named, for the check that it is declared
}

// mention is a column's name and its byte offset in the formula.
type mention struct {
	name string
	at   int
}

// formulaError is a fault at a byte offset of the formula.
type formulaError struct {
	at        int
	msg, next string
}

func (e *formulaError) Error() string { return e.msg }

const formulaExample = "write for example Surv(time, status) ~ treat + age + strata(site)"

// transforms that a term may use; I( ) is R's way to write a^2 and is dropped.
var transforms = []string{"log", "sqrt"}

// functions that a formula may hold, for suggestions.
var functions = []string{"Surv", "strata", "cluster", "offset", "log", "sqrt"}

type token struct {
	text string
	at   int
	kind byte // 'n' name, '0' number, 'o' operator, 'e' end
}

// tokens splits a formula.
func tokens(s string) ([]token, *formulaError) {
	var out []token
	for i := 0; i < len(s); {
		c := s[i]
		j := i + 1
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
			continue
		case isLetter(c):
			for j < len(s) && (isLetter(s[j]) || isDigit(s[j]) || s[j] == '.') {
				j++
			}
			out = append(out, token{s[i:j], i, 'n'})
		case isDigit(c):
			for j < len(s) && (isDigit(s[j]) || s[j] == '.') {
				j++
			}
			out = append(out, token{s[i:j], i, '0'})
		case strings.IndexByte("~+-*:^(),", c) >= 0:
			out = append(out, token{s[i:j], i, 'o'})
		case c == '=':
			return nil, &formulaError{i, "a comparison cannot stand in a formula", "an event is a flag column of 0 and 1: recode it in the table"}
		case c == '.':
			return nil, &formulaError{i, "the dot for all columns is not allowed", "name every term: what is signed must be readable"}
		default:
			for j < len(s) && s[j]&0xc0 == 0x80 { // the rest of a UTF-8 sequence
				j++
			}
			return nil, &formulaError{i, fmt.Sprintf("%q has no meaning in a formula", s[i:j]), formulaExample}
		}
		i = j
	}
	return append(out, token{"", len(s), 'e'}), nil
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }

type formulaParser struct {
	toks []token
	i    int
	f    *formula
	seen map[string]bool
}

// parseFormula reads `response ~ terms`.
func parseFormula(s string) (f *formula, err *formulaError) {
	toks, err := tokens(s)
	if err != nil {
		return nil, err
	}
	p := &formulaParser{toks: toks, f: &formula{}, seen: map[string]bool{}}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *formulaError:
			f, err = nil, r
		default:
			panic(r)
		}
	}()
	p.leftSide()
	p.expect("~", "the response ends here; a ~ must follow")
	p.rightSide()
	p.order()
	return p.f, nil
}

func (p *formulaParser) peek() token { return p.toks[p.i] }
func (p *formulaParser) take() token { t := p.toks[p.i]; p.i = min(p.i+1, len(p.toks)-1); return t }
func (p *formulaParser) fail(t token, next, format string, args ...any) {
	panic(&formulaError{t.at, fmt.Sprintf(format, args...), next})
}
func (p *formulaParser) is(op string) bool { t := p.peek(); return t.kind == 'o' && t.text == op }
func (p *formulaParser) accept(op string) bool {
	if p.is(op) {
		p.take()
		return true
	}
	return false
}

func (p *formulaParser) expect(op, why string) {
	if !p.accept(op) {
		t := p.peek()
		if t.kind == 'e' {
			p.fail(t, formulaExample, "the formula ends early: %s", why)
		}
		p.fail(t, formulaExample, "%q is not expected here: %s", t.text, why)
	}
}

// name takes a column's name.
func (p *formulaParser) name(why string) string {
	t := p.peek()
	if t.kind != 'n' {
		if t.kind == 'e' {
			p.fail(t, formulaExample, "the formula ends early: %s", why)
		}
		p.fail(t, formulaExample, "%q is not expected here: %s", t.text, why)
	}
	p.take()
	if p.is("(") {
		p.fail(t, suggest(t.text, functions, "function"), "%s( ) is not a function that can stand here", clip(t.text))
	}
	p.f.columns = append(p.f.columns, mention{t.text, t.at})
	return t.text
}

func (p *formulaParser) leftSide() {
	t := p.peek()
	if t.kind == 'o' && t.text == "~" {
		p.fail(t, formulaExample, "no response before the ~")
	}
	if t.kind == 'n' && p.toks[p.i+1].text == "(" {
		if t.text == "cbind" {
			p.fail(t, "use one row per patient with a flag as the response", "cbind( ) is not supported")
		}
		if t.text != "Surv" {
			p.fail(t, suggest(t.text, []string{"Surv"}, "response"), "%s( ) is not a response; it is a column, Surv(time, event) or Surv(start, stop, event)", clip(t.text))
		}
		p.take()
		p.take()
		args := []string{p.name("a column of Surv(time, event)")}
		for p.accept(",") {
			args = append(args, p.name("a column of Surv(start, stop, event)"))
		}
		p.expect(")", "Surv( takes columns only")
		switch len(args) {
		case 2:
			p.f.response = &consilium.Response{Stop: args[0], Event: args[1]}
		case 3:
			p.f.response = &consilium.Response{Start: args[0], Stop: args[1], Event: args[2]}
		default:
			p.fail(t, formulaExample, "Surv has %d columns: want (time, event) or (start, stop, event)", len(args))
		}
		return
	}
	p.f.response = &consilium.Response{Column: p.name("a column or Surv( )")}
}

func (p *formulaParser) rightSide() {
	if t := p.peek(); t.kind == 'e' {
		p.fail(t, "write 1 for no terms", "no terms after the ~")
	}
	minus := p.accept("-")
	for {
		p.summand(minus)
		switch t := p.peek(); {
		case t.kind == 'e':
			return
		case p.accept("+"):
			minus = false
		case p.accept("-"):
			minus = true
		default:
			p.fail(t, formulaExample, "%q is not expected here: terms are joined by + ", t.text)
		}
	}
}

// summand reads one of a, a:b, a*b, strata( ), cluster( ), offset( ), 0, 1.
func (p *formulaParser) summand(minus bool) {
	t := p.peek()
	if t.kind == '0' {
		p.take()
		switch {
		case t.text == "1" && !minus:
		case t.text == "1" || t.text == "0" && !minus:
			p.f.noIntercept = true
		default:
			p.fail(t, formulaExample, "the number %s is not a term", clip(t.text))
		}
		return
	}
	if minus {
		p.fail(t, "leave the term out instead", "only the intercept can be taken away (- 1)")
	}
	if t.kind == 'n' && p.toks[p.i+1].text == "(" {
		switch t.text {
		case "strata":
			p.take()
			p.take()
			for {
				name := p.name("a column of strata( )")
				if contains(p.f.strata, name) {
					p.fail(t, "keep one of them", "strata names %s twice", name)
				}
				p.f.strata = append(p.f.strata, name)
				if !p.accept(",") {
					break
				}
			}
			p.expect(")", "strata( takes columns only")
			return
		case "cluster":
			p.take()
			p.take()
			if p.f.cluster != "" {
				p.fail(t, "keep one of them", "cluster stands twice")
			}
			p.f.cluster = p.name("a column of cluster( )")
			p.expect(")", "cluster( takes one column")
			return
		case "offset":
			p.take()
			p.take()
			if p.f.offset != nil {
				p.fail(t, "add them in a derived column", "offset stands twice")
			}
			p.f.offset = &consilium.Offset{}
			if in := p.peek(); in.kind == 'n' && in.text == "log" && p.toks[p.i+1].text == "(" {
				p.take()
				p.take()
				p.f.offset.Log = true
				p.f.offset.Column = p.name("a column of log( )")
				p.expect(")", "log( takes one column")
			} else {
				p.f.offset.Column = p.name("offset(column) or offset(log(column))")
			}
			p.expect(")", "offset( takes one column or its log")
			return
		}
	}
	// sums is the expansion so far: a*b*c multiplies it out.
	sums := []product{p.colons()}
	for p.accept("*") {
		next := p.colons()
		list := append(sums, next)
		for _, s := range sums {
			list = append(list, p.times(t, s, next))
		}
		if len(list) > 64 {
			p.fail(t, "", "the product expands to more than 64 terms")
		}
		sums = list
	}
	for _, s := range sums {
		p.add(t, s)
	}
}

// product is one term: factors joined by colons.
type product []string

// colons reads a:b:c.
func (p *formulaParser) colons() product {
	t := p.peek()
	out := product{p.factor()}
	for p.accept(":") {
		out = p.times(t, out, product{p.factor()})
	}
	return out
}

// times joins two products; a factor that both have counts once, as in R.
func (p *formulaParser) times(_ token, a, b product) product {
	out := append(product(nil), a...)
	for _, f := range b {
		if !contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

// factor reads a, log(a), sqrt(a), a^2 or I(a^2).
func (p *formulaParser) factor() string {
	t := p.peek()
	if t.kind == 'o' && t.text == "(" {
		p.fail(t, "write the terms out: a + b + a:b", "brackets around terms are not supported")
	}
	if t.kind == 'n' && p.toks[p.i+1].text == "(" {
		switch {
		case t.text == "I":
			p.take()
			p.take()
			s := p.factor()
			p.expect(")", "I( takes one power, such as I(a^2)")
			return s
		case contains(transforms, t.text):
			p.take()
			p.take()
			s := t.text + "(" + p.name("a column of "+t.text+"( )") + ")"
			p.expect(")", t.text+"( takes one column")
			return s
		case t.text == "factor" || t.text == "as.factor" || t.text == "C" || t.text == "relevel":
			p.fail(t, "declare the column with levels, the first is the reference", "%s( ) is not supported", t.text)
		}
		p.fail(t, suggest(t.text, functions, "function"), "%s( ) is not a function of a formula", clip(t.text))
	}
	s := p.name("a term")
	if p.accept("^") {
		n := p.peek()
		if n.kind != '0' || len(n.text) != 1 || n.text < "2" {
			p.fail(n, "write for example age^2", "a power is a whole number from 2 to 9")
		}
		p.take()
		s += "^" + n.text
	}
	return s
}

// add keeps a term once, whatever the order of its factors.
func (p *formulaParser) add(t token, factors product) {
	sorted := append([]string(nil), factors...)
	sort.Strings(sorted)
	key := strings.Join(sorted, ":")
	if p.seen[key] {
		return
	}
	p.seen[key] = true
	text := strings.Join(factors, ":")
	if _, err := consilium.ParseTerm(text); err != nil {
		p.fail(t, "", "%s", err.Error())
	}
	p.f.terms = append(p.f.terms, text)
}

// order sorts terms by the number of factors and keeps the order within, as R
// does, so that coefficients stand in the order that a reader of R expects.
func (p *formulaParser) order() {
	sort.SliceStable(p.f.terms, func(i, j int) bool {
		return strings.Count(p.f.terms[i], ":") < strings.Count(p.f.terms[j], ":")
	})
}

// oneTerm adds the term, or the terms of a product, that s is.
func (p *formulaParser) oneTerm(s string) (err *formulaError) {
	toks, err := tokens(s)
	if err != nil {
		return err
	}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *formulaError:
			err = r
		default:
			panic(r)
		}
	}()
	p.toks, p.i = toks, 0
	if t := p.peek(); t.kind == 'n' && contains([]string{"strata", "cluster", "offset"}, t.text) && toks[1].text == "(" {
		p.fail(t, "use the key "+t.text+" or a formula", "%s( ) is not a term", t.text)
	}
	if t := p.peek(); t.kind == '0' {
		p.fail(t, "", "a number is not a term")
	}
	p.summand(false)
	if t := p.peek(); t.kind != 'e' {
		p.fail(t, "list each term on its own", "%q is not expected here", t.text)
	}
	return nil
}
