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
#define DIGIT(X, Y, Q, W, S, T) \
	VPADDQ.BCST (Q+16)(R12), X, X      \
	VPSUBQ Y, X, X                     \
	VPSRLQ $52, X, S                   \
	VPMULLQ.BCST (W+8)(R12), S, T      \
	VPMADD52HUQ.BCST (W+8)(R12), X, T  \
	VPMADD52HUQ.BCST (W+16)(R12), S, T \
	VPMULLQ.BCST W(R12), X, X          \
	VPMULLQ.BCST Q(R12), T, T          \
	VPSUBQ T, X, X

#define LESS(X, M, T) \
	VPSUBQ.BCST M(R12), X, T \
	VPMINUQ T, X, X

// REDUCED brings X from below 8q to below q.
#define REDUCED(X, Q, T) \
	LESS(X, Q+16, T) \
	LESS(X, Q+8, T)  \
	LESS(X, Q, T)

// INNER is v1 + q1·v2 in words of 52 bits.
#define INNER(V1, V2, L0, L1, L2, T) \
	VPSRLQ $52, V2, T       \
	VPANDQ Z22, V1, L0      \
	VPSRLQ $52, V1, L1      \
	VPXORQ L2, L2, L2       \
	VPMADD52LUQ Z16, V2, L0 \
	VPMADD52HUQ Z16, V2, L1 \
	VPMADD52HUQ Z17, V2, L2 \
	VPMADD52LUQ Z17, V2, L1 \
	VPMADD52HUQ Z16, T, L2  \
	VPMADD52LUQ Z16, T, L1  \
	VPMADD52LUQ Z17, T, L2  \
	VPSRLQ $52, L0, T       \
	VPADDQ T, L1, L1        \
	VPSRLQ $52, L1, T       \
	VPADDQ T, L2, L2

// OUTER is v0 + q0·that.
#define OUTER(V0, L0, L1, L2, M0, M1, M2, M3, T) \
	VPANDQ Z22, V0, M0      \
	VPSRLQ $52, V0, M1      \
	VPXORQ M2, M2, M2       \
	VPXORQ M3, M3, M3       \
	VPMADD52LUQ Z14, L0, M0 \
	VPMADD52HUQ Z14, L0, M1 \
	VPMADD52HUQ Z15, L0, M2 \
	VPMADD52HUQ Z15, L1, M3 \
	VPMADD52LUQ Z15, L0, M1 \
	VPMADD52HUQ Z14, L1, M2 \
	VPMADD52HUQ Z14, L2, M3 \
	VPMADD52LUQ Z14, L1, M1 \
	VPMADD52LUQ Z15, L1, M2 \
	VPMADD52LUQ Z15, L2, M3 \
	VPMADD52LUQ Z14, L2, M2 \
	VPSRLQ $52, M0, T       \
	VPADDQ T, M1, M1        \
	VPSRLQ $52, M1, T       \
	VPADDQ T, M2, M2        \
	VPSRLQ $52, M2, T       \
	VPADDQ T, M3, M3

// WHOLE makes words of 64 bits, U0, U1 and U2. U1 may be M0 and U2 M1.
#define WHOLE(M0, M1, M2, M3, U0, U1, U2, T) \
	VPANDQ Z22, M0, M0 \
	VPSLLQ $52, M1, T  \
	VPORQ T, M0, U0    \
	VPANDQ Z22, M1, M1 \
	VPSRLQ $12, M1, M1 \
	VPSLLQ $40, M2, T  \
	VPORQ T, M1, U1    \
	VPANDQ Z22, M2, M2 \
	VPSRLQ $24, M2, M2 \
	VPSLLQ $28, M3, T  \
	VPORQ T, M2, U2

// BOUNDS notes in Z23 noise that is above its bound, in Z21 bits above the lanes.
#define BOUNDS(U0, U2, S, T) \
	VPANDQ Z20, U0, S                 \
	VPSUBQ Z19, S, S                  \
	VPSUBQ S, Z18, T                  \
	VPADDQ S, Z18, S                  \
	VPTERNLOGQ $0xfe, T, S, Z23       \
	VPSRLVQ.BCST Join_Top(R12), U2, S \
	VPORQ S, Z21, Z21

// THREES stores eight times three words.
#define THREES(U0, U1, U2, S, T, AT) \
	VMOVDQU64 (R13), S        \
	VPERMI2Q U1, U0, S        \
	VMOVDQU64 (R11), T        \
	VPERMQ U2, T, K1, S       \
	VMOVDQU64 S, (AT)(DI)     \
	VMOVDQU64 64(R13), S      \
	VPERMI2Q U1, U0, S        \
	VMOVDQU64 64(R11), T      \
	VPERMQ U2, T, K2, S       \
	VMOVDQU64 S, (AT+64)(DI)  \
	VMOVDQU64 128(R13), S     \
	VPERMI2Q U1, U0, S        \
	VMOVDQU64 128(R11), T     \
	VPERMQ U2, T, K3, S       \
	VMOVDQU64 S, (AT+128)(DI)

// func join3(dst, r0, r1, r2 *uint64, n int, j *Join) uint64
//
// The number with the residues r0, r1 and r2, below 5q each, as three words, by
// mixed radix (Knuth, TAOCP 2, §4.3.2): v0 + q0·(v1 + q1·v2), in words of 52 bits.
// Every step waits for the one before, so sixteen numbers go side by side.
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
	VMOVDQU64 64(R8), Z9
	VMOVDQU64 64(R9), Z10
	VMOVDQU64 64(R10), Z11
	REDUCED(Z0, Join_Q0, Z8)
	REDUCED(Z9, Join_Q0, Z27)
	DIGIT(Z1, Z0, Join_Q1, Join_W01, Z3, Z4)
	DIGIT(Z10, Z9, Join_Q1, Join_W01, Z12, Z13)
	DIGIT(Z2, Z0, Join_Q2, Join_W02, Z5, Z6)
	DIGIT(Z11, Z9, Join_Q2, Join_W02, Z24, Z25)
	REDUCED(Z1, Join_Q1, Z8)
	REDUCED(Z10, Join_Q1, Z27)
	DIGIT(Z2, Z1, Join_Q2, Join_W12, Z3, Z4)
	DIGIT(Z11, Z10, Join_Q2, Join_W12, Z12, Z13)
	REDUCED(Z2, Join_Q2, Z8)
	REDUCED(Z11, Join_Q2, Z27)
	INNER(Z1, Z2, Z3, Z4, Z5, Z8)
	INNER(Z10, Z11, Z12, Z13, Z24, Z27)
	OUTER(Z0, Z3, Z4, Z5, Z1, Z2, Z6, Z7, Z8)
	OUTER(Z9, Z12, Z13, Z24, Z10, Z11, Z25, Z26, Z27)
	WHOLE(Z1, Z2, Z6, Z7, Z0, Z1, Z2, Z8)
	WHOLE(Z10, Z11, Z25, Z26, Z9, Z10, Z11, Z27)
	BOUNDS(Z0, Z2, Z3, Z4)
	BOUNDS(Z9, Z11, Z12, Z13)
	THREES(Z0, Z1, Z2, Z3, Z4, 0)
	THREES(Z9, Z10, Z11, Z12, Z13, 192)
	ADDQ $384, DI
	ADDQ $128, R8
	ADDQ $128, R9
	ADDQ $128, R10
	SUBQ $16, CX
	JNZ  join3Loop
	VPMOVQ2M Z23, K1
	VPTESTMQ Z21, Z21, K2
	KORB K1, K2, K1
	KMOVB K1, AX
	MOVQ AX, ret+48(FP)
	VZEROUPPER
	RET
