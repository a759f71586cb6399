//go:build ignore

// Gen writes kernels_amd64.s and kernels_amd64.go: the register tiles of the
// products for AVX-512 and AVX2, and the sweeps over rows for AVX2, whose four
// lanes are what the package's definitions speak of.
//
//	go run gen.go
package main

import (
	"bytes"
	"fmt"
	"go/format"
	"math"
	"os"
	"sort"
	"strings"
)

// writer writes one assembly file. Its helpers take the destination first, as
// the formulas read; the assembler wants it last.
type writer struct {
	asm, decl bytes.Buffer
	constants map[string]uint64
}

func (w *writer) p(format string, a ...any) { fmt.Fprintf(&w.asm, "\t"+format+"\n", a...) }

func (w *writer) label(l string) { fmt.Fprintf(&w.asm, "\n%s:\n", l) }

// begin starts a function whose only argument points to a struct of 8-byte
// fields, and loads them into the registers named, in the fields' order.
func (w *writer) begin(name, argument string, registers ...string) {
	fmt.Fprintf(&w.asm, "\n// func %s(a *%s)\nTEXT ·%s(SB), NOSPLIT, $0-8\n", name, argument, name)
	fmt.Fprintf(&w.decl, "//go:noescape\nfunc %s(a *%s)\n\n", name, argument)
	w.p("MOVQ a+0(FP), AX")
	for i, r := range registers {
		if r != "" {
			w.p("MOVQ %d(AX), %s", 8*i, r)
		}
	}
}

// c is a constant in all four lanes.
func (w *writer) c(v float64) string { return w.bits(math.Float64bits(v)) }

func (w *writer) bits(b uint64) string {
	name := fmt.Sprintf("c%016x<>", b)
	w.constants[name] = b
	return name + "(SB)"
}

func (w *writer) load(d, from string)   { w.p("VMOVUPD %s, %s", from, d) }
func (w *writer) store(to, s string)    { w.p("VMOVUPD %s, %s", s, to) }
func (w *writer) add(d, a, b string)    { w.p("VADDPD %s, %s, %s", b, a, d) }
func (w *writer) sub(d, a, b string)    { w.p("VSUBPD %s, %s, %s", b, a, d) }
func (w *writer) mul(d, a, b string)    { w.p("VMULPD %s, %s, %s", b, a, d) }
func (w *writer) div(d, a, b string)    { w.p("VDIVPD %s, %s, %s", b, a, d) }
func (w *writer) and(d, a, b string)    { w.p("VANDPD %s, %s, %s", b, a, d) }
func (w *writer) or(d, a, b string)     { w.p("VORPD %s, %s, %s", b, a, d) }
func (w *writer) xor(d, a, b string)    { w.p("VXORPD %s, %s, %s", b, a, d) }
func (w *writer) trunc(d, a string)     { w.p("VROUNDPD $11, %s, %s", a, d) }
func (w *writer) zero(d string)         { w.p("VXORPD %[1]s, %[1]s, %[1]s", d) }
func (w *writer) spread(d, from string) { w.p("VBROADCASTSD %s, %s", from, d) }

// Comparisons leave all ones where they hold.
func (w *writer) less(d, a, b string)          { w.p("VCMPPD $17, %s, %s, %s", b, a, d) }
func (w *writer) notAtMost(d, a, b string)     { w.p("VCMPPD $22, %s, %s, %s", b, a, d) }
func (w *writer) pick(d, mask, yes, no string) { w.p("VBLENDVPD %s, %s, %s, %s", mask, yes, no, d) }

// total adds v to the double hi + lo by Knuth's two-sum; s, b and e are free, and
// v is lost.
func (w *writer) total(hi, lo, v, s, b, e string) {
	w.add(s, hi, v)
	w.sub(b, s, hi)
	w.sub(e, s, b)
	w.sub(e, hi, e)
	w.sub(v, v, b)
	w.add(e, e, v)
	w.add(lo, lo, e)
	w.p("VMOVAPD %s, %s", s, hi)
}

func y(i int) string { return fmt.Sprintf("Y%d", i) }

