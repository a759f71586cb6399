package vec

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"math/big"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tuneinsight/lattigo/v5/ring"
)

// primes are one of every width of the parameter table that Fits, and the
// largest ones, whose sixteenfold just fits a word.
var primes = []struct {
	n int
	q uint64
}{
	{2048, 0xffffffffff001}, {2048, 0xfffffd001}, {2048, 0xffffff7001}, {2048, 0x3ffffffa001},
	{4096, 0x3ffffff84001}, {4096, 0x1ffffff0001}, {4096, 0x7fffffffe0001}, {4096, 0x1ffffe0001},
	{8192, 0x1fffffffffc0001}, {8192, 0x7ffffffec001}, {8192, 0xfffffffffffc001}, {8192, 0x1fffffff50001},
	{16384, 0x3ffffffffef8001}, {16384, 0x7fffffffe0001},
}

func newRing(t testing.TB, n int, q uint64) (*ring.SubRing, *Ring) {
	if !Fits(q) {
		t.Fatalf("%#x does not fit", q)
	}
	r, err := ring.NewRing(n, []uint64{q})
	if err != nil {
		t.Fatal(err)
	}
	s := r.SubRings[0]
	plain := func(v []uint64) []uint64 {
		out := make([]uint64, len(v))
		s.IMForm(v, out)
		return out
	}
	return s, NewRing(q, plain(s.RootsForward), plain(s.RootsBackward), plain([]uint64{s.NInv, 0, 0, 0, 0, 0, 0, 0})[0])
}

// needs skips where there is no such processor: Enabled is false and the
// package does nothing.
func needs(t testing.TB) {
	if !Enabled {
		t.Skip("no AVX-512 here: the portable code runs alone")
	}
}

// values are n words below limit: random, with the extremes in front.
func values(r *rand.Rand, n int, limit uint64) []uint64 {
	v := make([]uint64, n)
	for i := range v {
		v[i] = r.Uint64N(limit)
	}
	copy(v, []uint64{0, limit - 1, 1, limit / 2, limit - 1, limit - 1, limit - 1, limit - 1})
	return v
}

func mod(v []uint64, q uint64) []uint64 {
	out := make([]uint64, len(v))
	for i, x := range v {
		out[i] = x % q
	}
	return out
}

func same(t *testing.T, what string, got, want []uint64) {
	t.Helper()
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%s: %d is %#x, want %#x", what, i, got[i], want[i])
		}
	}
}

func TestTransforms(t *testing.T) {
	needs(t)
	r := rand.New(rand.NewPCG(1, 1))
	for _, c := range primes {
		s, own := newRing(t, c.n, c.q)
		for trial := range 8 {
			limit := c.q
			if trial > 1 {
				limit = ^uint64(0)/c.q*c.q - 1
				if bits.Len64(c.q) > 56 {
					limit = 16*c.q - 1
				}
			}
			x := values(r, c.n, min(limit, 16*c.q-1))
			if trial == 7 {
				for i := range x {
					x[i] = 16*c.q - 1
				}
			}
			want := mod(x, c.q)
			plain := append([]uint64(nil), want...)
			s.NTT(want, want)
			got := append([]uint64(nil), x...)
			own.Forward(got)
			for i, v := range got {
				if v >= 16*c.q {
					t.Fatalf("q %#x: forward %d is %#x, not below 16q", c.q, i, v)
				}
			}
			same(t, "forward", mod(got, c.q), want)

			for i := range want {
				want[i] += c.q * (r.Uint64() % 4)
			}
			add := r.Uint64N(c.q)
			own.Inverse(want, add)
			for i := range plain {
				plain[i] = (plain[i] + add) % c.q
			}
			for i, v := range want {
				if v >= 5*c.q {
					t.Fatalf("q %#x: inverse %d is %#x, not below 5q", c.q, i, v)
				}
			}
			same(t, "inverse", mod(want, c.q), plain)
		}
	}
}

