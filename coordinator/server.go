package coordinator

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"consilium"
	"consilium/he"
	"consilium/internal/wire"
)

// server answers hospitals, researchers, the board and the other nodes. It
// implements wire.Members and wire.Peers; the identity it gets is authenticated
// and its role may make the call.
type server struct {
	n        *Node
	received atomic.Uint64 // bytes of accepted uploads
	sent     atomic.Uint64 // bytes of fetched blobs
}

// gate verifies everything about a message that does not depend on the state:
// who may post it, and its signature. Apply checks the rest.
func (s *server) gate(from wire.Identity, m *consilium.Message) error {
	if from.By() != m.By {
		return consilium.ErrForbidden.Withf("%s posts a message of %.128q", from, m.By)
	}
	role, err := s.n.cfg.Book.Verify(m)
	if err != nil {
		return err
	}
	if role != from.Role {
		return consilium.ErrForbidden.Withf("%s posts a %s message", from, m.Kind)
	}
	return nil
}

// leading fails unless this node leads and knows all that earlier leaders
// committed: only then can a call succeed, and the caller learns where to go
// before it sends more.
func (s *server) leading() error {
	if !s.n.IsLeader() {
		return s.n.notLeader()
	}
	if s.n.leads.Load() != s.n.raftNode().CurrentTerm() {
		return consilium.ErrUnavailable.Withf("this node is taking over as leader")
	}
	return nil
}

// current returns once whatever was acknowledged or told before the call, by whichever
// node, is in this node's state: it leads, a majority has just said that nobody leads
// after it, and it has applied what was committed when it was asked (Ongaro,
// Consensus: Bridging Theory and Practice, §6.4). What a read then finds is no
// older than the call.
func (s *server) current(ctx context.Context) error {
	if err := s.leading(); err != nil {
		return err
	}
	if err := s.n.abreast(ctx); err != nil {
		return err
	}
	switch err := await(ctx, s.n.raftNode().VerifyLeader()); {
	case err == nil:
		return s.leading() // the same term still: a later one has its own barrier
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost):
		return s.n.notLeader()
	default:
		return consilium.ErrUnavailable.With(err)
	}
}

// Post records a message: on return it is committed on a majority.
func (s *server) Post(ctx context.Context, from wire.Identity, m *consilium.Message) error {
	if m.Kind == consilium.KindHeader {
		return consilium.ErrInvalid.Withf("a header comes with its contribution")
	}
	if err := s.leading(); err != nil {
		return err
	}
	if err := s.gate(from, m); err != nil {
		return err
	}
	post := &Post{Message: m.Encode()}
	var named consilium.Digest
	switch m.Kind {
	case consilium.KindSealedState:
		b, err := consilium.ParseSealedState(m.Body)
		if err != nil {
			return consilium.ErrInvalid.With(err)
		}
		named = b.Blob
	case consilium.KindShow:
		b, err := consilium.ParseShow(m.Body)
		if err != nil {
			return consilium.ErrInvalid.With(err)
		}
		named = b.Blob
	case consilium.KindPublish:
		b, err := consilium.ParsePublish(m.Body)
		if err != nil {
			return consilium.ErrInvalid.With(err)
		}
		named = b.Blob
	}
	if !named.IsZero() {
		// What the log has already is answered from it: the blob may be collected by
		// now, and a hospital that did not get the answer would ask for ever.
		settled, answer := false, error(nil)
		s.n.fsm.read(func(st *State) { settled, answer = st.Settled(m) })
		if settled {
			return answer
		}
		ref, err := s.n.blobs.find(ctx, named, s.n.cfg.MaxBlob)
		if err != nil {
			return err
		}
		post.Blob = &ref
		return s.n.proposeStored(ctx, post, ref)
	}
	return s.n.propose(post)
}

// find learns the size of a blob that a message names, from here or a peer.
func (r *replicator) find(ctx context.Context, d consilium.Digest, limit uint64) (BlobRef, error) {
	if size, ok := r.local.Has(d); ok {
		return BlobRef{Digest: d, Size: uint64(size)}, nil
	}
	var last error = consilium.ErrBlobMissing.Withf("%s: put it before the message that names it", d.Short())
	for _, c := range r.n.cfg.Book.Roster().Coordinators {
		if c.ID == r.n.cfg.ID {
			continue
		}
		rc, err := r.peers.Load(ctx, c.ID, d, 0, 0)
		if err != nil {
			if !errors.Is(err, consilium.ErrBlobMissing) {
				last = err
			}
			continue
		}
		got, size, err := r.local.Put(ctx, rc, int64(limit))
		rc.Close()
		if err != nil {
			last = err
			continue
		}
		if got != d {
			r.local.Delete(got)
			last = consilium.ErrBlobCorrupt.Withf("node %s has other bytes under %s", c.ID, d.Short())
			continue
		}
		r.stage(d)
		return BlobRef{Digest: d, Size: uint64(size)}, nil
	}
	return BlobRef{}, last
}

