package wire

import (
	"context"
	"io"

	"consilium"
)

// Limits of one call.
const (
	// MaxBlobSize bounds any stored blob; a node's configuration may set less.
	MaxBlobSize = 1 << 40
	// chunkSize is what one message of a stream carries: large enough that
	// framing costs nothing, small enough that memory is O(chunk). With its field
	// headers it is one buffer of the 32 KiB tier of gRPC's pool, and two frames; a
	// little more would take, and clear, one of the next tier for every message.
	chunkSize = 32<<10 - 64
	// maxChunk is what one message may carry.
	maxChunk = 256 << 10
	// streamWindow is how many bytes a peer may send ahead of what
	// is read, on one stream; connWindow bounds what is on its way on all streams of a
	// connection, and is given back on receipt. gRPC's own
	// windows grow to 16 MiB a stream, of which a coordinator would hold one for
	// each hospital whenever its disk is slower than their links. A mebibyte fills
	// 280 Mbit/s at 30 ms.
	streamWindow = 1 << 20
	connWindow   = 4 << 20
	// maxMessage bounds one gRPC message: a signed message with its signature
	// and envelope is the largest.
	maxMessage = consilium.MaxMessageSize + 64<<10
	// maxEncodedMessage bounds an encoded Message.
	maxEncodedMessage = consilium.MaxMessageSize + 4096
)

// StudyStatus says where a study stands.
type StudyStatus struct {
	Study       consilium.StudyID
	Name        string
	Team        consilium.ResearcherID
	Phase       consilium.Phase
	Round       uint32
	Attempt     uint32
	Members     int
	Contributed int
	Deadline    int64 // Unix milliseconds of the phase, or 0
	Reason      string
}

// Shape states the length and lane width of an encrypted vector. The
// coordinator never sees a layout, so the uploader states what is needed to check
// the size, and all contributors of an attempt must state the same.
type Shape struct {
	Lanes int // of the vector, without tags
	Bits  int // lane width
}

// Upload is one contribution as it arrives. Boxes must be read to its end
// before Ciphertext; each yields exactly the announced number of bytes, or an
// error.
type Upload struct {
	Message    *consilium.Message // of kind header; the signature is not yet checked
	Header     *consilium.Header
	BoxCount   int
	BoxSize    int
	Shape      Shape
	Boxes      io.Reader
	Ciphertext io.Reader
}

// Hello is a node's answer to a peer that asks who it is.
type Hello struct {
	Incarnation string
	Started     bool
	Members     []string // server ids of its cluster
	Applied     uint64   // last log index that its state machine handled
}

// Members is what a coordinator node offers to hospitals, researchers and the
// board. The identity is authenticated and its role may call the method;
// everything else is the implementation's to check.
type Members interface {
	Post(ctx context.Context, from Identity, m *consilium.Message) error
	Upload(ctx context.Context, from Identity, u *Upload) error
	List(ctx context.Context, from Identity) ([]StudyStatus, error)
	Status(ctx context.Context, from Identity, study consilium.StudyID) (StudyStatus, error)
	// Follow calls send with the encoding of every event that from may see,
	// ascending from seq, until ctx ends or send fails. study is "" for all. What
	// send gets is shared with others who follow: it is not changed.
	Follow(ctx context.Context, from Identity, study consilium.StudyID, seq uint64, send func(event []byte) error) error
	Fetch(ctx context.Context, from Identity, digest consilium.Digest, offset, length uint64) (io.ReadCloser, error)
	// PutBlob reads exactly size bytes from r and returns once a majority holds them.
	PutBlob(ctx context.Context, from Identity, digest consilium.Digest, size uint64, r io.Reader) error
}

// Peers is what a coordinator node offers to the others.
type Peers interface {
	Hello(ctx context.Context, from Identity, incarnation string) (Hello, error)
	Store(ctx context.Context, from Identity, digest consilium.Digest, size uint64, r io.Reader) error
	Load(ctx context.Context, from Identity, digest consilium.Digest, offset, length uint64) (io.ReadCloser, error)
	Holds(ctx context.Context, from Identity, digest consilium.Digest, size uint64) (bool, error)
}

// Audit is what a coordinator node offers to whoever checks its log.
type Audit interface {
	Checkpoint(ctx context.Context) ([]byte, error)
	Tile(ctx context.Context, level int, index uint64, width int) ([]byte, error)
	Entries(ctx context.Context, start, count uint64, send func(index uint64, leaf []byte) error) error
	Inclusion(ctx context.Context, index, size uint64) ([]consilium.Digest, error)
	Consistency(ctx context.Context, old, size uint64) ([]consilium.Digest, error)
}
