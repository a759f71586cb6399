package provenance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"consilium"
	"consilium/internal/canon"
)

// An anchor puts the heads of all hospitals' ledgers, as one hash, where nobody
// of the federation can take it back: into a chain. It is optional. What it adds
// to witnesses is a date and a history that hold even if every witness and every
// hospital later agree on another one.
//
// This file knows no chain. It makes the super-root and checks that a ledger is
// under it; cmd/consilium-anchor speaks to chains, and package chain verifies
// their proofs.

// Head is one ledger's tree head.
type Head struct {
	Origin string           `json:"origin"`
	Size   uint64           `json:"size"`
	Root   consilium.Digest `json:"root"`
}

// maxHeads bounds an epoch: several times the hospitals of the largest charter.
const maxHeads = 1024

// SuperRoot is the RFC 6962 root over the heads, which are in the order of
// their origins, each once. A leaf is the head's RFC 8785 encoding.
func SuperRoot(epoch uint64, heads []Head) (consilium.Digest, error) {
	if epoch == 0 || len(heads) == 0 || len(heads) > maxHeads {
		return consilium.Digest{}, fmt.Errorf("anchor: epoch %d of %d heads", epoch, len(heads))
	}
	leaves := make([]consilium.Digest, len(heads))
	for i, h := range heads {
		if err := checkName("origin", h.Origin); err != nil {
			return consilium.Digest{}, fmt.Errorf("anchor: %w", err)
		}
		if h.Size == 0 || h.Size > MaxTreeSize || i > 0 && heads[i-1].Origin >= h.Origin {
			return consilium.Digest{}, fmt.Errorf("anchor: head %d: of size %d, or not in the order of origins", i, h.Size)
		}
		b, err := canon.Marshal(h)
		if err != nil {
			return consilium.Digest{}, err
		}
		leaves[i] = LeafHash(b)
	}
	root := TreeRoot(leaves)
	var n [8]byte
	for i := range n {
		n[i] = byte(epoch >> (56 - 8*i))
	}
	// The epoch is under the hash: a root put under another number would not be
	// this one.
	return consilium.DomainSuperRoot.Digest(n[:], root[:]), nil
}

// Heads verifies checkpoints against a roster that the caller trusts and makes
// an epoch's heads of them: each is of a ledger of the roster, cosigned by its
// witnesses, at whatever time. They come back in the order of their origins.
func Heads(r *consilium.Roster, checkpoints [][]byte, now time.Time) ([]Head, error) {
	witnesses, err := WitnessesOf(r)
	if err != nil {
		return nil, err
	}
	ledgers := map[string]string{}
	for i := range r.Sites {
		name, err := LogName(r.Sites[i].Ledger)
		if err != nil {
			return nil, fmt.Errorf("anchor: the ledger of %s: %w", r.Sites[i].ID, err)
		}
		ledgers[name] = r.Sites[i].Ledger
	}
	heads := make([]Head, 0, len(checkpoints))
	for i, raw := range checkpoints {
		cp, err := ParseCheckpoint(raw)
		if err != nil {
			return nil, consilium.ErrLedger.Withf("anchor: checkpoint %d: %w", i+1, err)
		}
		key, ok := ledgers[cp.Origin]
		if !ok {
			return nil, consilium.ErrLedger.Withf("anchor: checkpoint %d: the ledger %s is not in the roster", i+1, cp.Origin)
		}
		cp, err = VerifyCheckpoint(raw, CheckpointPolicy{Log: key, Witnesses: witnesses.AnyAge()}, now)
		if err != nil {
			return nil, fmt.Errorf("anchor: checkpoint %d: %w", i+1, err)
		}
		heads = append(heads, Head{Origin: cp.Origin, Size: cp.Size, Root: cp.Root})
	}
	slices.SortFunc(heads, func(a, b Head) int { return strings.Compare(a.Origin, b.Origin) })
	return heads, nil
}

// Kinds of chains.
const (
	ChainEVM   = "evm"
	ChainComet = "comet"
)

// AnchorStatus is where an anchor stands on its chain.
type AnchorStatus string

const (
	AnchorPending  AnchorStatus = "pending"     // sent, in no block that we know
	AnchorIncluded AnchorStatus = "included"    // in a block that may still be replaced
	AnchorFinal    AnchorStatus = "final"       // in a block that the chain does not replace
	AnchorReorged  AnchorStatus = "reorged-out" // its block was replaced; the same transaction is sent again
)

// Anchor is the record of one epoch, written by consilium-anchor. Proof is the
// chain's own, for its verifier; Block is what that verifier must be told to
// trust.
type Anchor struct {
	APIVersion string           `json:"apiVersion"`
	Kind       string           `json:"kind"` // "Anchor"
	Chain      string           `json:"chain"`
	ChainID    string           `json:"chainID"`
	Contract   string           `json:"contract"`
	Epoch      uint64           `json:"epoch"`
	SuperRoot  consilium.Digest `json:"superRoot"`
	Heads      []Head           `json:"heads"`
	Tx         string           `json:"tx"`
	Block      string           `json:"block"`  // its hash
	Height     uint64           `json:"height"` // of the block
	Status     AnchorStatus     `json:"status"`
	Proof      json.RawMessage  `json:"proof,omitempty"`
}

