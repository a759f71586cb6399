//go:build amd64 && !purego

#include "textflag.h"
#include "macros.h"

// DESCEND goes one level down the tree: T is the entry at place Z1 of the
// level, and the place doubles, plus one if the entry is not above the draw.
#define DESCEND(T) \
	VPCMPUQ $2, Z0, T, K1     \
	VPADDQ Z1, Z1, Z1         \
	VPADDQ Z29, Z1, K1, Z1

// func gaussians(dst *int64, src *byte, n int, tree *[80]uint64)
//
// n is a multiple of 8. The search takes the same six steps for every sample,
// and the tree lies in registers: neither time nor address depends on it.
TEXT ·gaussians(SB), NOSPLIT, $0-32
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ tree+24(FP), R8
	VPTERNLOGQ $0xff, Z31, Z31, Z31 // -1
	VPSRLQ $1, Z31, Z30             // 2^63-1
	VPSRLQ $63, Z31, Z29            // 1
	VPSLLQ $4, Z29, Z28             // 16
	VMOVDQU64 (R8), Z16
	VMOVDQU64 64(R8), Z17
	VMOVDQU64 128(R8), Z18
	VMOVDQU64 192(R8), Z19
	VMOVDQU64 256(R8), Z20
	VMOVDQU64 320(R8), Z21
	VMOVDQU64 384(R8), Z22
	VMOVDQU64 448(R8), Z23
	VMOVDQU64 512(R8), Z24
	VMOVDQU64 576(R8), Z25

gaussLoop:
	VMOVDQU64 (SI), Z2
	VPANDQ Z30, Z2, Z0
	VPXORQ Z1, Z1, Z1
	DESCEND(Z16)
	VPERMQ Z17, Z1, Z3
	DESCEND(Z3)
	VPERMQ Z18, Z1, Z3
	DESCEND(Z3)
	VPERMQ Z19, Z1, Z3
	DESCEND(Z3)
	VMOVDQA64 Z1, Z3
	VPERMI2Q Z21, Z20, Z3
	DESCEND(Z3)
	VMOVDQA64 Z1, Z3
	VPERMI2Q Z23, Z22, Z3
	VMOVDQA64 Z1, Z4
	VPERMI2Q Z25, Z24, Z4
	VPTESTMQ Z28, Z1, K2
	VMOVDQA64 Z4, K2, Z3
	DESCEND(Z3)
	VPSRAQ $63, Z2, Z2
	VPXORQ Z2, Z1, Z1
	VPSUBQ Z2, Z1, Z1
	VMOVDQU64 Z1, (DI)
	ADDQ $64, SI
	ADDQ $64, DI
	SUBQ $8, CX
	JNZ  gaussLoop
	VZEROUPPER
	RET

// func cut(dst *uint32, words *uint64, n, stride, lanes int, c *Cut)
//
// For each of n coefficients: eight lanes from the 64 bytes at words, stored
// whole; the next coefficient's overwrite what is beyond lanes.
TEXT ·cut(SB), NOSPLIT, $0-48
	MOVQ dst+0(FP), DI
	MOVQ words+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ stride+24(FP), R8
	MOVQ lanes+32(FP), R9
	MOVQ c+40(FP), R10
	SHLQ $3, R8
	SHLQ $2, R9
	VMOVDQU64 (R10), Z16
	VMOVDQU64 64(R10), Z17
	VPBROADCASTQ 128(R10), Z18

cutLoop:
	VMOVDQU64 (SI), Z0
	VPERMB Z0, Z16, Z0
	VPSRLVQ Z17, Z0, Z0
	VPANDQ Z18, Z0, Z0
	VPMOVQD Z0, Y0
	VMOVDQU Y0, (DI)
	ADDQ R8, SI
	ADDQ R9, DI
	DECQ CX
	JNZ  cutLoop
	VZEROUPPER
	RET

// A row of Weights, in bytes.
#define WEIGHTS 3072

