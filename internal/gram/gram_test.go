package gram

import (
	"math"
	"math/rand/v2"
	"testing"
)

// defined is the package comment's definition of one sum.
func defined(w, a, b []float64) float64 {
	var s [4]float64
	for i := range w {
		l := i % 4
		if i >= len(w)&^3 {
			l = 0
		}
		t := float64(w[i] * a[i])
		s[l] += float64(t * b[i])
	}
	return (s[0] + s[1]) + (s[2] + s[3])
}

func TestEverySum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for p := 0; p <= 13; p++ {
		for _, n := range []int{0, 1, 3, 4, 5, 63, 512} {
			z := make([][]float64, p)
			for a := range z {
				z[a] = draw(r, n)
			}
			w := draw(r, n)
			sum, score := make([]float64, p*(p+1)/2), make([]float64, p)
			Triangle(sum, z, w, make([]float64, 2*n))
			Score(score, z, w)
			ones := make([]float64, n)
			for i := range ones {
				ones[i] = 1
			}
			k := 0
			for a := range z {
				for b := 0; b <= a; b++ {
					if want := defined(w, z[a], z[b]); math.Float64bits(sum[k]) != math.Float64bits(want) {
						t.Fatalf("%d columns, %d rows: product %d, %d is %x, want %x", p, n, a, b, sum[k], want)
					}
					k++
				}
				if want := defined(w, ones, z[a]); math.Float64bits(score[a]) != math.Float64bits(want) {
					t.Fatalf("%d columns, %d rows: score %d is %x, want %x", p, n, a, score[a], want)
				}
			}
			var c [4][]float64
			for k := range c {
				c[k] = draw(r, n)
			}
			var fast, slow [8][4]float64
			if n >= 4 {
				partial(&fast, w, c[0], &c)
				portable(&slow, w, c[0], &c)
			}
			if fast != slow {
				t.Fatalf("%d rows: %v, portable %v", n, fast, slow)
			}
		}
	}
}

func draw(r *rand.Rand, n int) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = math.Ldexp(r.NormFloat64(), r.IntN(40)-20)
	}
	return v
}

// BenchmarkTriangle is a block of 512 rows of 20 columns, in the first caches.
func BenchmarkTriangle(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	z := make([][]float64, 20)
	for a := range z {
		z[a] = draw(r, 512)
	}
	w, sum, scratch := draw(r, 512), make([]float64, 210), make([]float64, 1024)
	for range b.N {
		Triangle(sum, z, w, scratch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/512, "ns/row")
}
