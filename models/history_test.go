package models

import (
	"math/big"
	"testing"
)

// TestLogProduct: the logarithm of a product whose exponent is beyond what a number holds exactly
// beside the digits of log 2.
func TestLogProduct(t *testing.T) {
	log2, _, err := big.ParseFloat("0.693147180559945309417232121458176568075500134360255254120680009", 10, 200, big.ToNearestEven)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{1, 799, 800, 5001, 100_003} {
		for _, exponent := range []int{-1021, -3, 1023} {
			one := new(big.Float).SetMantExp(big.NewFloat(1), exponent)
			v, _ := one.Float64()
			p := newLogProduct()
			for range n {
				p.multiply(v)
			}
			s := p.sum()
			want := new(big.Float).SetPrec(200).Mul(log2, new(big.Float).SetInt64(n*int64(exponent)))
			got := new(big.Float).SetPrec(200).Add(big.NewFloat(s.hi), big.NewFloat(s.lo))
			off, _ := got.Sub(got, want).Float64()
			if size := float64(n) * 1024; off > 1e-24*size || off < -1e-24*size {
				t.Errorf("%d factors of 2^%d: off by %g", n, exponent, off)
			}
		}
	}
}