// TOTALS stores the sum of A's eight words, of B's, of C's and of D's.
#define TOTALS(A, B, C, D, AT) \
	VPUNPCKLQDQ B, A, Z24           \
	VPUNPCKHQDQ B, A, Z25           \
	VPADDQ Z25, Z24, Z24            \
	VPUNPCKLQDQ D, C, Z25           \
	VPUNPCKHQDQ D, C, Z26           \
	VPADDQ Z26, Z25, Z25            \
	VSHUFI64X2 $0x88, Z25, Z24, Z26 \
	VSHUFI64X2 $0xdd, Z25, Z24, Z27 \
	VPADDQ Z27, Z26, Z26            \
	VSHUFI64X2 $0xb1, Z26, Z26, Z27 \
	VPADDQ Z27, Z26, Z26            \
	VMOVDQU64 X26, 0(AT)            \
	VEXTRACTI64X2 $2, Z26, 16(AT)

// func dot(acc *[4]uint64, lanes *uint32, n int, w *Weights)
TEXT ·dot(SB), NOSPLIT, $0-32
	MOVQ acc+0(FP), DI
	MOVQ lanes+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ w+24(FP), R8
	VPXORQ Z1, Z1, Z1
	VPXORQ Z2, Z2, Z2
	VPXORQ Z3, Z3, Z3
	VPXORQ Z4, Z4, Z4

dotLoop:
	VPMOVZXDQ (SI), Z0
	VPMULUDQ (R8), Z0, Z5
	VPMULUDQ WEIGHTS(R8), Z0, Z6
	VPMULUDQ (2*WEIGHTS)(R8), Z0, Z7
	VPMULUDQ (3*WEIGHTS)(R8), Z0, Z8
	VPADDQ Z5, Z1, Z1
	VPADDQ Z6, Z2, Z2
	VPADDQ Z7, Z3, Z3
	VPADDQ Z8, Z4, Z4
	ADDQ $32, SI
	ADDQ $64, R8
	SUBQ $8, CX
	JNZ  dotLoop
	TOTALS(Z1, Z2, Z3, Z4, DI)
	VZEROUPPER
	RET

// PAIRS adds to ACC the products of the two halves of each of X's words plus the key's.
#define PAIRS(KEY, ACC) \
	VPADDD KEY, Z0, Z1   \
	VPSRLQ $32, Z1, Z2   \
	VPMULUDQ Z2, Z1, Z1  \
	VPADDQ Z1, ACC, ACC

// func nh(acc *[4]uint64, lanes *int32, n int, key *uint32)
TEXT ·nh(SB), NOSPLIT, $0-32
	MOVQ acc+0(FP), DI
	MOVQ lanes+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ key+24(FP), R8
	VPXORQ Z16, Z16, Z16
	VPXORQ Z17, Z17, Z17
	VPXORQ Z18, Z18, Z18
	VPXORQ Z19, Z19, Z19

nhLoop:
	VMOVDQU64 (SI), Z0
	PAIRS(0(R8), Z16)
	PAIRS(16(R8), Z17)
	PAIRS(32(R8), Z18)
	ADDQ $64, SI
	ADDQ $64, R8
	SUBQ $16, CX
	JNZ  nhLoop
	TOTALS(Z16, Z17, Z18, Z19, DI)
	VZEROUPPER
	RET

DATA idxLow<>+0x00(SB)/8, $0
DATA idxLow<>+0x08(SB)/8, $4
DATA idxLow<>+0x10(SB)/8, $8
DATA idxLow<>+0x18(SB)/8, $12
DATA idxLow<>+0x20(SB)/8, $1
DATA idxLow<>+0x28(SB)/8, $5
DATA idxLow<>+0x30(SB)/8, $9
DATA idxLow<>+0x38(SB)/8, $13
GLOBL idxLow<>(SB), RODATA|NOPTR, $64

DATA idxHigh<>+0x00(SB)/8, $2
DATA idxHigh<>+0x08(SB)/8, $6
DATA idxHigh<>+0x10(SB)/8, $10
DATA idxHigh<>+0x18(SB)/8, $14
DATA idxHigh<>+0x20(SB)/8, $3
DATA idxHigh<>+0x28(SB)/8, $7
DATA idxHigh<>+0x30(SB)/8, $11
DATA idxHigh<>+0x38(SB)/8, $15
GLOBL idxHigh<>(SB), RODATA|NOPTR, $64

// PAIR makes of X's pairs of lanes (a, b) the numbers a + b·2^width.
#define PAIR(X, T) \
	VPSRLQ $32, X, T    \
	VPSLLVQ Z17, T, T   \
	VPANDQ Z20, X, X    \
	VPADDQ T, X, X

