// Package pinned holds what a member or a stranger trusts before anything
// else: the ethics board's keys. A roster is opened here and nowhere else
// without its board's signatures.
package pinned

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
)

// Board is the board that somebody trusts, as `provision install` writes it to
// board.json.
type Board struct {
	APIVersion string                         `json:"apiVersion"`
	Kind       string                         `json:"kind"` // "Board"
	Threshold  int                            `json:"threshold"`
	Keys       map[string]consilium.PublicKey `json:"keys"`
}

// BoardOf is the board that a roster names itself. Trusting it is trusting
// whoever gave the roster.
func BoardOf(r *consilium.Roster) *Board {
	b := &Board{APIVersion: consilium.APIVersion, Kind: "Board", Threshold: r.Board.Threshold, Keys: map[string]consilium.PublicKey{}}
	for _, m := range r.Board.Members {
		b.Keys[m.ID] = m.Key
	}
	return b
}

// Digest is what a board publishes so that others can compare.
func (b *Board) Digest() consilium.Digest {
	doc, err := canon.Marshal(b)
	if err != nil {
		panic("board: " + err.Error()) // plain values only
	}
	return consilium.DomainBlob.Digest(doc)
}

// ReadBoard reads board.json.
func ReadBoard(path string) (*Board, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var b Board
	if err := strictJSON(raw, &b); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if b.APIVersion != consilium.APIVersion || b.Kind != "Board" || b.Threshold < 1 || b.Threshold > len(b.Keys) {
		return nil, fmt.Errorf("%s: not a pinned board; run `consilium provision install`", path)
	}
	return &b, nil
}

// ParseRoster reads a roster's file without checking a signature: for a
// roster that is still being signed, and for readers that then call Check.
func ParseRoster(path string) (*consilium.Signed, *consilium.Roster, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	var s consilium.Signed
	if err := strictJSON(raw, &s); err != nil {
		return nil, nil, fmt.Errorf("%s: %w; it is not a roster file", path, err)
	}
	r, err := consilium.ParseRoster(s.Payload)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return &s, r, nil
}

// Check holds a roster against the board.
func (b *Board) Check(s *consilium.Signed) error {
	return hybrid.VerifyThreshold(b.Keys, b.Threshold, consilium.DomainRoster, s)
}

// Roster is a roster that a board signed.
type Roster struct {
	*consilium.Roster
	Signed *consilium.Signed

	// Pinned says that the board is one that the reader trusts. Otherwise it is
	// the roster's own, and the reader must compare the digest of By with what the
	// board publishes.
	Pinned bool
	By     *Board
}

// Unpinned is what a reader is told of a roster whose board was not given.
func (r *Roster) Unpinned() string {
	return fmt.Sprintf("the board's keys are those of this roster (fingerprint %s): compare them with what the board publishes, or give --board", Groups(r.By.Digest()))
}

// OpenRoster reads a roster and checks its board's signatures: those of the
// board in boardPath, or, where that is "", of the board that it names itself.
func OpenRoster(path, boardPath string) (*Roster, error) {
	s, r, err := ParseRoster(path)
	if err != nil {
		return nil, err
	}
	out := &Roster{Roster: r, Signed: s, By: BoardOf(r)}
	if boardPath != "" {
		if out.By, err = ReadBoard(boardPath); err != nil {
			return nil, err
		}
		out.Pinned = true
	}
	if err := out.By.Check(s); err != nil {
		return nil, fmt.Errorf("%s: the board has not signed it: %w; ask the board for the signed roster", path, err)
	}
	return out, nil
}

// Groups prints the first half of a digest in groups of four, for two people on
// the telephone.
func Groups(d consilium.Digest) string {
	s := d.String()[:32]
	out := s[:4]
	for i := 4; i < len(s); i += 4 {
		out += " " + s[i:i+4]
	}
	return out
}

// strictJSON refuses unknown fields and anything after the value.
func strictJSON(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("bytes after the JSON value")
	}
	return nil
}
