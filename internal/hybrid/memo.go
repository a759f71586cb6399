package hybrid

import (
	"crypto/sha256"
	"encoding/binary"

	"consilium"
	"consilium/internal/memo"
)

// verified remembers signatures that hold. Verify is a pure function, so whoever
// asks again about the same key, domain, message and signature gets the same
// answer without the work: a node that checks a message on arrival and once
// more in its archive, and above all a process that runs many hospitals, each
// of which verifies every message itself. What does not hold is never
// remembered; an equal digest of something else would be a collision of SHA-256.
var verified = memo.New[[sha256.Size]byte, struct{}](maxVerified)

// maxVerified bounds each of the memo's two generations: 1 MiB of digests.
const maxVerified = 1 << 15

// question is the digest of everything that a verification reads.
func question(key *consilium.PublicKey, domain consilium.Domain, message []byte, sig *consilium.Signature) (d [sha256.Size]byte) {
	h := sha256.New()
	h.Write(key[:])
	h.Write(sig[:])
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(domain)))
	h.Write(n[:])
	h.Write([]byte(domain))
	h.Write(message)
	h.Sum(d[:0])
	return d
}
