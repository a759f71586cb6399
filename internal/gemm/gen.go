//go:build ignore

// Gen writes tiles_amd64.s and tiles_amd64.go: one function for each kind of
// register tile, element type and number of rows.
//
//	go run gen.go
package main

import (
	"bytes"
	"fmt"
	"go/format"
	"os"
)

// kind is one family of tiles: rows × 2 vectors of accumulators.
type kind struct {
	name   string // prefix of the functions
	elem   int    // bytes of an element
	rows   int    // most rows of a tile
	wide   bool   // AVX-512, else AVX2
	masked bool   // AVX2 only: the tile's C has fewer columns than the tile
}

func (k kind) reg(i int) string {
	if k.wide {
		return fmt.Sprintf("Z%d", i)
	}
	return fmt.Sprintf("Y%d", i)
}

func (k kind) bytes() int { return map[bool]int{true: 64, false: 32}[k.wide] }

// suffix is the last letters of the instructions: packed or scalar, by type.
func (k kind) suffix(packed bool) string {
	s := map[bool]string{true: "P", false: "S"}[packed]
	return s + map[int]string{4: "S", 8: "D"}[k.elem]
}

// row is the address of A's row r, or C's: base registers lo (row 0) and hi
// (row 4), the stride and three times the stride in registers.
func row(lo, hi, stride, triple string, r int) string {
	base := lo
	if r >= 4 {
		base, r = hi, r-4
	}
	switch r {
	case 0:
		return fmt.Sprintf("(%s)", base)
	case 1:
		return fmt.Sprintf("(%s)(%s*1)", base, stride)
	case 2:
		return fmt.Sprintf("(%s)(%s*2)", base, stride)
	}
	return fmt.Sprintf("(%s)(%s*1)", base, triple)
}

