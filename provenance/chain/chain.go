// Package chain verifies, offline, that a block of an Ethereum-like chain holds
// the super-root of an anchored epoch. It links no client of a chain: a hospital's
// vault runs it before it uses a row.
//
// # What a proof rests on
//
// A proof is a block header, and two Merkle-Patricia paths: from the header's
// state root to the contract's account, and from there to the epoch's slot. What
// the verifier must bring from elsewhere is Trust: the address of the
// federation's contract, and the hash of a final block, from nodes of its own
// choice. Neither may come with the anchor: whoever deploys a contract can put
// anything into it, and whoever runs a chain of his own can put it into a block.
//
// Only SHA-256 (of the ledgers) and Keccak-256 (of the chain) are relied on; no
// signature is.
//
// Reading: Ethereum Yellow Paper, appendices B (RLP) and D (Merkle-Patricia
// tree), §4.3 (block header); EIP-1186 (eth_getProof); Solidity documentation,
// "Layout of State Variables in Storage".
package chain

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"consilium"
	"consilium/provenance"
)

// Address names a contract.
type Address [20]byte

// Hash names a block.
type Hash [32]byte

func (a Address) String() string { return "0x" + hex.EncodeToString(a[:]) }
func (h Hash) String() string    { return "0x" + hex.EncodeToString(h[:]) }

// MarshalText writes a as String does.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText is ParseAddress.
func (a *Address) UnmarshalText(b []byte) (err error) {
	*a, err = ParseAddress(string(b))
	return err
}

// ParseAddress reads 0x and 40 hexadecimal digits.
func ParseAddress(s string) (a Address, err error) {
	return a, parseHex(a[:], s, "contract address")
}

// ParseHash reads 0x and 64 hexadecimal digits.
func ParseHash(s string) (h Hash, err error) { return h, parseHex(h[:], s, "block hash") }

func parseHex(out []byte, s, what string) error {
	digits, ok := strings.CutPrefix(s, "0x")
	b, err := hex.DecodeString(digits)
	if !ok || err != nil || len(b) != len(out) {
		return consilium.ErrInvalid.Withf("%.80q is no %s: want 0x and %d hexadecimal digits", s, what, 2*len(out))
	}
	copy(out, b)
	return nil
}

// Trust is what a verifier believes before it reads an anchor.
type Trust struct {
	Contract Address // the federation's, as its operators announced it
	Blocks   []Hash  // of final blocks, as nodes of the verifier's own choice tell them
}

// Facts are what a verified anchor proves.
type Facts struct {
	Epoch  uint64
	Block  Hash
	Number uint64    // of the block
	Time   time.Time // of the block: the epoch's heads existed then
}

// Proof is what an anchor carries for its verifier.
type Proof struct {
	Header  Bytes   `json:"header"`  // RLP
	Account []Bytes `json:"account"` // nodes from the state root
	Storage []Bytes `json:"storage"` // nodes from the contract's storage root
}

// Bytes is written as 0x and hexadecimal digits, as Ethereum's JSON does.
type Bytes []byte

// MarshalText writes b.
func (b Bytes) MarshalText() ([]byte, error) { return []byte("0x" + hex.EncodeToString(b)), nil }

// UnmarshalText is its inverse.
func (b *Bytes) UnmarshalText(text []byte) error {
	digits, ok := strings.CutPrefix(string(text), "0x")
	raw, err := hex.DecodeString(digits)
	if !ok || err != nil {
		return fmt.Errorf("want 0x and hexadecimal digits")
	}
	*b = raw
	return nil
}

// Sizes that no honest proof reaches.
const (
	maxNodes  = 65      // a path has 64 nibbles
	maxNode   = 1 << 10 // a branch has 17 references of at most 33 bytes
	maxHeader = 1 << 12
)

