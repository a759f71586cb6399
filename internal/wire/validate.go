package wire

import (
	"fmt"
	"io"

	"consilium"
	"consilium/api/v1"
)

// This file is the only place that reads protobuf fields of the services'
// messages. Everything from a peer becomes a domain value here, or
// consilium.ErrInvalid.

func toMessage(b []byte) (*consilium.Message, error) {
	if len(b) > maxEncodedMessage {
		return nil, consilium.ErrTooLarge.Withf("a message of %d bytes, at most %d", len(b), maxEncodedMessage)
	}
	m, err := consilium.ParseMessage(b)
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	return m, nil
}

func toDigest(what string, b []byte) (consilium.Digest, error) {
	var d consilium.Digest
	if len(b) != len(d) {
		return d, consilium.ErrInvalid.Withf("%s: %d bytes, want %d", what, len(b), len(d))
	}
	copy(d[:], b)
	if d.IsZero() {
		return d, consilium.ErrInvalid.Withf("%s: zero refers to nothing", what)
	}
	return d, nil
}

func toStudy(s string) (consilium.StudyID, error) {
	id, err := consilium.ParseStudyID(s)
	if err != nil {
		return "", consilium.ErrInvalid.With(err)
	}
	return id, nil
}

func toFollow(r *apiv1.FollowRequest) (consilium.StudyID, uint64, error) {
	if r.GetStudy() == "" {
		return "", r.GetFrom(), nil
	}
	id, err := toStudy(r.GetStudy())
	return id, r.GetFrom(), err
}

func toFetch(r *apiv1.FetchRequest) (d consilium.Digest, offset, length uint64, err error) {
	if d, err = toDigest("digest", r.GetDigest()); err != nil {
		return d, 0, 0, err
	}
	offset, length = r.GetOffset(), r.GetLength()
	if offset > MaxBlobSize || length > MaxBlobSize {
		return d, 0, 0, consilium.ErrInvalid.Withf("range %d+%d is beyond any blob", offset, length)
	}
	return d, offset, length, nil
}

func toBlobStart(r *apiv1.PutBlobRequest) (consilium.Digest, uint64, error) {
	s := r.GetStart()
	if s == nil {
		return consilium.Digest{}, 0, consilium.ErrInvalid.Withf("a blob upload opens with its size and digest")
	}
	d, err := toDigest("digest", s.GetDigest())
	if err != nil {
		return d, 0, err
	}
	if s.GetSize() == 0 || s.GetSize() > MaxBlobSize {
		return d, 0, consilium.ErrTooLarge.Withf("a blob of %d bytes", s.GetSize())
	}
	return d, s.GetSize(), nil
}

func toBlobChunk(r *apiv1.PutBlobRequest) ([]byte, error) { return toChunk(r.GetChunk()) }

func toChunk(c *apiv1.Chunk) ([]byte, error) {
	if c == nil {
		return nil, consilium.ErrInvalid.Withf("want a chunk here")
	}
	if n := len(c.GetData()); n == 0 || n > maxChunk {
		return nil, consilium.ErrInvalid.Withf("a chunk of %d bytes, want 1 to %d", n, maxChunk)
	}
	return c.GetData(), nil
}

// toUpload checks the preamble: everything that bounds what follows.
func toUpload(r *apiv1.UploadRequest) (*Upload, error) {
	s := r.GetStart()
	if s == nil {
		return nil, consilium.ErrInvalid.Withf("an upload opens with its header")
	}
	m, err := toMessage(s.GetMessage())
	if err != nil {
		return nil, err
	}
	if m.Kind != consilium.KindHeader {
		return nil, consilium.ErrInvalid.Withf("an upload carries a header, not a message of kind %s", m.Kind)
	}
	h, err := consilium.ParseHeader(m.Body)
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	u := &Upload{Message: m, Header: h, BoxCount: int(s.GetBoxes()), BoxSize: int(s.GetBoxSize()),
		Shape: Shape{Bits: int(s.GetBits())}}
	if lanes := s.GetLanes(); lanes >= 1 && lanes <= consilium.ExactLanes*consilium.MaxValues {
		u.Shape.Lanes = int(lanes)
	}
	switch {
	case u.BoxCount != len(h.Boxes):
		return nil, consilium.ErrInvalid.Withf("%d boxes announced, the header names %d", u.BoxCount, len(h.Boxes))
	case u.BoxSize < 1 || u.BoxSize > consilium.MaxBoxSize:
		return nil, consilium.ErrInvalid.Withf("boxes of %d bytes, want 1 to %d", u.BoxSize, consilium.MaxBoxSize)
	case s.GetSize() != h.Size:
		return nil, consilium.ErrInvalid.Withf("%d bytes announced, the header says %d", s.GetSize(), h.Size)
	case h.Size == 0 || h.Size > MaxBlobSize:
		return nil, consilium.ErrTooLarge.Withf("an encrypted vector of %d bytes", h.Size)
	case u.Shape.Lanes < 1 || u.Shape.Bits != 16 && u.Shape.Bits != 24:
		return nil, consilium.ErrInvalid.Withf("%d lanes of %d bits", s.GetLanes(), u.Shape.Bits)
	}
	return u, nil
}

