package policy

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
)

//go:embed rego/*.rego schema/*.json law/law.json law/rules.json
var coreFiles embed.FS

// Limits of a bundle.
const (
	MaxBundleSize = 1 << 20
	MaxModules    = 64
)

// Bundle is every file that a decision depends on, by path: the core rules
// (rego/), the schemas (schema/), the table of rules and the dated law (law/),
// and for each board its overlay (board/<id>/*.rego) and what it files
// (board/<id>/board.json).
//
// The core is this software's own: a bundle with another core is refused,
// because its decisions could not be reproduced here. law/law.json may be newer
// than the software's.
type Bundle struct {
	files map[string][]byte
}

// DefaultBundle is the core with the dated law and no board.
func DefaultBundle() Bundle {
	b := Bundle{files: map[string][]byte{}}
	err := fs.WalkDir(coreFiles, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b.files[p], err = coreFiles.ReadFile(p)
		return err
	})
	if err != nil {
		panic("policy: an embedded file cannot be read: " + err.Error())
	}
	return b
}

//go:embed example/board/*/*
var exampleFiles embed.FS

// DemoBundle is the core with the board of the CGD demonstration: a policy to
// read, and to start one's own from.
func DemoBundle() Bundle {
	dir, err := fs.Sub(exampleFiles, "example")
	if err != nil {
		panic("policy: " + err.Error())
	}
	b, err := ReadBundle(dir)
	if err != nil {
		panic("policy: the embedded example cannot be read: " + err.Error())
	}
	return b
}

// With returns a copy of b with one more or one other file. The path is
// checked when the bundle is loaded.
func (b Bundle) With(name string, content []byte) Bundle {
	out := Bundle{files: maps.Clone(b.files)}
	if out.files == nil {
		out.files = map[string][]byte{}
	}
	out.files[name] = slices.Clone(content)
	return out
}

// Without returns a copy of b without one file.
func (b Bundle) Without(name string) Bundle {
	out := Bundle{files: maps.Clone(b.files)}
	delete(out.files, name)
	return out
}

// File returns one file's content.
func (b Bundle) File(name string) ([]byte, bool) {
	c, ok := b.files[name]
	return slices.Clone(c), ok
}

// Paths lists the files, ascending.
func (b Bundle) Paths() []string { return sortedKeys(b.files) }

// Digest names the content: the domain digest of the sorted lines "path",
// NUL, SHA-256 of the file in hexadecimal. Signatures are not part of it.
func (b Bundle) Digest() consilium.Digest {
	var lines []byte
	for _, p := range b.Paths() {
		h := sha256.Sum256(b.files[p])
		lines = append(lines, p...)
		lines = append(lines, 0)
		lines = append(lines, hex.EncodeToString(h[:])...)
		lines = append(lines, '\n')
	}
	return consilium.DomainPolicy.Digest(lines)
}

type bundleFile struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Files      map[string]string `json:"files"`
}

// Encode is the bundle's one encoding, for storage and transport: RFC 8785
// JSON with every file as a string.
func (b Bundle) Encode() ([]byte, error) {
	f := bundleFile{APIVersion: consilium.APIVersion, Kind: "PolicyBundle", Files: map[string]string{}}
	for p, c := range b.files {
		if !utf8.Valid(c) {
			return nil, fmt.Errorf("bundle: %s is not UTF-8 text", p)
		}
		f.Files[p] = string(c)
	}
	out, err := canon.Marshal(f)
	if err == nil && len(out) > MaxBundleSize {
		err = fmt.Errorf("bundle: %d bytes, at most %d", len(out), MaxBundleSize)
	}
	return out, err
}

// ParseBundle is the inverse of Encode; it accepts no other encoding.
func ParseBundle(data []byte) (Bundle, error) {
	if len(data) > MaxBundleSize {
		return Bundle{}, consilium.ErrTooLarge.Withf("policy bundle of %d bytes, at most %d", len(data), MaxBundleSize)
	}
	if err := canon.Check(data); err != nil {
		return Bundle{}, consilium.ErrInvalid.Withf("policy bundle: %w", err)
	}
	var f bundleFile
	if err := strict(data, &f); err != nil {
		return Bundle{}, consilium.ErrInvalid.Withf("policy bundle: %w", err)
	}
	if f.APIVersion != consilium.APIVersion || f.Kind != "PolicyBundle" {
		return Bundle{}, consilium.ErrInvalid.Withf("policy bundle: apiVersion %q kind %q", clip(f.APIVersion), clip(f.Kind))
	}
	b := Bundle{files: map[string][]byte{}}
	for p, c := range f.Files {
		b.files[p] = []byte(c)
	}
	return b, nil
}

// ReadBundle reads a directory that a board edits: the core is added where
// the directory does not hold it, so a board keeps only board/<id>/ and, if it
// updates it, law/law.json.
func ReadBundle(dir fs.FS) (Bundle, error) {
	b := DefaultBundle()
	total := 0
	err := fs.WalkDir(dir, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p != "." && strings.HasPrefix(path.Base(p), ".") {
				return fs.SkipDir
			}
			return nil
		}
		if !overlayPath.MatchString(p) && b.files[p] == nil {
			return fmt.Errorf("%s: a bundle holds board/<id>/*.rego, board/<id>/board.json and law/law.json", p)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if total += int(info.Size()); info.Size() > MaxBundleSize || total > MaxBundleSize {
			return fmt.Errorf("more than %d bytes", MaxBundleSize)
		}
		b.files[p], err = fs.ReadFile(dir, p)
		return err
	})
	if err != nil {
		return Bundle{}, consilium.ErrInvalid.Withf("policy bundle: %w", err)
	}
	return b, nil
}