// func gather8(base, one, two *uint64, lanes *uint32, noise *int64, n int, offset, width, delta uint64)
//
// Of each coefficient's eight lanes: noise + offset and two lanes, three, three.
TEXT ·gather8(SB), NOSPLIT, $0-72
	MOVQ base+0(FP), DI
	MOVQ one+8(FP), R8
	MOVQ two+16(FP), R9
	MOVQ lanes+24(FP), SI
	MOVQ noise+32(FP), R10
	MOVQ n+40(FP), CX
	VPBROADCASTQ offset+48(FP), Z16
	VPBROADCASTQ width+56(FP), Z17
	VPBROADCASTQ delta+64(FP), Z19
	VPADDQ Z17, Z17, Z18 // two lanes
	VPTERNLOGQ $0xff, Z20, Z20, Z20
	VPSLLVQ Z17, Z20, Z21
	VPANDNQ Z20, Z21, Z21 // 2^width - 1
	VPSRLQ $32, Z20, Z20
	VMOVDQU64 idxLow<>(SB), Z22
	VMOVDQU64 idxHigh<>(SB), Z23

gather8Loop:
	VMOVDQU64 (SI), Z0
	VMOVDQU64 64(SI), Z1
	VMOVDQU64 128(SI), Z2
	VMOVDQU64 192(SI), Z3
	PAIR(Z0, Z4)
	PAIR(Z1, Z5)
	PAIR(Z2, Z6)
	PAIR(Z3, Z7)
	VMOVDQA64 Z0, Z4
	VPERMT2Q Z1, Z22, Z0 // pairs 0 and 1 of four coefficients
	VPERMT2Q Z1, Z23, Z4 // pairs 2 and 3
	VMOVDQA64 Z2, Z5
	VPERMT2Q Z3, Z22, Z2
	VPERMT2Q Z3, Z23, Z5
	VSHUFI64X2 $0x44, Z2, Z0, Z6  // pair 0
	VSHUFI64X2 $0xee, Z2, Z0, Z7  // pair 1
	VSHUFI64X2 $0x44, Z5, Z4, Z8  // pair 2
	VSHUFI64X2 $0xee, Z5, Z4, Z9  // pair 3
	VPADDQ (R10), Z16, Z0
	VPSLLVQ Z19, Z6, Z6
	VPADDQ Z6, Z0, Z0
	VPANDQ Z21, Z8, Z1
	VPSLLVQ Z18, Z1, Z1
	VPADDQ Z7, Z1, Z1
	VPSRLVQ Z17, Z8, Z2
	VPSLLVQ Z17, Z9, Z9
	VPADDQ Z9, Z2, Z2
	VMOVDQU64 Z0, (DI)
	VMOVDQU64 Z1, (R8)
	VMOVDQU64 Z2, (R9)
	ADDQ $256, SI
	ADDQ $64, R10
	ADDQ $64, DI
	ADDQ $64, R8
	ADDQ $64, R9
	SUBQ $8, CX
	JNZ  gather8Loop
	VZEROUPPER
	RET

// What PICK takes of sixteen double words of eight coefficients: the low half of
// every quad word is one of the coefficient's four, the high half nothing.
DATA pick<>+0x00(SB)/8, $0x0000000400000000
DATA pick<>+0x08(SB)/8, $0x0000000c00000008
DATA pick<>+0x10(SB)/8, $0x0000001400000010
DATA pick<>+0x18(SB)/8, $0x0000001c00000018
GLOBL pick<>(SB), RODATA|NOPTR, $32

// PICK is X = u + v·2^width of double words u + v·2^16 of Z0 and Z1.
#define PICK(PLACES, X, T) \
	VMOVDQA64 PLACES, X            \
	VPERMI2D.Z Z1, Z0, K1, X       \
	VPANDQ Z20, X, T               \
	VPSUBQ T, X, X                 \
	VPSLLVQ Z17, X, X              \
	VPORQ T, X, X

