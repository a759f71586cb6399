package canon

import (
	"bytes"
	"crypto/sha256"

	"github.com/gowebpki/jcs"

	"consilium/internal/memo"
)

// encodings remembers encodings. Transform is a pure function, and the same few
// documents come again and again: a charter is held against its draft by every
// node, once for each hospital that signs it, and by every hospital in a process
// that runs many. Documents that are refused are not remembered.
var encodings = memo.New[[sha256.Size]byte, []byte](maxMemo)

// maxMemo bounds each of the memo's two generations, and memoSize a document in it:
// 8 MiB in all.
const (
	maxMemo  = 64
	memoSize = 64 << 10
)

// transform is jcs.Transform. The caller must not change what it returns.
func transform(b []byte) ([]byte, error) {
	if len(b) > memoSize {
		return jcs.Transform(b)
	}
	asked := sha256.Sum256(b)
	if out, ok := encodings.Get(asked); ok {
		return out, nil
	}
	out, err := jcs.Transform(b)
	if err == nil && len(out) <= memoSize {
		encodings.Put(asked, bytes.Clone(out))
	}
	return out, err
}
