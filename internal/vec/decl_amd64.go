//go:build amd64 && !purego

package vec

// The functions of the .s files. n counts elements and is a positive multiple
// of 8 (of 16 where lanes are 32 bits wide); the callers in this package have
// checked every length.

//go:noescape
func fwd4(x *uint64, t, blocks int, w1, p1, w2, p2 *uint64, q uint64)

//go:noescape
func fwd2(x *uint64, t int, w, p *uint64, q uint64)

//go:noescape
func fwdTail(x *uint64, n int, w4, p4, w2, p2, w1, p1 *uint64, q uint64)

//go:noescape
func invHead(x *uint64, n int, w4, p4, w2, p2, w1, p1 *uint64, q uint64)

//go:noescape
func inv4(x *uint64, t, blocks int, w1, p1, w2, p2 *uint64, q uint64)

//go:noescape
func inv2(x *uint64, t int, w, p *uint64, q uint64)

//go:noescape
func inv4Last(x *uint64, t int, w1, p1 uint64, w2, p2 *uint64, scale, scaleP, add, q uint64)

//go:noescape
func join3(dst, r0, r1, r2 *uint64, n int, j *Join) uint64

//go:noescape
func scaleAdd(x *uint64, n int, w, p, add, q uint64)

//go:noescape
func subMul(x, y *uint64, n int, w, p, q uint64)

//go:noescape
func residues2(dst, base, words *uint64, n, stride int, weights *[2]uint64, add, q uint64)

//go:noescape
func residues(dst, base, words *uint64, n, count, stride int, weights *[2]uint64, add, q uint64)

//go:noescape
func mulAddPack(dst *byte, msg, key, keyP *uint64, random *byte, n int, f *Field) uint64

//go:noescape
func unpackMulSub(dst *uint64, src *byte, key, keyP *uint64, random *byte, n int, f *Field) uint64

//go:noescape
func unpack(dst *uint64, src *byte, n int, f *Field) uint64

//go:noescape
func unpackAdd(dst *uint64, src *byte, n int, f *Field) uint64

//go:noescape
func addFour(acc *uint64, src *[4]*byte, n int, add uint64, f *Field) uint64

//go:noescape
func pack(dst *byte, src *uint64, n int, f *Field)

//go:noescape
func reduce(x *uint64, n int, p, q uint64)

//go:noescape
func gaussians(dst *int64, src *byte, n int, tree *[80]uint64)

//go:noescape
func cut(dst *uint32, words *uint64, n, stride, lanes int, c *Cut)

//go:noescape
func dot(acc *[4]uint64, lanes *uint32, n int, w *Weights)

//go:noescape
func raise(dst *uint32, src *int32, n int, offset uint32) uint32

//go:noescape
func above(src *uint32, n int, most uint32) uint32

//go:noescape
func narrow(dst *byte, src *int32, n int) uint32

//go:noescape
func expand(key *[32]byte, out *[15][16]byte)

//go:noescape
func stream(dst *byte, n int, keys *[15][16]byte, nonce, block uint64)

//go:noescape
func gather8(base, one, two *uint64, lanes *uint32, noise *int64, n int, offset, width, delta uint64)

//go:noescape
func gather16(base, one, two *uint64, lanes *byte, noise *int64, n int, offset, width, delta uint64)

//go:noescape
func dot16(acc *[4]int64, lanes *byte, n int, w *Limbs)

//go:noescape
func nh(acc *[4]uint64, lanes *int32, n int, key *uint32)

//go:noescape
func signed(dst *int64, src *uint32, n int, offset uint64)
