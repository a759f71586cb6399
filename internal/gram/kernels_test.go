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
func panel(z [][]float64, n int) []float64 {
	out := make([]float64, Len(n, len(z)))
	for i := range out {
		out[i] = 1e100
	}
	for a := range z {
		for i := range n {
			out[At(i, a, len(z))] = z[a][i]
		}
	}
	return out
}

// piece does so for rows of a piece, of which n and no more are there.
func piece(z [][]float64, from, n int) []float64 {
	out := make([]float64, (len(z)-1)*PieceRows+Up(n))
	for i := range out {
		out[i] = 1e100
	}
	for a := range z {
		copy(out[a*PieceRows:][:n], z[a][from:])
	}
	return out
}

func columnsOf(r *rand.Rand, p, n int) [][]float64 {
	z := make([][]float64, p)
	for a := range z {
		z[a] = draw(r, n)
	}
	return z
}

// TestEverySumOfABlock: the block's sums are the package comment's definition,
// whatever its pieces.
func TestEverySumOfABlock(t *testing.T) {
	paths(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 4))
		for p := 1; p <= 27; p++ {
			for _, n := range []int{1, 3, 4, 8, 9, 63, 64, 130, 256, 512} {
				for kind := 1; kind < 4; kind++ {
					products, score := kind&1 != 0, kind&2 != 0
					z, w, res := columnsOf(r, p, n), draw(r, n), draw(r, n)
					b := NewBlock(p, products, score)
					for range 2 { // the second time after Reset
						b.Reset()
						for from := 0; from < n; from += PieceRows {
							to := min(from+PieceRows, n)
							b.Add(piece(z, from, to-from), w[from:to], res[from:to], z[0])
						}
					}
					var want []float64
					for a := range z {
						for c := 0; c <= a && products; c++ {
							want = append(want, defined(w, z[a], z[c]))
						}
					}
					for a := range z {
						if score {
							want = append(want, defined(res, ones(n), z[a]))
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
			for _, n := range []int{1, 4, 7, 8, 16, 17, 33, 40, 64, 128} {
				v := columnsOf(r, p, n)
				s := &Standard{draw(r, p), draw(r, p), draw(r, p)}
				raw := panel(v, n)
				start := draw(r, Up(n))
				eta, want := append([]float64(nil), start...), append([]float64(nil), start...)
				z, alone := make([]float64, p*PieceRows), make([]float64, p*PieceRows)
				s.Both(eta, z, raw, n)
				s.Values(alone, raw, n)
				for i := range n {
					for a := range v {
						x := float64((v[a][i] - s.Centre[a]) * s.Inverse[a])
						want[i] += float64(s.Beta[a] * x)
						same(t, "value", []float64{z[a*PieceRows+i], alone[a*PieceRows+i]}, []float64{x, x})
					}
				}
				same(t, "predictor", eta[:n], want[:n])
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
						eta[i] = math.Ldexp(r.NormFloat64(), 7+r.IntN(3))
					case 1:
						eta[i] = math.Ldexp(r.NormFloat64(), -r.IntN(60))
					case 2:
						eta[i] = 600 * (r.Float64() - 0.5)
					case 3:
						eta[i] = []float64{0, math.Copysign(0, -1), 20, -20, 500, -500, 710, -710}[r.IntN(8)]
					}
				}
			}
			product, wanted := [Lanes]float64{1, 1, 1, 1, 1, 1, 1, 1}, [Lanes]float64{1, 1, 1, 1, 1, 1, 1, 1}
			Logistics(got[0], got[1], got[2], got[3], &product, eta, y)
			for i := range eta {
				mu, w, pearson, ll, d := Logistic(y[i], eta[i])
				want[0][i], want[1][i], want[2][i], want[3][i] = w, y[i]-mu, ll, pearson
				wanted[i%Lanes] = float64(wanted[i%Lanes] * d)
			}
			same(t, "product", product[:], wanted[:])
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

// TestLogisticIsTheModel: what a row adds is what the textbook says, in other words.
func TestLogisticIsTheModel(t *testing.T) {
	r := rand.New(rand.NewPCG(10, 11))
	for range 10_000 {
		y, eta := float64(r.IntN(2)), 4*r.NormFloat64()
		mu, w, pearson, ll, d := Logistic(y, eta)
		p := 1 / (1 + math.Exp(-eta))
		for k, v := range [][2]float64{{mu, p}, {w, p * (1 - p)}, {pearson, (y - p) * (y - p) / (p * (1 - p))}, {ll - math.Log(d), math.Log(p*y + (1-p)*(1-y))}} {
			if !(math.Abs(v[0]-v[1]) <= 1e-9*(1e-3+math.Abs(v[1]))) {
				t.Fatalf("number %d at %v, %v: %v, want %v", k, y, eta, v[0], v[1])
			}
		}
	}
}

func TestEverySumOfAPiece(t *testing.T) {
	paths(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(17, 18))
		for _, n := range []int{0, 1, 7, 8, 9, 64, 127, 128, 512} {
			v, x, d := draw(r, n), draw(r, n), make([]float64, n)
			same(t, "sum", []float64{Sum(v)}, []float64{defined(ones(n), ones(n), v)})
			squares := Subtract(d, v, x)
			want := make([]float64, n)
			for i := range want {
				want[i] = v[i] - x[i]
			}
			same(t, "difference", d, want)
			same(t, "squares", []float64{squares}, []float64{defined(ones(n), want, want)})
			for i := range v {
				v[i] = 500 * (1 - 2*r.Float64())
			}
			if !Within(v, 500) {
				t.Fatal("not within")
			}
			for i := range v {
				for _, far := range []float64{500.1, -501, math.NaN(), math.Inf(-1)} {
					at := v[i]
					if v[i] = far; Within(v, 500) {
						t.Fatalf("%v at %d is within", far, i)
					}
					v[i] = at
				}
			}
		}
	})
}

// someMarks has none, all or some of a piece's rows.
func someMarks(r *rand.Rand) (m Marks) {
	kind := r.IntN(4)
	for g := range m {
		switch kind {
		case 0:
		case 1:
			m[g] = 0xff
		default:
			m[g] = uint8(r.Uint32())
		}
	}
	return m
}

// kept are the places of the rows that are marked.
func kept(m *Marks) (out []int) {
	for i := range PieceRows {
		if m[i/8]>>(i%8)&1 == 1 {
			out = append(out, i)
		}
	}
	return out
}

// inTime is the number in time of the row at a place of a piece.
var inTime = func() (out [PieceRows]int) {
	for i := range out {
		out[Turn(i)] = i
	}
	return out
}()

// TestScan compares a walk with the definition, row after row in time, and on every
// path with the portable code.
func TestScan(t *testing.T) {
	paths(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(13, 14))
		for range 200 {
			p := 1 + r.IntN(6)
			s := Scan{draw(r, p)}
			carry := append([]float64(nil), s.Carry...)
			z, w, u := draw(r, p*PieceRows), draw(r, PieceRows), draw(r, PieceRows)
			z[0], w[1] = 0, math.Copysign(0, -1)
			m := someMarks(r)
			out := draw(r, p*PieceRows)
			s.Step(out, z, w, u, &m)
			for a := range p {
				var sum [PieceRows]float64 // in time, along the runs
				var run [8]float64
				for i := range PieceRows {
					at := Turn(i)
					run[i/groups] += float64(w[at] * z[a*PieceRows+at])
					sum[i] = run[i/groups]
				}
				h := (run[0] + run[1]) + (run[2] + run[3])
				before := [8]float64{0, run[0], run[0] + run[1], run[0] + (run[1] + run[2]), h, h + run[4], h + (run[4] + run[5]), h + (run[4] + (run[5] + run[6]))}
				for k, at := range kept(&m) {
					i := inTime[at]
					same(t, "sum", []float64{out[a*PieceRows+k]}, []float64{float64(((carry[a] + before[i/groups]) + sum[i]) * u[k])})
				}
				same(t, "carry", s.Carry[a:a+1], []float64{carry[a] + (h + ((run[4] + run[5]) + (run[6] + run[7])))})
			}
		}
	})
}

