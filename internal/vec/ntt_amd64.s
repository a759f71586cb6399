//go:build amd64 && !purego

#include "textflag.h"
#include "macros.h"

// Permutations of the last three layers; see fwdTail.
DATA idxPairs<>+0x00(SB)/8, $0
DATA idxPairs<>+0x08(SB)/8, $0
DATA idxPairs<>+0x10(SB)/8, $2
DATA idxPairs<>+0x18(SB)/8, $2
DATA idxPairs<>+0x20(SB)/8, $1
DATA idxPairs<>+0x28(SB)/8, $1
DATA idxPairs<>+0x30(SB)/8, $3
DATA idxPairs<>+0x38(SB)/8, $3
GLOBL idxPairs<>(SB), RODATA|NOPTR, $64

DATA idxQuads<>+0x00(SB)/8, $0
DATA idxQuads<>+0x08(SB)/8, $0
DATA idxQuads<>+0x10(SB)/8, $0
DATA idxQuads<>+0x18(SB)/8, $0
DATA idxQuads<>+0x20(SB)/8, $1
DATA idxQuads<>+0x28(SB)/8, $1
DATA idxQuads<>+0x30(SB)/8, $1
DATA idxQuads<>+0x38(SB)/8, $1
GLOBL idxQuads<>(SB), RODATA|NOPTR, $64

DATA idxLowA<>+0x00(SB)/8, $0
DATA idxLowA<>+0x08(SB)/8, $8
DATA idxLowA<>+0x10(SB)/8, $1
DATA idxLowA<>+0x18(SB)/8, $9
DATA idxLowA<>+0x20(SB)/8, $4
DATA idxLowA<>+0x28(SB)/8, $12
DATA idxLowA<>+0x30(SB)/8, $5
DATA idxLowA<>+0x38(SB)/8, $13
GLOBL idxLowA<>(SB), RODATA|NOPTR, $64

DATA idxLowB<>+0x00(SB)/8, $2
DATA idxLowB<>+0x08(SB)/8, $10
DATA idxLowB<>+0x10(SB)/8, $3
DATA idxLowB<>+0x18(SB)/8, $11
DATA idxLowB<>+0x20(SB)/8, $6
DATA idxLowB<>+0x28(SB)/8, $14
DATA idxLowB<>+0x30(SB)/8, $7
DATA idxLowB<>+0x38(SB)/8, $15
GLOBL idxLowB<>(SB), RODATA|NOPTR, $64

DATA idxEven<>+0x00(SB)/8, $0
DATA idxEven<>+0x08(SB)/8, $2
DATA idxEven<>+0x10(SB)/8, $8
DATA idxEven<>+0x18(SB)/8, $10
DATA idxEven<>+0x20(SB)/8, $4
DATA idxEven<>+0x28(SB)/8, $6
DATA idxEven<>+0x30(SB)/8, $12
DATA idxEven<>+0x38(SB)/8, $14
GLOBL idxEven<>(SB), RODATA|NOPTR, $64

DATA idxOdd<>+0x00(SB)/8, $1
DATA idxOdd<>+0x08(SB)/8, $3
DATA idxOdd<>+0x10(SB)/8, $9
DATA idxOdd<>+0x18(SB)/8, $11
DATA idxOdd<>+0x20(SB)/8, $5
DATA idxOdd<>+0x28(SB)/8, $7
DATA idxOdd<>+0x30(SB)/8, $13
DATA idxOdd<>+0x38(SB)/8, $15
GLOBL idxOdd<>(SB), RODATA|NOPTR, $64

DATA idxHalfU<>+0x00(SB)/8, $0
DATA idxHalfU<>+0x08(SB)/8, $1
DATA idxHalfU<>+0x10(SB)/8, $8
DATA idxHalfU<>+0x18(SB)/8, $9
DATA idxHalfU<>+0x20(SB)/8, $2
DATA idxHalfU<>+0x28(SB)/8, $3
DATA idxHalfU<>+0x30(SB)/8, $10
DATA idxHalfU<>+0x38(SB)/8, $11
GLOBL idxHalfU<>(SB), RODATA|NOPTR, $64

