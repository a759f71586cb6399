//go:build !amd64 || purego

package vec

// Enabled is false here: callers run the portable code.
const Enabled = false

const none = "vec: called where Enabled is false"

func fwd4(x *uint64, t, blocks int, w1, p1, w2, p2 *uint64, q uint64)    { panic(none) }
func fwd2(x *uint64, t int, w, p *uint64, q uint64)                      { panic(none) }
func fwdTail(x *uint64, n int, w4, p4, w2, p2, w1, p1 *uint64, q uint64) { panic(none) }
func invHead(x *uint64, n int, w4, p4, w2, p2, w1, p1 *uint64, q uint64) { panic(none) }
func inv4(x *uint64, t, blocks int, w1, p1, w2, p2 *uint64, q uint64)    { panic(none) }
func inv2(x *uint64, t int, w, p *uint64, q uint64)                      { panic(none) }
func inv4Last(x *uint64, t int, w1, p1 uint64, w2, p2 *uint64, scale, scaleP, add, q uint64) {
	panic(none)
}
func scaleAdd(x *uint64, n int, w, p, add, q uint64) { panic(none) }
func subMul(x, y *uint64, n int, w, p, q uint64)     { panic(none) }
func residues(dst, base, words *uint64, n, count, stride int, weights *[2]uint64, add, q uint64) {
	panic(none)
}
func mulAddPack(dst *byte, msg, key, keyP *uint64, random *byte, n int, f *Field) uint64 { panic(none) }
func unpackMulSub(dst *uint64, src *byte, key, keyP *uint64, random *byte, n int, f *Field) uint64 {
	panic(none)
}
func unpack(dst *uint64, src *byte, n int, f *Field) uint64    { panic(none) }
func unpackAdd(dst *uint64, src *byte, n int, f *Field) uint64 { panic(none) }
func addFour(acc *uint64, src *[4]*byte, n int, add uint64, f *Field) uint64 {
	panic(none)
}
func pack(dst *byte, src *uint64, n int, f *Field)                     { panic(none) }
func reduce(x *uint64, n int, p, q uint64)                             { panic(none) }
func gaussians(dst *int64, src *byte, n int, tree *[80]uint64)         { panic(none) }
func cut(dst *uint32, words *uint64, n, stride, lanes int, c *Cut)     { panic(none) }
func dot(acc *[4]uint64, lanes *uint32, n int, w *Weights)             { panic(none) }
func raise(dst *uint32, src *int32, n int, offset uint32) uint32       { panic(none) }
func above(src *uint32, n int, most uint32) uint32                     { panic(none) }
func narrow(dst *byte, src *int32, n int) uint32                       { panic(none) }
func expand(key *[32]byte, out *[15][16]byte)                          { panic(none) }
func stream(dst *byte, n int, keys *[15][16]byte, nonce, block uint64) { panic(none) }

func gather8(base, one, two *uint64, lanes *uint32, noise *int64, n int, offset, width, delta uint64) {
	panic(none)
}
func gather16(base, one, two *uint64, lanes *byte, noise *int64, n int, offset, width, delta uint64) {
	panic(none)
}
func dot16(acc *[4]int64, lanes *byte, n int, w *Limbs) { panic(none) }
func residues2(dst, base, words *uint64, n, stride int, weights *[2]uint64, add, q uint64) {
	panic(none)
}
func signed(dst *int64, src *uint32, n int, offset uint64) { panic(none) }
func join3(dst, r0, r1, r2 *uint64, n int, j *Join) uint64 { panic(none) }
func nh(acc *[4]uint64, lanes *int32, n int, key *uint32)  { panic(none) }