func toBoxes(r *apiv1.UploadRequest) ([]byte, error) {
	if r.GetBoxes() == nil {
		return nil, consilium.ErrInvalid.Withf("want sealed boxes here")
	}
	return toChunk(r.GetBoxes())
}

func toCiphertext(r *apiv1.UploadRequest) ([]byte, error) {
	if r.GetCiphertext() == nil {
		return nil, consilium.ErrInvalid.Withf("want the encrypted vector here")
	}
	return toChunk(r.GetCiphertext())
}

func toEvent(r *apiv1.FollowResponse) (*consilium.Event, error) {
	if len(r.GetEvent()) > consilium.MaxEventSize {
		return nil, consilium.ErrTooLarge.Withf("an event of %d bytes", len(r.GetEvent()))
	}
	ev, err := consilium.ParseEvent(r.GetEvent())
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	return ev, nil
}

// phases pairs the wire's phases with the domain's; they are numbered alike,
// and a test holds that.
func toPhase(p apiv1.Phase) (consilium.Phase, error) {
	if _, ok := apiv1.Phase_name[int32(p)]; !ok || p == apiv1.Phase_PHASE_UNSPECIFIED {
		return 0, consilium.ErrInvalid.Withf("unknown phase %d", p)
	}
	return consilium.Phase(p), nil
}

func toStatus(s *apiv1.StudyStatus) (StudyStatus, error) {
	if s == nil {
		return StudyStatus{}, consilium.ErrInvalid.Withf("no status")
	}
	study, err := toStudy(s.GetStudy())
	if err != nil {
		return StudyStatus{}, err
	}
	team, err := consilium.ParseResearcherID(s.GetTeam())
	if err != nil {
		return StudyStatus{}, consilium.ErrInvalid.With(err)
	}
	phase, err := toPhase(s.GetPhase())
	if err != nil {
		return StudyStatus{}, err
	}
	return StudyStatus{Study: study, Name: clip(s.GetName(), 256), Team: team, Phase: phase, Round: s.GetRound(), Attempt: s.GetAttempt(),
		Members: int(s.GetMembers()), Contributed: int(s.GetContributed()), Deadline: s.GetDeadline(), Reason: clip(s.GetReason(), maxStatusText)}, nil
}

func fromStatus(s StudyStatus) *apiv1.StudyStatus {
	return &apiv1.StudyStatus{Study: string(s.Study), Name: clip(s.Name, 256), Team: string(s.Team), Phase: apiv1.Phase(s.Phase), Round: s.Round,
		Attempt: s.Attempt, Members: uint32(s.Members), Contributed: uint32(s.Contributed), Deadline: s.Deadline, Reason: clip(s.Reason, maxStatusText)}
}

func toStatuses(r *apiv1.ListResponse) ([]StudyStatus, error) {
	out := make([]StudyStatus, 0, len(r.GetStudies()))
	for _, s := range r.GetStudies() {
		st, err := toStatus(s)
		if err != nil {
			return nil, err
		}
		out = append(out, st)
	}
	return out, nil
}

// toIncarnation accepts 16 to 64 lower-case hexadecimal characters.
func toIncarnation(s string) (string, error) {
	if len(s) < 16 || len(s) > 64 {
		return "", consilium.ErrInvalid.Withf("incarnation of %d characters", len(s))
	}
	for _, c := range []byte(s) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return "", consilium.ErrInvalid.Withf("incarnation: want lower-case hexadecimal")
		}
	}
	return s, nil
}

func toHello(r *apiv1.HelloResponse) (Hello, error) {
	inc, err := toIncarnation(r.GetIncarnation())
	if err != nil {
		return Hello{}, err
	}
	if len(r.GetMembers()) > 64 {
		return Hello{}, consilium.ErrInvalid.Withf("%d members", len(r.GetMembers()))
	}
	for _, m := range r.GetMembers() {
		if len(m) > 160 {
			return Hello{}, consilium.ErrInvalid.Withf("a member id of %d characters", len(m))
		}
	}
	return Hello{Incarnation: inc, Started: r.GetStarted(), Members: append([]string(nil), r.GetMembers()...), Applied: r.GetApplied()}, nil
}

func fromHello(h Hello) *apiv1.HelloResponse {
	return &apiv1.HelloResponse{Incarnation: h.Incarnation, Started: h.Started, Members: h.Members, Applied: h.Applied}
}

func toHolds(r *apiv1.HoldsRequest) (consilium.Digest, uint64, error) {
	d, err := toDigest("digest", r.GetDigest())
	if err != nil {
		return d, 0, err
	}
	if r.GetSize() > MaxBlobSize {
		return d, 0, consilium.ErrTooLarge.Withf("a blob of %d bytes", r.GetSize())
	}
	return d, r.GetSize(), nil
}