// tile writes one register tile for AVX2: rows a of weighted columns by columns b.
func (w *writer) tile(name string, rows, columns int) {
	w.begin(name, "tile", "CX", "R8", "R10", "SI", "R11", "DI", "DX", "R9")
	c := func(r, k int) string { return fmt.Sprintf("%d%s", 64*k, []string{"(DI)", "(DI)(DX*1)"}[r]) }
	z, t, scratch := y(rows*columns), rows*columns+1, rows*columns+1+rows
	for r := range rows {
		for k := range columns {
			w.load(y(r*columns+k), c(r, k))
		}
	}
	w.label("loop" + name)
	for r := range rows {
		w.load(y(t+r), fmt.Sprintf("%d(R8)", 32*r))
	}
	n := 0
	for k := range columns {
		w.load(z, fmt.Sprintf("%d(SI)", 32*k))
		for r := range rows {
			x := y(scratch + n%(16-scratch))
			n++
			w.mul(x, y(t+r), z)
			w.add(y(r*columns+k), y(r*columns+k), x)
		}
	}
	w.next(name)
	for r := range rows {
		for k := range columns {
			w.store(c(r, k), y(r*columns+k))
		}
	}
	w.p("VZEROUPPER")
	w.p("RET")
}

// next ends a tile's loop.
func (w *writer) next(name string) {
	w.p("PREFETCHT1 (R9)")
	w.p("ADDQ $64, R9")
	w.p("ADDQ R10, R8")
	w.p("ADDQ R11, SI")
	w.p("DECQ CX")
	w.p("JNZ  loop%s", name)
}

// diagonal writes one register tile for AVX-512. A register holds two neighbouring
// columns: of the weighted ones a and a+1, of the others b and b+1, so that their
// product is that of (a, b) and of (a+1, b+1). With b running by one, every product
// comes up, and nothing is broadcast, which would cost as much as a product.
func (w *writer) diagonal(name string, pairs, columns int) {
	w.begin(name, "tile", "CX", "R8", "R10", "SI", "R11", "DI", "DX", "R9")
	reg := func(i int) string { return fmt.Sprintf("Z%d", i) }
	c := func(r, k int) string { return fmt.Sprintf("%d%s", 64*k, []string{"(DI)", "(DI)(DX*1)"}[r]) }
	t, z := pairs*columns, pairs*columns+pairs
	for r := range pairs {
		for k := range columns {
			w.load(reg(r*columns+k), c(r, k))
		}
	}
	w.label("loop" + name)
	for r := range pairs {
		w.load(reg(t+r), fmt.Sprintf("%d(R8)", 64*r))
	}
	zs := min(4, columns)
	n := 0
	for k := range columns {
		from := reg(z + k%zs)
		w.load(from, fmt.Sprintf("%d(SI)", 32*k))
		for r := range pairs {
			x := reg(z + zs + n%(32-z-zs))
			n++
			w.mul(x, reg(t+r), from)
			w.add(reg(r*columns+k), reg(r*columns+k), x)
		}
	}
	w.next(name)
	for r := range pairs {
		for k := range columns {
			w.store(c(r, k), reg(r*columns+k))
		}
	}
	w.p("VZEROUPPER")
	w.p("RET")
}

// scale writes t = w·z for some neighbouring columns.
func (w *writer) scale(name string, columns int) {
	w.begin(name, "scaling", "CX", "R8", "SI", "R11", "DI", "DX")
	w.label("loop" + name)
	w.load("Y0", "(R8)")
	for k := range columns {
		w.mul(y(1+k), "Y0", fmt.Sprintf("%d(SI)", 32*k))
		w.store(fmt.Sprintf("%d(DI)", 32*k), y(1+k))
	}
	w.p("ADDQ $32, R8")
	w.p("ADDQ R11, SI")
	w.p("ADDQ DX, DI")
	w.p("DECQ CX")
	w.p("JNZ  loop%s", name)
	w.p("VZEROUPPER")
	w.p("RET")
}

