package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"consilium"
	"consilium/internal/archive"
	"consilium/provenance"
	"consilium/provenance/chain"
)

// An anchor's file says which ledgers were anchored. It is its maker's word until
// it is proven under a contract and a block that the reader brings.

// anchorTrust reads what a reader of anchors trusts; neither flag means nothing.
func anchorTrust(contract string, blocks []string) (*chain.Trust, error) {
	if contract == "" && len(blocks) == 0 {
		return nil, nil
	}
	if contract == "" || len(blocks) == 0 {
		return nil, usagef("give --contract ADDRESS and --block HASH together: a proof rests on both")
	}
	t := &chain.Trust{}
	var err error
	if t.Contract, err = chain.ParseAddress(contract); err != nil {
		return nil, usagef("--contract: %v", err)
	}
	for _, b := range blocks {
		h, err := chain.ParseHash(b)
		if err != nil {
			return nil, usagef("--block: %v", err)
		}
		t.Blocks = append(t.Blocks, h)
	}
	return t, nil
}

// anchoredLedger is what `ledger verify` says of one anchor.
type anchoredLedger struct {
	Epoch    uint64                  `json:"epoch"`
	Size     uint64                  `json:"size"`
	Proven   bool                    `json:"proven"` // under the contract and a block that the reader named
	Time     string                  `json:"time"`   // of the block, where it is proven
	Status   provenance.AnchorStatus `json:"status"` // this and what follows as the file says
	Chain    string                  `json:"chain"`
	ChainID  string                  `json:"chainID"`
	Contract string                  `json:"contract"`
	Block    string                  `json:"block"`
	Height   uint64                  `json:"height"`
}

func (h *hospital) verifyAnchors(ctx context.Context, cp *provenance.Checkpoint, paths []string, trust *chain.Trust) ([]anchoredLedger, error) {
	out := []anchoredLedger{}
	if len(paths) == 0 {
		return out, nil
	}
	entries, err := provenance.DirView(h.config.ledgerDir()).Entries(ctx, 0, cp.Size, cp.Size)
	if err != nil {
		return nil, err
	}
	leaves := make([]consilium.Digest, len(entries))
	for i, e := range entries {
		leaves[i] = provenance.LeafHash(e)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		a, err := provenance.ParseAnchor(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if err := provenance.VerifyAnchored(a, cp.Origin, leaves); err != nil {
			return nil, err
		}
		head, _ := a.Head(cp.Origin)
		x := anchoredLedger{Epoch: a.Epoch, Size: head.Size, Status: a.Status, Chain: a.Chain, ChainID: a.ChainID, Contract: a.Contract, Block: a.Block, Height: a.Height}
		if trust != nil {
			f, err := chain.Verify(a, *trust)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			x.Proven, x.Time = true, f.Time.Format(time.RFC3339)
		}
		out = append(out, x)
	}
	return out, nil
}

func showAnchored(w io.Writer, list []anchoredLedger) {
	for _, a := range list {
		switch {
		case a.Proven:
			fmt.Fprintf(w, "epoch %d: the first %d entries are what was anchored; block %d of %s holds it in contract %s\n", a.Epoch, a.Size, a.Height, a.Time, a.Contract)
		default:
			fmt.Fprintf(w, "epoch %d: the first %d entries are what the file says was anchored; that a chain holds it was not proven here\n", a.Epoch, a.Size)
			if a.Chain == provenance.ChainEVM {
				fmt.Fprintf(w, "  the file says %s, in block %d %s; give --contract with your federation's address and --block with a hash from a node of your own choice\n", a.Status, a.Height, a.Block)
			} else {
				fmt.Fprintf(w, "  the file says %s, in block %d of %s; `consilium-anchor-bft verify` proves it under the genesis that you trust\n", a.Status, a.Height, a.ChainID)
			}
		}
	}
}

// anchorReport says what the anchors that the vault demands fix.
func anchorReport(r *chain.Report, cp *provenance.Checkpoint) string {
	return fmt.Sprintf("%d anchors are proven; epoch %d, in block %d of %s, fixes the first %d of %d entries", r.Anchors, r.Newest.Epoch, r.Newest.Number, r.Newest.Time.Format(time.RFC3339), r.Size, cp.Size)
}

// anchorsFor is what an archive gets of the hospital's anchors: the newest that
// is not newer than the record's checkpoint.
func (h *hospital) anchorsFor(ctx context.Context, rec *archive.SiteRecord) ([]archive.Anchored, error) {
	if h.anchors == nil {
		return nil, nil
	}
	cp, err := provenance.ParseCheckpoint(rec.Checkpoint)
	if err != nil {
		return nil, err
	}
	a, err := h.anchors.NewestAnchor()
	if err != nil {
		return nil, err
	}
	head, ok := a.Head(cp.Origin)
	if !ok || head.Size > cp.Size {
		return nil, nil
	}
	path, err := provenance.DirView(h.config.ledgerDir()).Consistency(ctx, head.Size, cp.Size)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	return []archive.Anchored{{Anchor: b, Consistency: path}}, provenance.CheckContinues(head, cp, path)
}