// func gather16(base, one, two *uint64, lanes *byte, noise *int64, n int, offset, width, delta uint64)
//
// gather8 of lanes that are signed words of 16 bits and count from -2^15.
TEXT ·gather16(SB), NOSPLIT, $0-72
	MOVQ base+0(FP), DI
	MOVQ one+8(FP), R8
	MOVQ two+16(FP), R9
	MOVQ lanes+24(FP), SI
	MOVQ noise+32(FP), R10
	MOVQ n+40(FP), CX
	MOVQ width+56(FP), AX
	VPBROADCASTQ offset+48(FP), Z16
	VPBROADCASTQ AX, Z18
	VPADDQ Z18, Z18, Z19 // two lanes
	SUBQ $16, AX
	VPBROADCASTQ AX, Z17
	VPBROADCASTQ delta+64(FP), Z27
	VPTERNLOGQ $0xff, Z29, Z29, Z29
	VPSRLQ $48, Z29, Z20 // 2^16 - 1
	VPSLLVQ Z18, Z29, Z21
	VPANDNQ Z29, Z21, Z21 // 2^width - 1
	VPSLLW $15, Z29, Z28
	VPMOVZXDQ pick<>(SB), Z22
	VPSRLQ $63, Z29, Z29
	VPADDQ Z29, Z22, Z23
	VPADDQ Z29, Z23, Z24
	VPADDQ Z29, Z24, Z25
	MOVL $0x5555, AX
	KMOVW AX, K1

gather16Loop:
	VPXORQ (SI), Z28, Z0
	VPXORQ 64(SI), Z28, Z1
	PICK(Z22, Z2, Z6)
	PICK(Z23, Z3, Z7)
	PICK(Z24, Z4, Z8)
	PICK(Z25, Z5, Z9)
	VPADDQ (R10), Z16, Z0
	VPSLLVQ Z27, Z2, Z2
	VPADDQ Z2, Z0, Z0
	VPANDQ Z21, Z4, Z1
	VPSLLVQ Z19, Z1, Z1
	VPADDQ Z3, Z1, Z1
	VPSRLVQ Z18, Z4, Z2
	VPSLLVQ Z18, Z5, Z5
	VPADDQ Z5, Z2, Z2
	VMOVDQU64 Z0, (DI)
	VMOVDQU64 Z1, (R8)
	VMOVDQU64 Z2, (R9)
	ADDQ $128, SI
	ADDQ $64, R10
	ADDQ $64, DI
	ADDQ $64, R8
	ADDQ $64, R9
	SUBQ $8, CX
	JNZ  gather16Loop
	VZEROUPPER
	RET

// LONG is in every quad word the sum of the two double words of X.
#define LONG(X) \
	VPSLLQ $32, X, Z12   \
	VPSRAQ $32, Z12, Z12 \
	VPSRAQ $32, X, X     \
	VPADDQ Z12, X, X

// LIMBS is A + B·2^11 + C·2^22 of what LONG makes of them.
#define LIMBS(A, B, C) \
	LONG(A)          \
	LONG(B)          \
	LONG(C)          \
	VPSLLQ $11, B, B \
	VPSLLQ $22, C, C \
	VPADDQ B, A, A   \
	VPADDQ C, A, A

// func dot16(acc *[4]int64, lanes *byte, n int, w *Limbs)
TEXT ·dot16(SB), NOSPLIT, $0-32
	MOVQ acc+0(FP), DI
	MOVQ lanes+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ w+24(FP), R8
	VPXORQ Z0, Z0, Z0
	VPXORQ Z1, Z1, Z1
	VPXORQ Z2, Z2, Z2
	VPXORQ Z3, Z3, Z3
	VPXORQ Z4, Z4, Z4
	VPXORQ Z5, Z5, Z5
	VPXORQ Z6, Z6, Z6
	VPXORQ Z7, Z7, Z7
	VPXORQ Z8, Z8, Z8
	VPXORQ Z9, Z9, Z9
	VPXORQ Z10, Z10, Z10
	VPXORQ Z11, Z11, Z11

dot16Loop:
	VMOVDQU64 (SI), Z12
	VPDPWSSD 0(R8), Z12, Z0
	VPDPWSSD 768(R8), Z12, Z1
	VPDPWSSD 1536(R8), Z12, Z2
	VPDPWSSD 2304(R8), Z12, Z3
	VPDPWSSD 3072(R8), Z12, Z4
	VPDPWSSD 3840(R8), Z12, Z5
	VPDPWSSD 4608(R8), Z12, Z6
	VPDPWSSD 5376(R8), Z12, Z7
	VPDPWSSD 6144(R8), Z12, Z8
	VPDPWSSD 6912(R8), Z12, Z9
	VPDPWSSD 7680(R8), Z12, Z10
	VPDPWSSD 8448(R8), Z12, Z11
	ADDQ $64, SI
	ADDQ $64, R8
	SUBQ $32, CX
	JNZ  dot16Loop
	LIMBS(Z0, Z1, Z2)
	LIMBS(Z3, Z4, Z5)
	LIMBS(Z6, Z7, Z8)
	LIMBS(Z9, Z10, Z11)
	TOTALS(Z0, Z3, Z6, Z9, DI)
	VZEROUPPER
	RET

