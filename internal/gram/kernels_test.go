package gram

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"consilium/internal/det"
)

// paths runs a test with every path that this processor has.
func paths(t *testing.T, test func(t *testing.T)) {
	haveFast, haveZMM := fastPaths()
	defer setPaths(haveFast, haveZMM)
	for _, p := range []struct {
		name      string
		fast, zmm bool
	}{{"avx512", true, true}, {"avx2", true, false}, {"portable", false, false}} {
		if p.fast && !haveFast || p.zmm && !haveZMM {
			continue
		}
		setPaths(p.fast, p.zmm)
		t.Run(p.name, test)
	}
}

func same(t *testing.T, what string, got, want []float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range got {
		if math.Float64bits(got[i]) != math.Float64bits(want[i]) && !(got[i] != got[i] && want[i] != want[i]) {
			t.Fatalf("%s: value %d is %x, want %x", what, i, got[i], want[i])
		}
	}
}

// panel lays columns out, with numbers that nobody may read around them.
func panel(z [][]float64, n, width int) []float64 {
	out := make([]float64, Len(n, width))
	for i := range out {
		out[i] = 1e100
	}
	for a := range z {
		for i := range n {
			out[At(i, a, width)] = z[a][i]
		}
	}
	return out
}

// TestEverySumOfABlock: the block's sums are the package comment's definition,
// whatever its pieces.
func TestEverySumOfABlock(t *testing.T) {
	paths(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 4))
		for p := 1; p <= 23; p++ {
			for _, n := range []int{1, 3, 4, 5, 63, 64, 130, 512} {
				for _, score := range []bool{false, true} {
					z := make([][]float64, p)
					for a := range z {
						z[a] = draw(r, n)
					}
					w, res := draw(r, n), draw(r, n)
					b := NewBlock(p, score)
					for range 2 { // the second time after Reset
						b.Reset()
						for from := 0; from < n; from += 64 {
							to := min(from+64, n)
							part := make([][]float64, p)
							for a := range z {
								part[a] = z[a][from:to]
							}
							b.Add(append(make([]float64, Lead), panel(part, to-from, b.width)...), w[from:to], res[from:to], z[0])
						}
					}
					ones := make([]float64, n)
					for i := range ones {
						ones[i] = 1
					}
					var want []float64
					for a := range z {
						for c := 0; c <= a; c++ {
							want = append(want, defined(w, z[a], z[c]))
						}
					}
					for a := range z {
						if score {
							want = append(want, defined(res, ones, z[a]))
						}
					}
					got := make([]float64, b.Len())
					b.Sums(got)
					same(t, fmt.Sprintf("%d columns, %d rows", p, n), got, want)
				}
			}
		}
	})
}

func TestStandard(t *testing.T) {
	paths(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(5, 6))
		for p := 1; p <= 9; p++ {
			for _, n := range []int{1, 4, 7, 16, 17, 33, 64} {
				v := make([][]float64, p)
				for a := range v {
					v[a] = draw(r, n)
				}
				s := &Standard{draw(r, p), draw(r, p), draw(r, p), draw(r, p)}
				width, zWidth := Width(p), Width(p+1)
				raw := panel(v, n, width)
				start := draw(r, Len(n, 1))
				eta, want := append([]float64(nil), start...), append([]float64(nil), start...)
				z := make([]float64, Len(n, zWidth))
				all := (n + 3) &^ 3
				s.Both(eta, z, raw, width, zWidth, 1)
				for i := range n {
					for a := range v {
						x := float64((v[a][i] - s.Centre[a]) * s.Inverse[a])
						want[i] += float64(s.Beta[a] * x)
						same(t, "value", []float64{z[At(i, 1+a, zWidth)]}, []float64{x})
					}
					if z[At(i, 0, zWidth)] != 0 {
						t.Fatal("wrote the column before the first")
					}
				}
				same(t, "predictor", eta[:n], want[:n])
				also := append([]float64(nil), start...)
				s.Linear(also[:all], raw, width)
				same(t, "predictor alone", also[:n], want[:n])
				alone := make([]float64, len(z))
				s.Values(alone, raw, n, width, zWidth, 1)
				for i := range n {
					for a := range v {
						same(t, "value alone", []float64{alone[At(i, 1+a, zWidth)]}, []float64{z[At(i, 1+a, zWidth)] - s.Mean[a]})
					}
				}
			}
		}
	})
}