DATA idxHalfV<>+0x00(SB)/8, $4
DATA idxHalfV<>+0x08(SB)/8, $5
DATA idxHalfV<>+0x10(SB)/8, $12
DATA idxHalfV<>+0x18(SB)/8, $13
DATA idxHalfV<>+0x20(SB)/8, $6
DATA idxHalfV<>+0x28(SB)/8, $7
DATA idxHalfV<>+0x30(SB)/8, $14
DATA idxHalfV<>+0x38(SB)/8, $15
GLOBL idxHalfV<>(SB), RODATA|NOPTR, $64

// BUTTERFLY is the forward one: X, Y = X + wY, X - wY, with X below 12q in and
// both below X + 4q out.
#define BUTTERFLY(X, Y, W, P, PL) \
	SHOUP(Y, W, P, PL, Y, Z24, Z25) \
	VPADDQ Z30, X, Z27                   \
	VPADDQ Y, X, X                       \
	VPSUBQ Y, Z27, Y

// REVERSE is the inverse one: X, Y = X + Y, (X - Y)·w, all below 4q.
#define REVERSE(X, Y, W, P, PL) \
	VPADDQ Z30, X, Z27                     \
	VPADDQ Y, X, X                         \
	VPSUBQ Y, Z27, Y                       \
	CSUB(X, Z30, Z28)                      \
	SHOUP(Y, W, P, PL, Y, Z24, Z25)

// func fwd4(x *uint64, t, blocks int, w1, p1, w2, p2 *uint64, q uint64)
//
// Two layers at once over blocks of 4t elements. In and out below 16q.
TEXT ·fwd4(SB), NOSPLIT, $0-64
	MOVQ x+0(FP), DI
	MOVQ t+8(FP), R8
	MOVQ blocks+16(FP), R9
	MOVQ w1+24(FP), R10
	MOVQ p1+32(FP), R11
	MOVQ w2+40(FP), R12
	MOVQ p2+48(FP), R13
	MODULUS(q+56(FP))
	SHLQ $3, R8
	LEAQ (R8)(R8*2), SI

fwd4block:
	TWIDDLE((R10), (R11), Z8, Z9, Z10)
	TWIDDLE((R12), (R13), Z11, Z12, Z13)
	TWIDDLE(8(R12), 8(R13), Z14, Z15, Z16)
	MOVQ R8, CX

fwd4inner:
	VMOVDQU64 (DI), Z0
	VMOVDQU64 (DI)(R8*1), Z1
	VMOVDQU64 (DI)(R8*2), Z2
	VMOVDQU64 (DI)(SI*1), Z3
	CSUB(Z0, Z29, Z28)
	CSUB(Z1, Z29, Z28)
	BUTTERFLY(Z0, Z2, Z8, Z9, Z10)
	BUTTERFLY(Z1, Z3, Z8, Z9, Z10)
	BUTTERFLY(Z0, Z1, Z11, Z12, Z13)
	BUTTERFLY(Z2, Z3, Z14, Z15, Z16)
	VMOVDQU64 Z0, (DI)
	VMOVDQU64 Z1, (DI)(R8*1)
	VMOVDQU64 Z2, (DI)(R8*2)
	VMOVDQU64 Z3, (DI)(SI*1)
	ADDQ $64, DI
	SUBQ $64, CX
	JNZ  fwd4inner
	ADDQ SI, DI
	ADDQ $8, R10
	ADDQ $8, R11
	ADDQ $16, R12
	ADDQ $16, R13
	DECQ R9
	JNZ  fwd4block
	VZEROUPPER
	RET

// func fwd2(x *uint64, t int, w, p *uint64, q uint64)
//
// The first layer alone, over 2t elements. In and out below 16q.
TEXT ·fwd2(SB), NOSPLIT, $0-40
	MOVQ x+0(FP), DI
	MOVQ t+8(FP), R8
	MOVQ w+16(FP), R10
	MOVQ p+24(FP), R11
	MODULUS(q+32(FP))
	SHLQ $3, R8
	TWIDDLE((R10), (R11), Z8, Z9, Z10)
	MOVQ R8, CX

fwd2inner:
	VMOVDQU64 (DI), Z0
	VMOVDQU64 (DI)(R8*1), Z1
	CSUB(Z0, Z29, Z28)
	BUTTERFLY(Z0, Z1, Z8, Z9, Z10)
	VMOVDQU64 Z0, (DI)
	VMOVDQU64 Z1, (DI)(R8*1)
	ADDQ $64, DI
	SUBQ $64, CX
	JNZ  fwd2inner
	VZEROUPPER
	RET

