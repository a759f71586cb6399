package evm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/ethclient/gethclient"
	"github.com/ethereum/go-ethereum/ethdb/memorydb"
	"github.com/ethereum/go-ethereum/rlp"
	"github.com/ethereum/go-ethereum/rpc"
	"github.com/ethereum/go-ethereum/trie"

	"consilium"
	"consilium/provenance"
)

// Proof is what a verifier needs beside a block hash that it trusts.
type Proof struct {
	Header  hexutil.Bytes   `json:"header"`  // RLP
	Account []hexutil.Bytes `json:"account"` // nodes from the state root
	Storage []hexutil.Bytes `json:"storage"` // nodes from the contract's storage root
}

// TrustedBlock is the hash of a block that the verifier believes in, from
// sources that do not depend on who made the proof.
type TrustedBlock = common.Hash

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
	got, err := gethclient.New(r).GetProof(ctx, common.HexToAddress(a.Contract), []string{rootSlot(a.Epoch).Hex()}, number)
	if err != nil {
		return nil, fmt.Errorf("anchor: the node gives no proof of block %d: %w; ask an archive node for an old block", height, err)
	}
	p := Proof{Header: header}
	for _, n := range got.AccountProof {
		p.Account = append(p.Account, common.FromHex(n))
	}
	if len(got.StorageProof) != 1 {
		return nil, errors.New("anchor: the node proved another slot than was asked for")
	}
	for _, n := range got.StorageProof[0].Proof {
		p.Storage = append(p.Storage, common.FromHex(n))
	}
	out := *a
	if out.Proof, err = json.Marshal(&p); err != nil {
		return nil, err
	}
	// The chain may have changed between two questions: what does not verify now
	// is not handed out.
	return &out, Verify(&out, head.Hash())
}

// maxNodes bounds a path: 64 nibbles.
const maxNodes = 65

// Verify checks offline that the trusted block's state holds the anchor's
// super-root for its epoch.
func Verify(a *provenance.Anchor, trusted TrustedBlock) error {
	bad := func(format string, args ...any) error {
		return consilium.ErrSignature.Withf("anchor: "+format, args...)
	}
	if a.Chain != provenance.ChainEVM || !common.IsHexAddress(a.Contract) {
		return bad("of chain %q, contract %q", a.Chain, a.Contract)
	}
	if root, err := provenance.SuperRoot(a.Epoch, a.Heads); err != nil || root != a.SuperRoot {
		return bad("the super-root is not that of the heads")
	}
	var p Proof
	d := json.NewDecoder(bytes.NewReader(a.Proof))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return bad("no proof: %w", err)
	}
	if len(p.Account) > maxNodes || len(p.Storage) > maxNodes {
		return bad("a path of more than %d nodes", maxNodes)
	}
	if crypto.Keccak256Hash(p.Header) != trusted {
		return bad("the header is not that of the trusted block %s", trusted)
	}
	var head types.Header
	if err := rlp.DecodeBytes(p.Header, &head); err != nil {
		return bad("header: %w", err)
	}
	raw, err := trie.VerifyProof(head.Root, crypto.Keccak256(common.HexToAddress(a.Contract).Bytes()), nodes(p.Account))
	if err != nil || raw == nil {
		return bad("the state of block %d does not hold the contract: %w", head.Number, err)
	}
	var account types.StateAccount
	if err := rlp.DecodeBytes(raw, &account); err != nil {
		return bad("account: %w", err)
	}
	raw, err = trie.VerifyProof(account.Root, crypto.Keccak256(rootSlot(a.Epoch).Bytes()), nodes(p.Storage))
	if err != nil {
		return bad("the contract's storage: %w", err)
	}
	if raw == nil {
		return bad("block %d holds nothing for epoch %d", head.Number, a.Epoch)
	}
	var value []byte
	if err := rlp.DecodeBytes(raw, &value); err != nil {
		return bad("value: %w", err)
	}
	if common.BytesToHash(value) != common.Hash(a.SuperRoot) {
		return bad("block %d holds another super-root for epoch %d", head.Number, a.Epoch)
	}
	return nil
}

func nodes(list []hexutil.Bytes) *memorydb.Database {
	db := memorydb.New()
	for _, n := range list {
		db.Put(crypto.Keccak256(n), n) // to memory: never fails
	}
	return db
}