func (k kind) write(w *bytes.Buffer, rows int) {
	name := fmt.Sprintf("%s%d", k.name, rows)
	p := func(format string, a ...any) { fmt.Fprintf(w, "\t"+format+"\n", a...) }
	fmt.Fprintf(w, "\n// func %s(t *tile)\nTEXT ·%s(SB), NOSPLIT, $0-8\n", name, name)
	p("MOVQ t+0(FP), AX")
	p("MOVQ 0(AX), CX  // k")
	p("MOVQ 8(AX), R8  // a")
	p("MOVQ 16(AX), R9 // from row to row of a")
	p("MOVQ 24(AX), R10 // from column to column of a")
	p("MOVQ 32(AX), SI // b")
	p("MOVQ 40(AX), R11 // from row to row of b")
	p("MOVQ 48(AX), DI // c")
	p("MOVQ 56(AX), DX // from row to row of c")
	p("LEAQ (R9)(R9*2), R12")
	p("LEAQ (R8)(R9*4), R13")
	p("LEAQ (DX)(DX*2), R14")
	p("LEAQ (DI)(DX*4), BX")
	// Masks: K1 and K2, or vectors that live where B will be.
	b0, b1 := k.reg(2*k.rows), k.reg(2*k.rows+1)
	if k.wide {
		if k.elem == 4 {
			p("KMOVW 64(AX), K1")
			p("KMOVW 66(AX), K2")
		} else {
			p("KMOVB 64(AX), K1")
			p("KMOVB 65(AX), K2")
		}
	}
	move := "VMOVU" + k.suffix(true)
	masks := func() {
		if k.masked {
			p("MOVQ 72(AX), R15")
			p("VMOVDQU (R15), %s", b0)
			p("VMOVDQU 32(R15), %s", b1)
		}
	}
	load := func(at string, half int, reg string) {
		at = fmt.Sprintf("%d%s", half*k.bytes(), at)
		switch {
		case k.wide:
			p("%s.Z %s, K%d, %s", move, at, half+1, reg)
		case k.masked:
			p("VMASKMOV%s %s, %s, %s", k.suffix(true), at, [2]string{b0, b1}[half], reg)
		default:
			p("%s %s, %s", move, at, reg)
		}
	}
	store := func(reg string, half int, at string) {
		at = fmt.Sprintf("%d%s", half*k.bytes(), at)
		switch {
		case k.wide:
			p("%s %s, K%d, %s", move, reg, half+1, at)
		case k.masked:
			p("VMASKMOV%s %s, %s, %s", k.suffix(true), reg, [2]string{b0, b1}[half], at)
		default:
			p("%s %s, %s", move, reg, at)
		}
	}
	c := func(r int) string { return row("DI", "BX", "DX", "R14", r) }
	a := func(r int) string { return row("R8", "R13", "R9", "R12", r) }

	p("CMPQ 80(AX), $0")
	p("JEQ  zero%s", name)
	masks()
	for r := range rows {
		load(c(r), 0, k.reg(2*r))
		load(c(r), 1, k.reg(2*r+1))
	}
	p("JMP  start%s", name)
	fmt.Fprintf(w, "\nzero%s:\n", name)
	for r := range 2 * rows {
		if k.wide {
			p("VPXORD %[1]s, %[1]s, %[1]s", k.reg(r))
		} else {
			p("VXORPS %[1]s, %[1]s, %[1]s", k.reg(r))
		}
	}
	fmt.Fprintf(w, "\nstart%s:\n", name)
	p("TESTQ CX, CX")
	p("JZ    done%s", name)
	fmt.Fprintf(w, "\nloop%s:\n", name)
	// B's rows lie in place, where the mask keeps reads inside, or in a packed
	// panel, which AVX2 always reads whole.
	if k.wide {
		p("%s.Z (SI), K1, %s", move, b0)
		p("%s.Z 64(SI), K2, %s", move, b1)
	} else {
		p("%s (SI), %s", move, b0)
		p("%s 32(SI), %s", move, b1)
	}
	for r := range rows {
		// Two registers for A's element in turn, where there are two.
		x := k.reg(2*k.rows + 2)
		if k.wide {
			x = k.reg(2*k.rows + 2 + r%4)
		} else if 2*k.rows+3 < 16 {
			x = k.reg(2*k.rows + 2 + r%2)
		}
		p("VBROADCAST%s %s, %s", k.suffix(false), a(r), x)
		p("VFMADD231%s %s, %s, %s", k.suffix(true), b0, x, k.reg(2*r))
		p("VFMADD231%s %s, %s, %s", k.suffix(true), b1, x, k.reg(2*r+1))
	}
	p("ADDQ R11, SI")
	p("ADDQ R10, R8")
	p("ADDQ R10, R13")
	p("DECQ CX")
	p("JNZ  loop%s", name)
	fmt.Fprintf(w, "\ndone%s:\n", name)
	masks()
	for r := range rows {
		store(k.reg(2*r), 0, c(r))
		store(k.reg(2*r+1), 1, c(r))
	}
	p("VZEROUPPER")
	p("RET")
}