// arguments are numbers of every size, and the borders of every case of the
// functions.
func arguments(r *rand.Rand, n int) []float64 {
	special := []float64{0, math.Copysign(0, -1), math.Inf(1), math.Inf(-1), math.NaN(), 1, -1, 0x1p-28, -0x1p-28, math.Nextafter(0x1p-28, 0), 700, -700,
		math.Nextafter(700, 800), 709.9, -745, -746, 0x1p-1022, math.Nextafter(0x1p-1022, 0), 5e-324, math.MaxFloat64, math.Sqrt2 / 2, math.Sqrt2, 0.5, 2,
		math.Nextafter(math.Sqrt2/2, 0), math.Nextafter(math.Sqrt2/2, 1)}
	out := make([]float64, n)
	for i := range out {
		switch r.IntN(8) {
		case 0:
			out[i] = special[r.IntN(len(special))]
		case 1:
			out[i] = math.Ldexp(r.NormFloat64(), r.IntN(2000)-1000)
		case 2:
			out[i] = math.Ldexp(r.NormFloat64(), r.IntN(60)-55)
		case 3:
			out[i] = (r.Float64() - 0.5) * 1500
		default:
			out[i] = 4 * r.NormFloat64()
		}
	}
	return out
}

func TestFunctions(t *testing.T) {
	paths(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(7, 8))
		const n = 64 + 3
		y, want := make([]float64, n), make([]float64, n)
		rounds := 20_000
		if testing.Short() {
			rounds = 500
		}
		for k := range rounds {
			x := arguments(r, n)
			if k%2 == 0 { // nothing leaves the fast range
				for i := range x {
					x[i] = math.Ldexp(1+r.Float64(), r.IntN(12)-4)
				}
			}
			Exp(y, x)
			for i := range x {
				want[i] = det.Exp(x[i])
			}
			same(t, "exp", y, want)
			Log(y, x)
			for i := range x {
				want[i] = det.Log(x[i])
			}
			same(t, "log", y, want)
		}
	})
}

func TestLogistics(t *testing.T) {
	paths(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(9, 10))
		const n = 64 + 3
		var got, want [4][]float64
		for k := range got {
			got[k], want[k] = make([]float64, n), make([]float64, n)
		}
		eta, y := make([]float64, n), make([]float64, n)
		hair := -math.Log(math.Sqrt2 - 1)
		rounds := 20_000
		if testing.Short() {
			rounds = 500
		}
		for k := range rounds {
			for i := range eta {
				y[i] = float64(r.IntN(2))
				eta[i] = 3 * r.NormFloat64()
				if k%3 == 1 {
					switch r.IntN(6) {
					case 0:
						eta[i] = math.Copysign(hair, eta[i]) + math.Ldexp(r.NormFloat64(), -40-r.IntN(12))
					case 1:
						eta[i] = math.Ldexp(r.NormFloat64(), -r.IntN(60))
					case 2:
						eta[i] = 600 * (r.Float64() - 0.5)
					case 3:
						eta[i] = []float64{0, math.Copysign(0, -1), 20, -20, 500, -500, hair, -hair}[r.IntN(8)]
					}
				}
			}
			Logistics(got[0], got[1], got[2], got[3], eta, y)
			for i := range eta {
				mu, w, ll := Logistic(y[i], eta[i])
				d := y[i] - mu
				want[0][i], want[1][i], want[2][i], want[3][i] = w, d, ll, float64(d*d)/w
			}
			for k, what := range []string{"weight", "residual", "log-likelihood", "Pearson"} {
				same(t, what, got[k], want[k])
			}
		}
	})
}