// Verify checks that a trusted block's state holds the anchor's super-root for
// its epoch in the trusted contract. The error is a consilium.ErrSignature, or
// ErrInvalid where the verifier brought nothing to trust.
func Verify(a *provenance.Anchor, trust Trust) (*Facts, error) {
	bad := func(format string, args ...any) (*Facts, error) {
		return nil, consilium.ErrSignature.Withf("anchor of epoch %d: "+format, append([]any{a.Epoch}, args...)...)
	}
	if trust.Contract == (Address{}) || len(trust.Blocks) == 0 {
		return nil, consilium.ErrInvalid.Withf("anchor: name the contract and a block that you trust; those in the anchor's own file prove nothing")
	}
	if a.Chain != provenance.ChainEVM {
		return bad("of chain %.40q, whose proofs its own program verifies", a.Chain)
	}
	if c, err := ParseAddress(a.Contract); err != nil || c != trust.Contract {
		return bad("it is in contract %.80q, the federation's is %s", a.Contract, trust.Contract)
	}
	if root, err := provenance.SuperRoot(a.Epoch, a.Heads); err != nil || root != a.SuperRoot {
		return bad("the super-root is not that of the heads")
	}
	p, err := parseProof(a.Proof)
	if err != nil {
		return bad("no proof: %w", err)
	}
	f := &Facts{Epoch: a.Epoch, Block: keccak(p.Header)}
	known := false
	for _, b := range trust.Blocks {
		known = known || b == f.Block && b != (Hash{})
	}
	if !known {
		return bad("block %s is not among those that you trust", f.Block)
	}
	var state [32]byte
	if state, f.Number, f.Time, err = parseHeader(p.Header); err != nil {
		return bad("header: %w", err)
	}
	if said, err := ParseHash(a.Block); err != nil || said != f.Block || a.Height != f.Number {
		return bad("its file says block %d %.80s, its proof is of block %d %s", a.Height, a.Block, f.Number, f.Block)
	}
	account, err := Lookup(state, trust.Contract[:], raw(p.Account))
	if err != nil {
		return bad("the state of block %d does not hold the contract: %w", f.Number, err)
	}
	storage, err := storageRoot(account)
	if err != nil {
		return bad("account: %w", err)
	}
	slot := RootSlot(a.Epoch)
	value, err := Lookup(storage, slot[:], raw(p.Storage))
	if err != nil {
		return bad("block %d and epoch %d: %w", f.Number, a.Epoch, err)
	}
	v, err := decodeRLP(value)
	if err != nil || v.list || len(v.bytes) > 32 {
		return bad("value: %w", errRLP)
	}
	var have consilium.Digest
	copy(have[32-len(v.bytes):], v.bytes)
	if have != a.SuperRoot {
		return bad("block %d holds another super-root", f.Number)
	}
	return f, nil
}

func parseProof(b json.RawMessage) (*Proof, error) {
	p := &Proof{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("bytes after the proof")
	}
	if len(p.Header) > maxHeader || len(p.Account) > maxNodes || len(p.Storage) > maxNodes {
		return nil, fmt.Errorf("a header of %d bytes, paths of %d and %d nodes", len(p.Header), len(p.Account), len(p.Storage))
	}
	for _, n := range append(p.Account[:len(p.Account):len(p.Account)], p.Storage...) {
		if len(n) > maxNode {
			return nil, fmt.Errorf("a node of %d bytes", len(n))
		}
	}
	return p, nil
}

func raw(list []Bytes) [][]byte {
	out := make([][]byte, len(list))
	for i, b := range list {
		out[i] = b
	}
	return out
}

// Places in a header. Later forks have appended fields and moved none.
const (
	headerState  = 3
	headerNumber = 8
	headerTime   = 11
	headerFields = 15 // at least, as of Frontier
)

func parseHeader(b []byte) (state [32]byte, number uint64, at time.Time, err error) {
	h, err := decodeRLP(b)
	if err != nil {
		return state, 0, at, err
	}
	if !h.list || len(h.items) < headerFields || h.items[headerState].list || len(h.items[headerState].bytes) != 32 {
		return state, 0, at, fmt.Errorf("a header of %d fields", len(h.items))
	}
	copy(state[:], h.items[headerState].bytes)
	if number, err = h.items[headerNumber].number(); err != nil {
		return state, 0, at, fmt.Errorf("number: %w", err)
	}
	seconds, err := h.items[headerTime].number()
	if err != nil || seconds > 1<<40 {
		return state, 0, at, fmt.Errorf("time: %w", errRLP)
	}
	return state, number, time.Unix(int64(seconds), 0).UTC(), nil
}

// storageRoot reads an account: nonce, balance, storage root, code hash.
func storageRoot(account []byte) (root [32]byte, err error) {
	a, err := decodeRLP(account)
	if err != nil {
		return root, err
	}
	if !a.list || len(a.items) != 4 || a.items[2].list || len(a.items[2].bytes) != 32 {
		return root, fmt.Errorf("an account of %d fields", len(a.items))
	}
	copy(root[:], a.items[2].bytes)
	return root, nil
}

// RootSlot is where EpochAnchor.sol keeps root[epoch]: Solidity hashes a
// mapping's key with the number of the mapping's slot, here 1.
func RootSlot(epoch uint64) [32]byte {
	var b [64]byte
	n := putNumber(epoch)
	copy(b[32-len(n):32], n)
	b[63] = 1
	return keccak(b[:])
}
