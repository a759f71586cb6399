package main

import (
	"fmt"

	"github.com/cometbft/cometbft/crypto"
	"github.com/cometbft/cometbft/crypto/ed25519"
)

func ed25519Key(b []byte) (crypto.PubKey, error) {
	if len(b) != ed25519.PubKeySize {
		return nil, fmt.Errorf("a validator's key of %d bytes, want %d", len(b), ed25519.PubKeySize)
	}
	return ed25519.PubKey(b), nil
}
