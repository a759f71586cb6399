package chain

import (
	"bytes"
	"errors"

	"golang.org/x/crypto/sha3"
)

// keccak is the hash of Ethereum: Keccak-256 as it was before FIPS 202.
func keccak(b []byte) (out [32]byte) {
	h := sha3.NewLegacyKeccak256()
	h.Write(b)
	h.Sum(out[:0])
	return out
}

var (
	errNode   = errors.New("malformed node of the tree")
	errAbsent = errors.New("the tree holds nothing there")
)

// Lookup follows a Merkle-Patricia path (Yellow Paper, appendix D) from root to
// the value under keccak(key). nodes are the encodings on the way, in any order.
// Every step is bound by a hash to the one before; what is not on the way is
// never looked at. What the tree does not hold is an error.
func Lookup(root [32]byte, key []byte, nodes [][]byte) ([]byte, error) {
	byHash := make(map[[32]byte][]byte, len(nodes))
	for _, n := range nodes {
		byHash[keccak(n)] = n
	}
	hashed := keccak(key) // "secure" trees: a key is its hash
	path := make([]byte, 0, 64)
	for _, b := range hashed {
		path = append(path, b>>4, b&15)
	}
	ref := item{bytes: root[:]}
	// Each turn takes at least one nibble off the path, or ends.
	for {
		node := ref
		if !ref.list {
			if len(ref.bytes) == 0 {
				return nil, errAbsent
			}
			if len(ref.bytes) != 32 {
				return nil, errNode
			}
			b, ok := byHash[[32]byte(ref.bytes)]
			if !ok {
				return nil, errors.New("a node of the path is missing")
			}
			var err error
			if node, err = decodeRLP(b); err != nil {
				return nil, err
			}
		}
		switch {
		case node.list && len(node.items) == 17: // a branch
			if len(path) == 0 {
				// All keys are 32 bytes long, so no value stands in a branch.
				return nil, errNode
			}
			ref, path = node.items[path[0]], path[1:]
		case node.list && len(node.items) == 2 && !node.items[0].list:
			part, leaf, err := hexPrefix(node.items[0].bytes)
			if err != nil {
				return nil, err
			}
			if leaf {
				if !bytes.Equal(part, path) {
					return nil, errAbsent
				}
				if node.items[1].list || len(node.items[1].bytes) == 0 {
					return nil, errNode
				}
				return node.items[1].bytes, nil
			}
			if len(part) == 0 {
				return nil, errNode
			}
			if !bytes.HasPrefix(path, part) {
				return nil, errAbsent
			}
			ref, path = node.items[1], path[len(part):]
		default:
			return nil, errNode
		}
	}
}

// hexPrefix reads the compact form of a path: a flag nibble, then nibbles.
func hexPrefix(b []byte) (path []byte, leaf bool, err error) {
	if len(b) == 0 || b[0]>>4 > 3 {
		return nil, false, errNode
	}
	odd := b[0]>>4&1 == 1
	if odd {
		path = append(path, b[0]&15)
	} else if b[0]&15 != 0 {
		return nil, false, errNode
	}
	for _, c := range b[1:] {
		path = append(path, c>>4, c&15)
	}
	return path, b[0]>>5 == 1, nil
}
