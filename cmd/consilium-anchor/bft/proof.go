package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	cmtjson "github.com/cometbft/cometbft/libs/json"
	"github.com/cometbft/cometbft/types"

	"consilium"
	"consilium/internal/hybrid"
	"consilium/provenance"
)

// proof is a block header that more than two thirds of the validators signed,
// and the place of the transaction under its data hash. What a verifier must
// trust is the genesis: who the validators are.
type proof struct {
	Block types.SignedHeader `json:"block"`
	Tx    types.TxProof      `json:"tx"`
}

func readGenesis(b []byte) (*types.GenesisDoc, *types.ValidatorSet, *appState, error) {
	g, err := types.GenesisDocFromJSON(b)
	if err != nil {
		return nil, nil, nil, err
	}
	var list []*types.Validator
	for _, v := range g.Validators {
		list = append(list, types.NewValidator(v.PubKey, v.Power))
	}
	var s appState
	if err := json.Unmarshal(g.AppState, &s); err != nil {
		return nil, nil, nil, err
	}
	if len(list) == 0 || len(s.Submitters) == 0 {
		return nil, nil, nil, errors.New("genesis: no validators or no submitters")
	}
	return g, types.NewValidatorSet(list), &s, nil
}

// verify checks an anchor offline against the genesis that the verifier trusts.
func verify(a *provenance.Anchor, genesis []byte) error {
	bad := func(format string, args ...any) error {
		return consilium.ErrSignature.Withf("anchor: "+format, args...)
	}
	g, vals, own, err := readGenesis(genesis)
	if err != nil {
		return err
	}
	if a.Chain != provenance.ChainComet || a.ChainID != g.ChainID {
		return bad("of chain %s %s, the genesis is of %s", a.Chain, a.ChainID, g.ChainID)
	}
	if root, err := provenance.SuperRoot(a.Epoch, a.Heads); err != nil || root != a.SuperRoot {
		return bad("the super-root is not that of the heads")
	}
	var p proof
	if err := cmtjson.Unmarshal(a.Proof, &p); err != nil {
		return bad("no proof: %w", err)
	}
	if err := p.Block.ValidateBasic(g.ChainID); err != nil {
		return bad("%w", err)
	}
	if !bytes.Equal(p.Block.ValidatorsHash, vals.Hash()) {
		return bad("the block is of other validators than the genesis names")
	}
	if err := types.VerifyCommitLight(g.ChainID, vals, p.Block.Commit.BlockID, p.Block.Height, p.Block.Commit); err != nil {
		return bad("%w", err)
	}
	if err := p.Tx.Validate(p.Block.DataHash); err != nil {
		return bad("%w", err)
	}
	t, err := parsePut(p.Tx.Data)
	if err != nil {
		return bad("transaction: %w", err)
	}
	if !slices.Contains(own.Submitters, t.By) {
		return bad("signed by nobody whom the genesis names")
	}
	if err := hybrid.Verify(t.By, consilium.DomainAnchor, t.message(), &t.Signature); err != nil {
		return bad("%w", err)
	}
	if t.Chain != a.ChainID || t.Epoch != a.Epoch || t.SuperRoot != a.SuperRoot {
		return bad("block %d holds another super-root for epoch %d", p.Block.Height, t.Epoch)
	}
	if uint64(p.Block.Height) != a.Height || !strings.EqualFold(hex.EncodeToString(p.Block.Hash()), a.Block) {
		return bad("it is in block %d", p.Block.Height)
	}
	return nil
}

func encodeProof(p *proof) (json.RawMessage, error) {
	b, err := cmtjson.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("proof: %w", err)
	}
	return b, nil
}