// ParseAnchor reads a record and checks that the super-root is that of its
// heads. Everything in it is its maker's word: that a chain holds it, package
// chain verifies (or, for CometBFT, consilium-anchor-bft).
func ParseAnchor(b []byte) (*Anchor, error) {
	if len(b) > 1<<20 {
		return nil, consilium.ErrInvalid.Withf("anchor: %d bytes", len(b))
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	a := &Anchor{}
	if err := d.Decode(a); err != nil {
		return nil, consilium.ErrInvalid.Withf("anchor: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, consilium.ErrInvalid.Withf("anchor: bytes after the record")
	}
	if a.APIVersion != consilium.APIVersion || a.Kind != "Anchor" || a.Chain != ChainEVM && a.Chain != ChainComet {
		return nil, consilium.ErrInvalid.Withf("anchor: apiVersion %q kind %q chain %q", clip(a.APIVersion), clip(a.Kind), clip(a.Chain))
	}
	switch a.Status {
	case AnchorPending, AnchorReorged:
		if len(a.Proof) > 0 {
			return nil, consilium.ErrInvalid.Withf("anchor: %s, and yet with a proof", a.Status)
		}
	case AnchorIncluded, AnchorFinal:
		if a.Block == "" || a.Height == 0 {
			return nil, consilium.ErrInvalid.Withf("anchor: %s, and in no block", a.Status)
		}
	default:
		return nil, consilium.ErrInvalid.Withf("anchor: status %q: want pending, included, final or reorged-out", clip(string(a.Status)))
	}
	root, err := SuperRoot(a.Epoch, a.Heads)
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	if root != a.SuperRoot {
		return nil, consilium.ErrLedger.Withf("anchor: the super-root is not that of the heads")
	}
	return a, nil
}

// Head returns what the anchor says of a ledger.
func (a *Anchor) Head(origin string) (Head, bool) {
	i, ok := slices.BinarySearchFunc(a.Heads, origin, func(h Head, o string) int { return strings.Compare(h.Origin, o) })
	if !ok {
		return Head{}, false
	}
	return a.Heads[i], true
}

// ErrAnchor says that a ledger is not the one that was anchored: its history
// was rewritten, by whomever.
var ErrAnchor = errors.New("the ledger is not the one that was anchored")

// ErrAnchorAge says that the newest anchor is not of these days. It is no word
// against the ledger: a newer anchor, or a clock that is right, mends it.
var ErrAnchorAge = errors.New("the anchors do not reach to these days")

// VerifyAnchored checks that the ledger whose entries hash to leaves is a
// continuation of what was anchored.
func VerifyAnchored(a *Anchor, origin string, leaves []consilium.Digest) error {
	h, ok := a.Head(origin)
	switch {
	case !ok:
		return consilium.ErrLedger.Withf("%w: epoch %d does not name %s", ErrAnchor, a.Epoch, clip(origin))
	case h.Size > uint64(len(leaves)):
		return consilium.ErrLedger.Withf("%w: %d entries were anchored in epoch %d, %d are left", ErrAnchor, h.Size, a.Epoch, len(leaves))
	case TreeRoot(leaves[:h.Size]) != h.Root:
		return consilium.ErrLedger.Withf("%w: the first %d entries have another root than in epoch %d", ErrAnchor, h.Size, a.Epoch)
	}
	return nil
}

// VerifyContinues checks that the ledger in view, at the checkpoint cp that the
// caller has verified, is a continuation of an anchored head. It asks the view for
// a proof of consistency (RFC 6962 §2.1.2) and believes nothing else of it.
func VerifyContinues(ctx context.Context, h Head, view View, cp *Checkpoint) error {
	if h.Origin != cp.Origin {
		return consilium.ErrLedger.Withf("%w: anchored was %s, this is %s", ErrAnchor, clip(h.Origin), cp.Origin)
	}
	if h.Size > cp.Size {
		return consilium.ErrLedger.Withf("%w: %d entries were anchored, %d are left", ErrAnchor, h.Size, cp.Size)
	}
	path, err := view.Consistency(ctx, h.Size, cp.Size)
	if err != nil {
		return consilium.ErrLedger.Withf("%w: no proof from %d to %d entries: %w", ErrAnchor, h.Size, cp.Size, err)
	}
	return CheckContinues(h, cp, path)
}

// CheckContinues is VerifyContinues with the proof at hand.
func CheckContinues(h Head, cp *Checkpoint, path []consilium.Digest) error {
	if h.Origin != cp.Origin || h.Size == 0 || h.Size > cp.Size {
		return consilium.ErrLedger.Withf("%w: %d entries of %s were anchored, this is %s with %d", ErrAnchor, h.Size, clip(h.Origin), cp.Origin, cp.Size)
	}
	if err := VerifyConsistency(h.Size, h.Root, cp.Size, cp.Root, path); err != nil {
		return consilium.ErrLedger.Withf("%w: the first %d entries have another root now: %w", ErrAnchor, h.Size, err)
	}
	return nil
}
