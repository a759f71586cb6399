package consilium_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"consilium"
)

// domainString matches a domain string that is not an import path.
var domainString = regexp.MustCompile(`(?:[=(,{:]|\s=)\s*"(consilium/[a-z-]+/v[0-9]+)"`)

// TestDomainStrings holds the table: every string once, in domain.go only,
// and every one listed by Domains.
func TestDomainStrings(t *testing.T) {
	listed := map[consilium.Domain]bool{}
	for _, d := range consilium.Domains() {
		if listed[d] {
			t.Errorf("%s is listed twice", d)
		}
		listed[d] = true
	}
	b, err := os.ReadFile("domain.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range domainString.FindAllStringSubmatch(string(b), -1) {
		if seen[m[1]] {
			t.Errorf("%s stands twice in the table", m[1])
		}
		seen[m[1]] = true
		if !listed[consilium.Domain(m[1])] {
			t.Errorf("%s is not listed by Domains", m[1])
		}
	}
	if len(seen) != len(listed) {
		t.Errorf("the table has %d strings, Domains lists %d", len(seen), len(listed))
	}
	err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || path == "domain.go" || strings.HasSuffix(path, ".pb.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range domainString.FindAllStringSubmatch(string(b), -1) {
			t.Errorf("%s: the domain string %s belongs into domain.go", path, m[1])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDomainDigestIsInjective: parts of different lengths never hash the same
// bytes, and neither do two domains.
func TestDomainDigestIsInjective(t *testing.T) {
	d := consilium.DomainHeader
	if d.Digest([]byte("ab"), []byte("c")) == d.Digest([]byte("a"), []byte("bc")) {
		t.Error("the border between parts is not hashed")
	}
	if d.Digest(nil) == d.Digest() {
		t.Error("the number of parts is not hashed")
	}
	if d.Digest([]byte("a")) == consilium.DomainVote.Digest([]byte("a")) {
		t.Error("the domain is not hashed")
	}
}

// DigestReader is Digest of the same bytes, and refuses other lengths.
func TestDigestReader(t *testing.T) {
	for _, n := range []int{0, 1, 100, 1 << 17} {
		b := bytes.Repeat([]byte{3, 1, 4}, n)
		got, err := consilium.DomainState.DigestReader(bytes.NewReader(b), uint64(len(b)))
		if err != nil || got != consilium.DomainState.Digest(b) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
		for _, wrong := range []int{len(b) + 1, len(b) - 1} {
			if _, err := consilium.DomainState.DigestReader(bytes.NewReader(b), uint64(wrong)); err == nil {
				t.Errorf("%d bytes as %d", len(b), wrong)
			}
		}
	}
}