// Upload takes in one contribution: everything is checked while it streams
// through, stored here and on a majority, and only then named in the log.
func (s *server) Upload(ctx context.Context, from wire.Identity, u *wire.Upload) error {
	if err := s.leading(); err != nil {
		return err
	}
	if err := s.gate(from, u.Message); err != nil {
		return err
	}
	profile, err := s.precheck(u)
	if err != nil {
		// The caller may have read of its round at a node that applied it earlier. What
		// is refused now it would take for the last word, and lose its round.
		if err := s.current(ctx); err != nil {
			return err
		}
		if profile, err = s.precheck(u); err != nil {
			return err
		}
	}
	u.Boxes, u.Ciphertext = s.whileOpen(u, u.Boxes), s.whileOpen(u, u.Ciphertext)
	boxes, err := s.receiveBoxes(ctx, u, profile)
	if err != nil {
		return err
	}
	ciphertext, err := s.receiveCiphertext(ctx, u, profile)
	if err != nil {
		if s.over(u) != nil {
			s.n.blobs.discard(boxes.Digest)
		}
		return err
	}
	s.received.Add(boxes.Size + ciphertext.Size)
	err = s.over(u)
	if err == nil {
		err = s.n.proposeStored(ctx, &Post{Message: u.Message.Encode(), Upload: &Upload{Ciphertext: ciphertext, Boxes: boxes,
			LogN: uint8(profile.LogN), Bits: uint8(profile.Bits), Capacity: uint16(profile.MaxN), Lanes: uint64(u.Shape.Lanes)}}, boxes, ciphertext)
	}
	if err != nil && s.over(u) != nil {
		s.n.blobs.discard(boxes.Digest)
		s.n.blobs.discard(ciphertext.Digest)
	}
	return err
}

// over is why the log can no longer take an upload, or nil.
func (s *server) over(u *wire.Upload) (over error) {
	s.n.fsm.read(func(st *State) { over = st.Takes(u.Message, u.Header.At) })
	return over
}

// whileOpen reads an upload as long as the log can still take it. A hospital on a
// slow link learns at once that its round has gone on without it, its bytes take
// nobody's place for longer, and none of them stay here or go to other nodes.
func (s *server) whileOpen(u *wire.Upload, r io.Reader) io.Reader {
	return &openReader{r: r, s: s, u: u}
}

type openReader struct {
	r    io.Reader
	s    *server
	u    *wire.Upload
	seen uint64 // index of the log at which it was last looked
}

func (o *openReader) Read(b []byte) (int, error) {
	n, err := o.r.Read(b)
	if at := o.s.n.fsm.applied.Load(); at != o.seen {
		o.seen = at
		if err := o.s.over(o.u); err != nil {
			return 0, err
		}
	}
	return n, err
}

// precheck refuses what apply would refuse anyway, before the bytes arrive,
// and finds the parameter set.
func (s *server) precheck(u *wire.Upload) (he.Profile, error) {
	h := u.Header
	if h.Size > s.n.cfg.MaxContribution {
		return he.Profile{}, consilium.ErrTooLarge.Withf("an encrypted vector of %d bytes, at most %d", h.Size, s.n.cfg.MaxContribution)
	}
	var charter *consilium.Charter
	var digest consilium.Digest
	known, chartered := false, false
	var over error
	s.n.fsm.read(func(st *State) {
		_, known = st.Study(u.Message.Study)
		charter, digest, chartered = st.Charter(u.Message.Study)
		over = st.Takes(u.Message, h.At)
	})
	switch {
	case !known:
		return he.Profile{}, consilium.ErrUnknownStudy.Withf("%s", u.Message.Study)
	case !chartered:
		return he.Profile{}, consilium.ErrWrongPhase.Withf("study %s has no charter in force", u.Message.Study)
	case h.Charter != digest:
		return he.Profile{}, consilium.ErrInvalid.Withf("the header binds charter %s, the study's is %s", h.Charter.Short(), digest.Short())
	case over != nil:
		return he.Profile{}, over
	}
	member := charter.Member(h.Position)
	if member == nil || string(member.Site) != u.Message.By {
		return he.Profile{}, consilium.ErrNotMember.Withf("%s at position %d", u.Message.By, h.Position)
	}
	p, err := he.Choose(u.Shape.Lanes, u.Shape.Bits, len(charter.Members))
	if err != nil {
		return he.Profile{}, err
	}
	if err := checkHeader(p, h, u.Shape.Lanes, len(charter.Members), charter.Threshold); err != nil {
		return he.Profile{}, err
	}
	if u.BoxSize != p.BoxSize() {
		return he.Profile{}, consilium.ErrInvalid.Withf("boxes of %d bytes, the parameter set makes them %d", u.BoxSize, p.BoxSize())
	}
	return p, nil
}

