// Registers: Z31 = q, Z30 = 4q, Z29 = 8q (2q where a function says so).

#define MODULUS(AT) \
	VPBROADCASTQ AT, Z31 \
	VPSLLQ $2, Z31, Z30  \
	VPSLLQ $3, Z31, Z29

// CSUB brings X below M if it is below 2M: a difference that wraps is larger.
#define CSUB(X, M, T) \
	VPSUBQ M, X, T  \
	VPMINUQ T, X, X

// SHOUP is R = Y·W mod q, below 4q. P is Shoup's constant of W, PH its upper
// half. R may be Y.
#define SHOUP(Y, W, P, PH, R, T0, T1, T2) \
	VPSRLQ $32, Y, T0      \
	VPMULUDQ P, T0, T1     \
	VPMULUDQ PH, Y, T2     \
	VPMULUDQ PH, T0, T0    \
	VPSRLQ $32, T1, T1     \
	VPSRLQ $32, T2, T2     \
	VPADDQ T1, T0, T0      \
	VPADDQ T2, T0, T0      \
	VPMULLQ W, Y, R        \
	VPMULLQ Z31, T0, T0    \
	VPSUBQ T0, R, R
