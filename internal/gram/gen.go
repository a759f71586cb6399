//go:build ignore

// Gen writes kernels_amd64.s and kernels_amd64.go: the register tiles of the
// products and the sweeps over rows, for AVX-512, whose eight lanes are what the
// package's definitions speak of, and for AVX2.
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

// c is a constant in all lanes.
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
func (w *writer) zero(d string)         { w.p("VXORPD %[1]s, %[1]s, %[1]s", d) }
func (w *writer) spread(d, from string) { w.p("VBROADCASTSD %s, %s", from, d) }

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
func z(i int) string { return fmt.Sprintf("Z%d", i) }

// vector is a kind of registers.
type vector struct {
	reg   func(i int) string
	count int
	bytes int
}

var (
	ymm = vector{y, 16, 32}
	zmm = vector{z, 32, 64}
)

// A piece's rows and groups of rows, as in the package, and what is from one of its columns
// to the next.
const (
	pieceRows   = 128
	groups      = pieceRows / 8
	columnBytes = 8 * pieceRows
)

func (w *writer) tileArguments(name string) {
	w.begin(name, "tile", "CX", "R8", "R9", "SI", "DI", "DX", "R10")
	w.p("LEAQ (DX)(DX*2), R11")
}

// sum is the place of a tile's partial sums.
func sum(r, k int) string {
	return fmt.Sprintf("%d%s", 64*k, []string{"(DI)", "(DI)(DX*1)", "(DI)(DX*2)", "(DI)(R11*1)"}[r])
}

// next ends a tile's loop over groups of rows.
func (w *writer) next(name string, advance ...string) {
	w.p("PREFETCHT1 (R10)")
	w.p("PREFETCHT1 64(R10)")
	w.p("ADDQ $128, R10")
	for _, r := range advance {
		w.p("ADDQ $64, %s", r)
	}
	w.p("DECQ CX")
	w.p("JNZ  loop%s", name)
}

// tile writes one register tile: weighted columns, which stand at t, by others. AVX2
// does half of every group at a time.
func (w *writer) tile(v vector, name string, rows, columns int) {
	w.tileArguments(name)
	t := rows * columns
	x := t + rows
	free := x + min(2, columns)
	for r := range rows {
		for k := range columns {
			w.load(v.reg(r*columns+k), sum(r, k))
		}
	}
	w.label("loop" + name)
	for r := range rows {
		w.load(v.reg(t+r), fmt.Sprintf("%d(R9)", columnBytes*r))
	}
	n := 0
	for k := range columns {
		from := v.reg(x + k%2)
		w.load(from, fmt.Sprintf("%d(SI)", columnBytes*k))
		for r := range rows {
			product := v.reg(free + n%(v.count-free))
			n++
			w.mul(product, v.reg(t+r), from)
			w.add(v.reg(r*columns+k), v.reg(r*columns+k), product)
		}
	}
	w.next(name, "R9", "SI")
	for r := range rows {
		for k := range columns {
			w.store(sum(r, k), v.reg(r*columns+k))
		}
	}
	w.p("VZEROUPPER")
	w.p("RET")
}

// corner writes the tile at the diagonal: it weights its columns, leaves them at t, and
// adds the products of each with those before it and itself.
func (w *writer) corner(v vector, name string, rows int) {
	w.tileArguments(name)
	x := rows * (rows + 1) / 2
	weight := x + rows
	free := weight + 1
	at := func(r, k int) string { return v.reg(r*(r+1)/2 + k) }
	for r := range rows {
		for k := range r + 1 {
			w.load(at(r, k), sum(r, k))
		}
	}
	w.label("loop" + name)
	w.load(v.reg(weight), "(R8)")
	n := 0
	next := func() string {
		n++
		return v.reg(free + n%(v.count-free))
	}
	for r := range rows {
		w.load(v.reg(x+r), fmt.Sprintf("%d(SI)", columnBytes*r))
		t := next()
		w.mul(t, v.reg(weight), v.reg(x+r))
		w.store(fmt.Sprintf("%d(R9)", columnBytes*r), t)
		for k := range r + 1 {
			product := next()
			if product == t {
				product = next()
			}
			w.mul(product, t, v.reg(x+k))
			w.add(at(r, k), at(r, k), product)
		}
	}
	w.next(name, "R8", "R9", "SI")
	for r := range rows {
		for k := range r + 1 {
			w.store(sum(r, k), at(r, k))
		}
	}
	w.p("VZEROUPPER")
	w.p("RET")
}