// receiveBoxes checks one box after the other as it arrives: a bundle for 128
// hospitals is some megabytes, and as many bundles may arrive at once.
func (s *server) receiveBoxes(ctx context.Context, u *wire.Upload, p he.Profile) (BlobRef, error) {
	return s.n.blobs.produce(ctx, p.BundleSize(len(u.Header.Boxes)), func(w io.Writer) error {
		return p.VerifyBundle(io.TeeReader(u.Boxes, w), u.Header)
	})
}

func (s *server) receiveCiphertext(ctx context.Context, u *wire.Upload, p he.Profile) (BlobRef, error) {
	return s.n.blobs.produce(ctx, u.Header.Size, func(w io.Writer) error {
		d, err := checkVector(p, u.Shape.Lanes, io.TeeReader(u.Ciphertext, w))
		if err != nil {
			return err
		}
		if d != u.Header.Ciphertext {
			return consilium.ErrInvalid.Withf("the encrypted vector has digest %s, the header names %s", d.Short(), u.Header.Ciphertext.Short())
		}
		return nil
	})
}

// PutBlob stores bytes that a later message names, on a majority.
func (s *server) PutBlob(ctx context.Context, _ wire.Identity, digest consilium.Digest, size uint64, r io.Reader) error {
	if size > s.n.cfg.MaxBlob {
		return consilium.ErrTooLarge.Withf("a blob of %d bytes, at most %d", size, s.n.cfg.MaxBlob)
	}
	ref := BlobRef{Digest: digest, Size: size}
	if err := s.n.blobs.put(ctx, ref, r); err != nil {
		return err
	}
	s.received.Add(size)
	return s.n.blobs.majority(ctx, ref)
}

// List names the studies that the caller may see, none older than the call.
func (s *server) List(ctx context.Context, from wire.Identity) ([]wire.StudyStatus, error) {
	if err := s.current(ctx); err != nil {
		return nil, err
	}
	var infos []StudyInfo
	s.n.fsm.read(func(st *State) { infos = st.Studies() })
	out := []wire.StudyStatus{}
	for i := range infos {
		if visible(from, &infos[i]) {
			out = append(out, statusOf(&infos[i]))
		}
	}
	return out, nil
}

// Status says where one study stands, no earlier than the call. A study that the
// caller may not see is unknown to it.
func (s *server) Status(ctx context.Context, from wire.Identity, study consilium.StudyID) (wire.StudyStatus, error) {
	if err := s.current(ctx); err != nil {
		return wire.StudyStatus{}, err
	}
	info, err := s.study(from, study)
	if err != nil {
		return wire.StudyStatus{}, err
	}
	return statusOf(&info), nil
}

func statusOf(i *StudyInfo) wire.StudyStatus {
	return wire.StudyStatus{Study: i.ID, Name: i.Name, Team: i.Team, Phase: i.Phase, Round: i.Round, Attempt: i.Attempt, Members: i.Members,
		Contributed: i.Contributed, Deadline: i.Deadline, Reason: i.Reason}
}

func (s *server) study(from wire.Identity, id consilium.StudyID) (StudyInfo, error) {
	var info StudyInfo
	known := false
	s.n.fsm.read(func(st *State) { info, known = st.Study(id) })
	if !known || !visible(from, &info) {
		return StudyInfo{}, consilium.ErrUnknownStudy.Withf("%s", id)
	}
	return info, nil
}

// visible says who may see a study: the board all, a team its own, a hospital
// those for which it is asked.
func visible(from wire.Identity, info *StudyInfo) bool {
	switch from.Role {
	case wire.RoleBoard:
		return true
	case wire.RoleResearcher:
		return info.Team == consilium.ResearcherID(from.Name)
	case wire.RoleSite:
		return slices.Contains(info.Sites, consilium.SiteID(from.Name))
	}
	return false
}

