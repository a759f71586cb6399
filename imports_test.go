package consilium_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
)

// walls says which rooms of the house each room may enter. "consilium" is the
// root package. A package that is not listed fails the test, so a new room
// argues for itself here.
var walls = map[string][]string{
	"consilium": {"internal/memo"},

	// Leaf rooms: one promise each, no protocol.
	"consilium/internal/memo":    {},
	"consilium/internal/canon":   {"internal/memo"},
	"consilium/internal/hybrid":  {"consilium", "internal/memo"},
	"consilium/internal/seal":    {"consilium"},
	"consilium/internal/det":     {},
	"consilium/internal/sha":     {},
	"consilium/internal/vec":     {},
	"consilium/internal/gemm":    {},
	"consilium/internal/gram":    {"internal/det"},
	"consilium/internal/dp":      {"internal/det"},
	"consilium/internal/fixed":   {"consilium"},
	"consilium/internal/durable": {"consilium"},
	"consilium/internal/blob":    {"consilium", "internal/durable", "internal/sha"},
	"consilium/internal/span":    {"consilium"},

	// The four engines do not know each other.
	"consilium/he":         {"consilium", "internal/sha", "internal/vec", "internal/seal"},
	"consilium/he/party":   {"consilium", "he", "internal/sha", "internal/vec", "internal/seal"},
	"consilium/models":     {"consilium", "internal/canon", "internal/det", "internal/dp", "internal/gram"},
	"consilium/models/net": {"consilium", "models", "internal/canon", "internal/det", "internal/dp", "internal/fixed", "internal/gemm"},
	"consilium/policy":     {"consilium", "internal/canon", "internal/durable", "internal/hybrid"},
	"consilium/provenance": {"consilium", "internal/canon", "internal/hybrid", "internal/sha", "provenance/did", "provenance/epcis", "provenance/guardian", "provenance/sdjwt", "provenance/status"},

	// Foreign consents become what the row rules read.
	"consilium/policy/consent": {"policy"},

	// What provenance says of people: names, credentials, their status, shares
	// of a lost key. Pure functions on bytes.
	"consilium/provenance/did":      {"consilium", "internal/canon", "internal/fetch", "internal/hybrid"},
	"consilium/provenance/sdjwt":    {"consilium", "internal/canon", "provenance/did"},
	"consilium/provenance/status":   {"consilium", "internal/canon", "internal/fetch", "provenance/did", "provenance/sdjwt"},
	"consilium/provenance/guardian": {"consilium"},

	// Proofs that a chain holds an anchored epoch, without a chain's client.
	"consilium/provenance/chain":           {"consilium", "provenance"},
	"consilium/provenance/chain/chaintest": {"consilium", "provenance", "provenance/chain"}, // for tests

	// Supply-chain events have GS1's own hash.
	"consilium/provenance/epcis": {"consilium"},

	"consilium/internal/studyfile": {"consilium", "internal/canon"},
	"consilium/internal/table":     {"consilium"},
	"consilium/internal/hatch":     {"consilium"},
	"consilium/internal/report":    {"consilium"},
	"consilium/internal/fetch":     {"consilium"},
	"consilium/internal/pinned":    {"consilium", "internal/canon", "internal/hybrid"},
	"consilium/internal/export":    {},

	"consilium/internal/trail":   {"consilium", "internal/canon", "internal/durable", "internal/hybrid"},
	"consilium/examples/cgd":     {},
	"consilium/examples/streams": {"consilium", "provenance", "internal/hybrid"},
	// Their tables are generated; nothing of ours makes them.
	"consilium/examples/learning":  {},
	"consilium/examples/wearable":  {},
	"consilium/examples/coldchain": {},

	// The side of teams and boards, and what is written for auditors.
	"consilium/internal/client":  {"consilium", "internal/canon", "internal/hybrid", "internal/seal", "internal/wire"},
	"consilium/internal/archive": {"consilium", "provenance", "provenance/chain", "internal/canon", "internal/client", "internal/hybrid", "internal/trail"},

	"consilium/api/v1":        {},
	"consilium/internal/wire": {"consilium", "api/v1", "internal/hybrid", "internal/sha", "internal/span"},

	// The coordinator cannot name a secret: not he/party, not models.
	"consilium/coordinator": {"consilium", "api/v1", "he", "provenance", "policy", "internal/blob", "internal/canon",
		"internal/durable", "internal/hybrid", "internal/span", "internal/wire"},
	// The gate has a socket and keys; it cannot name a row.
	"consilium/worker": {"consilium", "he", "he/party", "provenance", "internal/blob", "internal/canon", "internal/durable",
		"internal/hatch", "internal/hybrid", "internal/seal", "internal/span", "internal/trail", "internal/wire"},
	// The vault has rows; it has neither a socket nor an identity key.
	"consilium/worker/vault": {"consilium", "models", "models/net", "policy", "provenance", "provenance/chain", "internal/canon", "internal/dp",
		"internal/durable", "internal/fixed", "internal/hatch", "internal/table"},

	// Everything in one process, and the binary: they wire the rooms together.
	"consilium/internal/federation": anyRoom,
	"consilium/cmd/consilium":       anyRoom,
	"consilium/benchmarks/full":     {"consilium", "he", "he/party", "internal/seal"},
	"consilium/benchmarks/load":     anyRoom,

	// Chains have a program of their own; nothing else links a chain's client.
	"consilium/cmd/consilium-anchor":       {"provenance", "provenance/chain", "internal/durable", "cmd/consilium-anchor/evm", "cmd/consilium-anchor/heads"},
	"consilium/cmd/consilium-anchor/heads": {"provenance", "internal/pinned"},
	"consilium/cmd/consilium-anchor/evm":   {"consilium", "provenance", "provenance/chain", "internal/durable"},
}