// standard writes the pass that standardises columns, with their linear predictor
// or without.
func (w *writer) standard(v vector, name string, eta bool) {
	w.begin(name, "standardising", "CX", "SI", "R11", "DX", "R8", "R9", "R10", "DI", "BX")
	pass := func(groups int, label, otherwise string) {
		w.label(label)
		w.p("CMPQ CX, $%d", groups)
		w.p("JLT  %s", otherwise)
		parts := 64 / v.bytes
		n := groups * parts
		place := func(i int) int { return 64*(i/parts) + v.bytes*(i%parts) } // among rows
		if eta {
			for i := range n {
				w.load(v.reg(i), fmt.Sprintf("%d(DI)", place(i)))
			}
		}
		w.p("MOVQ SI, R13")
		w.p("MOVQ BX, R14")
		w.p("LEAQ (SI)(R11*2), R12")
		w.p("XORQ AX, AX")
		w.label("columns" + label)
		w.spread(v.reg(4), "(R8)(AX*8)")
		w.spread(v.reg(5), "(R9)(AX*8)")
		if eta {
			w.spread(v.reg(6), "(R10)(AX*8)")
		}
		from := []string{"(R13)", "(R13)(R11*1)", "(R12)", "(R12)(R11*1)"}
		for i := range n {
			x := v.reg(8 + i)
			if i%parts == 0 { // two passes ahead, of some twenty columns
				w.p("PREFETCHT1 %d%s", 10<<10, from[i/parts])
			}
			w.load(x, fmt.Sprintf("%d%s", v.bytes*(i%parts), from[i/parts]))
			w.sub(x, x, v.reg(4))
			w.mul(x, x, v.reg(5))
			if eta {
				w.mul(v.reg(12+i), x, v.reg(6))
				w.add(v.reg(i), v.reg(i), v.reg(12+i))
			}
			w.store(fmt.Sprintf("%d(R14)", place(i)), x)
		}
		w.p("ADDQ $64, R13")
		w.p("ADDQ $64, R12")
		w.p("ADDQ $%d, R14", columnBytes)
		w.p("INCQ AX")
		w.p("CMPQ AX, DX")
		w.p("JLT  columns%s", label)
		if eta {
			for i := range n {
				w.store(fmt.Sprintf("%d(DI)", place(i)), v.reg(i))
			}
			w.p("ADDQ $%d, DI", 64*groups)
		}
		w.p("LEAQ (SI)(R11*%d), SI", groups)
		w.p("ADDQ $%d, BX", 64*groups)
		w.p("SUBQ $%d, CX", groups)
		w.p("JMP  %s", label)
	}
	most := 4 * v.bytes / 64
	pass(most, "many"+name, "one"+name)
	pass(1, "one"+name, "done"+name)
	w.label("done" + name)
	w.p("VZEROUPPER")
	w.p("RET")
}

// A mask of lanes is a register of AVX2, or one of AVX-512's own.
func (w *writer) compare(v vector, mask string, condition int, a, b string) {
	w.p("VCMPPD $%d, %s, %s, %s", condition, b, a, mask)
}

const isLess, isNotAtMost = 17, 22

func (w *writer) choose(v vector, d, mask, yes, no string) {
	if v.bytes == 64 {
		w.p("VBLENDMPD %s, %s, %s, %s", yes, no, mask, d)
		return
	}
	w.p("VBLENDVPD %s, %s, %s, %s", mask, yes, no, d)
}

