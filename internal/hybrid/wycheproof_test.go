package hybrid

import (
	"compress/gzip"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/mldsa"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
)

// Project Wycheproof's vectors (Apache-2.0, github.com/C2SP/wycheproof), each
// against the very implementation that signatures here rest on: Ed25519 of the
// standard library, ML-DSA-65 of circl for identities, ML-DSA-44 of
// filippo.io/mldsa for witnesses.
func TestWycheproof(t *testing.T) {
	for _, x := range []struct {
		file   string
		least  int // tests, so that an emptied file fails
		verify func(key, msg, ctx, sig []byte) bool
	}{
		{"ed25519_test.json", 150, func(key, msg, _, sig []byte) bool {
			return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, msg, sig)
		}},
		{"mldsa_65_verify_test.json", 210, func(key, msg, ctx, sig []byte) bool {
			var pub mldsa65.PublicKey
			return pub.UnmarshalBinary(key) == nil && mldsa65.Verify(&pub, msg, ctx, sig)
		}},
		{"mldsa_44_verify_test.json", 180, func(key, msg, ctx, sig []byte) bool {
			pub, err := mldsa.NewPublicKey(mldsa.MLDSA44(), key)
			return err == nil && mldsa.Verify(pub, msg, sig, &mldsa.Options{Context: string(ctx)}) == nil
		}},
	} {
		f, err := os.Open(filepath.Join("testdata", "wycheproof", x.file+".gz"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			TestGroups []struct {
				PublicKey string
				Tests     []struct {
					TcID          int
					Comment       string
					Msg, Ctx, Sig string
					Result        string
				}
			}
		}
		if err := json.Unmarshal(raw, &doc); err != nil {
			t.Fatal(x.file, err)
		}
		ran, valid := 0, 0
		for _, g := range doc.TestGroups {
			for _, c := range g.Tests {
				parts := [][]byte{}
				for _, s := range []string{g.PublicKey, c.Msg, c.Ctx, c.Sig} {
					b, err := hex.DecodeString(s)
					if err != nil {
						t.Fatal(x.file, c.TcID, err)
					}
					parts = append(parts, b)
				}
				ran++
				if c.Result == "valid" {
					valid++
				}
				if got := x.verify(parts[0], parts[1], parts[2], parts[3]); got != (c.Result == "valid") {
					t.Errorf("%s: test %d (%s): verifies %v, result is %s", x.file, c.TcID, c.Comment, got, c.Result)
				}
			}
		}
		if ran < x.least || valid == 0 || valid == ran {
			t.Errorf("%s: %d tests, %d of them valid", x.file, ran, valid)
		}
		t.Logf("%s: %d tests, %d valid", x.file, ran, valid)
	}
}