func TestTotals(t *testing.T) {
	paths(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(11, 12))
		for _, n := range []int{0, 1, 3, 4, 5, 64, 67} {
			var v [4][]float64
			var sum Totals
			var hi, lo [4]float64
			for range 3 {
				for k := range v {
					v[k] = draw(r, n)
					for _, x := range v[k] {
						hi[k], lo[k] = twoSum(hi[k], lo[k], x)
					}
				}
				sum.Add(v[0], v[1], v[2], v[3])
			}
			same(t, "sums", append(sum.Hi[:], sum.Lo[:]...), append(hi[:], lo[:]...))

			h, l, x := draw(r, n), draw(r, n), draw(r, n)
			wantH, wantL := make([]float64, n), make([]float64, n)
			for i := range x {
				wantH[i], wantL[i] = twoSum(h[i], l[i], x[i])
			}
			AddEach(h, l, x)
			same(t, "added", append(h, l...), append(wantH, wantL...))
		}
	})
}

// TestRiskSet compares the columns, one at a time, with the sums as a Cox model
// defines them.
func TestRiskSet(t *testing.T) {
	paths(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(13, 14))
		var s, want RiskSet
		chunk := func(v []float64) *Chunk {
			c := new(Chunk)
			copy(c[:], v)
			return c
		}
		for _, n := range []int{1, 37, ChunkRows} {
			z, w := chunk(draw(r, 4*n)), draw(r, n)
			sums, wantSums := new(Chunk), new(Chunk)
			s.Enter(sums, z, w)
			want.portableEnter(wantSums, z, w)
			same(t, "sums", sums[:], wantSums[:])
			risk, share := draw(r, n), draw(r, n)
			after, own := make([]uint8, n), make([]uint8, n)
			for k := range own {
				after[k], own[k] = uint8(r.IntN(n)), uint8(r.IntN(n))
			}
			means, wantMeans := make([]float64, 4*n), make([]float64, 4*n)
			s.Single(means, sums, z, after, own, risk)
			want.portableSingle(wantMeans, sums, z, after, own, risk)
			same(t, "means", means, wantMeans)
			s.Fall(z, w, own)
			want.portableFall(z, w, own)
			s.Settle(means, sums[:4], risk, share)
			want.portableSettle(wantMeans, sums[:4], risk, share)
			same(t, "means of ties", means, wantMeans)
			if s != want {
				t.Fatalf("%v, want %v", s, want)
			}
			s.Settled()
			want.Settled()
		}
	})
}

func TestTranspose(t *testing.T) {
	paths(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(15, 16))
		from := draw(r, 5*24)
		to := make([]float64, 5*40)
		Transpose(to, from, 5, 40, 24)
		for g := range 5 {
			for i := range 4 {
				for j := range 4 {
					if to[40*g+4*i+j] != from[24*g+4*j+i] {
						t.Fatalf("group %d, %d, %d", g, i, j)
					}
				}
			}
		}
	})
}

// BenchmarkBlock is a block of 512 rows of 21 columns with a residual.
func BenchmarkBlock(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	block := NewBlock(21, true)
	z, w, sum := draw(r, Lead+Len(64, block.width)), draw(r, 64), make([]float64, block.Len())
	for range b.N {
		block.Reset()
		for range 8 {
			block.Add(z, w, w, nil)
		}
		block.Sums(sum)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/512, "ns/row")
}

func BenchmarkLogistics(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	const n = 64
	eta, y := make([]float64, n), make([]float64, n)
	for i := range eta {
		eta[i], y[i] = r.NormFloat64(), float64(r.IntN(2))
	}
	o := make([]float64, 4*n)
	for range b.N {
		Logistics(o[:n], o[n:2*n], o[2*n:3*n], o[3*n:], eta, y)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/row")
}

func BenchmarkStandard(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	s := &Standard{draw(r, 20), draw(r, 20), draw(r, 20), draw(r, 20)}
	raw, eta, z := draw(r, 64*20), make([]float64, 64), make([]float64, 64*24)
	for range b.N {
		s.Both(eta, z, raw, 20, 24, 1)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/row")
}

// TestGenerated: the kernels are what gen.go writes.
func TestGenerated(t *testing.T) {
	source, err := filepath.Abs("gen.go")
	if err != nil {
		t.Fatal(err)
	}
	run := exec.Command("go", "run", source)
	run.Dir = t.TempDir()
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("go run gen.go: %v\n%s", err, out)
	}
	for _, name := range []string{"kernels_amd64.s", "kernels_amd64.go"} {
		want, err := os.ReadFile(filepath.Join(run.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != string(want) {
			t.Errorf("%s is not what gen.go writes (%v); run go run gen.go", name, err)
		}
	}
}