// func fwdTail(x *uint64, n int, w4, p4, w2, p2, w1, p1 *uint64, q uint64)
//
// The layers of distance 4, 2 and 1, sixteen elements a0 … a7, b0 … b7 at a
// time. In below 16q, out below 16q.
TEXT ·fwdTail(SB), NOSPLIT, $0-72
	MOVQ x+0(FP), DI
	MOVQ n+8(FP), CX
	MOVQ w4+16(FP), R8
	MOVQ p4+24(FP), R9
	MOVQ w2+32(FP), R10
	MOVQ p2+40(FP), R11
	MOVQ w1+48(FP), R12
	MOVQ p1+56(FP), R13
	MODULUS(q+64(FP))
	VMOVDQU64 idxQuads<>(SB), Z20
	VMOVDQU64 idxPairs<>(SB), Z21
	VMOVDQU64 idxLowA<>(SB), Z22
	VMOVDQU64 idxLowB<>(SB), Z23

fwdTailLoop:
	VMOVDQU64 (DI), Z0
	VMOVDQU64 64(DI), Z1
	VSHUFI64X2 $0x44, Z1, Z0, Z2 // a0-3 b0-3
	VSHUFI64X2 $0xee, Z1, Z0, Z3 // a4-7 b4-7
	VMOVDQU (R8), X8
	VMOVDQU (R9), X9
	VPERMQ Z8, Z20, Z8
	VPERMQ Z9, Z20, Z9
	SPLIT(Z9, Z10)
	CSUB(Z2, Z29, Z28)
	BUTTERFLY(Z2, Z3, Z8, Z9, Z10)
	VSHUFI64X2 $0x88, Z3, Z2, Z0 // a01 b01 a45 b45
	VSHUFI64X2 $0xdd, Z3, Z2, Z1 // a23 b23 a67 b67
	VMOVDQU (R10), Y8
	VMOVDQU (R11), Y9
	VPERMQ Z8, Z21, Z8
	VPERMQ Z9, Z21, Z9
	SPLIT(Z9, Z10)
	BUTTERFLY(Z0, Z1, Z8, Z9, Z10)
	VPUNPCKLQDQ Z1, Z0, Z2 // a0 a2 b0 b2 a4 a6 b4 b6
	VPUNPCKHQDQ Z1, Z0, Z3 // a1 a3 b1 b3 a5 a7 b5 b7
	VMOVDQU64 (R12), Z8
	VMOVDQU64 (R13), Z9
	SPLIT(Z9, Z10)
	CSUB(Z2, Z29, Z28)
	BUTTERFLY(Z2, Z3, Z8, Z9, Z10)
	VMOVDQA64 Z2, Z0
	VPERMT2Q Z3, Z22, Z0
	VPERMT2Q Z3, Z23, Z2
	VMOVDQU64 Z0, (DI)
	VMOVDQU64 Z2, 64(DI)
	ADDQ $128, DI
	ADDQ $16, R8
	ADDQ $16, R9
	ADDQ $32, R10
	ADDQ $32, R11
	ADDQ $64, R12
	ADDQ $64, R13
	SUBQ $16, CX
	JNZ  fwdTailLoop
	VZEROUPPER
	RET

// func invHead(x *uint64, n int, w4, p4, w2, p2, w1, p1 *uint64, q uint64)
//
// The inverse of fwdTail, without the halves. In and out below 4q.
TEXT ·invHead(SB), NOSPLIT, $0-72
	MOVQ x+0(FP), DI
	MOVQ n+8(FP), CX
	MOVQ w4+16(FP), R8
	MOVQ p4+24(FP), R9
	MOVQ w2+32(FP), R10
	MOVQ p2+40(FP), R11
	MOVQ w1+48(FP), R12
	MOVQ p1+56(FP), R13
	MODULUS(q+64(FP))
	VMOVDQU64 idxQuads<>(SB), Z20
	VMOVDQU64 idxPairs<>(SB), Z21
	VMOVDQU64 idxEven<>(SB), Z22
	VMOVDQU64 idxOdd<>(SB), Z23
	VMOVDQU64 idxHalfU<>(SB), Z18
	VMOVDQU64 idxHalfV<>(SB), Z19