// standard writes the pass that standardises columns: with their linear
// predictor, with their values, or with both.
func (w *writer) standard(name string, eta, values bool) {
	// R15 is not free in every build mode; AX is once the fields are read.
	w.begin(name, "standardising", "CX", "SI", "R11", "", "R8", "R9", "R10", "R12", "DI", "BX", "DX")
	w.p("MOVQ 24(AX), AX // columns")
	pass := func(groups int, label string) {
		w.label(label)
		w.p("CMPQ CX, $%d", groups)
		w.p("JLT  %s", map[int]string{4: "one" + name, 1: "done" + name}[groups])
		if eta {
			for g := range groups {
				w.load(y(g), fmt.Sprintf("%d(DI)", 32*g))
			}
		}
		w.p("MOVQ SI, R13")
		if values {
			w.p("MOVQ BX, R14")
		}
		w.p("PUSHQ BX")
		w.p("PUSHQ CX")
		w.p("LEAQ (R13)(R11*2), CX")
		if values {
			w.p("LEAQ (R14)(DX*2), BX")
		}
		w.p("PUSHQ DI")
		w.p("XORQ DI, DI")
		ahead := !values && groups == 4
		if ahead { // what follows the next four groups, a column's share at a time
			w.p("LEAQ (R13)(R11*8), R14")
		}
		w.label("columns" + label)
		w.spread("Y4", "(R8)(DI*8)")
		w.spread("Y5", "(R9)(DI*8)")
		if eta {
			w.spread("Y6", "(R10)(DI*8)")
		}
		if values && !eta {
			w.spread("Y7", "(R12)(DI*8)")
		}
		from := []string{"(R13)", "(R13)(R11*1)", "(CX)", "(CX)(R11*1)"}
		to := []string{"(R14)", "(R14)(DX*1)", "(BX)", "(BX)(DX*1)"}
		for g := range groups {
			x := y(8 + g)
			w.load(x, from[g])
			w.sub(x, x, "Y4")
			w.mul(x, x, "Y5")
			if eta {
				w.mul(y(12+g), x, "Y6")
				w.add(y(g), y(g), y(12+g))
			}
			if values && !eta {
				w.sub(x, x, "Y7")
			}
			if values {
				w.store(to[g], x)
			}
		}
		if ahead {
			w.p("PREFETCHT0 (R14)")
			w.p("PREFETCHT0 64(R14)")
			w.p("ADDQ $128, R14")
		}
		w.p("ADDQ $32, R13")
		w.p("ADDQ $32, CX")
		if values {
			w.p("ADDQ $32, R14")
			w.p("ADDQ $32, BX")
		}
		w.p("INCQ DI")
		w.p("CMPQ DI, AX")
		w.p("JLT  columns%s", label)
		w.p("POPQ DI")
		w.p("POPQ CX")
		w.p("POPQ BX")
		if eta {
			for g := range groups {
				w.store(fmt.Sprintf("%d(DI)", 32*g), y(g))
			}
			w.p("ADDQ $%d, DI", 32*groups)
		}
		if groups == 4 {
			w.p("LEAQ (SI)(R11*4), SI")
			if values {
				w.p("LEAQ (BX)(DX*4), BX")
			}
		} else {
			w.p("ADDQ R11, SI")
			if values {
				w.p("ADDQ DX, BX")
			}
		}
		w.p("SUBQ $%d, CX", groups)
		w.p("JMP  %s", label)
	}
	pass(4, "four"+name)
	pass(1, "one"+name)
	w.label("done" + name)
	w.p("VZEROUPPER")
	w.p("RET")
}

// exp writes e = exp(x), both registers; t is a list of seven free ones. Lanes
// beyond ±700, or without a value, are left to the definition: flags collects them.
func (w *writer) exp(e, x, flags string, t []string) {
	k, hi, lo, r, s, c, m := t[0], t[1], t[2], t[3], t[4], t[5], t[6]
	w.and(k, x, w.bits(1<<63))
	w.or(k, k, w.c(0.5))
	w.mul(m, x, w.c(1.44269504088896338700e+00))
	w.add(k, m, k)
	w.trunc(k, k)
	w.mul(hi, k, w.c(6.93147180369123816490e-01))
	w.sub(hi, x, hi)
	w.mul(lo, k, w.c(1.90821492927058770002e-10))
	w.sub(r, hi, lo)
	w.mul(s, r, r)
	w.mul(c, s, w.c(4.13813679705723846039e-08))
	for _, p := range []float64{-1.65339022054652515390e-06, 6.61375632143793436117e-05, -2.77777777770155933842e-03, 1.66666666666666657415e-01} {
		w.add(c, c, w.c(p))
		w.mul(c, c, s)
	}
	w.sub(c, r, c)
	w.mul(r, r, c)
	w.load(m, w.c(2))
	w.sub(c, m, c)
	w.div(r, r, c)
	w.sub(lo, lo, r)
	w.sub(lo, lo, hi)
	w.load(m, w.c(1))
	w.sub(lo, m, lo)
	// Times 2^k: k stands in the low bits of k + 1.5·2^52.
	w.add(k, k, w.c(0x1.8p52))
	w.p("VPSLLQ $52, %s, %s", k, k)
	w.p("VPADDQ %s, %s, %s", k, lo, lo)
	// Near zero 1 + x.
	w.and(s, x, w.bits(1<<63-1))
	w.notAtMost(c, s, w.c(700))
	w.or(flags, flags, c)
	w.less(s, s, w.c(1.0/(1<<28)))
	w.add(m, m, x)
	w.pick(e, s, m, lo)
}

