// Registers: Z31 = q, Z30 = 4q, Z29 = 8q (2q where a function says so).

#define MODULUS(AT) \
	VPBROADCASTQ AT, Z31 \
	VPSLLQ $2, Z31, Z30  \
	VPSLLQ $3, Z31, Z29

// CSUB brings X below M if it is below 2M: a difference that wraps is larger.
#define CSUB(X, M, T) \
	VPSUBQ M, X, T  \
	VPMINUQ T, X, X

// SPLIT makes of Shoup's constant in P its upper 52 bits, in P, and the others,
// at the top of 52 bits, in PL: VPMADD52HUQ multiplies the low 52 bits of its
// operands.
#define SPLIT(P, PL) \
	VPSLLQ $40, P, PL \
	VPSRLQ $12, P, P

// QUOTIENT is Q = floor(Y·constant/2^64), at most two short of it. With Y =
// y1·2^52 + y0 and the constant p1·2^12 + p0, Y·constant/2^64 is y1·p1 +
// y0·p1/2^52 + y1·p0/2^12 + y0·p0/2^64: the middle terms are rounded down, the
// last, below one, is left out. T takes y1.
#define QUOTIENT(Y, P, PL, Q, T) \
	VPSRLQ $52, Y, T      \
	VPMULLQ P, T, Q       \
	VPMADD52HUQ P, Y, Q   \
	VPMADD52HUQ PL, T, Q

// SHOUP is R = Y·W mod q, below 4q. P and PL are Shoup's constant of W as SPLIT
// leaves it. R may be Y.
#define SHOUP(Y, W, P, PL, R, T0, T1) \
	QUOTIENT(Y, P, PL, T1, T0) \
	VPMULLQ W, Y, R            \
	VPMULLQ Z31, T1, T1        \
	VPSUBQ T1, R, R

// TWIDDLE loads a constant and Shoup's for SHOUP.
#define TWIDDLE(AT, ATP, W, P, PL) \
	VPBROADCASTQ AT, W  \
	VPBROADCASTQ ATP, P \
	SPLIT(P, PL)