// func signed(dst *int64, src *uint32, n int, offset uint64)
TEXT ·signed(SB), NOSPLIT, $0-32
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	VPBROADCASTQ offset+24(FP), Z16

signedLoop:
	VPMOVZXDQ (SI), Z0
	VPSUBQ Z16, Z0, Z0
	VMOVDQU64 Z0, (DI)
	ADDQ $32, SI
	ADDQ $64, DI
	SUBQ $8, CX
	JNZ  signedLoop
	VZEROUPPER
	RET

// VERDICT32 leaves in R the or of the sixteen words of Z23.
#define VERDICT32(R) \
	VEXTRACTI64X4 $1, Z23, Y22  \
	VPORQ Y22, Y23, Y23         \
	VEXTRACTI64X2 $1, Y23, X22  \
	VPORQ X22, X23, X23         \
	VPSHUFD $0x4e, X23, X22     \
	VPORQ X22, X23, X23         \
	VPSHUFD $0xb1, X23, X22     \
	VPORQ X22, X23, X23         \
	VMOVD X23, R

// func raise(dst *uint32, src *int32, n int, offset uint32) uint32
//
// dst = src + offset; the verdict's top bit says that some src is not in
// [-offset, offset).
TEXT ·raise(SB), NOSPLIT, $0-36
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	MOVL offset+24(FP), AX
	VPBROADCASTD AX, Z16
	VPTERNLOGD $0xff, Z18, Z18, Z18
	VPADDD Z16, Z18, Z17 // offset - 1
	VPXORQ Z23, Z23, Z23

raiseLoop:
	VMOVDQU32 (SI), Z0
	VPSUBD Z0, Z17, Z1
	VPADDD Z16, Z0, Z2
	VPTERNLOGD $0xfe, Z1, Z2, Z23 // or of all three
	VMOVDQU32 Z2, (DI)
	ADDQ $64, SI
	ADDQ $64, DI
	SUBQ $16, CX
	JNZ  raiseLoop
	VERDICT32(AX)
	MOVL AX, ret+32(FP)
	VZEROUPPER
	RET

// func above(src *uint32, n int, most uint32) uint32
//
// The verdict's top bit says that some src is above most; all are below 2^31.
TEXT ·above(SB), NOSPLIT, $0-28
	MOVQ src+0(FP), SI
	MOVQ n+8(FP), CX
	MOVL most+16(FP), AX
	VPBROADCASTD AX, Z17
	VPXORQ Z23, Z23, Z23

aboveLoop:
	VPSUBD (SI), Z17, Z1
	VPORQ Z1, Z23, Z23
	ADDQ $64, SI
	SUBQ $16, CX
	JNZ  aboveLoop
	VERDICT32(AX)
	MOVL AX, ret+24(FP)
	VZEROUPPER
	RET

// func narrow(dst *byte, src *int32, n int) uint32
//
// dst takes the low 16 bits of each lane; the verdict has a bit above the
// sixteenth if some lane is not in [-2^15, 2^15).
TEXT ·narrow(SB), NOSPLIT, $0-28
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	VPTERNLOGD $0xff, Z16, Z16, Z16
	VPSRLD $31, Z16, Z16
	VPSLLD $15, Z16, Z16
	VPXORQ Z23, Z23, Z23

narrowLoop:
	VMOVDQU32 (SI), Z0
	VPADDD Z16, Z0, Z1
	VPORQ Z1, Z23, Z23
	VPMOVDW Z0, Y0
	VMOVDQU Y0, (DI)
	ADDQ $64, SI
	ADDQ $32, DI
	SUBQ $16, CX
	JNZ  narrowLoop
	VERDICT32(AX)
	MOVL AX, ret+24(FP)
	VZEROUPPER
	RET