func TestSubMulAndResidues(t *testing.T) {
	needs(t)
	r := rand.New(rand.NewPCG(2, 1))
	for _, c := range primes {
		_, own := newRing(t, c.n, c.q)
		q := new(big.Int).SetUint64(c.q)
		x, y, w := values(r, 64, 12*c.q), values(r, 64, 4*c.q-1), r.Uint64N(c.q)
		got := append([]uint64(nil), x...)
		own.SubMul(got, y, w)
		for i := range x {
			want := new(big.Int).SetUint64(x[i])
			want.Sub(want, new(big.Int).SetUint64(y[i])).Mul(want, new(big.Int).SetUint64(w)).Mod(want, q)
			if got[i] != want.Uint64() {
				t.Fatalf("SubMul: %d is %d, want %v", i, got[i], want)
			}
		}
		for count := 1; count <= 4; count++ {
			base, words, add := values(r, 64, min(2*c.q, 1<<62)), values(r, 64*count, 1<<62), r.Uint64N(c.q)
			var weights Weights4
			for j := range count {
				weights[j][0] = r.Uint64N(c.q)
				weights[j][1] = Constant(weights[j][0], c.q)
			}
			dst := make([]uint64, 64)
			own.Residues(dst, base, words, count, &weights, add)
			for i, v := range dst {
				want := new(big.Int).SetUint64(base[i])
				want.Add(want, new(big.Int).SetUint64(add))
				for j := range count {
					p := new(big.Int).SetUint64(words[64*j+i])
					want.Add(want, p.Mul(p, new(big.Int).SetUint64(weights[j][0])))
				}
				if want.Mod(want, q); v >= 16*c.q || v%c.q != want.Uint64() {
					t.Fatalf("Residues of %d: %d is %#x", count, i, v)
				}
			}
		}
	}
}

// packed is the codec's definition, bit by bit.
func packed(v []uint64, width int) []byte {
	b := make([]byte, len(v)/8*width)
	for i, x := range v {
		for j := range width {
			b[(i*width+j)/8] |= byte(x>>j&1) << ((i*width + j) % 8)
		}
	}
	return b
}

func room(b []byte) []byte { return append(b, make([]byte, Slack)...)[:len(b)] }

func TestPacking(t *testing.T) {
	needs(t)
	r := rand.New(rand.NewPCG(3, 1))
	for _, c := range primes {
		f := NewField(c.q)
		width := bits.Len64(c.q)
		v := values(r, 128, c.q)
		want := room(packed(v, width))
		got := bytes.Repeat([]byte{0x55}, len(want)+Slack)
		f.Pack(got[:len(want)], v)
		if !bytes.Equal(got[:len(want)], want) || !bytes.Equal(got[len(want):], bytes.Repeat([]byte{0x55}, Slack)) {
			t.Fatalf("q %#x: Pack", c.q)
		}
		out := make([]uint64, 128)
		if !f.Unpack(out, want) {
			t.Fatalf("q %#x: Unpack refuses", c.q)
		}
		same(t, "Unpack", out, v)
		if !f.UnpackAdd(out, want) {
			t.Fatalf("q %#x: UnpackAdd refuses", c.q)
		}
		for i := range v {
			v[i] *= 2
		}
		same(t, "UnpackAdd", out, v)
		for i := range v {
			v[i] = r.Uint64()
		}
		below, constants := values(r, 1024, c.q), make([]uint64, 1024)
		f.Constants(constants, below)
		for i, w := range below {
			if want := Constant(w, c.q); constants[i] != want {
				t.Fatalf("q %#x: constant of %#x is %#x, want %#x", c.q, w, constants[i], want)
			}
		}
		reduced := append([]uint64(nil), v...)
		f.Reduce(reduced)
		same(t, "Reduce", reduced, mod(v, c.q))

		// One residue that is not reduced, in every place of a group.
		for at := range 16 {
			bad := values(r, 128, c.q)
			bad[at] = c.q + r.Uint64N(1<<width-c.q)
			if b := room(packed(bad, width)); f.Unpack(out, b) || f.UnpackAdd(out, b) {
				t.Fatalf("q %#x: accepts %#x", c.q, bad[at])
			}
		}
	}
}