// exp writes e = exp(x), both registers; t is a list of six free ones, and mask of a free
// mask. Lanes beyond ±700, or without a value, are not for it.
func (w *writer) exp(v vector, e, x, mask string, t []string) {
	k, hi, lo, r, s, c := t[0], t[1], t[2], t[3], t[4], t[5]
	w.and(k, x, w.bits(1<<63))
	w.or(k, k, w.c(0.5))
	w.mul(c, x, w.c(1.44269504088896338700e+00))
	w.add(k, c, k)
	if v.bytes == 64 {
		w.p("VRNDSCALEPD $11, %[1]s, %[1]s", k)
	} else {
		w.p("VROUNDPD $11, %[1]s, %[1]s", k)
	}
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
	w.load(s, w.c(2))
	w.sub(c, s, c)
	w.div(r, r, c)
	w.sub(lo, lo, r)
	w.sub(lo, lo, hi)
	w.load(s, w.c(1))
	w.sub(lo, s, lo)
	// Times 2^k: k stands in the low bits of k + 1.5·2^52.
	w.add(k, k, w.c(0x1.8p52))
	w.p("VPSLLQ $52, %s, %s", k, k)
	w.p("VPADDQ %s, %s, %s", k, lo, lo)
	// Near zero 1 + x.
	w.and(c, x, w.bits(1<<63-1))
	w.compare(v, mask, isLess, c, w.c(1.0/(1<<28)))
	w.add(s, s, x)
	w.choose(v, e, mask, s, lo)
}

// expSweep writes y = exp(x) over registers.
func (w *writer) expSweep(v vector, name string) {
	w.begin(name, "sweeping", "CX", "SI", "DI")
	mask := "Y9"
	if v.bytes == 64 {
		mask = "K1"
	}
	w.label("loop" + name)
	w.load(v.reg(0), "(SI)")
	w.exp(v, v.reg(1), v.reg(0), mask, []string{v.reg(2), v.reg(3), v.reg(4), v.reg(5), v.reg(6), v.reg(7)})
	w.store("(DI)", v.reg(1))
	w.p("ADDQ $%d, SI", v.bytes)
	w.p("ADDQ $%d, DI", v.bytes)
	w.p("DECQ CX")
	w.p("JNZ  loop%s", name)
	w.p("VZEROUPPER")
	w.p("RET")
}

// logistic writes weight, residual, log-likelihood and squared Pearson residual
// of rows of a logistic model.
func (w *writer) logistic(v vector, name string) {
	w.begin(name, "sweepingLogistic", "CX", "SI", "DX", "R8", "R9", "R10", "R11", "DI")
	parts := 64 / v.bytes
	mask := func(i int) string {
		if v.bytes == 64 {
			return fmt.Sprintf("K%d", 1+i)
		}
		return y(11 + i)
	}
	for i := range parts {
		w.load(v.reg(14+i), fmt.Sprintf("%d(DI)", v.bytes*i))
	}
	w.label("loop" + name)
	for i := range parts {
		at := func(r string) string { return fmt.Sprintf("%d(%s)", v.bytes*i, r) }
		x, n, e, d, mu, em, weight, t := v.reg(0), v.reg(1), v.reg(2), v.reg(3), v.reg(4), v.reg(5), v.reg(6), v.reg(7)
		negative, event := mask(0), mask(1)
		w.load(x, at("SI"))
		w.or(n, x, w.bits(1<<63)) // -|eta|
		w.exp(v, e, n, negative, []string{v.reg(3), v.reg(4), v.reg(5), v.reg(6), v.reg(7), v.reg(8)})
		w.load(t, w.c(1))
		w.add(d, e, t)
		w.mul(v.reg(14+i), v.reg(14+i), d)
		w.div(mu, t, d)
		w.mul(em, e, mu)
		w.mul(weight, em, mu)
		w.store(at("R8"), weight)
		w.div(d, t, e)
		w.zero(t)
		w.compare(v, negative, isLess, x, t)
		w.choose(v, mu, negative, em, mu)
		w.load(em, w.c(0.5))
		w.load(x, at("DX"))
		w.compare(v, event, isLess, em, x)
		w.sub(x, x, mu)
		w.store(at("R9"), x)
		// Where one and the other are the same, the response is the less probable.
		if v.bytes == 64 {
			w.p("KXORB %s, %s, %s", event, negative, event)
		} else {
			w.xor(event, negative, event)
		}
		w.choose(v, d, event, e, d)
		w.store(at("R11"), d)
		w.choose(v, n, event, t, n)
		w.store(at("R10"), n)
	}
	for _, r := range []string{"SI", "DX", "R8", "R9", "R10", "R11"} {
		w.p("ADDQ $64, %s", r)
	}
	w.p("DECQ CX")
	w.p("JNZ  loop%s", name)
	for i := range parts {
		w.store(fmt.Sprintf("%d(DI)", v.bytes*i), v.reg(14+i))
	}
	w.p("VZEROUPPER")
	w.p("RET")
}

