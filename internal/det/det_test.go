package det

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"os"
	"strconv"
	"testing"
)

// one is a reference value of testdata/reference.json.
type one struct {
	F string   `json:"f"`
	X []string `json:"x"`
	Y string   `json:"y"`
}

func bits(t *testing.T, s string) float64 {
	t.Helper()
	u, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return math.Float64frombits(u)
}

func references(t *testing.T) []one {
	t.Helper()
	b, err := os.ReadFile("testdata/reference.json")
	if err != nil {
		t.Fatal(err)
	}
	var f struct{ Cases []one }
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	if len(f.Cases) < 3000 {
		t.Fatalf("%d reference values, want 3000", len(f.Cases))
	}
	return f.Cases
}

func eval(f string, x []float64) float64 {
	switch f {
	case "exp":
		return Exp(x[0])
	case "log":
		return Log(x[0])
	case "log1p":
		return Log1p(x[0])
	case "expm1":
		return Expm1(x[0])
	case "erfc":
		return Erfc(x[0])
	case "lgamma":
		return Lgamma(x[0])
	case "normal":
		return NormalTail(x[0])
	case "chisq":
		return ChiSquareTail(x[0], int(x[1]))
	case "student":
		return StudentTail(x[0], x[1])
	case "f":
		return FTail(x[0], x[1], x[2])
	}
	panic(f)
}

// TestAgainstReferences holds every function to its promise in ulp for
// elementary functions and in relative error for tails: 45 ulp is 1e-14; tails
// of Student and F get 4 ulp more for every unit of -log p. Values below 1e-300
// are left out: subnormal results have fewer digits.
func TestAgainstReferences(t *testing.T) {
	limit := map[string]float64{"exp": 1, "log": 1, "log1p": 1, "expm1": 1, "erfc": 2, "lgamma": 4,
		"normal": 45, "chisq": 45, "student": 45, "f": 45}
	worst, at, n := map[string]float64{}, map[string]string{}, map[string]int{}
	for _, c := range references(t) {
		var x []float64
		for _, s := range c.X {
			x = append(x, bits(t, s))
		}
		want := bits(t, c.Y)
		if math.Abs(want) < 1e-300 {
			continue
		}
		got := eval(c.F, x)
		ulp := math.Nextafter(math.Abs(want), math.Inf(1)) - math.Abs(want)
		e := math.Abs(got-want) / ulp
		if c.F == "lgamma" && math.Abs(want) < 1 {
			e = math.Abs(got-want) / 0x1p-53 // near its zeros at 1 and 2: absolute
		}
		if c.F == "student" || c.F == "f" {
			e -= 4 * math.Abs(math.Log(want)) // the exponent is known to its own last digits only
		}
		n[c.F]++
		if !(e <= worst[c.F]) {
			worst[c.F], at[c.F] = e, fmt.Sprint(x)
		}
	}
	for f, l := range limit {
		t.Logf("%-8s %4d values, worst %.2f ulp at %s", f, n[f], worst[f], at[f])
		if n[f] < 100 || !(worst[f] <= l) {
			t.Errorf("%s: worst error %.2f ulp at %s over %d values, promised %v", f, worst[f], at[f], n[f], l)
		}
	}
}

// TestExpBig checks exp and log by series in big.Float, so that the reference
// file is not the only witness.
func TestExpBig(t *testing.T) {
	for i := -200; i <= 200; i++ {
		x := float64(i)*0.173 + 0.001
		bx := new(big.Float).SetPrec(300).SetFloat64(x)
		small := new(big.Float).SetPrec(300).SetMantExp(bx, -20)
		sum, term := big.NewFloat(1).SetPrec(300), big.NewFloat(1).SetPrec(300)
		for k := int64(1); k < 40; k++ {
			term.Mul(term, small)
			term.Quo(term, new(big.Float).SetPrec(300).SetInt64(k))
			sum.Add(sum, term)
		}
		for k := 0; k < 20; k++ {
			sum.Mul(sum, sum)
		}
		want, _ := sum.Float64()
		if e := math.Abs(Exp(x)-want) / want; e > 2.3e-16 {
			t.Errorf("exp(%v): relative error %v", x, e)
		}
		if got := Log(want); math.Abs(got-x) > 2.3e-16*math.Max(1, math.Abs(x)) {
			t.Errorf("log(exp(%v)) = %v", x, got)
		}
	}
}