// TestAdd holds Add to sums of residues one by one, with strings that have nothing
// behind them, and one residue that is not reduced in every string and place.
func TestAdd(t *testing.T) {
	needs(t)
	r := rand.New(rand.NewPCG(14, 1))
	for _, c := range primes {
		f, width := NewField(c.q), bits.Len64(c.q)
		for _, n := range []int{8, 16, 24, 512} {
			acc := values(r, n, 4*c.q)
			fresh, more := make([]uint64, n), append([]uint64(nil), acc...)
			var v [4][]uint64
			var src [4][]byte
			for i := range src {
				v[i] = values(r, n, c.q)
				v[i][n-1] = c.q - 1
				src[i] = slices.Clip(packed(v[i], width))
				for k, x := range v[i] {
					fresh[k] += x
					more[k] += x
				}
			}
			got := values(r, n, c.q)
			if !f.Add(got, &src, false) || !f.Add(acc, &src, true) {
				t.Fatalf("q %#x: Add refuses", c.q)
			}
			same(t, "sum", got, fresh)
			same(t, "sum and what was there", acc, more)
			for at := range min(n, 24) {
				i := at % 4
				bad := src
				wrong := append([]uint64(nil), v[i]...)
				wrong[n-1-at] = c.q + r.Uint64N(1<<width-c.q)
				bad[i] = packed(wrong, width)
				if f.Add(got, &bad, false) {
					t.Fatalf("q %#x: accepts %#x", c.q, wrong[n-1-at])
				}
			}
		}
	}
}

func TestMulAddPack(t *testing.T) {
	needs(t)
	r := rand.New(rand.NewPCG(4, 1))
	for _, c := range primes {
		f, q := NewField(c.q), new(big.Int).SetUint64(c.q)
		width := bits.Len64(c.q)
		const n = 128
		msg, key, a := values(r, n, 16*c.q-1), values(r, n, c.q), values(r, n, c.q)
		keyP, random := make([]uint64, n), make([]byte, 8*n)
		want, minus := make([]uint64, n), make([]uint64, n)
		src := values(r, n, c.q)
		for i := range msg {
			keyP[i] = Constant(key[i], c.q)
			binary.LittleEndian.PutUint64(random[8*i:], a[i]|r.Uint64()<<width)
			p := new(big.Int).SetUint64(a[i])
			p.Mul(p, new(big.Int).SetUint64(key[i]))
			m := new(big.Int).SetUint64(msg[i])
			want[i] = m.Add(m, p).Mod(m, q).Uint64()
			m.SetUint64(src[i])
			minus[i] = m.Sub(m, p).Mod(m, q).Uint64()
		}
		got := room(make([]byte, n/8*width))
		if !f.MulAddPack(got, msg, key, keyP, random) || !bytes.Equal(got, packed(want, width)) {
			t.Fatalf("q %#x: MulAddPack", c.q)
		}
		out := make([]uint64, n)
		if r0, s0 := f.UnpackMulSub(out, room(packed(src, width)), key, keyP, random); !r0 || !s0 {
			t.Fatalf("q %#x: UnpackMulSub refuses", c.q)
		}
		for i, v := range out {
			if v >= 4*c.q || v%c.q != minus[i] {
				t.Fatalf("q %#x: UnpackMulSub: %d is %#x", c.q, i, v)
			}
		}
		for at := range 16 {
			wrong := append([]byte(nil), random...)
			binary.LittleEndian.PutUint64(wrong[8*at:], 1<<width-1)
			if f.MulAddPack(got, msg, key, keyP, wrong) {
				t.Fatalf("q %#x: takes a keystream residue that is not reduced", c.q)
			}
			if r0, s0 := f.UnpackMulSub(out, room(packed(src, width)), key, keyP, wrong); r0 || !s0 {
				t.Fatalf("q %#x: takes a keystream residue that is not reduced", c.q)
			}
			bad := append([]uint64(nil), src...)
			bad[at] = 1<<width - 1
			if r0, s0 := f.UnpackMulSub(out, room(packed(bad, width)), key, keyP, random); !r0 || s0 {
				t.Fatalf("q %#x: takes a residue that is not reduced", c.q)
			}
		}
	}
}