// lanes sets a mask.
func (w *writer) lanes(k string, mask int) {
	w.p("MOVL $%d, AX", mask)
	w.p("KMOVB AX, %s", k)
}

// everywhere sets a register to one number.
func (w *writer) everywhere(d string, v int) {
	w.p("MOVL $%d, AX", v)
	w.p("VPBROADCASTQ AX, %s", d)
}

// scan writes the sums of columns along the runs of a piece.
func (w *writer) scan() {
	w.begin("scans", "scanning", "CX", "SI", "R8", "R9", "DI", "R10", "R11", "R12")
	w.lanes("K1", 0xee)
	w.lanes("K2", 0xcc)
	w.lanes("K3", 0xf0)
	w.everywhere("Z31", 3)
	w.everywhere("Z30", 7)
	w.zero("Z29")
	w.label("loopscans")
	for g := range groups {
		w.load(z(g), fmt.Sprintf("%d(SI)", 64*g))
		w.mul(z(g), z(g), fmt.Sprintf("%d(R8)", 64*g))
		if g == 0 {
			w.add("Z0", "Z0", "Z29") // no negative zero
		} else {
			w.add(z(g), z(g-1), z(g))
		}
	}
	last := z(groups - 1)
	w.p("VPERMPD.Z $0x90, %s, K1, Z16", last)
	w.add("Z17", last, "Z16")
	w.p("VPERMPD.Z $0x40, Z17, K2, Z16")
	w.add("Z17", "Z17", "Z16")           // sums of runs in each half
	w.p("VPERMPD.Z $0x90, Z17, K1, Z18") // of those before
	w.p("VPERMPD Z17, Z31, Z19")
	w.p("VPERMPD Z17, Z30, Z20")
	w.p("VADDPD Z19, Z18, K3, Z18")
	w.spread("Z21", "(R10)")
	w.add("Z18", "Z18", "Z21")
	w.add("Z19", "Z19", "Z20")
	w.add("Z21", "Z21", "Z19")
	w.p("VMOVSD X21, (R10)")
	for g := range groups {
		w.p("KMOVB %d(R11), K4", g)
		w.p("MOVQ %d(R12), AX", 8*g)
		w.add(z(g), "Z18", z(g))
		w.p("VCOMPRESSPD.Z %[1]s, K4, %[1]s", z(g))
		w.mul(z(g), z(g), "(R9)(AX*1)")
		w.store("(DI)(AX*1)", z(g))
	}
	w.p("ADDQ $%d, SI", columnBytes)
	w.p("ADDQ $%d, DI", columnBytes)
	w.p("ADDQ $8, R10")
	w.p("DECQ CX")
	w.p("JNZ  loopscans")
	w.p("VZEROUPPER")
	w.p("RET")
}

