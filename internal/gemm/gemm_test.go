package gemm

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"
)

// defined is the package comment's definition, step by step, with fused
// multiply-adds by math/big.
func defined[T Float](tA, tB blas.Transpose, m, n, k int, alpha T, a []T, lda int, b []T, ldb int, beta T, c []T, ldc int) {
	at := func(t blas.Transpose, v []T, ld, i, j int) T {
		if t != blas.NoTrans {
			i, j = j, i
		}
		return v[i*ld+j]
	}
	for i := range m {
		for j := range n {
			s := T(0)
			switch beta {
			case 0:
			case 1:
				s = c[i*ldc+j]
			default:
				s = beta * c[i*ldc+j]
			}
			for l := range k {
				s = exactFMA(alpha*at(tA, a, lda, i, l), at(tB, b, ldb, l, j), s)
			}
			c[i*ldc+j] = s
		}
	}
}

// exactFMA rounds x·y + z once, by math/big.
func exactFMA[T Float](x, y, z T) T {
	if v := float64(x) * float64(y); math.IsNaN(v) || math.IsInf(v, 0) || z-z != 0 || x == 0 || y == 0 {
		return T(v + float64(z)) // no rounding of the product to speak of
	}
	p := new(big.Float).SetPrec(0).SetMode(big.ToNearestEven).SetFloat64(float64(x))
	p.SetPrec(200).Mul(p, big.NewFloat(float64(y)))
	p.SetPrec(3000).Add(p, big.NewFloat(float64(z)))
	if p.Sign() == 0 {
		return T(float64(x)*float64(y) + float64(z))
	}
	if _, ok := any(x).(float32); ok {
		f, _ := p.Float32()
		return T(f)
	}
	f, _ := p.Float64()
	return T(f)
}

func same[T Float](x, y T) bool {
	return math.Float64bits(float64(x)) == math.Float64bits(float64(y)) || x != x && y != y
}

// TestEveryPathIsTheDefinition holds every path against the definition: every
// shape of tile and edge, transpositions, strides, factors, and blocks of the
// inner dimension.
func TestEveryPathIsTheDefinition(t *testing.T) {
	t.Run("float32", func(t *testing.T) { everyPath(t, paths32) })
	t.Run("float64", func(t *testing.T) { everyPath(t, paths64) })
}

func everyPath[T Float](t *testing.T, paths []*path[T]) {
	r := rand.New(rand.NewPCG(1, 2))
	var shapes [][3]int
	for m := 1; m <= 9; m++ {
		for n := 1; n <= 34; n++ {
			if testing.Short() && (m > 2 && m < 8 || n > 2 && n < 31) {
				continue
			}
			shapes = append(shapes, [3]int{m, n, 1 + r.IntN(5)})
		}
	}
	shapes = append(shapes, [3]int{7, 5, 600}, [3]int{50, 40, 17}, [3]int{197, 33, 3}, [3]int{3, 530, 2}, [3]int{49, 70, 257}, [3]int{60, 0, 3}, [3]int{0, 3, 3}, [3]int{5, 3, 0})
	if testing.Short() {
		shapes = shapes[:len(shapes)-6]
	}
	cases := 0
	for _, s := range shapes {
		m, n, k := s[0], s[1], s[2]
		for _, trans := range [][2]blas.Transpose{{blas.NoTrans, blas.NoTrans}, {blas.NoTrans, blas.Trans}, {blas.Trans, blas.NoTrans}, {blas.Trans, blas.ConjTrans}} {
			alpha, beta := []T{1, 1, 1, 0, -0.3}[r.IntN(5)], []T{0, 1, 0.7}[r.IntN(3)]
			lda, ldb := k, n
			rowsA, rowsB := m, k
			if trans[0] != blas.NoTrans {
				lda, rowsA = m, k
			}
			if trans[1] != blas.NoTrans {
				ldb, rowsB = k, n
			}
			extra := r.IntN(3)
			lda, ldb, ldc := max(1, lda+extra), max(1, ldb+extra), max(1, n+extra)
			a, b := values[T](r, rowsA*lda), values[T](r, rowsB*ldb)
			c := values[T](r, m*ldc)
			if beta == 0 && len(c) > 0 {
				c[0] = T(math.NaN()) // must not be read
				if alpha != 0 && k > 0 && m > 0 && n > 0 {
					c[0] = T(math.Inf(1))
				}
			}
			want := append([]T(nil), c...)
			if alpha == 0 {
				defined(trans[0], trans[1], m, n, 0, alpha, a, lda, b, ldb, beta, want, ldc)
			} else {
				defined(trans[0], trans[1], m, n, k, alpha, a, lda, b, ldb, beta, want, ldc)
			}
			for which, p := range paths {
				got := append([]T(nil), c...)
				general(p, trans[0], trans[1], m, n, k, alpha, a, lda, b, ldb, beta, got, ldc)
				for i := range got {
					if !same(got[i], want[i]) {
						t.Fatalf("path %d, %d×%d×%d, %c%c, α %v, β %v, at %d: %v, want %v", which, m, n, k, trans[0], trans[1], alpha, beta, i, got[i], want[i])
					}
				}
				cases++
			}
		}
	}
	t.Logf("%d products on %d paths", cases, len(paths))
}