// log1p writes l = log(1+x) for 2^-29 <= x <= 1-2^-40, except in a hair's
// breadth of √2-1; flags collects the other lanes. x is kept; t is eight free registers.
func (w *writer) log1p(l, x, flags string, t []string) {
	f, c, u, s, hfsq, r, upper, q := t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7]
	const sqrt2M1 = 4.142135623730950488017e-01
	w.load(q, w.c(sqrt2M1+0x1p-45))
	w.less(upper, q, x) // 1+x is halved: k is 1, else 0
	w.load(q, w.c(sqrt2M1-0x1p-45))
	w.less(s, x, q)
	w.or(s, s, upper) // outside the breadth
	w.less(u, x, w.c(1.0/(1<<29)))
	w.load(q, w.c(1-0x1p-40))
	w.less(c, q, x)
	w.or(u, u, c)
	w.p("VANDNPD %s, %s, %s", w.bits(1<<64-1), s, s) // not s
	w.or(u, u, s)
	w.or(flags, flags, u)
	w.add(u, x, w.c(1))
	w.sub(c, u, w.c(1))
	w.sub(c, x, c)
	w.div(c, c, u)
	w.mul(u, u, w.c(0.5))
	w.sub(u, u, w.c(1))
	w.pick(f, upper, u, x)
	w.mul(hfsq, f, w.c(0.5))
	w.mul(hfsq, hfsq, f)
	w.add(s, f, w.c(2))
	w.div(s, f, s)
	w.mul(u, s, s)
	w.mul(r, u, w.c(1.479819860511658591e-01))
	for _, p := range []float64{1.531383769920937332e-01, 1.818357216161805012e-01, 2.222219843214978396e-01, 2.857142874366239149e-01, 3.999999999940941908e-01, 6.666666666666735130e-01} {
		w.add(r, r, w.c(p))
		w.mul(r, r, u)
	}
	w.add(q, hfsq, r)
	w.mul(q, s, q) // s·(hfsq + R)
	w.sub(r, hfsq, q)
	w.sub(r, f, r) // k = 0
	w.add(c, c, w.c(1.90821492927058770002e-10))
	w.add(q, q, c)
	w.sub(q, hfsq, q)
	w.sub(q, q, f)
	w.load(c, w.c(6.93147180369123816490e-01))
	w.sub(q, c, q) // k = 1
	w.pick(l, upper, q, r)
}

// expSweep writes y = exp(x) over groups of four.
func (w *writer) expSweep() {
	w.begin("exps", "sweeping", "CX", "SI", "DI")
	w.zero("Y15")
	w.label("loopexps")
	w.load("Y0", "(SI)")
	w.exp("Y1", "Y0", "Y15", []string{"Y2", "Y3", "Y4", "Y5", "Y6", "Y7", "Y8"})
	w.store("(DI)", "Y1")
	w.p("ADDQ $32, SI")
	w.p("ADDQ $32, DI")
	w.p("DECQ CX")
	w.p("JNZ  loopexps")
	w.p("VMOVMSKPD Y15, CX")
	w.p("MOVQ CX, 24(AX)")
	w.p("VZEROUPPER")
	w.p("RET")
}

