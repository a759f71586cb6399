// Package sha computes SHA-256 (FIPS 180-4) of many messages at a time, sixteen
// to an instruction where the processor has AVX-512, and tree hashes on top of it.
// It promises nothing but speed: every digest is the one that crypto/sha256
// computes, and the tests hold it against that. Where Enabled is false, on other
// processors and with the build tag purego, crypto/sha256 runs.
//
// A single stream of SHA-256 waits for itself: each round needs the one before.
// The processor's own SHA instructions do about two bytes a nanosecond, sixteen
// streams side by side more than twice that. (Multi-buffer hashing: Gueron and
// Krasnov, Simultaneous hashing of multiple messages, J. Information Security 3,
// 2012.)
//
// No function has a branch or an address that depends on a message.
package sha