// TestPublished compares with values printed by R 4.2.2.
func TestPublished(t *testing.T) {
	for _, c := range []struct{ got, want float64 }{
		{ChiSquareTail(11.742510868937, 1), 0.000610885537409082},
		{ChiSquareTail(12.2422776284927, 1), 0.00046718766450484},
		{ChiSquareTail(10.2156885090218, 6), 0.115857867302349},
		{StudentTail(0.399926557883766, 125.192226389161), 0.6898921482083},
		{FTail(3.67852451480712, 12, 115), 0.000108300118676285},
		{2 * NormalTail(14.642934239513), 1.49475595254034e-48},
		{StudentQuantile(0.05, 10), 2.228138851964939},
		{StudentQuantile(0.05, 1e9), 1.959963986911},
	} {
		if e := math.Abs(c.got/c.want - 1); e > 1e-11 { // of arguments printed with 15 digits
			t.Errorf("got %v, R has %v (relative difference %.2g)", c.got, c.want, e)
		}
	}
}

func TestEdges(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	for _, c := range []struct {
		name      string
		got, want float64
	}{
		{"exp inf", Exp(inf), inf}, {"exp -inf", Exp(-inf), 0}, {"exp 0", Exp(0), 1}, {"exp nan", Exp(nan), nan},
		{"log 0", Log(0), -inf}, {"log -1", Log(-1), nan}, {"log 1", Log(1), 0}, {"log1p -1", Log1p(-1), -inf},
		{"expm1 -inf", Expm1(-inf), -1}, {"erfc inf", Erfc(inf), 0}, {"erfc -inf", Erfc(-inf), 2}, {"erfc 0", Erfc(0), 1},
		{"lgamma 1", Lgamma(1), 0}, {"lgamma -1", Lgamma(-1), nan}, {"lgamma 0", Lgamma(0), nan},
		{"normal 0", NormalTail(0), 0.5}, {"normal inf", NormalTail(inf), 0}, {"normal -inf", NormalTail(-inf), 1},
		{"chisq 0", ChiSquareTail(0, 3), 1}, {"chisq inf", ChiSquareTail(inf, 3), 0}, {"chisq df 0", ChiSquareTail(1, 0), nan},
		{"t 0", StudentTail(0, 5), 1}, {"t inf", StudentTail(inf, 5), 0}, {"t df 0", StudentTail(1, 0), nan},
		{"F 0", FTail(0, 2, 3), 1}, {"F inf", FTail(inf, 2, 3), 0}, {"quantile 0", StudentQuantile(0, 3), nan},
	} {
		if c.got != c.want && !(c.got != c.got && c.want != c.want) {
			t.Errorf("%s = %v, want %v", c.name, c.got, c.want)
		}
	}
}

// sweepDigest pins the bits of every function over a fixed sweep. A processor
// or compiler that yields another digest would split the hospitals of a study.
const sweepDigest = "e11dfa2c5655205c2a77b96d6e031c5a64c4ddc23290313099fd8e64067db701"

func TestGolden(t *testing.T) {
	h := sha256.New()
	put := func(v float64) {
		if v != v {
			t.Fatal("NaN in the sweep")
		}
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], math.Float64bits(v))
		h.Write(b[:])
	}
	u := uint64(88172645463325252) // xorshift64: the same arguments everywhere
	next := func() float64 {
		u ^= u << 13
		u ^= u >> 7
		u ^= u << 17
		return float64(u>>11) * 0x1p-53
	}
	for i := 0; i < 4000; i++ {
		r := next()
		put(Exp((r - 0.5) * 1400))
		put(Exp(r))
		put(Log(float64(r*1e3) + 1e-9))
		put(Log1p(r - 0.5))
		put(Expm1((r - 0.5) * 4))
		put(Erfc((r - 0.5) * 50))
		put(Lgamma(float64(r*30) + 1e-6))
		put(NormalTail((r - 0.5) * 70))
		df := 1 + i%60
		put(ChiSquareTail(r*3*float64(df), df))
		put(StudentTail(r*12, float64(df)+r))
		put(FTail(r*9, float64(df), float64(3+i%300)))
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sweepDigest {
		t.Errorf("the bits changed: sweep digest %s, pinned %s", got, sweepDigest)
	}
	for _, c := range []struct {
		got  float64
		want uint64
	}{{Exp(1), 0x4005bf0a8b145769}, {Log(10), 0x40026bb1bbb55516}, {NormalTail(1.96), 0x3f99990c58859312}, {Lgamma(0.5), 0x3fe250d048e7a1bd}} {
		if math.Float64bits(c.got) != c.want {
			t.Errorf("%v has bits %#x, pinned %#x", c.got, math.Float64bits(c.got), c.want)
		}
	}
}
