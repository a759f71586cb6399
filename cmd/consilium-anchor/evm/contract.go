// Package evm anchors epochs in a contract of an EVM chain and fetches the
// proofs that package chain verifies offline.
//
// The contract (EpochAnchor.sol) keeps one super-root an epoch. Epochs grow, a
// root is never changed, and only the account that deployed it may put one.
//
// Transactions are signed with secp256k1, as the chain demands. Whoever forges
// that signature can put a wrong super-root for an epoch that is still free; he
// cannot change one that was put, nor make heads fit a root. The heads under the
// root carry the ledgers' own witnessed signatures.
//
// Reading: Ethereum Yellow Paper, appendix D (Merkle-Patricia tree) and §4.3
// (block header); EIP-1186 (eth_getProof); EIP-1559 (fees).
package evm

import (
	_ "embed"
	"encoding/hex"
	"strings"

	"github.com/ethereum/go-ethereum/accounts/abi"

	"consilium"
)

// EpochAnchor.abi and EpochAnchor.bin are what solc 0.8.30+commit.73712a01
// makes of EpochAnchor.sol with {optimizer: {enabled, runs: 200}, evmVersion:
// paris, metadata: {bytecodeHash: none, appendCBOR: false}}; .ci/anchor.sh
// compiles it again and compares.

//go:embed EpochAnchor.abi
var contractABI string

//go:embed EpochAnchor.bin
var contractBin string

var parsedABI = func() abi.ABI {
	a, err := abi.JSON(strings.NewReader(contractABI))
	if err != nil {
		panic("evm: " + err.Error()) // embedded
	}
	return a
}()

func bytecode() []byte {
	b, err := hex.DecodeString(strings.TrimSpace(contractBin))
	if err != nil {
		panic("evm: " + err.Error()) // embedded
	}
	return b
}

func putData(epoch uint64, root consilium.Digest) ([]byte, error) {
	return parsedABI.Pack("put", epoch, [32]byte(root))
}
