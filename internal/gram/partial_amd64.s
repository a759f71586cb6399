//go:build amd64 && !purego

#include "textflag.h"

// PAIR adds Y8·c and Y9·c, each rounded, to two partial sums.
#define PAIR(C, S, T) \
	VMOVUPD (C)(AX*1), Y10 \
	VMULPD Y10, Y8, Y11    \
	VADDPD Y11, S, S       \
	VMULPD Y10, Y9, Y12    \
	VADDPD Y12, T, T

// func partialAVX2(s *[8][4]float64, n int, t0, t1, c0, c1, c2, c3 *float64)
TEXT ·partialAVX2(SB), NOSPLIT, $0-64
	MOVQ s+0(FP), DI
	MOVQ n+8(FP), CX
	MOVQ t0+16(FP), R8
	MOVQ t1+24(FP), R9
	MOVQ c0+32(FP), R10
	MOVQ c1+40(FP), R11
	MOVQ c2+48(FP), R12
	MOVQ c3+56(FP), R13
	VXORPD Y0, Y0, Y0
	VXORPD Y1, Y1, Y1
	VXORPD Y2, Y2, Y2
	VXORPD Y3, Y3, Y3
	VXORPD Y4, Y4, Y4
	VXORPD Y5, Y5, Y5
	VXORPD Y6, Y6, Y6
	VXORPD Y7, Y7, Y7
	XORQ AX, AX

loop:
	VMOVUPD (R8)(AX*1), Y8
	VMOVUPD (R9)(AX*1), Y9
	PAIR(R10, Y0, Y4)
	PAIR(R11, Y1, Y5)
	PAIR(R12, Y2, Y6)
	PAIR(R13, Y3, Y7)
	ADDQ $32, AX
	DECQ CX
	JNZ  loop
	VMOVUPD Y0, (DI)
	VMOVUPD Y1, 32(DI)
	VMOVUPD Y2, 64(DI)
	VMOVUPD Y3, 96(DI)
	VMOVUPD Y4, 128(DI)
	VMOVUPD Y5, 160(DI)
	VMOVUPD Y6, 192(DI)
	VMOVUPD Y7, 224(DI)
	VZEROUPPER
	RET
