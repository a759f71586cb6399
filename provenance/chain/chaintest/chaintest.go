// Package chaintest makes blocks of a chain that nobody runs: a header over a
// state with one contract and one epoch in it, with the proofs that a node would
// give. Tests trust such a block as an operator trusts a real one.
package chaintest

import (
	"encoding/json"
	"math/bits"
	"time"

	"golang.org/x/crypto/sha3"

	"consilium"
	"consilium/provenance"
	"consilium/provenance/chain"
)

func keccak(b []byte) (out [32]byte) {
	h := sha3.NewLegacyKeccak256()
	h.Write(b)
	h.Sum(out[:0])
	return out
}

func str(b []byte) []byte {
	if len(b) == 1 && b[0] < 0x80 {
		return b
	}
	return prefix(0x80, b)
}

func list(items ...[]byte) []byte {
	var body []byte
	for _, x := range items {
		body = append(body, x...)
	}
	return prefix(0xc0, body)
}

func prefix(base byte, body []byte) []byte {
	if len(body) <= 55 {
		return append([]byte{base + byte(len(body))}, body...)
	}
	n := number(uint64(len(body)))
	return append(append([]byte{base + 55 + byte(len(n))}, n...), body...)
}

func number(n uint64) (b []byte) {
	for i := (bits.Len64(n) + 7) / 8; i > 0; i-- {
		b = append(b, byte(n>>(8*(i-1))))
	}
	return b
}

// leaf is the only node of a tree with one key.
func leaf(key, value []byte) []byte {
	k := keccak(key)
	return list(str(append([]byte{0x20}, k[:]...)), str(value))
}

// Anchor makes the record of an epoch, proven in a block of its own.
func Anchor(contract chain.Address, epoch uint64, heads []provenance.Head, height uint64, at time.Time) (*provenance.Anchor, chain.Hash, error) {
	root, err := provenance.SuperRoot(epoch, heads)
	if err != nil {
		return nil, chain.Hash{}, err
	}
	slot := chain.RootSlot(epoch)
	storage := leaf(slot[:], str(root[:]))
	storageRoot, code := keccak(storage), [32]byte{1}
	account := leaf(contract[:], list(str(number(1)), str(nil), str(storageRoot[:]), str(code[:])))
	stateRoot, zero := keccak(account), make([]byte, 256)
	header := list(str(zero[:32]), str(zero[:32]), str(zero[:20]), str(stateRoot[:]), str(zero[:32]), str(zero[:32]), str(zero), str(nil),
		str(number(height)), str(number(30_000_000)), str(nil), str(number(uint64(at.Unix()))), str(nil), str(zero[:32]), str(zero[:8]))
	block := chain.Hash(keccak(header))
	proof, err := json.Marshal(&chain.Proof{Header: header, Account: []chain.Bytes{account}, Storage: []chain.Bytes{storage}})
	if err != nil {
		return nil, block, err
	}
	return &provenance.Anchor{APIVersion: consilium.APIVersion, Kind: "Anchor", Chain: provenance.ChainEVM, ChainID: "1", Contract: contract.String(), Epoch: epoch,
		SuperRoot: root, Heads: heads, Tx: "0x", Block: block.String(), Height: height, Status: provenance.AnchorFinal, Proof: proof}, block, nil
}
