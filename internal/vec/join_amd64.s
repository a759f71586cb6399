//go:build amd64 && !purego

#include "textflag.h"
#include "macros.h"

// Offsets in Join: a modulus with its double and its fourfold, a constant with
// Shoup's as SPLIT leaves it.
#define Join_Q0 0
#define Join_Q1 24
#define Join_Q2 48
#define Join_W01 72
#define Join_W02 96
#define Join_W12 120
#define Join_Low 144
#define Join_Half 152
#define Join_Bound 160
#define Join_Top 168

// Three words of eight coefficients each become eight times three words: which
// of the first and second word, and which of the third, go to each place.
DATA joinTwo<>+0x00(SB)/8, $0
DATA joinTwo<>+0x08(SB)/8, $8
DATA joinTwo<>+0x10(SB)/8, $0
DATA joinTwo<>+0x18(SB)/8, $1
DATA joinTwo<>+0x20(SB)/8, $9
DATA joinTwo<>+0x28(SB)/8, $0
DATA joinTwo<>+0x30(SB)/8, $2
DATA joinTwo<>+0x38(SB)/8, $10
DATA joinTwo<>+0x40(SB)/8, $0
DATA joinTwo<>+0x48(SB)/8, $3
DATA joinTwo<>+0x50(SB)/8, $11
DATA joinTwo<>+0x58(SB)/8, $0
DATA joinTwo<>+0x60(SB)/8, $4
DATA joinTwo<>+0x68(SB)/8, $12
DATA joinTwo<>+0x70(SB)/8, $0
DATA joinTwo<>+0x78(SB)/8, $5
DATA joinTwo<>+0x80(SB)/8, $13
DATA joinTwo<>+0x88(SB)/8, $0
DATA joinTwo<>+0x90(SB)/8, $6
DATA joinTwo<>+0x98(SB)/8, $14
DATA joinTwo<>+0xa0(SB)/8, $0
DATA joinTwo<>+0xa8(SB)/8, $7
DATA joinTwo<>+0xb0(SB)/8, $15
DATA joinTwo<>+0xb8(SB)/8, $0
GLOBL joinTwo<>(SB), RODATA|NOPTR, $192

DATA joinThird<>+0x00(SB)/8, $0
DATA joinThird<>+0x08(SB)/8, $0
DATA joinThird<>+0x10(SB)/8, $0
DATA joinThird<>+0x18(SB)/8, $0
DATA joinThird<>+0x20(SB)/8, $0
DATA joinThird<>+0x28(SB)/8, $1
DATA joinThird<>+0x30(SB)/8, $0
DATA joinThird<>+0x38(SB)/8, $0
DATA joinThird<>+0x40(SB)/8, $2
DATA joinThird<>+0x48(SB)/8, $0
DATA joinThird<>+0x50(SB)/8, $0
DATA joinThird<>+0x58(SB)/8, $3
DATA joinThird<>+0x60(SB)/8, $0
DATA joinThird<>+0x68(SB)/8, $0
DATA joinThird<>+0x70(SB)/8, $4
DATA joinThird<>+0x78(SB)/8, $0
DATA joinThird<>+0x80(SB)/8, $0
DATA joinThird<>+0x88(SB)/8, $5
DATA joinThird<>+0x90(SB)/8, $0
DATA joinThird<>+0x98(SB)/8, $0
DATA joinThird<>+0xa0(SB)/8, $6
DATA joinThird<>+0xa8(SB)/8, $0
DATA joinThird<>+0xb0(SB)/8, $0
DATA joinThird<>+0xb8(SB)/8, $7
GLOBL joinThird<>(SB), RODATA|NOPTR, $192

// DIGIT is X = (X - Y)·W modulo the prime at Q, below 4q. Y is below 4q.
#define DIGIT(X, Y, Q, W) \
	VPADDQ.BCST (Q+16)(R12), X, X          \
	VPSUBQ Y, X, X                         \
	VPSRLQ $52, X, Z24                     \
	VPMULLQ.BCST (W+8)(R12), Z24, Z25      \
	VPMADD52HUQ.BCST (W+8)(R12), X, Z25    \
	VPMADD52HUQ.BCST (W+16)(R12), Z24, Z25 \
	VPMULLQ.BCST W(R12), X, X              \
	VPMULLQ.BCST Q(R12), Z25, Z25          \
	VPSUBQ Z25, X, X

#define LESS(X, M) \
	VPSUBQ.BCST M(R12), X, Z28 \
	VPMINUQ Z28, X, X

// REDUCED brings X from below 8q to below q.
#define REDUCED(X, Q) \
	LESS(X, Q+16) \
	LESS(X, Q+8)  \
	LESS(X, Q)

