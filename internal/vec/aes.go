package vec

// AES is an expanded AES-256 key. The standard library's counter mode makes a
// stream object on the heap for every key and nonce, and this package has a
// key for every chunk; four blocks to an instruction are also faster. Keystream
// and key schedule are held against the standard library's.
type AES struct{ keys [15][16]byte }

// Expand sets the key.
func (a *AES) Expand(key *[32]byte) { expand(key, &a.keys) }

// Stream fills dst, a multiple of 512 bytes, with the encryption of the
// counter blocks whose first halves are nonce and whose second halves count
// from block, both big-endian. block must not wrap.
func (a *AES) Stream(dst []byte, nonce, block uint64) {
	if len(dst) == 0 || len(dst)%512 != 0 {
		panic("vec: lengths do not fit")
	}
	stream(&dst[0], len(dst), &a.keys, nonce, block)
}

// Wipe overwrites the key, best effort.
func (a *AES) Wipe() { clear(a.keys[:]) }