func TestTurn(t *testing.T) {
	back := map[int]int{}
	for i := range 4 * PieceRows {
		back[Turn(i)] = i
	}
	for i := range 4 * PieceRows {
		if at := Turn(i); back[at] != i || at/PieceRows != i/PieceRows || at%8 != i%PieceRows/groups {
			t.Fatalf("row %d stands at %d", i, at)
		}
	}
}

func TestExpose(t *testing.T) {
	paths(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(15, 16))
		for range 500 {
			w, h, after := draw(r, PieceRows), draw(r, PieceRows), r.NormFloat64()
			times, dead := someMarks(r), someMarks(r)
			e, res := make([]float64, PieceRows), make([]float64, PieceRows)
			Expose(e, res, w, h, &times, &dead, after)
			var part, sum [PieceRows]float64 // in time
			for k, at := range kept(&times) {
				part[inTime[at]] = h[k]
			}
			var run [8]float64
			for i := PieceRows - 1; i >= 0; i-- {
				run[i/groups] += part[i]
				sum[i] = run[i/groups]
			}
			high := (run[7] + run[6]) + (run[5] + run[4])
			behind := [8]float64{(run[3] + (run[2] + run[1])) + high, (run[3] + run[2]) + high, run[3] + high, high, run[7] + (run[6] + run[5]), run[7] + run[6], run[7], 0}
			for i := range PieceRows {
				at := Turn(i)
				want := float64(w[at] * ((behind[i/groups] + after) + sum[i]))
				left := -want
				if dead[at/8]>>(at%8)&1 == 1 {
					left = 1 - want
				}
				same(t, "exposure and residual", []float64{e[at], res[at]}, []float64{want, left})
			}
		}
	})
}