func TestGaussians(t *testing.T) {
	needs(t)
	r := rand.New(rand.NewPCG(5, 1))
	for entries := 1; entries <= 63; entries++ {
		table := make([]uint64, entries)
		for i := range table {
			table[i] = r.Uint64N(1 << 63)
		}
		slices.Sort(table)
		testSampler(t, r, table)
	}
	testSampler(t, r, []uint64{1 << 60, 1 << 61, 1 << 62, 1<<63 - 5})
}

func testSampler(t *testing.T, r *rand.Rand, table []uint64) {
	src := make([]byte, 8*96)
	for i := 0; i < len(src); i += 8 {
		u := r.Uint64()
		if i < 64 {
			x := table[len(table)/2]
			u = []uint64{0, x - 1, x, x + 1, 1<<63 - 5, 1<<63 - 1, ^uint64(0), 1 << 63}[i/8]
		}
		binary.LittleEndian.PutUint64(src[i:], u)
	}
	got := make([]int64, 96)
	NewSampler(table).Fill(got, src)
	for i, g := range got {
		u := binary.LittleEndian.Uint64(src[8*i:])
		want := int64(0)
		for _, x := range table {
			if x <= u&(1<<63-1) {
				want++
			}
		}
		if u>>63 == 1 {
			want = -want
		}
		if g != want {
			t.Fatalf("sample %d of %#x is %d, want %d", i, u, g, want)
		}
	}
}

func TestLanes(t *testing.T) {
	needs(t)
	r := rand.New(rand.NewPCG(6, 1))
	for _, c := range []struct{ delta, width, lanes, words int }{{9, 20, 8, 3}, {10, 22, 8, 3}, {11, 23, 8, 4}, {11, 31, 6, 4}, {9, 28, 1, 1}, {9, 20, 2, 1}, {9, 28, 3, 2}} {
		const n = 32
		words := make([]uint64, n*c.words, n*c.words+CutSlack)
		for i := range words {
			words[i] = r.Uint64()
		}
		got := make([]uint32, n*c.lanes, n*c.lanes+CutSlack)
		NewCut(c.delta, c.width, c.lanes).Lanes(got, words, c.words)
		for i := range n {
			x := new(big.Int)
			for j := c.words - 1; j >= 0; j-- {
				x.Lsh(x, 64).Or(x, new(big.Int).SetUint64(words[i*c.words+j]))
			}
			for k := range c.lanes {
				y := new(big.Int).Rsh(x, uint(c.delta+k*c.width))
				if want := uint32(y.And(y, big.NewInt(1<<c.width-1)).Uint64()); got[i*c.lanes+k] != want {
					t.Fatalf("%+v: lane %d of coefficient %d is %d, want %d", c, k, i, got[i*c.lanes+k], want)
				}
			}
		}
	}

	src, dst := make([]int32, 64), make([]uint32, 64)
	for i := range src {
		src[i] = r.Int32N(1<<16) - 1<<15
	}
	src[0], src[1] = -1<<15, 1<<15-1
	if !Raise(dst, src, 1<<15) {
		t.Fatal("Raise refuses")
	}
	back := make([]int64, 64)
	Signed(back, dst, 1<<15)
	if Above(dst, 1<<16-1) {
		t.Fatal("Above refuses")
	}
	b := make([]byte, 128)
	if !Narrow(b, src) {
		t.Fatal("Narrow refuses")
	}
	for i, x := range src {
		if dst[i] != uint32(x+1<<15) || back[i] != int64(x) || binary.LittleEndian.Uint16(b[2*i:]) != uint16(x) {
			t.Fatalf("lane %d", i)
		}
	}
	for at := range src {
		for _, x := range []int32{1 << 15, -1<<15 - 1, -1 << 31, 1<<31 - 1} {
			wrong := append([]int32(nil), src...)
			wrong[at] = x
			if Raise(dst, wrong, 1<<15) || Narrow(b, wrong) {
				t.Fatalf("takes %d at %d", x, at)
			}
		}
		for _, x := range []uint32{1 << 16, 1<<31 - 1} {
			high := make([]uint32, 64)
			high[at] = x
			if !Above(high, 1<<16-1) {
				t.Fatalf("%d at %d is not above 2^16-1", x, at)
			}
		}
	}
}