invHeadLoop:
	VMOVDQU64 (DI), Z2
	VMOVDQU64 64(DI), Z1
	VMOVDQA64 Z2, Z3
	VPERMT2Q Z1, Z22, Z2 // a0 a2 b0 b2 a4 a6 b4 b6
	VPERMT2Q Z1, Z23, Z3 // a1 a3 b1 b3 a5 a7 b5 b7
	VMOVDQU64 (R12), Z8
	VMOVDQU64 (R13), Z9
	SPLIT(Z9, Z10)
	REVERSE(Z2, Z3, Z8, Z9, Z10)
	VPUNPCKLQDQ Z3, Z2, Z0 // a01 b01 a45 b45
	VPUNPCKHQDQ Z3, Z2, Z1 // a23 b23 a67 b67
	VMOVDQU (R10), Y8
	VMOVDQU (R11), Y9
	VPERMQ Z8, Z21, Z8
	VPERMQ Z9, Z21, Z9
	SPLIT(Z9, Z10)
	REVERSE(Z0, Z1, Z8, Z9, Z10)
	VMOVDQA64 Z0, Z2
	VMOVDQA64 Z0, Z3
	VPERMT2Q Z1, Z18, Z2 // a0-3 b0-3
	VPERMT2Q Z1, Z19, Z3 // a4-7 b4-7
	VMOVDQU (R8), X8
	VMOVDQU (R9), X9
	VPERMQ Z8, Z20, Z8
	VPERMQ Z9, Z20, Z9
	SPLIT(Z9, Z10)
	REVERSE(Z2, Z3, Z8, Z9, Z10)
	VSHUFI64X2 $0x44, Z3, Z2, Z0
	VSHUFI64X2 $0xee, Z3, Z2, Z1
	VMOVDQU64 Z0, (DI)
	VMOVDQU64 Z1, 64(DI)
	ADDQ $128, DI
	ADDQ $16, R8
	ADDQ $16, R9
	ADDQ $32, R10
	ADDQ $32, R11
	ADDQ $64, R12
	ADDQ $64, R13
	SUBQ $16, CX
	JNZ  invHeadLoop
	VZEROUPPER
	RET

// func inv4(x *uint64, t, blocks int, w1, p1, w2, p2 *uint64, q uint64)
//
// The inverse of fwd4, without the halves. In and out below 4q.
TEXT ·inv4(SB), NOSPLIT, $0-64
	MOVQ x+0(FP), DI
	MOVQ t+8(FP), R8
	MOVQ blocks+16(FP), R9
	MOVQ w1+24(FP), R10
	MOVQ p1+32(FP), R11
	MOVQ w2+40(FP), R12
	MOVQ p2+48(FP), R13
	MODULUS(q+56(FP))
	SHLQ $3, R8
	LEAQ (R8)(R8*2), SI

inv4block:
	TWIDDLE((R10), (R11), Z8, Z9, Z10)
	TWIDDLE((R12), (R13), Z11, Z12, Z13)
	TWIDDLE(8(R12), 8(R13), Z14, Z15, Z16)
	MOVQ R8, CX

inv4inner:
	VMOVDQU64 (DI), Z0
	VMOVDQU64 (DI)(R8*1), Z1
	VMOVDQU64 (DI)(R8*2), Z2
	VMOVDQU64 (DI)(SI*1), Z3
	REVERSE(Z0, Z1, Z11, Z12, Z13)
	REVERSE(Z2, Z3, Z14, Z15, Z16)
	REVERSE(Z0, Z2, Z8, Z9, Z10)
	REVERSE(Z1, Z3, Z8, Z9, Z10)
	VMOVDQU64 Z0, (DI)
	VMOVDQU64 Z1, (DI)(R8*1)
	VMOVDQU64 Z2, (DI)(R8*2)
	VMOVDQU64 Z3, (DI)(SI*1)
	ADDQ $64, DI
	SUBQ $64, CX
	JNZ  inv4inner
	ADDQ SI, DI
	ADDQ $8, R10
	ADDQ $8, R11
	ADDQ $16, R12
	ADDQ $16, R13
	DECQ R9
	JNZ  inv4block
	VZEROUPPER
	RET