// logSweep writes y = log(x) over groups of four, of normal numbers above 0.
func (w *writer) logSweep() {
	w.begin("logs", "sweeping", "CX", "SI", "DI")
	w.zero("Y15")
	w.label("looplogs")
	w.load("Y0", "(SI)")
	w.notAtMost("Y1", "Y0", w.c(math.MaxFloat64))
	w.or("Y15", "Y15", "Y1")
	w.less("Y1", "Y0", w.c(0x1p-1022))
	w.or("Y15", "Y15", "Y1")
	// x = m·2^k with m in [1/2, 1).
	w.p("VPSRLQ $52, Y0, Y1")
	w.or("Y1", "Y1", w.c(0x1p52))
	w.sub("Y1", "Y1", w.c(0x1p52+1022))
	w.and("Y2", "Y0", w.bits(1<<52-1))
	w.or("Y2", "Y2", w.c(0.5))
	w.less("Y3", "Y2", w.c(math.Sqrt2/2))
	w.and("Y4", "Y3", "Y2")
	w.add("Y2", "Y2", "Y4")
	w.and("Y3", "Y3", w.c(1))
	w.sub("Y1", "Y1", "Y3")
	w.sub("Y2", "Y2", w.c(1)) // f
	w.add("Y3", "Y2", w.c(2))
	w.div("Y3", "Y2", "Y3") // s
	w.mul("Y4", "Y3", "Y3") // s²
	w.mul("Y5", "Y4", "Y4") // s⁴
	w.mul("Y6", "Y5", w.c(1.479819860511658591e-01))
	for _, l := range []float64{1.818357216161805012e-01, 2.857142874366239149e-01} {
		w.add("Y6", "Y6", w.c(l))
		w.mul("Y6", "Y6", "Y5")
	}
	w.add("Y6", "Y6", w.c(6.666666666666735130e-01))
	w.mul("Y6", "Y6", "Y4")
	w.mul("Y7", "Y5", w.c(1.531383769920937332e-01))
	for _, l := range []float64{2.222219843214978396e-01, 3.999999999940941908e-01} {
		w.add("Y7", "Y7", w.c(l))
		w.mul("Y7", "Y7", "Y5")
	}
	w.add("Y6", "Y6", "Y7") // R
	w.mul("Y8", "Y2", w.c(0.5))
	w.mul("Y8", "Y8", "Y2") // f²/2
	w.add("Y6", "Y8", "Y6")
	w.mul("Y6", "Y3", "Y6")
	w.mul("Y9", "Y1", w.c(1.90821492927058770002e-10))
	w.add("Y6", "Y6", "Y9")
	w.sub("Y6", "Y8", "Y6")
	w.sub("Y6", "Y6", "Y2")
	w.mul("Y1", "Y1", w.c(6.93147180369123816490e-01))
	w.sub("Y6", "Y1", "Y6")
	w.store("(DI)", "Y6")
	w.p("ADDQ $32, SI")
	w.p("ADDQ $32, DI")
	w.p("DECQ CX")
	w.p("JNZ  looplogs")
	w.p("VMOVMSKPD Y15, CX")
	w.p("MOVQ CX, 24(AX)")
	w.p("VZEROUPPER")
	w.p("RET")
}

// logistic writes weight, residual, log-likelihood and squared Pearson residual
// of rows of a logistic model.
func (w *writer) logistic() {
	w.begin("logistics", "sweepingLogistic", "CX", "SI", "DX", "R8", "R9", "R10", "R11")
	w.zero("Y15")
	w.label("looplogistics")
	w.load("Y0", "(SI)")
	w.or("Y1", "Y0", w.bits(1<<63))
	w.exp("Y14", "Y1", "Y15", []string{"Y2", "Y3", "Y4", "Y5", "Y6", "Y7", "Y8"})
	w.log1p("Y13", "Y14", "Y15", []string{"Y2", "Y3", "Y4", "Y5", "Y6", "Y7", "Y8", "Y9"})
	w.xor("Y13", "Y13", w.bits(1<<63))
	w.load("Y1", "(DX)") // y
	w.zero("Y2")
	w.less("Y2", "Y0", "Y2") // eta < 0
	w.load("Y3", w.c(1))
	w.add("Y4", "Y14", "Y3")        // 1 + e
	w.pick("Y5", "Y2", "Y14", "Y3") // e or 1
	w.div("Y5", "Y5", "Y4")         // mu
	w.mul("Y4", "Y4", "Y4")
	w.div("Y4", "Y14", "Y4") // weight
	w.store("(R8)", "Y4")
	w.sub("Y5", "Y1", "Y5")
	w.store("(R9)", "Y5")
	w.mul("Y5", "Y5", "Y5")
	w.div("Y5", "Y5", "Y4")
	w.store("(R11)", "Y5")
	w.mul("Y6", "Y1", "Y0")
	w.add("Y6", "Y13", "Y6")
	w.sub("Y7", "Y3", "Y1")
	w.mul("Y7", "Y7", "Y0")
	w.sub("Y7", "Y13", "Y7")
	w.pick("Y6", "Y2", "Y6", "Y7")
	w.store("(R10)", "Y6")
	for _, r := range []string{"SI", "DX", "R8", "R9", "R10", "R11"} {
		w.p("ADDQ $32, %s", r)
	}
	w.p("DECQ CX")
	w.p("JNZ  looplogistics")
	w.p("VMOVMSKPD Y15, CX")
	w.p("MOVQ CX, 56(AX)")
	w.p("VZEROUPPER")
	w.p("RET")
}

