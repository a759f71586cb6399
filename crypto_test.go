package consilium_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// nature says what a library's primitives are against a quantum computer.
// symmetric: ciphers with 256-bit keys, which Grover's search leaves at 128. A library that is used and not named here fails the
// test, so a new one argues for itself.
var nature = map[string]string{
	"crypto/aes": "symmetric", "crypto/cipher": "symmetric", "golang.org/x/crypto/chacha20poly1305": "symmetric",
	"crypto/ed25519": "classical", "crypto/ecdsa": "classical", "crypto/ecdh": "classical", "crypto/elliptic": "classical", "crypto/rsa": "classical",
	"crypto/dsa": "classical", "crypto/x509": "classical", "golang.org/x/mod/sumdb/note": "classical",
	"github.com/cloudflare/circl/group": "classical", "github.com/ethereum/go-ethereum/crypto": "classical",
	"github.com/cometbft/cometbft/crypto": "classical", "github.com/cometbft/cometbft/crypto/ed25519": "classical",
	"github.com/cloudflare/circl/secretsharing":      "unconditional", // Shamir: no assumption to break
	"github.com/cloudflare/circl/sign/mldsa/mldsa65": "post-quantum", "filippo.io/mldsa": "post-quantum", "crypto/mlkem": "post-quantum",
	"github.com/transparency-dev/formats/note": "post-quantum", // ML-DSA-44 cosignatures, and Ed25519 ones beside them
	"github.com/tuneinsight/lattigo":           "post-quantum", // ring LWE
	// Which of their algorithms are used is read from the source, below.
	"crypto/hpke": "hybrid", "crypto/tls": "hybrid",
}

// passive are packages that sign nothing, agree on nothing and encrypt
// nothing: randomness, comparison, names, and the hashes with what is built of
// them, which the page lists by use and not by package.
var passive = []string{"crypto", "crypto/rand", "crypto/subtle", "crypto/x509/pkix", "crypto/sha256", "crypto/sha512", "crypto/sha3", "golang.org/x/crypto/sha3", "crypto/hmac", "crypto/hkdf",
	"crypto/fips140"}

var isCrypto = regexp.MustCompile(`^crypto(/|$)|^golang.org/x/crypto/|^filippo.io/|/circl/|sumdb/note$|formats/note$|/lattigo/|^golang.org/x/crypto|(^|/)age$|jwx|go-jose|/secp256k1|go-ethereum/crypto|cometbft/crypto|/bls12|/kyber|pqc`)

// allowed lists the classes that docs/cryptography.md may give a library.
var allowed = map[string][]string{"symmetric": {"symmetric"}, "classical": {"classical", "hybrid"}, "post-quantum": {"post-quantum", "hybrid"},
	"hybrid": {"hybrid"}, "unconditional": {"unconditional"}}

type use struct{ pkg, lib string }