func TestGather8(t *testing.T) {
	needs(t)
	r := rand.New(rand.NewPCG(9, 1))
	for _, c := range []struct{ width, delta int }{{20, 9}, {21, 10}, {7, 12}} {
		const n = 24
		lanes, noise := make([]uint32, 8*n), make([]int64, n)
		for i := range lanes {
			lanes[i] = r.Uint32N(1 << c.width)
			if i < 64 {
				lanes[i] = uint32(i/8%2) * (1<<c.width - 1)
			}
		}
		for i := range noise {
			noise[i] = r.Int64N(129) - 64
		}
		base, one, two := make([]uint64, n), make([]uint64, n), make([]uint64, n)
		Gather8(base, one, two, lanes, noise, 64, c.width, c.delta)
		for i := range n {
			u := func(k int) uint64 { return uint64(lanes[8*i+k]) }
			w, d := c.width, c.delta
			same(t, "Gather8", []uint64{base[i], one[i], two[i]}, []uint64{
				uint64(noise[i]+64) + u(0)<<d + u(1)<<(d+w), u(2) + u(3)<<w + u(4)<<(2*w), u(5) + u(6)<<w + u(7)<<(2*w)})
		}
	}
}

func TestGather16(t *testing.T) {
	needs(t)
	r := rand.New(rand.NewPCG(10, 1))
	for _, c := range []struct{ width, delta int }{{20, 9}, {21, 10}, {16, 12}} {
		const n = 24
		lanes, signed, noise := make([]uint32, 8*n), make([]byte, 16*n), make([]int64, n)
		for i := range lanes {
			lanes[i] = r.Uint32N(1 << 16)
			if i < 64 {
				lanes[i] = uint32(i/8%2) * (1<<16 - 1)
			}
			binary.LittleEndian.PutUint16(signed[2*i:], uint16(lanes[i])-1<<15)
		}
		for i := range noise {
			noise[i] = r.Int64N(129) - 64
		}
		want, got := make([]uint64, 3*n), make([]uint64, 3*n)
		Gather8(want[:n], want[n:2*n], want[2*n:], lanes, noise, 64, c.width, c.delta)
		Gather16(got[:n], got[n:2*n], got[2*n:], signed, noise, 64, c.width, c.delta)
		same(t, "Gather16", got, want)
	}
}

