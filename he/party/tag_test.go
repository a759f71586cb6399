package party

import (
	"math/big"
	"math/rand/v2"
	"testing"

	"consilium/he"
)

// TestTagsAgainstDefinition: the tags are the polynomial they are said to be,
// in whatever pieces the lanes come, and the sum of the tags is the tag of
// the sum.
func TestTagsAgainstDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 9))
	prime := new(big.Int).SetUint64(fieldPrime)
	g := testGroup("tags")
	for _, p := range he.Profiles() {
		f := newFederation(t, p, 1, 3, 3)
		for _, lanes := range []int{1, 2, 63, 64, 65, 192, 193, 1000} {
			const n = 3
			sum := make([]uint32, lanes)
			var total [tags]uint64
			for range n {
				tg := newTagger(p, g, f.at(1)).below(p.Bits)
				u := make([]uint32, lanes)
				for i := range u {
					u[i] = r.Uint32N(1 << p.Bits)
					sum[i] += u[i]
				}
				for i := 0; i < lanes; {
					k := min(lanes-i, 1+r.IntN(200))
					tg.add(u[i : i+k])
					i += k
				}
				// Through tag lanes and back, as they travel.
				out := make([]uint32, he.TagLanes)
				tagLanes(out, tg.sum())
				for i, v := range parseTagLanes(out) {
					total[i] = addF(total[i], v)
				}
			}
			tg := newTagger(p, g, f.at(2)).below(p.W)
			tg.add(sum)
			got := tg.sum()
			if got != total {
				t.Fatalf("W %d, %d lanes: the sum of the tags is not the tag of the sum", p.W, lanes)
			}
			fresh := newTagger(p, g, f.at(3))
			for i := range tags {
				want, rho, pow := new(big.Int), new(big.Int).SetUint64(fresh.scale[i]), big.NewInt(1)
				for k := 0; k < lanes; k += fresh.group {
					pow.Mul(pow, rho).Mod(pow, prime)
					z := new(big.Int)
					for j := min(k+fresh.group, lanes) - 1; j >= k; j-- {
						z.Lsh(z, uint(p.W)).Add(z, big.NewInt(int64(sum[j])))
					}
					want.Add(want, z.Mul(z, pow)).Mod(want, prime)
				}
				if want.Uint64() != got[i] {
					t.Fatalf("W %d, %d lanes: tag %d is %d, want %d", p.W, lanes, i, got[i], want)
				}
			}
		}
	}
}

// TestField compares the field with big integers, at its corners.
func TestField(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 9))
	prime := new(big.Int).SetUint64(fieldPrime)
	corner := []uint64{0, 1, 2, fieldPrime - 1, fieldPrime - 2, 1 << 60, 1<<60 - 1, r.Uint64N(fieldPrime), r.Uint64N(fieldPrime)}
	for _, a := range corner {
		for _, b := range corner {
			x, y := new(big.Int).SetUint64(a), new(big.Int).SetUint64(b)
			for name, pair := range map[string][2]uint64{
				"+": {addF(a, b), new(big.Int).Mod(new(big.Int).Add(x, y), prime).Uint64()},
				"-": {subF(a, b), new(big.Int).Mod(new(big.Int).Sub(x, y), prime).Uint64()},
				"*": {mulF(a, b), new(big.Int).Mod(new(big.Int).Mul(x, y), prime).Uint64()},
			} {
				if pair[0] != pair[1] {
					t.Errorf("%d %s %d = %d, want %d", a, name, b, pair[0], pair[1])
				}
			}
		}
		if a != 0 && mulF(a, invF(a)) != 1 {
			t.Errorf("inverse of %d", a)
		}
	}
	for _, hi := range []uint64{0, 1, 1 << 61, ^uint64(0)} {
		for _, lo := range []uint64{0, fieldPrime, ^uint64(0)} {
			x := new(big.Int).SetUint64(hi)
			x.Lsh(x, 64).Add(x, new(big.Int).SetUint64(lo)).Mod(x, prime)
			if got := reduceF(hi, lo); got != x.Uint64() {
				t.Errorf("reduce(%#x, %#x) = %d, want %d", hi, lo, got, x)
			}
		}
	}
	for _, v := range []int64{0, 1, -1, 1 << 59, -1 << 59} {
		if got, want := small(v), new(big.Int).Mod(big.NewInt(v), prime).Uint64(); got != want {
			t.Errorf("small(%d) = %d, want %d", v, got, want)
		}
	}
}