// func inv4Last(x *uint64, t int, w1, p1 uint64, w2, p2 *uint64, scale, scaleP, add, q uint64)
//
// The last two layers, over 4t elements, with all results times scale plus add:
// w1 has scale in it already. In below 4q, out below 5q; add is below q.
TEXT ·inv4Last(SB), NOSPLIT, $0-80
	MOVQ x+0(FP), DI
	MOVQ t+8(FP), R8
	MOVQ w2+32(FP), R12
	MOVQ p2+40(FP), R13
	MODULUS(q+72(FP))
	SHLQ $3, R8
	LEAQ (R8)(R8*2), SI
	TWIDDLE(w1+16(FP), p1+24(FP), Z8, Z9, Z10)
	TWIDDLE((R12), (R13), Z11, Z12, Z13)
	TWIDDLE(8(R12), 8(R13), Z14, Z15, Z16)
	TWIDDLE(scale+48(FP), scaleP+56(FP), Z17, Z18, Z19)
	VPBROADCASTQ add+64(FP), Z20
	MOVQ R8, CX

inv4LastInner:
	VMOVDQU64 (DI), Z0
	VMOVDQU64 (DI)(R8*1), Z1
	VMOVDQU64 (DI)(R8*2), Z2
	VMOVDQU64 (DI)(SI*1), Z3
	REVERSE(Z0, Z1, Z11, Z12, Z13)
	REVERSE(Z2, Z3, Z14, Z15, Z16)
	VPADDQ Z2, Z0, Z4
	VPADDQ Z3, Z1, Z5
	VPADDQ Z30, Z0, Z0
	VPADDQ Z30, Z1, Z1
	VPSUBQ Z2, Z0, Z2
	VPSUBQ Z3, Z1, Z3
	SHOUP(Z4, Z17, Z18, Z19, Z0, Z24, Z25)
	SHOUP(Z5, Z17, Z18, Z19, Z1, Z26, Z27)
	SHOUP(Z2, Z8, Z9, Z10, Z2, Z24, Z25)
	SHOUP(Z3, Z8, Z9, Z10, Z3, Z26, Z27)
	VPADDQ Z20, Z0, Z0
	VPADDQ Z20, Z1, Z1
	VPADDQ Z20, Z2, Z2
	VPADDQ Z20, Z3, Z3
	VMOVDQU64 Z0, (DI)
	VMOVDQU64 Z1, (DI)(R8*1)
	VMOVDQU64 Z2, (DI)(R8*2)
	VMOVDQU64 Z3, (DI)(SI*1)
	ADDQ $64, DI
	SUBQ $64, CX
	JNZ  inv4LastInner
	VZEROUPPER
	RET

// func inv2(x *uint64, t int, w, p *uint64, q uint64)
//
// The last layer alone, over 2t elements. In and out below 4q.
TEXT ·inv2(SB), NOSPLIT, $0-40
	MOVQ x+0(FP), DI
	MOVQ t+8(FP), R8
	MOVQ w+16(FP), R10
	MOVQ p+24(FP), R11
	MODULUS(q+32(FP))
	SHLQ $3, R8
	TWIDDLE((R10), (R11), Z8, Z9, Z10)
	MOVQ R8, CX

inv2inner:
	VMOVDQU64 (DI), Z0
	VMOVDQU64 (DI)(R8*1), Z1
	REVERSE(Z0, Z1, Z8, Z9, Z10)
	VMOVDQU64 Z0, (DI)
	VMOVDQU64 Z1, (DI)(R8*1)
	ADDQ $64, DI
	SUBQ $64, CX
	JNZ  inv2inner
	VZEROUPPER
	RET

// func scaleAdd(x *uint64, n int, w, p, add, q uint64)
//
// x = x·w + add mod q, reduced; add is below q.
TEXT ·scaleAdd(SB), NOSPLIT, $0-48
	MOVQ x+0(FP), DI
	MOVQ n+8(FP), CX
	MODULUS(q+40(FP))
	TWIDDLE(w+16(FP), p+24(FP), Z8, Z9, Z10)
	VPBROADCASTQ add+32(FP), Z11
	VPADDQ Z31, Z31, Z29

