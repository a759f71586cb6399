package consilium

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"strings"
)

// SiteID names an institution of the roster, for example "mt-sinai".
type SiteID string

// NodeID names a coordinator node of the roster.
type NodeID string

// ResearcherID names a data-science team member of the roster.
type ResearcherID string

// StudyID names one submitted study. It is derived from the submission, so
// the same submission sent twice is one study.
type StudyID string

// Position is a hospital's place in a charter, counted from 1. It is also its
// Shamir point: 0 would hand out the secret itself and is never valid.
type Position uint16

// MaxSites is the most hospitals one charter may enrol. The lane widths of the
// encryption profiles carry sums of at most this many contributions.
const MaxSites = 128

// ParseSiteID accepts 1 to 63 characters a-z, 0-9 and inner hyphens.
func ParseSiteID(s string) (SiteID, error) {
	if err := checkLabel("site id", s); err != nil {
		return "", err
	}
	return SiteID(s), nil
}

// ParseNodeID accepts what ParseSiteID accepts.
func ParseNodeID(s string) (NodeID, error) {
	if err := checkLabel("node id", s); err != nil {
		return "", err
	}
	return NodeID(s), nil
}

// ParseResearcherID accepts what ParseSiteID accepts.
func ParseResearcherID(s string) (ResearcherID, error) {
	if err := checkLabel("researcher id", s); err != nil {
		return "", err
	}
	return ResearcherID(s), nil
}

var studyEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewStudyID derives the study's name from the digest of its signed submission.
func NewStudyID(submission Digest) StudyID {
	return StudyID("s-" + studyEncoding.EncodeToString(submission[:10]))
}

// ParseStudyID accepts exactly what NewStudyID makes.
func ParseStudyID(s string) (StudyID, error) {
	body, ok := strings.CutPrefix(s, "s-")
	if !ok || len(body) != 16 {
		return "", fmt.Errorf("study id %q: want s- and 16 characters a-z, 2-7", clip(s))
	}
	if _, err := studyEncoding.DecodeString(body); err != nil {
		return "", fmt.Errorf("study id %q: want s- and 16 characters a-z, 2-7", clip(s))
	}
	return StudyID(s), nil
}

func checkLabel(what, s string) error {
	if s == "" || len(s) > 63 {
		return fmt.Errorf("%s %q: want 1 to 63 characters", what, clip(s))
	}
	for i, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c == '-' && i > 0 && i < len(s)-1:
		default:
			return fmt.Errorf("%s %q: only a-z, 0-9 and inner hyphens", what, clip(s))
		}
	}
	return nil
}

// clip keeps a peer's text short enough for an error message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// Digest is a SHA-256 value, made only by Domain.Digest or ParseDigest.
type Digest [sha256.Size]byte

// ParseDigest accepts 64 lower-case hexadecimal characters.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != 2*len(d) || strings.ToLower(s) != s {
		return d, fmt.Errorf("digest %q: want 64 lower-case hexadecimal characters", clip(s))
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return Digest{}, fmt.Errorf("digest %q: want 64 lower-case hexadecimal characters", clip(s))
	}
	return d, nil
}

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Short is the first eight hexadecimal characters, for people and logs.
func (d Digest) Short() string { return hex.EncodeToString(d[:4]) }

// IsZero reports whether d was never set. A zero digest refers to nothing.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler with ParseDigest's rules.
func (d *Digest) UnmarshalText(b []byte) error {
	v, err := ParseDigest(string(b))
	if err != nil {
		return err
	}
	*d = v
	return nil
}