// values are of many sizes, some zero, a few subnormal or infinite.
func values[T Float](r *rand.Rand, n int) []T {
	v := make([]T, n)
	for i := range v {
		v[i] = T(r.NormFloat64() * math.Ldexp(1, r.IntN(20)-10))
		switch r.IntN(400) {
		case 0:
			v[i] = 0
		case 1:
			v[i] = T(math.Copysign(0, -1))
		case 2:
			v[i] = T(math.Ldexp(r.NormFloat64(), -140))
		case 3:
			v[i] *= 1e30
		}
	}
	return v
}

// TestThreadsChangeNothing cuts a large product every way.
func TestThreadsChangeNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, s := range [][3]int{{300, 200, 300}, {200, 450, 200}} {
		m, n, k := s[0], s[1], s[2]
		a, b := values[float32](r, m*k), values[float32](r, k*n)
		one, many := make([]float32, m*n), make([]float32, m*n)
		if p := paths32[0]; p.rows > 0 {
			blocks(p, m, n, k, matrix[float32]{a, k, 1}, matrix[float32]{b, n, 1}, one, n, false)
		} else {
			portable(m, n, k, matrix[float32]{a, k, 1}, matrix[float32]{b, n, 1}, one, n, false)
		}
		product(paths32[0], m, n, k, matrix[float32]{a, k, 1}, matrix[float32]{b, n, 1}, many, n, false)
		for i := range one {
			if !same(one[i], many[i]) {
				t.Fatalf("at %d: %v and %v", i, one[i], many[i])
			}
		}
	}
}

// FuzzFMA32 holds the portable fused multiply-add of float32 against math/big.
func FuzzFMA32(f *testing.F) {
	for _, s := range [][3]float32{{1, 1, 1}, {1 + 0x1p-23, 1 + 0x1p-23, -1}, {0x1p-100, 0x1p-49, 0x1p-149}, {0x1.000002p-75, 0x1p-75, 0x1p-126}, {3, 0x1.555556p-2, -1}, {0x1p127, 2, -0x1p127}} {
		f.Add(math.Float32bits(s[0]), math.Float32bits(s[1]), math.Float32bits(s[2]))
	}
	f.Fuzz(func(t *testing.T, a, b, c uint32) {
		x, y, z := math.Float32frombits(a), math.Float32frombits(b), math.Float32frombits(c)
		if got, want := fma32(x, y, z), exactFMA(x, y, z); !same(got, want) {
			t.Errorf("%x·%x + %x = %x, want %x", x, y, z, got, want)
		}
	})
}

// TestFMA32 draws what the fuzzer seldom finds: sums near ties and near the end
// of the range.
func TestFMA32(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	draws := 300_000
	if testing.Short() {
		draws /= 10
	}
	for range draws {
		x := math.Float32frombits(r.Uint32())
		y := math.Float32frombits(r.Uint32()&0x807fffff | uint32(100+r.IntN(60))<<23)
		z := float32(float64(x) * float64(y) * math.Ldexp(float64(1+r.IntN(1<<20)), r.IntN(90)-60))
		switch r.IntN(3) {
		case 0:
			x, y = math.Float32frombits(r.Uint32()&0x807fffff|uint32(40+r.IntN(30))<<23), math.Float32frombits(r.Uint32()&0x80700000|uint32(30+r.IntN(30))<<23)
			z = math.Float32frombits(r.Uint32() & 0x80ffffff)
		case 1:
			x, y = math.Float32frombits(math.Float32bits(x)&0xfffff000), math.Float32frombits(math.Float32bits(y)&0xfffff000)
		}
		if got, want := fma32(x, y, z), exactFMA(x, y, z); !same(got, want) {
			t.Fatalf("%x·%x + %x = %x, want %x", x, y, z, got, want)
		}
	}
}