// func join3(dst, r0, r1, r2 *uint64, n int, j *Join) uint64
//
// The number with the residues r0, r1 and r2, below 5q each, as three words, by
// mixed radix (Knuth, TAOCP 2, §4.3.2): v0 + q0·(v1 + q1·v2), in words of 52 bits.
TEXT ·join3(SB), NOSPLIT, $0-56
	MOVQ dst+0(FP), DI
	MOVQ r0+8(FP), R8
	MOVQ r1+16(FP), R9
	MOVQ r2+24(FP), R10
	MOVQ n+32(FP), CX
	MOVQ j+40(FP), R12
	LEAQ joinTwo<>(SB), R13
	LEAQ joinThird<>(SB), R11
	MOVL $0x24, AX
	KMOVB AX, K1
	MOVL $0x49, AX
	KMOVB AX, K2
	MOVL $0x92, AX
	KMOVB AX, K3
	VPTERNLOGQ $0xff, Z23, Z23, Z23
	VPSRLQ $12, Z23, Z22 // 2^52 - 1
	VPXORQ Z23, Z23, Z23 // noise above bound
	VPXORQ Z21, Z21, Z21 // bits above the lanes
	VPBROADCASTQ Join_Low(R12), Z20
	VPBROADCASTQ Join_Half(R12), Z19
	VPBROADCASTQ Join_Bound(R12), Z18
	VPBROADCASTQ Join_Q0(R12), Z14
	VPSRLQ $52, Z14, Z15
	VPBROADCASTQ Join_Q1(R12), Z16
	VPSRLQ $52, Z16, Z17

join3Loop:
	VMOVDQU64 (R8), Z0
	VMOVDQU64 (R9), Z1
	VMOVDQU64 (R10), Z2
	REDUCED(Z0, Join_Q0)
	DIGIT(Z1, Z0, Join_Q1, Join_W01)
	DIGIT(Z2, Z0, Join_Q2, Join_W02)
	REDUCED(Z1, Join_Q1)
	DIGIT(Z2, Z1, Join_Q2, Join_W12)
	REDUCED(Z2, Join_Q2)

	// Z3, Z4, Z5 = v1 + q1·v2.
	VPSRLQ $52, Z2, Z6
	VPANDQ Z22, Z1, Z3
	VPSRLQ $52, Z1, Z4
	VPXORQ Z5, Z5, Z5
	VPMADD52LUQ Z16, Z2, Z3
	VPMADD52HUQ Z16, Z2, Z4
	VPMADD52LUQ Z17, Z2, Z4
	VPMADD52HUQ Z17, Z2, Z5
	VPMADD52LUQ Z16, Z6, Z4
	VPMADD52HUQ Z16, Z6, Z5
	VPMADD52LUQ Z17, Z6, Z5
	VPSRLQ $52, Z3, Z6
	VPADDQ Z6, Z4, Z4
	VPSRLQ $52, Z4, Z6
	VPADDQ Z6, Z5, Z5

	// Z7, Z8, Z9, Z10 = v0 + q0·that.
	VPANDQ Z22, Z0, Z7
	VPSRLQ $52, Z0, Z8
	VPXORQ Z9, Z9, Z9
	VPXORQ Z10, Z10, Z10
	VPMADD52LUQ Z14, Z3, Z7
	VPMADD52HUQ Z14, Z3, Z8
	VPMADD52LUQ Z15, Z3, Z8
	VPMADD52HUQ Z15, Z3, Z9
	VPMADD52LUQ Z14, Z4, Z8
	VPMADD52HUQ Z14, Z4, Z9
	VPMADD52LUQ Z15, Z4, Z9
	VPMADD52HUQ Z15, Z4, Z10
	VPMADD52LUQ Z14, Z5, Z9
	VPMADD52HUQ Z14, Z5, Z10
	VPMADD52LUQ Z15, Z5, Z10
	VPSRLQ $52, Z7, Z6
	VPADDQ Z6, Z8, Z8
	VPSRLQ $52, Z8, Z6
	VPADDQ Z6, Z9, Z9
	VPSRLQ $52, Z9, Z6
	VPADDQ Z6, Z10, Z10

	// Words of 64 bits.
	VPANDQ Z22, Z7, Z7
	VPSLLQ $52, Z8, Z6
	VPORQ Z6, Z7, Z0
	VPANDQ Z22, Z8, Z8
	VPSRLQ $12, Z8, Z8
	VPSLLQ $40, Z9, Z6
	VPORQ Z6, Z8, Z1
	VPANDQ Z22, Z9, Z9
	VPSRLQ $24, Z9, Z9
	VPSLLQ $28, Z10, Z6
	VPORQ Z6, Z9, Z2

	VPANDQ Z20, Z0, Z6
	VPSUBQ Z19, Z6, Z6
	VPSUBQ Z6, Z18, Z7
	VPADDQ Z6, Z18, Z8
	VPTERNLOGQ $0xfe, Z7, Z8, Z23 // or of all three
	VPSRLVQ.BCST Join_Top(R12), Z2, Z6
	VPORQ Z6, Z21, Z21

	VMOVDQU64 (R13), Z3
	VPERMI2Q Z1, Z0, Z3
	VMOVDQU64 (R11), Z6
	VPERMQ Z2, Z6, K1, Z3
	VMOVDQU64 64(R13), Z4
	VPERMI2Q Z1, Z0, Z4
	VMOVDQU64 64(R11), Z6
	VPERMQ Z2, Z6, K2, Z4
	VMOVDQU64 128(R13), Z5
	VPERMI2Q Z1, Z0, Z5
	VMOVDQU64 128(R11), Z6
	VPERMQ Z2, Z6, K3, Z5
	VMOVDQU64 Z3, (DI)
	VMOVDQU64 Z4, 64(DI)
	VMOVDQU64 Z5, 128(DI)
	ADDQ $192, DI
	ADDQ $64, R8
	ADDQ $64, R9
	ADDQ $64, R10
	SUBQ $8, CX
	JNZ  join3Loop
	VPMOVQ2M Z23, K1
	VPTESTMQ Z21, Z21, K2
	KORB K1, K2, K1
	KMOVB K1, AX
	MOVQ AX, ret+48(FP)
	VZEROUPPER
	RET