// fetch asks for four columns of groups of rows, two cache lines each.
func (w *writer) fetch() {
	w.begin("fetches", "fetching", "CX", "SI", "R11")
	w.label("loopfetches")
	w.p("PREFETCHT0 (SI)")
	w.p("PREFETCHT0 64(SI)")
	w.p("ADDQ R11, SI")
	w.p("DECQ CX")
	w.p("JNZ  loopfetches")
	w.p("RET")
}

// summing writes the sums of four partial sums each, (s0 + s1) + (s2 + s3).
func (w *writer) summing() {
	w.begin("summings", "summing", "CX", "SI", "DI")
	w.label("loopsummings")
	w.load("Y0", "(SI)")
	w.p("VHADDPD 64(SI), Y0, Y0")
	w.load("Y1", "128(SI)")
	w.p("VHADDPD 192(SI), Y1, Y1")
	w.p("VPERM2F128 $0x20, Y1, Y0, Y2")
	w.p("VPERM2F128 $0x31, Y1, Y0, Y3")
	w.add("Y2", "Y2", "Y3")
	w.store("(DI)", "Y2")
	w.p("ADDQ $256, SI")
	w.p("ADDQ $32, DI")
	w.p("DECQ CX")
	w.p("JNZ  loopsummings")
	w.p("VZEROUPPER")
	w.p("RET")
}

// four transposes four registers in place, with four free ones.
func (w *writer) four(r, t []string) {
	w.p("VUNPCKLPD %s, %s, %s", r[1], r[0], t[0])
	w.p("VUNPCKHPD %s, %s, %s", r[1], r[0], t[1])
	w.p("VUNPCKLPD %s, %s, %s", r[3], r[2], t[2])
	w.p("VUNPCKHPD %s, %s, %s", r[3], r[2], t[3])
	w.p("VPERM2F128 $0x20, %s, %s, %s", t[2], t[0], r[0])
	w.p("VPERM2F128 $0x20, %s, %s, %s", t[3], t[1], r[1])
	w.p("VPERM2F128 $0x31, %s, %s, %s", t[2], t[0], r[2])
	w.p("VPERM2F128 $0x31, %s, %s, %s", t[3], t[1], r[3])
}

// totals writes four sums with their errors, a lane each, of four lists.
func (w *writer) totals() {
	w.begin("totals4", "totalling", "CX", "R8", "R9", "R10", "R11", "DI", "SI")
	w.load("Y0", "(DI)")
	w.load("Y1", "(SI)")
	w.label("looptotals4")
	w.load("Y2", "(R8)")
	w.load("Y3", "(R9)")
	w.load("Y4", "(R10)")
	w.load("Y5", "(R11)")
	w.four([]string{"Y2", "Y3", "Y4", "Y5"}, []string{"Y6", "Y7", "Y8", "Y9"})
	for i := range 4 {
		w.total("Y0", "Y1", y(2+i), "Y10", "Y11", "Y12")
	}
	for _, r := range []string{"R8", "R9", "R10", "R11"} {
		w.p("ADDQ $32, %s", r)
	}
	w.p("DECQ CX")
	w.p("JNZ  looptotals4")
	w.store("(DI)", "Y0")
	w.store("(SI)", "Y1")
	w.p("VZEROUPPER")
	w.p("RET")
}