func toTile(r *apiv1.TileRequest) (level int, index uint64, width int, err error) {
	if r.GetLevel() > 7 || r.GetWidth() < 1 || r.GetWidth() > 256 || r.GetIndex() > 1<<55 {
		return 0, 0, 0, consilium.ErrInvalid.Withf("tile level %d, index %d, width %d", r.GetLevel(), r.GetIndex(), r.GetWidth())
	}
	return int(r.GetLevel()), r.GetIndex(), int(r.GetWidth()), nil
}

// maxTree bounds tree sizes in requests: proofs of larger ones would overflow.
const maxTree = 1 << 62

func toEntries(r *apiv1.EntriesRequest) (start, count uint64, err error) {
	if r.GetCount() < 1 || r.GetCount() > 65536 || r.GetStart() > maxTree {
		return 0, 0, consilium.ErrInvalid.Withf("%d entries from %d", r.GetCount(), r.GetStart())
	}
	return r.GetStart(), r.GetCount(), nil
}

func toInclusion(r *apiv1.InclusionRequest) (index, size uint64, err error) {
	if r.GetSize() > maxTree || r.GetIndex() >= r.GetSize() {
		return 0, 0, consilium.ErrInvalid.Withf("leaf %d of a tree of %d", r.GetIndex(), r.GetSize())
	}
	return r.GetIndex(), r.GetSize(), nil
}

func toConsistency(r *apiv1.ConsistencyRequest) (old, size uint64, err error) {
	if r.GetSize() > maxTree || r.GetOldSize() < 1 || r.GetOldSize() > r.GetSize() {
		return 0, 0, consilium.ErrInvalid.Withf("trees of %d and %d", r.GetOldSize(), r.GetSize())
	}
	return r.GetOldSize(), r.GetSize(), nil
}

func fromProof(p []consilium.Digest) *apiv1.ProofResponse {
	out := &apiv1.ProofResponse{Hashes: make([][]byte, len(p))}
	for i := range p {
		out.Hashes[i] = append([]byte(nil), p[i][:]...)
	}
	return out
}

func toProof(r *apiv1.ProofResponse) ([]consilium.Digest, error) {
	if len(r.GetHashes()) > 128 {
		return nil, consilium.ErrInvalid.Withf("a proof of %d hashes", len(r.GetHashes()))
	}
	out := make([]consilium.Digest, len(r.GetHashes()))
	for i, h := range r.GetHashes() {
		if len(h) != len(out[i]) {
			return nil, consilium.ErrInvalid.Withf("a proof hash of %d bytes", len(h))
		}
		copy(out[i][:], h)
	}
	return out, nil
}

func toNote(r *apiv1.CheckpointResponse) ([]byte, error) {
	if len(r.GetNote()) > 64<<10 {
		return nil, consilium.ErrTooLarge.Withf("a checkpoint of %d bytes", len(r.GetNote()))
	}
	return r.GetNote(), nil
}

func toHashes(r *apiv1.TileResponse, width int) ([]byte, error) {
	if len(r.GetHashes()) != 32*width {
		return nil, consilium.ErrInvalid.Withf("a tile of %d bytes, want %d", len(r.GetHashes()), 32*width)
	}
	return r.GetHashes(), nil
}

func toLeaf(r *apiv1.EntriesResponse, index uint64) ([]byte, error) {
	if r.GetIndex() != index || len(r.GetLeaf()) > consilium.MaxEventSize {
		return nil, consilium.ErrInvalid.Withf("leaf %d of %d bytes, wanted leaf %d", r.GetIndex(), len(r.GetLeaf()), index)
	}
	return r.GetLeaf(), nil
}

// exactly yields n bytes of r and then EOF; a stream that ends early or goes on
// is an error. next returns io.EOF at the end of the stream.
type exactly struct {
	what string
	left uint64
	next func() ([]byte, error)
	buf  []byte
	last bool // after the announced bytes the stream must end
	err  error
}

func (r *exactly) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	for len(r.buf) == 0 {
		if r.left == 0 {
			return 0, r.finish()
		}
		b, err := r.next()
		if err == io.EOF {
			r.err = consilium.ErrInvalid.Withf("%s ends %d bytes early", r.what, r.left)
			return 0, r.err
		}
		if err != nil {
			r.err = err
			return 0, err
		}
		if uint64(len(b)) > r.left {
			r.err = consilium.ErrInvalid.Withf("%s goes on after the announced bytes", r.what)
			return 0, r.err
		}
		r.buf, r.left = b, r.left-uint64(len(b))
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

func (r *exactly) finish() error {
	r.err = io.EOF
	if r.last {
		if _, err := r.next(); err == nil {
			r.err = consilium.ErrInvalid.Withf("%s goes on after the announced bytes", r.what)
		} else if err != io.EOF {
			r.err = fmt.Errorf("end of %s: %w", r.what, err)
		}
	}
	return r.err
}