// Follow streams events from this node's own log: committed ones, in order,
// whoever leads.
func (s *server) Follow(ctx context.Context, from wire.Identity, study consilium.StudyID, seq uint64, send func(event []byte) error) error {
	seen := map[consilium.StudyID]bool{}
	check := time.NewTicker(s.n.cfg.Timing.Leaderless)
	defer check.Stop()
	alone := false
	for {
		// Only what the state has come to: after a restart the recorded events are
		// ahead of it until the log is applied again, and who may see an event of a
		// study that the state does not have yet cannot be told.
		grown := s.n.fsm.watch()
		var n uint64
		s.n.fsm.read(func(st *State) { n = st.NextSeq() })
		if broken := s.n.broken(); broken != nil {
			return consilium.ErrUnavailable.With(broken)
		}
		for ; seq < n; seq++ {
			id, kind := s.n.fsm.events.at(seq)
			if study != "" && id != study {
				continue
			}
			// Whom a study asks is settled when it is admitted, and for every
			// further epoch, by the roster then in force; look again.
			ok, cached := seen[id]
			if !cached || kind == consilium.EventAdmitted || kind == consilium.EventRenewing {
				_, err := s.study(from, id)
				ok = err == nil
				seen[id] = ok
			}
			if !ok {
				continue
			}
			ev, err := s.n.fsm.events.encoded(seq)
			if err != nil {
				return err
			}
			if err := send(ev); err != nil {
				return err
			}
		}
		select {
		case <-grown:
		case <-check.C:
			// A node that is cut off from the others would keep its followers
			// waiting for ever; another node may know more.
			was := alone
			if alone = s.n.ready() != nil; alone && was {
				return consilium.ErrUnavailable.Withf("this node has had no leader for a while")
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-s.n.life.Done():
			return consilium.ErrUnavailable.Withf("this node is stopping")
		}
	}
}

// Fetch streams what a digest names: an encrypted vector, one sealed box, an
// aggregate, a sealed state or result. A team gets its sealed result and
// nothing else, and gets it as soon as anybody was told that the study is done;
// hospitals, which know from the log what there is, read at any node.
func (s *server) Fetch(ctx context.Context, from wire.Identity, digest consilium.Digest, offset, length uint64) (io.ReadCloser, error) {
	if from.Role != wire.RoleSite {
		if err := s.current(ctx); err != nil {
			return nil, err
		}
	}
	var loc Location
	known := false
	s.n.fsm.read(func(st *State) { loc, known = st.Locate(digest) })
	missing := consilium.ErrBlobMissing.Withf("%s", digest.Short())
	if !known {
		return nil, missing
	}
	info, err := s.study(from, loc.Study)
	if err != nil {
		return nil, missing // what the caller may not see is not there for it
	}
	if from.Role != wire.RoleSite && digest != info.Result {
		return nil, consilium.ErrForbidden.Withf("%s fetches what is for hospitals", from)
	}
	if offset > loc.Length || length > loc.Length-offset {
		return nil, consilium.ErrInvalid.Withf("range %d+%d of %d bytes", offset, length, loc.Length)
	}
	if length == 0 {
		length = loc.Length - offset
	}
	f, err := s.n.blobs.open(ctx, loc.Blob)
	if err != nil {
		return nil, err
	}
	s.sent.Add(length)
	return section{io.NewSectionReader(f, int64(loc.Offset+offset), int64(length)), f}, nil
}

type section struct {
	io.Reader
	io.Closer
}

// Hello says who this node is.
func (s *server) Hello(_ context.Context, from wire.Identity, incarnation string) (wire.Hello, error) {
	h := wire.Hello{Incarnation: s.n.incarnation, Applied: s.n.fsm.applied.Load()}
	if s.n.raftNode() == nil {
		return h, nil
	}
	f := s.n.raftNode().GetConfiguration()
	if err := f.Error(); err != nil {
		return h, consilium.ErrUnavailable.With(err)
	}
	for _, srv := range f.Configuration().Servers {
		h.Started = true
		h.Members = append(h.Members, string(srv.ID))
	}
	s.n.log.Debug("hello", "from", from.String(), "incarnation", incarnation, "started", h.Started)
	return h, nil
}

// Store keeps a blob on this node.
func (s *server) Store(ctx context.Context, _ wire.Identity, digest consilium.Digest, size uint64, r io.Reader) error {
	if size > max(s.n.cfg.MaxContribution, s.n.cfg.MaxBlob) {
		return consilium.ErrTooLarge.Withf("a blob of %d bytes", size)
	}
	return s.n.blobs.put(ctx, BlobRef{Digest: digest, Size: size}, r)
}

// Load streams what this node itself holds; asking further peers here could
// go round in circles.
func (s *server) Load(_ context.Context, _ wire.Identity, digest consilium.Digest, offset, length uint64) (io.ReadCloser, error) {
	f, size, err := s.n.blobs.local.Open(digest)
	if err != nil {
		return nil, err
	}
	if offset > uint64(size) || length > uint64(size)-offset {
		f.Close()
		return nil, consilium.ErrInvalid.Withf("range %d+%d of %d bytes", offset, length, size)
	}
	if length == 0 {
		length = uint64(size) - offset
	}
	return section{io.NewSectionReader(f, int64(offset), int64(length)), f}, nil
}

// Holds says whether this node has a blob whole.
func (s *server) Holds(ctx context.Context, _ wire.Identity, digest consilium.Digest, size uint64) (bool, error) {
	return s.n.blobs.holds(ctx, BlobRef{Digest: digest, Size: size}), nil
}
