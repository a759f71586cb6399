package wire

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"

	"consilium"
)

// NewBlobHash computes a blob's name while its bytes stream by: SHA-256 over
// the length-prefixed DomainBlob and the raw bytes, as internal/blob defines it.
func NewBlobHash() hash.Hash {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(consilium.DomainBlob))))
	h.Write([]byte(consilium.DomainBlob))
	return h
}

// BlobDigest names size bytes read from r, which must end there.
func BlobDigest(r io.Reader, size uint64) (consilium.Digest, error) {
	h := NewBlobHash()
	err := eachChunk(r, size, func(b []byte) error {
		h.Write(b)
		return nil
	})
	if err != nil {
		return consilium.Digest{}, err
	}
	return consilium.Digest(h.Sum(nil)), nil
}
