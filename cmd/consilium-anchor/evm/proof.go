package evm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/ethclient/gethclient"
	"github.com/ethereum/go-ethereum/rlp"
	"github.com/ethereum/go-ethereum/rpc"

	"consilium/provenance"
	"consilium/provenance/chain"
)

// Prove fetches the proof of an anchor in a block of the canonical chain: at
// the anchor's own height, or any later one.
func Prove(ctx context.Context, c Chain, r *rpc.Client, a *provenance.Anchor, height uint64) (*provenance.Anchor, error) {
	number := new(big.Int).SetUint64(height)
	head, err := c.HeaderByNumber(ctx, number)
	if err != nil {
		return nil, err
	}
	header, err := rlp.EncodeToBytes(head)
	if err != nil {
		return nil, err
	}
	got, err := gethclient.New(r).GetProof(ctx, common.HexToAddress(a.Contract), []string{common.Hash(chain.RootSlot(a.Epoch)).Hex()}, number)
	if err != nil {
		return nil, fmt.Errorf("anchor: the node gives no proof of block %d: %w; ask an archive node for an old block", height, err)
	}
	p := chain.Proof{Header: header}
	for _, n := range got.AccountProof {
		p.Account = append(p.Account, common.FromHex(n))
	}
	if len(got.StorageProof) != 1 {
		return nil, errors.New("anchor: the node proved another slot than was asked for")
	}
	for _, n := range got.StorageProof[0].Proof {
		p.Storage = append(p.Storage, common.FromHex(n))
	}
	// What the record names is the block that its verifier must be told to trust.
	out := *a
	out.Block, out.Height = head.Hash().Hex(), height
	if out.Proof, err = json.Marshal(&p); err != nil {
		return nil, err
	}
	// The chain may have changed between two questions: what does not verify now
	// is not handed out.
	trust := chain.Trust{Contract: chain.Address(common.HexToAddress(a.Contract)), Blocks: []chain.Hash{chain.Hash(head.Hash())}}
	if _, err := chain.Verify(&out, trust); err != nil {
		return nil, err
	}
	return &out, nil
}