// addition writes hi + lo += v, element by element.
func (w *writer) addition() {
	w.begin("additions", "adding", "CX", "DI", "SI", "DX")
	w.label("loopadditions")
	w.load("Y0", "(DI)")
	w.load("Y1", "(SI)")
	w.load("Y2", "(DX)")
	w.total("Y0", "Y1", "Y2", "Y3", "Y4", "Y5")
	w.store("(DI)", "Y0")
	w.store("(SI)", "Y1")
	for _, r := range []string{"DI", "SI", "DX"} {
		w.p("ADDQ $32, %s", r)
	}
	w.p("DECQ CX")
	w.p("JNZ  loopadditions")
	w.p("VZEROUPPER")
	w.p("RET")
}

// transposition turns groups of four rows of four columns: each is four vectors
// of 32 bytes in a row, and the groups lie at any distance.
func (w *writer) transposition() {
	w.begin("transpositions", "transposing", "CX", "SI", "R11", "DI", "DX")
	w.label("looptranspositions")
	for k := range 4 {
		w.load(y(k), fmt.Sprintf("%d(SI)", 32*k))
	}
	w.four([]string{"Y0", "Y1", "Y2", "Y3"}, []string{"Y4", "Y5", "Y6", "Y7"})
	for k := range 4 {
		w.store(fmt.Sprintf("%d(DI)", 32*k), y(k))
	}
	w.p("ADDQ R11, SI")
	w.p("ADDQ DX, DI")
	w.p("DECQ CX")
	w.p("JNZ  looptranspositions")
	w.p("VZEROUPPER")
	w.p("RET")
}

// The state of four columns of a risk set: offsets of what is summed.
const (
	setHi, setLo, scoreHi, scoreLo, tied = 0, 32, 64, 96, 128
)

func at(offset int) string { return fmt.Sprintf("%d(DI)", offset) }

// enter moves rows into the risk set and writes its sum after each.
func (w *writer) enter() {
	w.begin("enters", "entering", "CX", "DI", "SI", "R8", "DX")
	w.load("Y0", at(setHi))
	w.load("Y1", at(setLo))
	w.label("loopenters")
	w.spread("Y2", "(R8)")
	w.mul("Y2", "Y2", "(SI)")
	w.total("Y0", "Y1", "Y2", "Y3", "Y4", "Y5")
	w.add("Y6", "Y0", "Y1")
	w.store("(DX)", "Y6")
	w.p("ADDQ $8, R8")
	w.p("ADDQ $32, SI")
	w.p("ADDQ $32, DX")
	w.p("DECQ CX")
	w.p("JNZ  loopenters")
	w.store(at(setHi), "Y0")
	w.store(at(setLo), "Y1")
	w.p("VZEROUPPER")
	w.p("RET")
}

// single takes the deaths of times with one death each.
func (w *writer) single() {
	w.begin("singles", "dying", "CX", "DI", "SI", "R8", "R9", "R10", "R11", "", "DX")
	w.load("Y0", at(scoreHi))
	w.load("Y1", at(scoreLo))
	w.load("Y8", w.bits(1<<63))
	w.label("loopsingles")
	w.p("MOVBQZX (R9), AX")
	w.p("MOVBQZX (R10), BX")
	w.p("SHLQ $5, AX")
	w.p("SHLQ $5, BX")
	w.load("Y6", "(R8)(AX*1)") // the risk set's sum
	w.spread("Y7", "(R11)")
	w.div("Y6", "Y6", "Y7")
	w.load("Y2", "(SI)(BX*1)") // the row that died
	w.total("Y0", "Y1", "Y2", "Y3", "Y4", "Y5")
	w.store("(DX)", "Y6")
	w.xor("Y2", "Y6", "Y8")
	w.total("Y0", "Y1", "Y2", "Y3", "Y4", "Y5")
	w.p("INCQ R9")
	w.p("INCQ R10")
	w.p("ADDQ $8, R11")
	w.p("ADDQ $32, DX")
	w.p("DECQ CX")
	w.p("JNZ  loopsingles")
	w.store(at(scoreHi), "Y0")
	w.store(at(scoreLo), "Y1")
	w.p("VZEROUPPER")
	w.p("RET")
}

