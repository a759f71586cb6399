// Package vec does the arithmetic of encrypted vectors eight residues at a
// time, with AVX-512. It promises nothing but speed: every result is the one
// that the portable code of packages he and he/party computes, bit for bit,
// and the tests hold it against that code, against math/big and against
// lattigo's transforms. Where Enabled is false, on other processors and with
// the build tag purego, the portable code runs alone.
//
// # Bounds
//
// Primes are below 2^60, so a 64-bit word holds 16q. A product with a constant
// w is Shoup's (Harvey, Faster arithmetic for number-theoretic transforms, J.
// Symb. Comp. 60, 2014, §3): with w' = floor(w·2^64/q) and Q the high word of
// w'·y, the value w·y - Q·q is below 2q for every 64-bit y. The high word is
// put together from three of the four products of 52 and 12 bits, so Q may be short
// by two and the value is below 4q, with no branch and for every y. Each function states the
// bounds of what it reads and writes in multiples of q.
//
// No function has a branch or an address that depends on a residue, a lane, a
// key or noise.
package vec