scaleAddLoop:
	VMOVDQU64 (DI), Z0
	SHOUP(Z0, Z8, Z9, Z10, Z0, Z24, Z25)
	VPADDQ Z11, Z0, Z0
	CSUB(Z0, Z30, Z28)
	CSUB(Z0, Z29, Z28)
	CSUB(Z0, Z31, Z28)
	VMOVDQU64 Z0, (DI)
	ADDQ $64, DI
	SUBQ $8, CX
	JNZ  scaleAddLoop
	VZEROUPPER
	RET

// func subMul(x, y *uint64, n int, w, p, q uint64)
//
// x = (x - y)·w mod q, reduced; x is below 12q and y below 4q.
TEXT ·subMul(SB), NOSPLIT, $0-48
	MOVQ x+0(FP), DI
	MOVQ y+8(FP), SI
	MOVQ n+16(FP), CX
	MODULUS(q+40(FP))
	TWIDDLE(w+24(FP), p+32(FP), Z8, Z9, Z10)
	VPADDQ Z31, Z31, Z29

subMulLoop:
	VPADDQ (DI), Z30, Z0
	VPSUBQ (SI), Z0, Z0
	SHOUP(Z0, Z8, Z9, Z10, Z0, Z24, Z25)
	CSUB(Z0, Z29, Z28)
	CSUB(Z0, Z31, Z28)
	VMOVDQU64 Z0, (DI)
	ADDQ $64, DI
	ADDQ $64, SI
	SUBQ $8, CX
	JNZ  subMulLoop
	VZEROUPPER
	RET

// func residues(dst, base, words *uint64, n, count, stride int, weights *[2]uint64, add, q uint64)
//
// dst = base + add + sum of words[j·stride + c]·weights[j], at most four of
// them, below 16q. add is below q; base and the words are below 2q and 2^62.
TEXT ·residues(SB), NOSPLIT, $0-72
	MOVQ dst+0(FP), DI
	MOVQ base+8(FP), SI
	MOVQ words+16(FP), R8
	MOVQ n+24(FP), CX
	MOVQ count+32(FP), R9
	MOVQ stride+40(FP), R10
	MOVQ weights+48(FP), R11
	VPBROADCASTQ add+56(FP), Z11
	MODULUS(q+64(FP))
	SHLQ $3, R10

residuesLoop:
	VPADDQ (SI), Z11, Z0
	MOVQ R8, R12
	MOVQ R11, R13
	MOVQ R9, AX

residuesWord:
	VMOVDQU64 (R12), Z1
	TWIDDLE((R13), 8(R13), Z8, Z9, Z10)
	SHOUP(Z1, Z8, Z9, Z10, Z1, Z24, Z25)
	VPADDQ Z1, Z0, Z0
	ADDQ R10, R12
	ADDQ $16, R13
	DECQ AX
	JNZ  residuesWord
	VMOVDQU64 Z0, (DI)
	ADDQ $64, DI
	ADDQ $64, SI
	ADDQ $64, R8
	SUBQ $8, CX
	JNZ  residuesLoop
	VZEROUPPER
	RET

// func residues2(dst, base, words *uint64, n, stride int, weights *[2]uint64, add, q uint64)
//
// residues of two words.
TEXT ·residues2(SB), NOSPLIT, $0-64
	MOVQ dst+0(FP), DI
	MOVQ base+8(FP), SI
	MOVQ words+16(FP), R8
	MOVQ n+24(FP), CX
	MOVQ stride+32(FP), R10
	MOVQ weights+40(FP), R11
	VPBROADCASTQ add+48(FP), Z20
	MODULUS(q+56(FP))
	TWIDDLE((R11), 8(R11), Z8, Z9, Z10)
	TWIDDLE(16(R11), 24(R11), Z11, Z12, Z13)

residues2Loop:
	VMOVDQU64 (R8), Z1
	VMOVDQU64 (R8)(R10*8), Z2
	VPADDQ (SI), Z20, Z0
	SHOUP(Z1, Z8, Z9, Z10, Z1, Z24, Z25)
	SHOUP(Z2, Z11, Z12, Z13, Z2, Z26, Z27)
	VPADDQ Z1, Z0, Z0
	VPADDQ Z2, Z0, Z0
	VMOVDQU64 Z0, (DI)
	ADDQ $64, DI
	ADDQ $64, SI
	ADDQ $64, R8
	SUBQ $8, CX
	JNZ  residues2Loop
	VZEROUPPER
	RET