// fall adds the rows that die at one time.
func (w *writer) fall() {
	w.begin("falls", "dying", "CX", "DI", "SI", "R8", "", "R10")
	w.load("Y0", at(scoreHi))
	w.load("Y1", at(scoreLo))
	w.load("Y6", at(tied))
	w.label("loopfalls")
	w.p("MOVBQZX (R10), BX")
	w.p("MOVQ BX, AX")
	w.p("SHLQ $5, BX")
	w.load("Y2", "(SI)(BX*1)")
	w.spread("Y7", "(R8)(AX*8)") // its risk
	w.mul("Y7", "Y7", "Y2")
	w.add("Y6", "Y6", "Y7")
	w.total("Y0", "Y1", "Y2", "Y3", "Y4", "Y5")
	w.p("INCQ R10")
	w.p("DECQ CX")
	w.p("JNZ  loopfalls")
	w.store(at(scoreHi), "Y0")
	w.store(at(scoreLo), "Y1")
	w.store(at(tied), "Y6")
	w.p("VZEROUPPER")
	w.p("RET")
}

// settle writes the means of deaths of one time; R8 points to the risk set's sum.
func (w *writer) settle() {
	w.begin("settles", "dying", "CX", "DI", "", "R8", "", "", "R11", "R12", "DX")
	w.load("Y0", at(scoreHi))
	w.load("Y1", at(scoreLo))
	w.load("Y6", at(tied))
	w.load("Y9", "(R8)")
	w.load("Y8", w.bits(1<<63))
	w.label("loopsettles")
	w.spread("Y7", "(R12)")
	w.mul("Y7", "Y7", "Y6")
	w.sub("Y7", "Y9", "Y7")
	w.spread("Y2", "(R11)")
	w.div("Y7", "Y7", "Y2")
	w.store("(DX)", "Y7")
	w.xor("Y2", "Y7", "Y8")
	w.total("Y0", "Y1", "Y2", "Y3", "Y4", "Y5")
	w.p("ADDQ $8, R11")
	w.p("ADDQ $8, R12")
	w.p("ADDQ $32, DX")
	w.p("DECQ CX")
	w.p("JNZ  loopsettles")
	w.store(at(scoreHi), "Y0")
	w.store(at(scoreLo), "Y1")
	w.p("VZEROUPPER")
	w.p("RET")
}

func main() {
	w := &writer{constants: map[string]uint64{}}
	for _, f := range []struct {
		name          string
		write         func(name string, rows, columns int)
		rows, columns int
	}{{"wide", w.diagonal, 2, 8}, {"half", w.tile, 2, 4}} {
		table := fmt.Sprintf("var %s = [][]func(*tile){", f.name)
		for r := 1; r <= f.rows; r++ {
			table += "{"
			for v := 1; v <= f.columns; v++ {
				name := fmt.Sprintf("%s%dx%d", f.name, r, v)
				f.write(name, r, v)
				table += name + ", "
			}
			table += "}, "
		}
		fmt.Fprint(&w.decl, table, "}\n\n")
	}
	table := "var scales = []func(*scaling){"
	for n := 1; n <= 4; n++ {
		name := fmt.Sprintf("scale%d", n)
		w.scale(name, n)
		table += name + ", "
	}
	fmt.Fprint(&w.decl, table, "}\n\n")
	w.standard("standardEta", true, false)
	w.standard("standardValues", false, true)
	w.standard("standardBoth", true, true)
	w.expSweep()
	w.logSweep()
	w.logistic()
	w.totals()
	w.addition()
	w.transposition()
	w.summing()
	w.fetch()
	w.enter()
	w.single()
	w.fall()
	w.settle()

	var names []string
	for name := range w.constants {
		names = append(names, name)
	}
	sort.Strings(names)
	var data bytes.Buffer
	for _, name := range names {
		for i := range 4 {
			fmt.Fprintf(&data, "DATA %s+%d(SB)/8, $0x%016x\n", name, 8*i, w.constants[name])
		}
		fmt.Fprintf(&data, "GLOBL %s(SB), RODATA|NOPTR, $32\n", name)
	}
	const head = "// Code generated by gen.go; DO NOT EDIT.\n\n//go:build amd64 && !purego\n\n"
	asm := head + "#include \"textflag.h\"\n\n" + data.String() + w.asm.String()
	decl, err := format.Source([]byte(head + "package gram\n\n" + strings.TrimSpace(w.decl.String()) + "\n"))
	if err != nil {
		panic(err)
	}
	for name, text := range map[string][]byte{"kernels_amd64.s": []byte(asm), "kernels_amd64.go": decl} {
		if err := os.WriteFile(name, text, 0o644); err != nil {
			panic(err)
		}
	}
}