func TestJoin(t *testing.T) {
	needs(t)
	r := rand.New(rand.NewPCG(12, 1))
	for _, c := range []struct {
		q          [3]uint64
		delta, top int
	}{{[3]uint64{0x1fffffffffc0001, 0x1fffffffff50001, 0x1fffffffff14001}, 9, 169}, {[3]uint64{0xfffffffffffc001, 0xffffffffffe8001, 0xffffffffffd8001}, 9, 177}} {
		var q [3]*big.Int
		for i := range q {
			q[i] = new(big.Int).SetUint64(c.q[i])
		}
		inverse := func(x, m *big.Int) uint64 { return new(big.Int).ModInverse(x, m).Uint64() }
		j := NewJoin(c.q, inverse(q[0], q[1]), inverse(q[0], q[2]), inverse(q[1], q[2]), c.delta, c.top)
		all := new(big.Int).Mul(q[0], q[1])
		all.Mul(all, q[2])
		const n, bound = 64, 200
		half := big.NewInt(1 << (c.delta - 1))
		for trial := range 200 {
			var x [n]*big.Int
			var res [3][]uint64
			ok := true
			for k := range res {
				res[k] = make([]uint64, n)
			}
			for i := range x {
				// Lanes and noise within their bounds, and in every other trial one
				// number that is not.
				x[i] = new(big.Int)
				for x[i].BitLen() < 192 {
					x[i].Lsh(x[i], 64).Or(x[i], new(big.Int).SetUint64(r.Uint64()|1<<63))
				}
				x[i].Rsh(x[i], uint(192-c.top+r.IntN(3)*60)).Rsh(x[i], uint(c.delta)).Lsh(x[i], uint(c.delta))
				x[i].Add(x[i], half).Add(x[i], big.NewInt(r.Int64N(2*bound+1)-bound))
				if trial&1 == 1 && i == trial/2%n {
					switch trial / 2 % 3 {
					case 0:
						x[i].SetBit(x[i], c.top, 1)
					case 1:
						noise := int64(bound + 1)
						if trial/6%2 == 1 {
							noise = -noise
						}
						x[i].Rsh(x[i], uint(c.delta)).Lsh(x[i], uint(c.delta)).Add(x[i], big.NewInt(1<<(c.delta-1)+noise))
					default:
						x[i].Sub(all, big.NewInt(1))
					}
					ok = false
				}
				for k := range res {
					res[k][i] = new(big.Int).Mod(x[i], q[k]).Uint64() + c.q[k]*r.Uint64N(5)
				}
			}
			dst := make([]uint64, 3*n)
			if j.Words(dst, res[0], res[1], res[2], bound) != ok {
				t.Fatalf("%+v, trial %d: accepted %v", c, trial, !ok)
			}
			for i := range x {
				got := new(big.Int)
				for k := 2; k >= 0; k-- {
					got.Lsh(got, 64).Or(got, new(big.Int).SetUint64(dst[3*i+k]))
				}
				if got.Cmp(x[i]) != 0 {
					t.Fatalf("%+v: %d is %#x, want %#x", c, i, got, x[i])
				}
			}
		}
	}
}

func TestDot(t *testing.T) {
	needs(t)
	r := rand.New(rand.NewPCG(7, 1))
	for _, n := range []int{8, 128, 256, MaxBlock} {
		for trial := range 20 {
			var w Weights
			most := uint32(1<<32/n) - 1
			lanes := make([]uint32, n)
			var want [2]big.Int
			for i := range lanes {
				lanes[i] = r.Uint32N(most + 1)
				a, b := r.Uint64N(1<<61), r.Uint64N(1<<61)
				if i < trial*n/10 {
					lanes[i], a, b = most, 1<<61-1, 1<<61-1
				}
				w.Set(i, a, b)
				for j, x := range [2]uint64{a, b} {
					p := new(big.Int).SetUint64(x)
					want[j].Add(&want[j], p.Mul(p, big.NewInt(int64(lanes[i]))))
				}
			}
			hi, lo := w.Dot(lanes)
			for j := range want {
				got := new(big.Int).SetUint64(hi[j])
				if got.Lsh(got, 32).Add(got, new(big.Int).SetUint64(lo[j])).Cmp(&want[j]) != 0 {
					t.Fatalf("%d lanes, sum %d is %v, want %v", n, j, got, &want[j])
				}
			}
		}
	}
}

func TestLimbs(t *testing.T) {
	needs(t)
	r := rand.New(rand.NewPCG(13, 1))
	for trial := range 20 {
		var w Limbs
		lanes := make([]byte, 2*MaxBlock)
		want := [2]*big.Int{new(big.Int), new(big.Int)}
		for i := range MaxBlock {
			m, a, b := int16(r.Uint32()), r.Uint64N(1<<61), r.Uint64N(1<<61)
			if i < trial*MaxBlock/10 {
				m, a, b = -1<<15, 1<<61-1, 1<<61-1
			} else if trial > 10 {
				m, a, b = 1<<15-1, 1<<61-1, 1<<61-2
			}
			binary.LittleEndian.PutUint16(lanes[2*i:], uint16(m))
			w.Set(i, a, b)
			for j, x := range [2]uint64{a, b} {
				p := new(big.Int).SetUint64(x)
				want[j].Add(want[j], p.Mul(p, big.NewInt(int64(m))))
			}
		}
		hi, lo := w.Dot(lanes)
		for j := range want {
			got := big.NewInt(hi[j])
			if got.Lsh(got, 33).Add(got, big.NewInt(lo[j])).Cmp(want[j]) != 0 {
				t.Fatalf("sum %d is %v, want %v", j, got, want[j])
			}
		}
	}
}