// TestPanicsAsGonum gives both the same wrong arguments.
func TestPanicsAsGonum(t *testing.T) {
	said := func(b blas.Float64Level3, tA, tB blas.Transpose, m, n, k, lenA, lda, lenB, ldb, lenC, ldc int) (s string) {
		defer func() { s = fmt.Sprint(recover()) }()
		b.Dgemm(tA, tB, m, n, k, 1, make([]float64, lenA), lda, make([]float64, lenB), ldb, 0, make([]float64, lenC), ldc)
		return
	}
	r := rand.New(rand.NewPCG(7, 8))
	trans := []blas.Transpose{blas.NoTrans, blas.Trans, blas.ConjTrans, 'x'}
	differ := map[string]bool{}
	for range 20_000 {
		m, n, k := r.IntN(5)-1, r.IntN(5)-1, r.IntN(5)-1
		tA, tB := trans[min(3, r.IntN(12)/3)], trans[min(3, r.IntN(12)/3)]
		lenA, lda, lenB, ldb, lenC, ldc := r.IntN(17), r.IntN(5), r.IntN(17), r.IntN(5), r.IntN(17), r.IntN(5)
		want, got := said(gonum.Implementation{}, tA, tB, m, n, k, lenA, lda, lenB, ldb, lenC, ldc), said(BLAS{}, tA, tB, m, n, k, lenA, lda, lenB, ldb, lenC, ldc)
		if want != got {
			t.Fatalf("%c%c %d×%d×%d a %d/%d b %d/%d c %d/%d: %q, gonum %q", tA, tB, m, n, k, lenA, lda, lenB, ldb, lenC, ldc, got, want)
		}
		differ[got] = true
	}
	if len(differ) < 9 {
		t.Errorf("only %d different messages were tried: %v", len(differ), differ)
	}
}

// TestNoAllocation: a warm product allocates nothing but its goroutines.
func TestNoAllocation(t *testing.T) {
	a, c := make([]float32, 64*64), make([]float32, 64*64)
	for _, tB := range []blas.Transpose{blas.NoTrans, blas.Trans} {
		if n := testing.AllocsPerRun(100, func() { BLAS{}.Sgemm(blas.NoTrans, tB, 64, 64, 64, 1, a, 64, a, 64, 0, c, 64) }); n > 0 {
			t.Errorf("transposed %c: %v allocations", tB, n)
		}
	}
}

// TestGenerated: the tiles are what gen.go writes.
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
	for _, name := range []string{"tiles_amd64.s", "tiles_amd64.go"} {
		want, err := os.ReadFile(filepath.Join(run.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != string(want) {
			t.Errorf("%s is not what gen.go writes (%v); run go run gen.go", name, err)
		}
	}
}

// BenchmarkSquare gives the fastest of many products of n × n matrices on one
// core (-cpu 1), in 10^9 operations a second. benchmarks/peers/gemm.py does the same.
func BenchmarkSquare(b *testing.B) {
	var shapes [][3]int
	for _, n := range []int{32, 64, 128, 256, 512, 1024} {
		shapes = append(shapes, [3]int{n, n, n})
	}
	b.Run("float32", func(b *testing.B) { rates(b, BLAS{}.Sgemm, shapes) })
	b.Run("float64", func(b *testing.B) { rates(b, BLAS{}.Dgemm, shapes) })
}

// BenchmarkThin is BenchmarkSquare with the shapes of layers, m × n × k.
func BenchmarkThin(b *testing.B) {
	shapes := [][3]int{{32, 64, 30}, {32, 64, 64}, {32, 1, 64}, {256, 64, 30}, {256, 64, 64}, {256, 1, 64}, {64, 64, 256}, {30, 64, 256}}
	b.Run("float32", func(b *testing.B) { rates(b, BLAS{}.Sgemm, shapes) })
	b.Run("float64", func(b *testing.B) { rates(b, BLAS{}.Dgemm, shapes) })
}

func rates[T Float](b *testing.B, own func(tA, tB blas.Transpose, m, n, k int, alpha T, a []T, lda int, b []T, ldb int, beta T, c []T, ldc int), shapes [][3]int) {
	r := rand.New(rand.NewPCG(9, 10))
	for _, trans := range []string{"NN", "NT", "TN"} {
		for _, s := range shapes {
			m, n, k := s[0], s[1], s[2]
			name := fmt.Sprint(n)
			if m != n || n != k {
				name = fmt.Sprintf("%dx%dx%d", m, n, k)
			}
			b.Run(trans+"/"+name, func(b *testing.B) {
				x, y, z := make([]T, m*k), make([]T, k*n), make([]T, m*n)
				for _, v := range [][]T{x, y} {
					for i := range v {
						v[i] = T(r.NormFloat64())
					}
				}
				lda, ldb := k, n
				if trans[0] == 'T' {
					lda = m
				}
				if trans[1] == 'T' {
					ldb = k
				}
				each := max(1, 2_000_000/(m*n*k))
				least := time.Duration(math.MaxInt64)
				for range max(b.N, 2) {
					at := time.Now()
					for range each {
						own(blas.Transpose(trans[0]), blas.Transpose(trans[1]), m, n, k, 1, x, lda, y, ldb, 0, z, n)
					}
					least = min(least, time.Since(at))
				}
				b.ReportMetric(2*float64(m*n*k)*float64(each)/float64(least.Nanoseconds()), "GF/s")
			})
		}
	}
}
