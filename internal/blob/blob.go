package blob

import (
	"context"
	"hash"
	"io"

	"consilium"
	"consilium/internal/sha"
)

// Info names one stored blob.
type Info struct {
	Digest consilium.Digest
	Size   int64 // in bytes
}

// File reads one blob. It stays readable if the blob is deleted meanwhile.
type File interface {
	io.ReadSeekCloser
	io.ReaderAt
}

// Store keeps blobs by digest. Disk keeps them in a directory, Memory in
// memory. All methods may be called from several goroutines.
type Store interface {
	// Put stores what r holds, at most limit bytes (consilium.ErrTooLarge), and
	// returns its name and size.
	Put(ctx context.Context, r io.Reader, limit int64) (consilium.Digest, int64, error)
	// PutExpect stores exactly size bytes whose digest is want. Other bytes
	// fail with consilium.ErrBlobCorrupt and leave nothing behind.
	PutExpect(ctx context.Context, want consilium.Digest, size int64, r io.Reader) error
	// Open opens a blob for reading and returns its size. It fails with
	// consilium.ErrBlobMissing. It does not re-hash; Check does.
	Open(d consilium.Digest) (File, int64, error)
	// Has returns the size of a stored blob.
	Has(d consilium.Digest) (int64, bool)
	// Check re-hashes one blob: nil, consilium.ErrBlobMissing or
	// consilium.ErrBlobCorrupt, in which case the blob is moved aside and
	// missing from now on.
	Check(ctx context.Context, d consilium.Digest) error
	// Delete removes a blob; a missing one is no error.
	Delete(d consilium.Digest) error
	// List returns all blobs in ascending order of digest.
	List() ([]Info, error)
	// Scrub checks every blob and returns those that were corrupt and are
	// missing now.
	Scrub(ctx context.Context) ([]Info, error)
}

// NewHash returns the hash whose sum over a blob's bytes is its digest: the tree
// hash of package sha, with the domain DomainBlob.
func NewHash() hash.Hash { return sha.NewStream(string(consilium.DomainBlob)) }

// Sum is the digest of a blob that is in memory.
func Sum(b []byte) consilium.Digest {
	h := NewHash()
	h.Write(b)
	return sum(h)
}

func sum(h hash.Hash) (d consilium.Digest) {
	h.Sum(d[:0])
	return d
}

// copyLimited copies r to w and into h, at most limit bytes, and gives up
// when ctx ends.
func copyLimited(ctx context.Context, w io.Writer, h hash.Hash, r io.Reader, limit int64) (int64, error) {
	buf := make([]byte, 1<<16)
	var n int64
	for {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		k, err := r.Read(buf)
		if int64(k) > limit-n {
			return n, consilium.ErrTooLarge.Withf("a blob of more than %d bytes", limit)
		}
		if k > 0 {
			h.Write(buf[:k])
			if _, werr := w.Write(buf[:k]); werr != nil {
				return n, werr
			}
			n += int64(k)
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func missing(d consilium.Digest) error { return consilium.ErrBlobMissing.Withf("%s", d.Short()) }

func corrupt(want, have consilium.Digest, wantSize, size int64) error {
	return consilium.ErrBlobCorrupt.Withf("%d bytes with digest %s, want %d bytes with digest %s", size, have.Short(), wantSize, want.Short())
}