// expose writes the hazards that the rows of a piece met, and their residuals.
func (w *writer) expose() {
	w.begin("exposures", "exposing", "DI", "SI", "R8", "R9", "R10", "R11", "R12", "R13")
	w.lanes("K1", 0x77)
	w.lanes("K2", 0x33)
	w.lanes("K3", 0x0f)
	w.everywhere("Z31", 4)
	w.zero("Z29")
	for g := groups - 1; g >= 0; g-- {
		w.p("KMOVB %d(R10), K4", g)
		w.p("MOVQ %d(R12), AX", 8*g)
		w.load("Z16", "(R9)(AX*1)")
		w.p("VEXPANDPD.Z Z16, K4, %s", z(g))
		if g == groups-1 {
			w.add(z(g), z(g), "Z29")
		} else {
			w.add(z(g), z(g+1), z(g))
		}
	}
	w.p("VPERMPD.Z $0xf9, Z0, K1, Z16")
	w.add("Z17", "Z0", "Z16")
	w.p("VPERMPD.Z $0x0e, Z17, K2, Z16")
	w.add("Z17", "Z17", "Z16")
	w.p("VPERMPD.Z $0xf9, Z17, K1, Z18")
	w.p("VPERMPD Z17, Z31, Z19")
	w.p("VADDPD Z19, Z18, K3, Z18")
	w.spread("Z21", "(R13)")
	w.add("Z18", "Z18", "Z21")
	w.load("Z22", w.c(1))
	w.load("Z23", w.bits(1<<63))
	for g := range groups {
		w.p("KMOVB %d(R11), K4", g)
		w.add(z(g), "Z18", z(g))
		w.mul(z(g), z(g), fmt.Sprintf("%d(R8)", 64*g))
		w.store(fmt.Sprintf("%d(DI)", 64*g), z(g))
		w.xor("Z16", z(g), "Z23")
		w.p("VSUBPD %s, Z22, K4, Z16", z(g))
		w.store(fmt.Sprintf("%d(SI)", 64*g), "Z16")
	}
	w.p("VZEROUPPER")
	w.p("RET")
}

// summing writes the sums of eight partial sums each, four at a time: of halves, and then
// (q0 + q1) + (q2 + q3).
func (w *writer) summing() {
	w.begin("summings", "summing", "CX", "SI", "DI")
	w.label("loopsummings")
	for k := range 4 {
		w.load(y(k), fmt.Sprintf("%d(SI)", 64*k))
		w.add(y(k), y(k), fmt.Sprintf("%d(SI)", 64*k+32))
	}
	w.p("VHADDPD Y1, Y0, Y0")
	w.p("VHADDPD Y3, Y2, Y2")
	w.p("VPERM2F128 $0x20, Y2, Y0, Y4")
	w.p("VPERM2F128 $0x31, Y2, Y0, Y5")
	w.add("Y4", "Y4", "Y5")
	w.store("(DI)", "Y4")
	w.p("ADDQ $256, SI")
	w.p("ADDQ $32, DI")
	w.p("DECQ CX")
	w.p("JNZ  loopsummings")
	w.p("VZEROUPPER")
	w.p("RET")
}

// fold writes the sum of the partial sums in Y0 and Y1.
func (w *writer) fold(to string) {
	w.add("Y0", "Y0", "Y1")
	w.p("VEXTRACTF128 $1, Y0, X1")
	w.p("VHADDPD X1, X0, X0")
	w.p("VHADDPD X0, X0, X0")
	w.p("VMOVSD X0, (%s)", to)
	w.p("VZEROUPPER")
	w.p("RET")
}

// alone writes one sum.
func (w *writer) alone() {
	w.begin("alone", "single", "CX", "SI", "DI")
	w.zero("Y0")
	w.zero("Y1")
	w.label("loopalone")
	w.add("Y0", "Y0", "(SI)")
	w.add("Y1", "Y1", "32(SI)")
	w.p("ADDQ $64, SI")
	w.p("DECQ CX")
	w.p("JNZ  loopalone")
	w.fold("DI")
}

