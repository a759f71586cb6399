package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"consilium"
	"consilium/provenance"
)

// An anchor's file says which ledgers were anchored. Here it is held against the
// hospital's own ledger; that a chain holds it is consilium-anchor's to prove,
// which alone links a chain's client.

// anchoredLedger is what `ledger verify` says of one anchor.
type anchoredLedger struct {
	Epoch   uint64                  `json:"epoch"`
	Size    uint64                  `json:"size"`
	Status  provenance.AnchorStatus `json:"status"` // as the file says
	Chain   string                  `json:"chain"`
	ChainID string                  `json:"chainID"`
	Block   string                  `json:"block"`
	Height  uint64                  `json:"height"`
}

func (h *hospital) verifyAnchors(ctx context.Context, cp *provenance.Checkpoint, paths []string) ([]anchoredLedger, error) {
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
			return nil, err
		}
		if err := provenance.VerifyAnchored(a, cp.Origin, leaves); err != nil {
			return nil, err
		}
		head, _ := a.Head(cp.Origin)
		out = append(out, anchoredLedger{a.Epoch, head.Size, a.Status, a.Chain, a.ChainID, a.Block, a.Height})
	}
	return out, nil
}

func showAnchored(w io.Writer, list []anchoredLedger) {
	for _, a := range list {
		fmt.Fprintf(w, "epoch %d: the first %d entries are the ledger that was anchored, %s in block %d %s of %s chain %s\n", a.Epoch, a.Size, a.Status, a.Height, a.Block, a.Chain, a.ChainID)
		fmt.Fprintf(w, "  that the block holds it, `consilium-anchor verify --block %s` proves; take the hash from a source of your own\n", a.Block)
	}
}