func TestNH(t *testing.T) {
	needs(t)
	r := rand.New(rand.NewPCG(16, 1))
	for _, n := range []int{16, 32, 1024} {
		lanes, key := make([]int32, n), make([]uint32, n+8)
		for trial := range 20 {
			for i := range key {
				key[i] = r.Uint32()
				if trial == 0 {
					key[i] = 1<<32 - 1
				}
			}
			for i := range lanes {
				lanes[i] = int32(r.Uint32())
				if trial < 2 {
					lanes[i] = 0
				}
			}
			var want [3]uint64
			for i := range want {
				for j := 0; j < n; j += 2 {
					want[i] += uint64(uint32(lanes[j])+key[4*i+j]) * uint64(uint32(lanes[j+1])+key[4*i+j+1])
				}
			}
			if got := NH(lanes, key); got != want {
				t.Fatalf("%d lanes: %x, want %x", n, got, want)
			}
		}
	}
}

// TestAES: FIPS 197 appendix A.3 by way of the standard library's cipher, at
// nonces and block numbers with carries.
func TestAES(t *testing.T) {
	needs(t)
	r := rand.New(rand.NewPCG(8, 1))
	for range 100 {
		var key [32]byte
		for i := range key {
			key[i] = byte(r.Uint32())
		}
		var a AES
		a.Expand(&key)
		std, err := aes.NewCipher(key[:])
		if err != nil {
			t.Fatal(err)
		}
		nonce, block := r.Uint64(), r.Uint64N(1<<40)
		if nonce&1 == 0 {
			block = 1<<32 - 5
		}
		var iv [16]byte
		binary.BigEndian.PutUint64(iv[:], nonce)
		binary.BigEndian.PutUint64(iv[8:], block)
		want, got := make([]byte, 2048), make([]byte, 2048)
		cipher.NewCTR(std, iv[:]).XORKeyStream(want, want)
		a.Stream(got, nonce, block)
		if !bytes.Equal(got, want) {
			t.Fatalf("keystream of nonce %d, block %d", nonce, block)
		}
	}
}

func BenchmarkAES(b *testing.B) {
	needs(b)
	var a AES
	a.Expand(&[32]byte{})
	buf, zeros := make([]byte, 8192), make([]byte, 8192)
	b.SetBytes(8192)
	b.Run("vec", func(b *testing.B) {
		b.SetBytes(8192)
		for b.Loop() {
			a.Stream(buf, 0, 0)
		}
	})
	std, _ := aes.NewCipher(make([]byte, 32))
	ctr := cipher.NewCTR(std, make([]byte, 16))
	b.Run("standard", func(b *testing.B) {
		b.SetBytes(8192)
		for b.Loop() {
			ctr.XORKeyStream(buf, zeros)
		}
	})
}

func BenchmarkGaussians(b *testing.B) {
	needs(b)
	s, src, dst := NewSampler(make([]uint64, 41)), make([]byte, 65536), make([]int64, 8192)
	for b.Loop() {
		s.Fill(dst, src)
	}
}

func BenchmarkForward(b *testing.B) {
	needs(b)
	s, own := newRing(b, 8192, 0x1fffffffffc0001)
	x := make([]uint64, 8192)
	b.Run("vec", func(b *testing.B) {
		for b.Loop() {
			own.Forward(x)
		}
	})
	clear(x)
	b.Run("inverse", func(b *testing.B) {
		for b.Loop() {
			own.Inverse(x, 0)
		}
	})
	b.Run("lattigo", func(b *testing.B) {
		for b.Loop() {
			s.NTTLazy(x, x)
		}
	})
}
