package guardian

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cloudflare/circl/secretsharing"

	"consilium"
)

func digestOf(seed []byte) (consilium.Digest, error) {
	return consilium.DomainNextKey.Digest(seed), nil
}

func checkSeed(seed []byte, next consilium.Digest) error {
	if d, _ := digestOf(seed); d != next {
		return consilium.ErrSignature.Withf("another key")
	}
	return nil
}

func deal(t *testing.T, k, n int) ([]Share, []byte) {
	t.Helper()
	var seed []byte
	shares, err := Deal(k, n, func(s []byte) (consilium.Digest, error) { seed = bytes.Clone(s); return digestOf(s) })
	if err != nil {
		t.Fatal(err)
	}
	return shares, seed
}

// Every subset of t gives the seed back; every smaller one is refused.
func TestAnyThreshold(t *testing.T) {
	for _, x := range [][2]int{{2, 2}, {2, 3}, {3, 5}} {
		k, n := x[0], x[1]
		shares, seed := deal(t, k, n)
		for set := 1; set < 1<<n; set++ {
			var some []Share
			for i := range n {
				if set&(1<<i) != 0 {
					some = append(some, shares[i])
				}
			}
			rand.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
			got, err := Recover(some, checkSeed)
			if len(some) >= k && (err != nil || !bytes.Equal(got, seed)) || len(some) < k && err == nil {
				t.Errorf("%d of %d, set %b: %v", k, n, set, err)
			}
		}
	}
	for _, x := range [][2]int{{1, 3}, {0, 2}, {4, 3}, {2, 21}} {
		if _, err := Deal(x[0], x[1], digestOf); err == nil {
			t.Errorf("%d of %d dealt", x[0], x[1])
		}
	}
}

func TestForgedShares(t *testing.T) {
	shares, seed := deal(t, 3, 5)
	other, _ := deal(t, 3, 5)
	for name, edit := range map[string]func(*Share){
		"value":       func(s *Share) { s.Value = other[1].Value },
		"blind":       func(s *Share) { s.Blind = other[1].Blind },
		"index":       func(s *Share) { s.Index = 4 },
		"no scalar":   func(s *Share) { s.Value = bytes.Repeat([]byte{0xff}, 32) },
		"commitments": func(s *Share) { s.Commitments = other[1].Commitments },
		"checks":      func(s *Share) { s.Checks = other[1].Checks },
		"threshold":   func(s *Share) { s.Threshold, s.Commitments = 2, s.Commitments[:2] },
		"no point":    func(s *Share) { s.Commitments = [][]byte{{1}, {2}, {3}} },
	} {
		bad := shares[1]
		edit(&bad)
		if bad.Verify() == nil {
			t.Errorf("%s: a forged share verifies", name)
		}
		// One forged share of four: the other three suffice, and it is named.
		if got, err := Recover([]Share{shares[0], bad, shares[2], shares[4]}, checkSeed); err != nil || !bytes.Equal(got, seed) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Recover([]Share{shares[0], bad, shares[2]}, checkSeed); err == nil || !strings.Contains(err.Error(), "share 2") {
			t.Errorf("%s: %v, want it named", name, err)
		}
		// The naive twin does not verify shares: it recovers a wrong seed, and
		// without the committed digest would take it.
		if name == "value" || name == "blind" {
			var v, b []secretsharing.Share
			for _, s := range []Share{shares[0], bad, shares[2]} {
				id := ristretto.NewScalar().SetUint64(uint64(s.Index))
				x, _ := parseScalar(s.Value)
				y, _ := parseScalar(s.Blind)
				v, b = append(v, secretsharing.Share{ID: id, Value: x}), append(b, secretsharing.Share{ID: id, Value: y})
			}
			x, err1 := secretsharing.Recover(2, v)
			y, err2 := secretsharing.Recover(2, b)
			if err1 != nil || err2 != nil || bytes.Equal(seedOf(x, y), seed) {
				t.Errorf("%s: the naive twin noticed", name)
			}
		}
	}
	// Shares of an earlier dealing do not mix in.
	if _, err := Recover([]Share{shares[0], shares[1], other[2]}, checkSeed); err == nil {
		t.Error("two dealings mixed")
	}
	if _, err := Recover([]Share{shares[0], shares[0], shares[0]}, checkSeed); err == nil {
		t.Error("one share three times")
	}
	if _, err := Recover(shares, func([]byte, consilium.Digest) error { return consilium.ErrSignature }); err == nil {
		t.Error("a seed that is not the committed one")
	}
}

func TestShareFile(t *testing.T) {
	shares, _ := deal(t, 2, 3)
	b, err := shares[0].Encode()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Parse(b)
	if err != nil || !s.sameDealing(&shares[1]) || s.Index != 1 {
		t.Errorf("%v %v", s, err)
	}
	if _, err := Parse(bytes.Replace(b, []byte(`"index": 1`), []byte(`"index": 2`), 1)); err == nil {
		t.Error("a changed file")
	}
	for _, verb := range []string{"%v", "%+v", "%x", "%s", "%#v"} {
		if out := fmt.Sprintf(verb, shares[0]); strings.Contains(out, fmt.Sprintf("%x", shares[0].Value)[:16]) || !strings.Contains(out, "redacted") {
			t.Errorf("%s prints %s", verb, out)
		}
	}
}

func FuzzParse(f *testing.F) {
	shares, err := Deal(2, 3, digestOf)
	if err != nil {
		f.Fatal(err)
	}
	b, _ := shares[0].Encode()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := Parse(b); err == nil {
			if err := s.Verify(); err != nil {
				t.Error(err)
			}
		}
	})
}
