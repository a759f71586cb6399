//go:build amd64 && !purego

#include "textflag.h"
#include "macros.h"

// Offsets in Field.
#define Field_Q 0
#define Field_Mask 8
#define Field_Width 16
#define Field_Shift 24
#define Field_Gather 88
#define Field_Even 152
#define Field_Odd 216
#define Field_EvenMask 280
#define Field_OddMask 288

// GATHER reads the eight residues at AT, which touches 64 bytes, into X.
// Z16 holds the byte places, Z17 the shifts, Z18 the mask.
#define GATHERSET(F) \
	VMOVDQU64 Field_Gather(F), Z16 \
	VMOVDQU64 Field_Shift(F), Z17  \
	VPBROADCASTQ Field_Mask(F), Z18

#define GATHER(AT, X) \
	VMOVDQU64 AT, X     \
	VPERMB X, Z16, X    \
	VPSRLVQ Z17, X, X   \
	VPANDQ Z18, X, X

// SCATTER packs X, eight residues, and stores 64 bytes at AT.
#define SCATTERSET(F) \
	VMOVDQU64 Field_Even(F), Z19   \
	VMOVDQU64 Field_Odd(F), Z20    \
	VMOVDQU64 Field_Shift(F), Z17  \
	KMOVQ Field_EvenMask(F), K1    \
	KMOVQ Field_OddMask(F), K2

#define SCATTER(X, AT, T) \
	VPSLLVQ Z17, X, X          \
	VPERMB.Z X, Z19, K1, T     \
	VPERMB.Z X, Z20, K2, X     \
	VPORQ T, X, X              \
	VMOVDQU64 X, AT

// RANGE adds to Z23 a top bit wherever X is not below q; Z22 = q-1. Residues
// are below 2^60.
#define RANGESET \
	VPTERNLOGQ $0xff, Z22, Z22, Z22 \
	VPADDQ Z31, Z22, Z22            \
	VPXORQ Z23, Z23, Z23

#define RANGE(X, T) \
	VPSUBQ X, Z22, T   \
	VPORQ T, Z23, Z23

// VERDICT is 1 if RANGE ever saw a residue that is not reduced.
#define VERDICT(R) \
	VPMOVQ2M Z23, K3    \
	KMOVB K3, R         \
	ADDQ $0xff, R       \
	SHRQ $8, R

// func mulAddPack(dst *byte, msg, key, keyP, random *uint64, n int, f *Field) uint64
TEXT ·mulAddPack(SB), NOSPLIT, $0-64
	MOVQ dst+0(FP), DI
	MOVQ msg+8(FP), SI
	MOVQ key+16(FP), R8
	MOVQ keyP+24(FP), R9
	MOVQ random+32(FP), R10
	MOVQ n+40(FP), CX
	MOVQ f+48(FP), R11
	MODULUS(Field_Q(R11))
	VPADDQ Z31, Z31, Z21
	VPBROADCASTQ Field_Mask(R11), Z18
	SCATTERSET(R11)
	RANGESET
	MOVQ Field_Width(R11), R12

mulAddPackLoop:
	VPANDQ (R10), Z18, Z0
	RANGE(Z0, Z28)
	VMOVDQU64 (R8), Z8
	VMOVDQU64 (R9), Z9
	SPLIT(Z9, Z10)
	SHOUP(Z0, Z8, Z9, Z10, Z0, Z24, Z25)
	VMOVDQU64 (SI), Z1
	CSUB(Z1, Z29, Z28)
	VPADDQ Z1, Z0, Z0
	CSUB(Z0, Z29, Z28)
	CSUB(Z0, Z30, Z28)
	CSUB(Z0, Z21, Z28)
	CSUB(Z0, Z31, Z28)
	SCATTER(Z0, (DI), Z1)
	ADDQ R12, DI
	ADDQ $64, SI
	ADDQ $64, R8
	ADDQ $64, R9
	ADDQ $64, R10
	SUBQ $8, CX
	JNZ  mulAddPackLoop
	VERDICT(AX)
	MOVQ AX, ret+56(FP)
	VZEROUPPER
	RET

// func unpackMulSub(dst *uint64, src *byte, key, keyP, random *uint64, n int, f *Field) uint64
TEXT ·unpackMulSub(SB), NOSPLIT, $0-64
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ key+16(FP), R8
	MOVQ keyP+24(FP), R9
	MOVQ random+32(FP), R10
	MOVQ n+40(FP), CX
	MOVQ f+48(FP), R11
	MODULUS(Field_Q(R11))
	GATHERSET(R11)
	RANGESET
	VMOVDQA64 Z23, Z21
	MOVQ Field_Width(R11), R12

unpackMulSubLoop:
	// Bits 0 and up of the verdict speak of random, Z21 of src.
	VPANDQ (R10), Z18, Z0
	RANGE(Z0, Z28)
	GATHER((SI), Z1)
	VPSUBQ Z1, Z22, Z28
	VPORQ Z28, Z21, Z21
	VMOVDQU64 (R8), Z8
	VMOVDQU64 (R9), Z9
	SPLIT(Z9, Z10)
	SHOUP(Z0, Z8, Z9, Z10, Z0, Z24, Z25)
	VPADDQ Z30, Z1, Z1
	VPSUBQ Z0, Z1, Z1
	CSUB(Z1, Z30, Z28)
	VMOVDQU64 Z1, (DI)
	ADDQ $64, DI
	ADDQ R12, SI
	ADDQ $64, R8
	ADDQ $64, R9
	ADDQ $64, R10
	SUBQ $8, CX
	JNZ  unpackMulSubLoop
	VERDICT(AX)
	VMOVDQA64 Z21, Z23
	VERDICT(BX)
	SHLQ $1, BX
	ORQ  BX, AX
	MOVQ AX, ret+56(FP)
	VZEROUPPER
	RET