// Every signature, key exchange and encryption in the source stands in
// docs/cryptography.md with its algorithm, and one that a quantum computer
// breaks alone stands there with the reason why it may.
func TestPostQuantumEverywhere(t *testing.T) {
	page, err := os.ReadFile("docs/cryptography.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[use]string{} // class
	row := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| `([^`]+)` \\| ([^|]+) \\| ([^|]+) \\| ([a-z-]+) \\|$")
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		u := use{m[1], m[2]}
		if listed[u] != "" {
			t.Errorf("%s and %s stand twice", u.pkg, u.lib)
		}
		if strings.TrimSpace(m[3]) == "" || strings.TrimSpace(m[4]) == "" {
			t.Errorf("%s and %s: say what for and which algorithm", u.pkg, u.lib)
		}
		listed[u] = m[5]
	}
	reasons := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^- \\*\\*`([^`]+)`\\*\\*: .{40,}").FindAllStringSubmatch(string(page), -1) {
		reasons[m[1]] = false
	}
	used := cryptoUses(t)
	byPackage := map[string][]string{}
	for u := range used {
		byPackage[u.pkg] = append(byPackage[u.pkg], nature[u.lib])
	}
	for u, where := range used {
		class := listed[u]
		switch {
		case nature[u.lib] == "":
			t.Errorf("%s uses %s, whose nature is not known here", where, u.lib)
		case class == "":
			t.Errorf("%s uses %s: add a row for it to docs/cryptography.md", where, u.lib)
		case !slices.Contains(allowed[nature[u.lib]], class):
			t.Errorf("docs/cryptography.md calls %s in %s %s, it is %s", u.lib, u.pkg, class, nature[u.lib])
		case class == "hybrid" && nature[u.lib] == "classical" && !slices.Contains(byPackage[u.pkg], "post-quantum") && !slices.Contains(byPackage[u.pkg], "unconditional"):
			t.Errorf("%s in %s is called half of a hybrid, and its other half is not there", u.lib, u.pkg)
		case class == "classical":
			if _, ok := reasons[u.pkg]; !ok {
				t.Errorf("%s uses %s alone, which a quantum computer breaks: docs/cryptography.md gives no reason under \"Classical on purpose\"", where, u.lib)
			}
			reasons[u.pkg] = true
		}
	}
	for u := range listed {
		if used[u] == "" {
			t.Errorf("docs/cryptography.md lists %s in %s, which is not there", u.lib, u.pkg)
		}
	}
	for pkg, needed := range reasons {
		if !needed {
			t.Errorf("docs/cryptography.md excuses %s, which uses nothing classical", pkg)
		}
	}
}

// cryptoUses reads every package's imports, and holds the libraries with a
// choice of algorithms to the one that is post-quantum.
func cryptoUses(t *testing.T) map[use]string {
	t.Helper()
	out := map[use]string{}
	configs, kems := 0, 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != "." && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			lib, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if !isCrypto.MatchString(lib) || slices.Contains(passive, lib) {
				continue
			}
			if strings.HasPrefix(lib, "github.com/tuneinsight/lattigo/") {
				lib = "github.com/tuneinsight/lattigo"
			}
			out[use{filepath.ToSlash(filepath.Dir(path)), lib}] = path
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				if named(n.Type, "tls", "Config") {
					configs++
					checkTLS(t, path, n)
				}
			case *ast.SelectorExpr:
				// KEMs of RFC 9180 are constructors; ours is X-Wing's.
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "hpke" && regexp.MustCompile(`KEM|^P256|^X25519|^P384|^P521`).MatchString(n.Sel.Name) {
					if kems++; n.Sel.Name != "MLKEM768X25519" && n.Sel.Name != "MLKEM1024P384" && n.Sel.Name != "KEM" {
						t.Errorf("%s: hpke.%s is no hybrid key encapsulation", path, n.Sel.Name)
					}
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if configs == 0 || kems == 0 {
		t.Errorf("%d TLS configurations and %d key encapsulations found: the test has lost sight of them", configs, kems)
	}
	return out
}

func named(e ast.Expr, pkg, name string) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == pkg && s.Sel.Name == name
}

// checkTLS: version 1.3 and no key exchange but X25519 with ML-KEM-768.
func checkTLS(t *testing.T, path string, c *ast.CompositeLit) {
	t.Helper()
	curves, least := false, false
	for _, e := range c.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		key, _ := kv.Key.(*ast.Ident)
		switch {
		case key == nil:
		case key.Name == "MinVersion":
			least = named(kv.Value, "tls", "VersionTLS13")
		case key.Name == "CurvePreferences":
			list, ok := kv.Value.(*ast.CompositeLit)
			curves = ok && len(list.Elts) > 0
			for _, x := range list.Elts {
				curves = curves && (named(x, "tls", "X25519MLKEM768") || named(x, "tls", "SecP384r1MLKEM1024"))
			}
		}
	}
	if !curves || !least {
		t.Errorf("%s: a tls.Config that does not insist on TLS 1.3 and a hybrid key exchange", path)
	}
}