// subtraction writes r = y - x, and the sum of its squares.
func (w *writer) subtraction() {
	w.begin("subtractions", "subtracting", "CX", "SI", "R8", "R9", "DI")
	w.zero("Y0")
	w.zero("Y1")
	w.label("loopsubtractions")
	for h := range 2 {
		w.load(y(2+h), fmt.Sprintf("%d(SI)", 32*h))
		w.sub(y(2+h), y(2+h), fmt.Sprintf("%d(R8)", 32*h))
		w.store(fmt.Sprintf("%d(R9)", 32*h), y(2+h))
		w.mul(y(2+h), y(2+h), y(2+h))
		w.add(y(h), y(h), y(2+h))
	}
	for _, r := range []string{"SI", "R8", "R9"} {
		w.p("ADDQ $64, %s", r)
	}
	w.p("DECQ CX")
	w.p("JNZ  loopsubtractions")
	w.fold("DI")
}

// beyond writes which lanes had a number beyond a limit, or none.
func (w *writer) beyond() {
	w.begin("beyond", "comparing", "CX", "SI")
	w.spread("Y0", "16(AX)")
	w.zero("Y1")
	w.label("loopbeyond")
	for h := range 2 {
		w.load(y(2+h), fmt.Sprintf("%d(SI)", 32*h))
		w.and(y(2+h), y(2+h), w.bits(1<<63-1))
		w.p("VCMPPD $%d, Y0, %s, %s", isNotAtMost, y(2+h), y(2+h))
		w.or("Y1", "Y1", y(2+h))
	}
	w.p("ADDQ $64, SI")
	w.p("DECQ CX")
	w.p("JNZ  loopbeyond")
	w.p("VMOVMSKPD Y1, CX")
	w.p("MOVQ CX, 24(AX)")
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

func main() {
	w := &writer{constants: map[string]uint64{}}
	for _, f := range []struct {
		name    string
		v       vector
		columns []int // of tiles of one row, two, …
	}{{"wide", zmm, []int{12, 10, 8, 6}}, {"half", ymm, []int{8, 4}}} {
		tiles, corners := "", ""
		for i, columns := range f.columns {
			tiles += "{"
			for c := 1; c <= columns; c++ {
				name := fmt.Sprintf("%s%dx%d", f.name, i+1, c)
				w.tile(f.v, name, i+1, c)
				tiles += name + ", "
			}
			tiles += "}, "
			name := fmt.Sprintf("%sCorner%d", f.name, i+1)
			w.corner(f.v, name, i+1)
			corners += name + ", "
		}
		fmt.Fprintf(&w.decl, "var %s = kernels{[][]func(*tile){%s}, []func(*tile){%s}}\n\n", f.name, tiles, corners)
	}
	w.standard(ymm, "standardBoth", true)
	w.standard(ymm, "standardValues", false)
	w.standard(zmm, "wideStandardBoth", true)
	w.standard(zmm, "wideStandardValues", false)
	w.expSweep(ymm, "exps")
	w.expSweep(zmm, "wideExps")
	w.logistic(ymm, "logistics")
	w.logistic(zmm, "wideLogistics")
	w.scan()
	w.expose()
	w.totals()
	w.addition()
	w.summing()
	w.alone()
	w.subtraction()
	w.beyond()

	var names []string
	for name := range w.constants {
		names = append(names, name)
	}
	sort.Strings(names)
	var data bytes.Buffer
	for _, name := range names {
		for i := range 8 {
			fmt.Fprintf(&data, "DATA %s+%d(SB)/8, $0x%016x\n", name, 8*i, w.constants[name])
		}
		fmt.Fprintf(&data, "GLOBL %s(SB), RODATA|NOPTR, $64\n", name)
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