// anyRoom is for the rooms whose promise is to put the others together.
var anyRoom = []string{"*"}

// owners says which rooms alone may import a foreign library.
var owners = map[string][]string{
	"github.com/tuneinsight/lattigo": {"consilium/he", "consilium/he/party"},
	"gorgonia.org/":                  {"consilium/models/net"},
	"github.com/hashicorp/raft":      {"consilium/coordinator"},
	"github.com/open-policy-agent":   {"consilium/policy"},
	"github.com/transparency-dev":    {"consilium/provenance"},
	"github.com/apache/arrow": {"consilium/models", "consilium/models/net", "consilium/policy", "consilium/provenance", "consilium/worker/vault", "consilium/internal/table",
		"consilium/internal/export"}, // what the result tells, after release
	"cel.dev/":                        {"consilium/internal/table"},
	"google.golang.org/grpc":          {"consilium/api/v1", "consilium/internal/wire", "consilium/coordinator"},
	"github.com/ethereum/go-ethereum": {"consilium/cmd/consilium-anchor", "consilium/cmd/consilium-anchor/evm"},
	"github.com/cometbft":             {},
	"go.opentelemetry.io":             {"consilium/internal/span"},
}

// offline rooms may not import a package that opens a socket.
var offline = []string{"consilium", "consilium/he", "consilium/he/party", "consilium/models", "consilium/models/net",
	"consilium/policy", "consilium/provenance/chain", "consilium/worker/vault", "consilium/internal/hatch", "consilium/internal/fixed",
	"consilium/internal/det", "consilium/internal/seal", "consilium/internal/hybrid"}

func TestWalls(t *testing.T) {
	imports := packageImports(t)
	for pkg, list := range imports {
		allowed, listed := walls[pkg]
		if !listed {
			t.Errorf("%s is not in the table of walls: list it with the rooms it may enter", pkg)
			continue
		}
		ok := map[string]bool{}
		for _, a := range allowed {
			if a != "consilium" {
				a = "consilium/" + a
			}
			ok[a] = true
		}
		for _, imp := range list {
			if (imp == "consilium" || strings.HasPrefix(imp, "consilium/")) && !ok[imp] && !ok["consilium/*"] {
				t.Errorf("%s imports %s, which the table of walls forbids", pkg, imp)
			}
			if pkg == "consilium" && strings.Contains(strings.SplitN(imp, "/", 2)[0], ".") {
				t.Errorf("the root package imports %s: standard library only", imp)
			}
			for lib, rooms := range owners {
				if strings.HasPrefix(imp, lib) && !contains(rooms, pkg) {
					t.Errorf("%s imports %s, which belongs to %v", pkg, imp, rooms)
				}
			}
			if contains(offline, pkg) && (imp == "net" || strings.HasPrefix(imp, "net/") || strings.HasPrefix(imp, "crypto/tls")) {
				t.Errorf("%s imports %s: this room has no socket", pkg, imp)
			}
		}
	}
	for pkg := range walls {
		if _, ok := imports[pkg]; !ok {
			t.Errorf("the table of walls lists %s, which does not exist", pkg)
		}
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// packageImports maps every package of the module to the imports of its
// non-test files, whatever their build constraints.
func packageImports(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string]map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			name := d.Name()
			if path != "." && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata") {
				return filepath.SkipDir
			}
			if path != "." {
				if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
					return filepath.SkipDir
				}
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := "consilium"
		if dir := filepath.ToSlash(filepath.Dir(path)); dir != "." {
			pkg += "/" + dir
		}
		if out[pkg] == nil {
			out[pkg] = map[string]bool{}
		}
		for _, spec := range f.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			out[pkg][p] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	flat := map[string][]string{}
	for pkg, set := range out {
		for imp := range set {
			flat[pkg] = append(flat[pkg], imp)
		}
		sort.Strings(flat[pkg])
	}
	return flat
}