// func unpack(dst *uint64, src *byte, n int, f *Field) uint64
TEXT ·unpack(SB), NOSPLIT, $0-40
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ f+24(FP), R11
	MODULUS(Field_Q(R11))
	GATHERSET(R11)
	RANGESET
	MOVQ Field_Width(R11), R12

unpackLoop:
	GATHER((SI), Z0)
	RANGE(Z0, Z28)
	VMOVDQU64 Z0, (DI)
	ADDQ $64, DI
	ADDQ R12, SI
	SUBQ $8, CX
	JNZ  unpackLoop
	VERDICT(AX)
	MOVQ AX, ret+32(FP)
	VZEROUPPER
	RET

// func unpackAdd(dst *uint64, src *byte, n int, f *Field) uint64
TEXT ·unpackAdd(SB), NOSPLIT, $0-40
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ f+24(FP), R11
	MODULUS(Field_Q(R11))
	GATHERSET(R11)
	RANGESET
	MOVQ Field_Width(R11), R12

unpackAddLoop:
	GATHER((SI), Z0)
	RANGE(Z0, Z28)
	VPADDQ (DI), Z0, Z0
	VMOVDQU64 Z0, (DI)
	ADDQ $64, DI
	ADDQ R12, SI
	SUBQ $8, CX
	JNZ  unpackAddLoop
	VERDICT(AX)
	MOVQ AX, ret+32(FP)
	VZEROUPPER
	RET

// FOUR is one of addFour's inputs: its residues to X, their largest to Z23.
#define FOUR(AT, X) \
	GATHER(AT, X)       \
	VPMAXUQ X, Z23, Z23

// func addFour(acc *uint64, src *[4]*byte, n int, add uint64, f *Field) uint64
//
// acc = the sum of four, plus acc if add is all ones and not if it is zero.
TEXT ·addFour(SB), NOSPLIT, $0-48
	MOVQ acc+0(FP), DI
	MOVQ src+8(FP), AX
	MOVQ n+16(FP), CX
	VPBROADCASTQ add+24(FP), Z22
	MOVQ f+32(FP), R11
	MOVQ 0(AX), R8
	MOVQ 8(AX), R9
	MOVQ 16(AX), R10
	MOVQ 24(AX), R13
	GATHERSET(R11)
	VPXORQ Z23, Z23, Z23
	MOVQ Field_Width(R11), R12

addFourLoop:
	FOUR((R8), Z0)
	FOUR((R9), Z1)
	FOUR((R10), Z2)
	FOUR((R13), Z3)
	PREFETCHT0 512(R8)
	PREFETCHT0 512(R9)
	PREFETCHT0 512(R10)
	PREFETCHT0 512(R13)
	VPANDQ (DI), Z22, Z4
	VPADDQ Z1, Z0, Z0
	VPADDQ Z3, Z2, Z2
	VPADDQ Z4, Z0, Z0
	VPADDQ Z2, Z0, Z0
	VMOVDQU64 Z0, (DI)
	ADDQ $64, DI
	ADDQ R12, R8
	ADDQ R12, R9
	ADDQ R12, R10
	ADDQ R12, R13
	SUBQ $8, CX
	JNZ  addFourLoop
	VPCMPUQ.BCST $5, Field_Q(R11), Z23, K1 // not below
	KMOVB K1, AX
	MOVQ AX, ret+40(FP)
	VZEROUPPER
	RET

// func pack(dst *byte, src *uint64, n int, f *Field)
//
// The last eight residues are stored by a mask, so nothing past them is
// touched; the others' overhang is overwritten by who follows.
TEXT ·pack(SB), NOSPLIT, $0-32
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ f+24(FP), R11
	SCATTERSET(R11)
	KORQ K1, K2, K4
	MOVQ Field_Width(R11), R12

packLoop:
	VMOVDQU64 (SI), Z0
	VPSLLVQ Z17, Z0, Z0
	VPERMB.Z Z0, Z19, K1, Z1
	VPERMB.Z Z0, Z20, K2, Z0
	VPORQ Z1, Z0, Z0
	CMPQ CX, $8
	JEQ  packLast
	VMOVDQU64 Z0, (DI)
	ADDQ R12, DI
	ADDQ $64, SI
	SUBQ $8, CX
	JMP  packLoop

packLast:
	VMOVDQU8 Z0, K4, (DI)
	VZEROUPPER
	RET

// func reduce(x *uint64, n int, p, q uint64)
//
// x mod q for every 64-bit x; p is Shoup's constant of one.
TEXT ·reduce(SB), NOSPLIT, $0-32
	MOVQ x+0(FP), DI
	MOVQ n+8(FP), CX
	VPBROADCASTQ p+16(FP), Z9
	SPLIT(Z9, Z10)
	MODULUS(q+24(FP))
	VPADDQ Z31, Z31, Z29

reduceLoop:
	VMOVDQU64 (DI), Z0
	QUOTIENT(Z0, Z9, Z10, Z1, Z2)
	VPMULLQ Z31, Z1, Z1
	VPSUBQ Z1, Z0, Z0
	CSUB(Z0, Z29, Z28)
	CSUB(Z0, Z31, Z28)
	VMOVDQU64 Z0, (DI)
	ADDQ $64, DI
	SUBQ $8, CX
	JNZ  reduceLoop
	VZEROUPPER
	RET