// writeColumn writes the tile of a product with a vector: one column, so one
// scalar chain a row, and eight rows to fill the time that a step takes.
func writeColumn(w *bytes.Buffer, name string, elem, rows int) {
	k := kind{elem: elem}
	p := func(format string, a ...any) { fmt.Fprintf(w, "\t"+format+"\n", a...) }
	fmt.Fprintf(w, "\n// func %s(t *tile)\nTEXT ·%s(SB), NOSPLIT, $0-8\n", name, name)
	p("MOVQ t+0(FP), AX")
	p("MOVQ 0(AX), CX  // k")
	p("MOVQ 8(AX), R8  // a")
	p("MOVQ 16(AX), R9 // from row to row of a")
	p("MOVQ 24(AX), R10 // from column to column of a")
	p("MOVQ 32(AX), SI // b")
	p("MOVQ 40(AX), R11 // from row to row of b")
	p("MOVQ 48(AX), DI // c")
	p("MOVQ 56(AX), DX // from row to row of c")
	p("LEAQ (R9)(R9*2), R12")
	p("LEAQ (R8)(R9*4), R13")
	p("LEAQ (DX)(DX*2), R14")
	p("LEAQ (DI)(DX*4), BX")
	scalar := k.suffix(false)
	c := func(r int) string { return row("DI", "BX", "DX", "R14", r) }
	p("CMPQ 80(AX), $0")
	p("JEQ  zero%s", name)
	for r := range rows {
		p("VMOV%s %s, X%d", scalar, c(r), r)
	}
	p("JMP  start%s", name)
	fmt.Fprintf(w, "\nzero%s:\n", name)
	for r := range rows {
		p("VXORPS X%[1]d, X%[1]d, X%[1]d", r)
	}
	fmt.Fprintf(w, "\nstart%s:\n", name)
	p("TESTQ CX, CX")
	p("JZ    done%s", name)
	fmt.Fprintf(w, "\nloop%s:\n", name)
	p("VMOV%s (SI), X8", scalar)
	for r := range rows {
		p("VFMADD231%s %s, X8, X%d", scalar, row("R8", "R13", "R9", "R12", r), r)
	}
	p("ADDQ R11, SI")
	p("ADDQ R10, R8")
	p("ADDQ R10, R13")
	p("DECQ CX")
	p("JNZ  loop%s", name)
	fmt.Fprintf(w, "\ndone%s:\n", name)
	for r := range rows {
		p("VMOV%s X%d, %s", scalar, r, c(r))
	}
	p("RET")
}

func main() {
	kinds := []kind{
		{"wide32x", 4, 8, true, false}, {"wide64x", 8, 8, true, false},
		{"half32x", 4, 6, false, false}, {"half64x", 8, 6, false, false},
		{"edge32x", 4, 6, false, true}, {"edge64x", 8, 6, false, true},
	}
	var asm, decl bytes.Buffer
	fmt.Fprint(&asm, "// Code generated by gen.go; DO NOT EDIT.\n\n//go:build amd64 && !purego\n\n#include \"textflag.h\"\n")
	fmt.Fprint(&decl, "// Code generated by gen.go; DO NOT EDIT.\n\n//go:build amd64 && !purego\n\npackage gemm\n")
	for _, k := range kinds {
		fmt.Fprintln(&decl)
		for rows := 1; rows <= k.rows; rows++ {
			k.write(&asm, rows)
			fmt.Fprintf(&decl, "//go:noescape\nfunc %s%d(t *tile)\n\n", k.name, rows)
		}
		fmt.Fprintf(&decl, "var %s = [...]func(*tile){", k.name)
		for rows := 1; rows <= k.rows; rows++ {
			fmt.Fprintf(&decl, "%s%d, ", k.name, rows)
		}
		fmt.Fprint(&decl, "}\n")
	}
	for _, elem := range []int{4, 8} {
		family := fmt.Sprintf("column%dx", 8*elem)
		for rows := 1; rows <= 8; rows++ {
			writeColumn(&asm, fmt.Sprintf("%s%d", family, rows), elem, rows)
			fmt.Fprintf(&decl, "//go:noescape\nfunc %s%d(t *tile)\n\n", family, rows)
		}
		fmt.Fprintf(&decl, "var %s = [...]func(*tile){", family)
		for rows := 1; rows <= 8; rows++ {
			fmt.Fprintf(&decl, "%s%d, ", family, rows)
		}
		fmt.Fprint(&decl, "}\n\n")
	}
	for name, b := range map[string]*bytes.Buffer{"tiles_amd64.s": &asm, "tiles_amd64.go": &decl} {
		text := b.Bytes()
		if b == &decl {
			var err error
			if text, err = format.Source(text); err != nil {
				panic(err)
			}
		}
		if err := os.WriteFile(name, text, 0o644); err != nil {
			panic(err)
		}
	}
}
