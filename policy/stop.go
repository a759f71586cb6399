package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
)

// Stop is what one member of the board signs under DomainStop to end the use
// of rows at once: of studies, of a policy, or of everything. One signature is
// enough, since a stop permits nothing; k of n are asked for what permits.
//
// A stop is data, not a policy: a running study keeps the policy that it began
// with, and still reads the stops before every use.
type Stop struct {
	APIVersion string              `json:"apiVersion"`
	Kind       string              `json:"kind"` // "PolicyStop"
	Studies    []consilium.StudyID `json:"studies"`
	Policies   []consilium.Digest  `json:"policies"`
	All        bool                `json:"all"`
	From       int64               `json:"from"` // Unix seconds; 0 is at once, whatever the clocks say
	Reason     string              `json:"reason"`
}

const (
	stopKind      = "PolicyStop"
	maxStopReason = 512
	maxStopFile   = 1 << 20
	maxStops      = 1024
)

// Encode is the payload for a member to sign.
func (s Stop) Encode() ([]byte, error) {
	s.APIVersion, s.Kind = consilium.APIVersion, stopKind
	s.Studies, s.Policies = orEmpty(s.Studies), orEmpty(s.Policies)
	if err := s.validate(); err != nil {
		return nil, err
	}
	return canon.Marshal(s)
}

func (s Stop) validate() error {
	switch {
	case s.APIVersion != consilium.APIVersion || s.Kind != stopKind:
		return fmt.Errorf("stop: apiVersion %q kind %q", clip(s.APIVersion), clip(s.Kind))
	case !s.All && len(s.Studies)+len(s.Policies) == 0:
		return errors.New("stop: it names no study and no policy; say all to stop everything")
	case s.From < 0 || s.From > Never:
		return errors.New("stop: from is not a moment")
	case s.Reason == "" || len(s.Reason) > maxStopReason:
		return fmt.Errorf("stop: give a reason of at most %d bytes", maxStopReason)
	}
	return nil
}

// ParseStop verifies a stop against the board's keys.
func ParseStop(doc *consilium.Signed, keys map[string]consilium.PublicKey) (Stop, error) {
	var s Stop
	if err := hybrid.VerifyThreshold(keys, 1, consilium.DomainStop, doc); err != nil {
		return s, fmt.Errorf("stop: %w", err)
	}
	if err := canon.Check(doc.Payload); err != nil {
		return s, consilium.ErrInvalid.Withf("stop: %w", err)
	}
	if err := strict(doc.Payload, &s); err != nil {
		return s, consilium.ErrInvalid.Withf("stop: %w", err)
	}
	if err := s.validate(); err != nil {
		return s, consilium.ErrInvalid.With(err)
	}
	return s, nil
}

// Stops is a hospital's list of stops.
type Stops []Stop

// ReadStops reads a directory of signed stops, one *.json each; a directory with
// nothing in it is an empty list. A directory that is not there, a file of another
// name or one that does not verify makes the whole list unusable: what was meant to
// be stopped is not known.
func ReadStops(dir string, keys map[string]consilium.PublicKey) (Stops, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, consilium.ErrPolicy.Withf("the board's stops cannot be read: %w; put them back, or make an empty directory %s if the board has stopped nothing", err, dir)
	}
	if err != nil {
		return nil, err
	}
	var out Stops
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			return nil, consilium.ErrPolicy.Withf("%s is no stop: stops are signed files that end in .json; rename it if it is one, or remove it; nothing is read until then", filepath.Join(dir, e.Name()))
		}
		if len(out) == maxStops {
			return nil, consilium.ErrTooLarge.Withf("more than %d stops in %s", maxStops, dir)
		}
		s, err := readStop(filepath.Join(dir, e.Name()), keys)
		if err != nil {
			return nil, fmt.Errorf("%s: %w; nothing is read until it is removed or replaced", filepath.Join(dir, e.Name()), err)
		}
		out = append(out, s)
	}
	return out, nil
}

func readStop(path string, keys map[string]consilium.PublicKey) (Stop, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Stop{}, err
	}
	if info.Size() > maxStopFile {
		return Stop{}, consilium.ErrTooLarge.Withf("a stop of %d bytes", info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Stop{}, err
	}
	var doc consilium.Signed
	if err := strict(b, &doc); err != nil {
		return Stop{}, consilium.ErrInvalid.With(err)
	}
	return ParseStop(&doc, keys)
}

// Denial is the refusal of what a stop names, or nil.
func (l Stops) Denial(point Point, study consilium.StudyID, policy consilium.Digest, now int64) *Decision {
	for _, s := range l {
		if now < s.From {
			continue
		}
		if s.All || slices.Contains(s.Studies, study) || slices.Contains(s.Policies, policy) {
			d := deny(point, CodeStopped, "the board has stopped it: %s", s.Reason)
			d.PolicyDigest = policy
			return &d
		}
	}
	return nil
}