// BenchmarkBlock is a block of 512 rows of 21 columns with a residual.
func BenchmarkBlock(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	block := NewBlock(21, true, true)
	z, w, sum := draw(r, 21*PieceRows), draw(r, PieceRows), make([]float64, block.Len())
	for range b.N {
		block.Reset()
		for range 512 / PieceRows {
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
		var product [Lanes]float64
		Logistics(o[:n], o[n:2*n], o[2*n:3*n], o[3*n:], &product, eta, y)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/row")
}

func BenchmarkStandard(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	s := &Standard{draw(r, 20), draw(r, 20), draw(r, 20)}
	raw, eta, z := draw(r, PieceRows*20), make([]float64, PieceRows), make([]float64, PieceRows*20)
	for range b.N {
		s.Both(eta, z, raw, PieceRows)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/PieceRows, "ns/row")
}

// BenchmarkScan is a piece of 20 columns, most of whose rows are kept.
func BenchmarkScan(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	s := Scan{make([]float64, 20)}
	z, out, w := draw(r, PieceRows*20), make([]float64, PieceRows*20), draw(r, PieceRows)
	m := Marks{0xf7, 0xff, 0x3f, 0xef, 0x7b, 0xcc, 0xfe, 0x7e, 0xf7, 0xff, 0x3f, 0xef, 0x7b, 0xcc, 0xfe, 0x7e}
	for range b.N {
		s.Step(out, z, w, w, &m)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/PieceRows, "ns/row")
}

func BenchmarkExpose(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	out, w := make([]float64, 2*PieceRows), draw(r, PieceRows)
	m := Marks{0xf7, 0xff, 0x3f, 0xef, 0x7b, 0xcc, 0xfe, 0x7e, 0xf7, 0xff, 0x3f, 0xef, 0x7b, 0xcc, 0xfe, 0x7e}
	for range b.N {
		Expose(out, out[PieceRows:], w, w, &m, &m, 1)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/PieceRows, "ns/row")
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

// TestLengths: what is too long for a piece, or too short for its rows, panics before a
// kernel has run, even where the memory behind it belongs to the same slice.
func TestLengths(t *testing.T) {
	paths(t, func(t *testing.T) {
		const p, n = 3, 16
		room := func(n int) []float64 { return make([]float64, n, 4096) }
		panics := func(what string, f func()) {
			t.Helper()
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", what)
				}
			}()
			f()
		}
		z, long := room(p*PieceRows), room(PieceRows+1)
		for _, products := range []bool{false, true} {
			b := NewBlock(p, products, true)
			panics("more rows than a piece has", func() { b.Add(room(4096), long, long, nil) })
			panics("a residual too few", func() { b.Add(z, room(n), room(n-1), nil) })
			panics("a piece too short", func() { b.Add(z[:2*PieceRows+n-1], room(n), room(n), nil) })
		}
		s := &Standard{room(p), room(p), room(p)}
		raw := room(Len(n, p))
		panics("a predictor too short", func() { s.Both(room(n-1), z, raw, n) })
		panics("a coefficient too few", func() { (&Standard{room(p), room(p), room(p - 1)}).Both(room(n), z, raw, n) })
		panics("an inverse too few", func() { (&Standard{room(p), room(p - 1), room(p)}).Values(z, raw, n) })
		panics("more rows than a piece to read", func() { s.Values(room(4096), room(4096), PieceRows+1) })
	})
}