var overlayPath = regexp.MustCompile(`^board/([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)/([a-z0-9_]{1,64}\.rego|board\.json)$`)

// boards checks the paths and returns the boards' ids, ascending.
func (b Bundle) boards() ([]string, error) {
	core := DefaultBundle()
	var ids []string
	size := 0
	for _, p := range b.Paths() {
		size += len(b.files[p])
		if own, ok := core.files[p]; ok {
			if p != "law/law.json" && string(own) != string(b.files[p]) {
				return nil, fmt.Errorf("%s differs from this software's own: install the release that the bundle was made for", p)
			}
			continue
		}
		m := overlayPath.FindStringSubmatch(p)
		if m == nil {
			return nil, fmt.Errorf("%s: not a place of a bundle", clip(p))
		}
		if !slices.Contains(ids, m[1]) {
			ids = append(ids, m[1])
		}
	}
	for p := range core.files {
		if b.files[p] == nil {
			return nil, fmt.Errorf("%s is missing", p)
		}
	}
	if size > MaxBundleSize || len(b.files) > MaxModules {
		return nil, fmt.Errorf("%d bytes in %d files: at most %d in %d", size, len(b.files), MaxBundleSize, MaxModules)
	}
	for _, id := range ids {
		if b.files["board/"+id+"/board.json"] == nil {
			return nil, fmt.Errorf("board/%s/board.json is missing: a board says what it grants, even if nothing", id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// AnyStudy in a Grant means every study of the federation.
const AnyStudy = "*"

// Grant is what board members sign under DomainPolicy: this policy, for this
// study or for any, for this long.
type Grant struct {
	APIVersion string           `json:"apiVersion"`
	Kind       string           `json:"kind"` // "PolicyGrant"
	Policy     consilium.Digest `json:"policy"`
	Study      string           `json:"study"` // a study id or AnyStudy
	NotBefore  int64            `json:"notBefore"`
	NotAfter   int64            `json:"notAfter"`
}

// NewGrant makes the payload for members to sign.
func NewGrant(policy consilium.Digest, study string, notBefore, notAfter int64) ([]byte, error) {
	g := Grant{APIVersion: consilium.APIVersion, Kind: "PolicyGrant", Policy: policy, Study: study, NotBefore: notBefore, NotAfter: notAfter}
	if err := g.validate(); err != nil {
		return nil, err
	}
	return canon.Marshal(g)
}

func (g Grant) validate() error {
	switch {
	case g.APIVersion != consilium.APIVersion || g.Kind != "PolicyGrant":
		return fmt.Errorf("policy grant: apiVersion %q kind %q", clip(g.APIVersion), clip(g.Kind))
	case g.Policy.IsZero():
		return errors.New("policy grant: no policy digest")
	case g.Study == "":
		return errors.New("policy grant: no study; \"*\" means every study")
	case g.NotBefore < 0 || g.NotBefore >= g.NotAfter:
		return errors.New("policy grant: notBefore is not before notAfter")
	}
	return nil
}

// Trust says whose signatures make a bundle valid, and for what.
type Trust struct {
	Keys      map[string]consilium.PublicKey // board members by id, from the pinned roster
	Threshold int                            // k: how many of them must have signed
	Grant     *consilium.Signed              // payload made by NewGrant
	Study     consilium.StudyID              // the study that asks; "" accepts grants for any study only
	Now       int64                          // Unix seconds
}

// Verify checks that k board members signed this bundle for this study and
// that the grant holds now.
func (t Trust) Verify(b Bundle) error {
	if t.Grant == nil {
		return consilium.ErrSignature.Withf("the policy bundle carries no grant of the board")
	}
	if err := hybrid.VerifyThreshold(t.Keys, t.Threshold, consilium.DomainPolicy, t.Grant); err != nil {
		return fmt.Errorf("policy grant: %w", err)
	}
	if err := canon.Check(t.Grant.Payload); err != nil {
		return consilium.ErrInvalid.Withf("policy grant: %w", err)
	}
	var g Grant
	if err := strict(t.Grant.Payload, &g); err != nil {
		return consilium.ErrInvalid.Withf("policy grant: %w", err)
	}
	if err := g.validate(); err != nil {
		return consilium.ErrInvalid.With(err)
	}
	switch {
	case g.Policy != b.Digest():
		return consilium.ErrPolicy.Withf("the board signed policy %s, this is %s", g.Policy.Short(), b.Digest().Short())
	case g.Study != AnyStudy && (t.Study == "" || g.Study != string(t.Study)):
		return consilium.ErrPolicy.Withf("the board's grant is for another study")
	case t.Now < g.NotBefore || t.Now >= g.NotAfter:
		return consilium.ErrStale.Withf("the board's grant does not hold now")
	}
	return nil
}

// Load verifies the board's signatures and compiles the bundle.
func Load(b Bundle, t Trust) (*Engine, error) {
	if err := t.Verify(b); err != nil {
		return nil, err
	}
	return Compile(b)
}

// readJSON decodes and validates one JSON file of the bundle.
func (b Bundle) readJSON(all schemas, name, def string) (any, error) {
	v, err := decode(b.files[name])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	v, err = all.check(def, v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}

func plain(v any) (json.RawMessage, error) { return canon.Marshal(v) }
