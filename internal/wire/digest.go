package wire

import (
	"hash"
	"io"

	"consilium"
	"consilium/internal/sha"
)

// NewBlobHash computes a blob's name while its bytes stream by, as internal/blob
// defines it: the tree hash of package sha with the domain DomainBlob.
func NewBlobHash() hash.Hash { return sha.NewStream(string(consilium.DomainBlob)) }

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
