package federation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"consilium"
	"consilium/he"
	"consilium/internal/blob"
	"consilium/internal/canon"
	"consilium/internal/client"
	"consilium/internal/durable"
	"consilium/internal/hybrid"
	"consilium/internal/seal"
	"consilium/internal/wire"
)

// Hostile is a coordinator that answers to nobody: it has no replication, no
// policy and no scruples. It shows every hospital its own version of the log,
// writes what it likes into it, swaps what it stores, and holds the keys of the
// last hospital, which colludes. The gates on its other side are the real ones,
// each with the keys, the journal and the trail that it has in production; only
// their vaults are small (Tally).
//
// Left alone it runs a study honestly, so that a test knows that a lie is
// refused for being a lie.
type Hostile struct {
	dir    string
	ids    []consilium.SiteID
	roster *consilium.Roster
	signed *consilium.Signed
	team   *hybrid.Key
	sealed *seal.Key // the team's
	board  []*hybrid.Key
	rogue  *hybrid.Key // the coordinator's own: worth nothing in a hospital's name
	rule   consilium.SiteRule
	lure   *seal.Key // a sealing key whose secret the coordinator has
	now    func() time.Time
	forged sync.Map // hospital and encoded statement, for statements signed with a lent key

	mu      sync.Mutex    // guards the rest
	moved   chan struct{} // closed and replaced at every change
	seq     uint64
	views   map[consilium.SiteID][]*consilium.Event
	log     []*consilium.Event // everything that was ever shown to anyone
	posts   []Post
	notes   []Note
	blobs   map[consilium.Digest][]byte
	courses map[consilium.StudyID]*course
	sites   map[consilium.SiteID]*hostileSite
	deaf    map[deafTo]int
	excused map[consilium.SiteID]bool
	disks   map[consilium.SiteID]durable.FS
	shut    map[consilium.SiteID][2]int // how often it is refused: when it follows, when it posts
	memory  map[consilium.SiteID]uint64 // limits, in studies: Tally needs a byte for each
	pauseAt uint32
	paused  *course

	renewAfter uint32
	renewing   *course
}

// Post is one statement as a hospital sent it, repetitions included.
type Post struct {
	Site    consilium.SiteID
	Message *consilium.Message
}

// Note is one line of a gate's log.
type Note struct {
	Site  consilium.SiteID
	Study consilium.StudyID
	Text  string
	Err   string
	seq   uint64
	isSeq bool
}

// hostileKey is the identity of a name. The keys of this federation protect
// nobody; deriving them makes its runs repeatable.
func hostileKey(name string) (*hybrid.Key, error) {
	d := sha256.Sum256([]byte("hostile federation, " + name))
	return hybrid.FromSeed(d[:])
}

// NewHostile makes a federation of the given hospitals, each its own operator,
// in ascending order of their ids, under dir. No gate runs yet.
func NewHostile(dir string, ids []consilium.SiteID) (*Hostile, error) {
	h := &Hostile{
		dir: dir, ids: slices.Sorted(slices.Values(ids)), now: time.Now, moved: make(chan struct{}),
		views: map[consilium.SiteID][]*consilium.Event{}, blobs: map[consilium.Digest][]byte{},
		rule: consilium.SiteRule{Min: 3, Missing: "wait"}, courses: map[consilium.StudyID]*course{}, sites: map[consilium.SiteID]*hostileSite{}, excused: map[consilium.SiteID]bool{},
		shut: map[consilium.SiteID][2]int{}, disks: map[consilium.SiteID]durable.FS{}, memory: map[consilium.SiteID]uint64{}, deaf: map[deafTo]int{},
	}
	now := h.now()
	r := &consilium.Roster{
		APIVersion: consilium.APIVersion, Kind: "Roster", Name: "hostile.example", Version: 1,
		NotBefore: now.Add(-24 * time.Hour).Unix(), NotAfter: now.Add(365 * 24 * time.Hour).Unix(),
		Board: consilium.Board{Name: "Ethics board", Threshold: 2},
	}
	var err error
	if h.rogue, err = hostileKey("coordinator"); err != nil {
		return nil, err
	}
	for i := range boardMembers {
		k, err := hostileKey(fmt.Sprintf("board %d", i))
		if err != nil {
			return nil, err
		}
		h.board = append(h.board, k)
		r.Board.Members = append(r.Board.Members, consilium.BoardMember{ID: fmt.Sprintf("member-%d", i+1), Key: k.Public()})
	}
	if h.team, err = hostileKey("team"); err != nil {
		return nil, err
	}
	if h.sealed, err = seal.Generate(); err != nil {
		return nil, err
	}
	if h.lure, err = seal.Generate(); err != nil {
		return nil, err
	}
	r.Researchers = []consilium.Researcher{{ID: "team", Name: "Data-science team", Country: "NL", Key: h.team.Public(), Sealing: h.sealed.Public()}}
	for i, id := range h.ids {
		s, err := h.newSite(id, i)
		if err != nil {
			return nil, err
		}
		h.sites[id] = s
		r.Sites = append(r.Sites, consilium.Site{ID: id, Name: string(id), Operator: string(id), Country: "NL", Key: s.key.Public()})
	}
	if err := h.sign(r); err != nil {
		return nil, err
	}
	return h, os.MkdirAll(dir, 0o700)
}

// Sites lists the hospitals.
func (h *Hostile) Sites() []consilium.SiteID { return slices.Clone(h.ids) }

// Posts returns everything that hospitals sent so far, in order.
func (h *Hostile) Posts() []Post {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.posts)
}

// Notes returns what the gates logged so far.
func (h *Hostile) Notes() []Note {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.notes)
}

// change tells those who wait that something happened. h.mu is held.
func (h *Hostile) change() {
	close(h.moved)
	h.moved = make(chan struct{})
}

// await waits until cond, called under the lock, holds.
func (h *Hostile) await(ctx context.Context, what string, cond func() bool) error {
	h.mu.Lock()
	for !cond() {
		moved := h.moved
		h.mu.Unlock()
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		case <-moved:
		}
		h.mu.Lock()
	}
	h.mu.Unlock()
	return nil
}

// tell shows an event to some hospitals, or to all. h.mu is held.
func (h *Hostile) tell(study consilium.StudyID, kind consilium.EventKind, body []byte, to ...consilium.SiteID) uint64 {
	if len(to) == 0 {
		to = h.ids
	}
	ev := &consilium.Event{Seq: h.seq, Time: h.now().UnixMilli(), Study: study, Kind: kind, Body: body}
	h.seq++
	h.log = append(h.log, ev)
	for _, id := range to {
		// Who lent its key is not shown what was signed with it: its own gate would
		// find that it has promised nothing of the kind, and end its part.
		if _, lent := h.forged.Load(string(id) + string(body)); !lent {
			h.views[id] = append(h.views[id], ev)
		}
	}
	h.change()
	return ev.Seq
}

// relay passes a statement on. h.mu is held.
func (h *Hostile) relay(m *consilium.Message, to ...consilium.SiteID) {
	h.tell(m.Study, consilium.EventMessage, m.Encode(), to...)
}

// forge signs a statement with a key of the coordinator's choice.
func (h *Hostile) forge(key *hybrid.Key, by consilium.SiteID, kind consilium.MessageKind, study consilium.StudyID, body []byte) (*consilium.Message, error) {
	sig, err := key.Sign(kind.Domain(), body)
	if err != nil {
		return nil, err
	}
	m := &consilium.Message{Kind: kind, Study: study, By: string(by), Body: body, Signature: sig}
	if key != h.rogue {
		h.forged.Store(string(by)+string(m.Encode()), true)
	}
	return m, nil
}

// Settle returns when every running gate has acted on everything that it was
// shown and nothing more came of it. It shows each of them two events that say
// nothing: a gate acts after it took the first and before it takes the second.
// Gates must have made a statement since they started.
func (h *Hostile) Settle(ctx context.Context, study consilium.StudyID) error {
	for {
		h.mu.Lock()
		before := len(h.posts)
		h.mu.Unlock()
		for range 2 {
			h.mu.Lock()
			seq := h.tell(study, consilium.EventMessage, []byte("fence"))
			h.mu.Unlock()
			err := h.await(ctx, "the gates to settle", func() bool {
				passed := map[consilium.SiteID]bool{}
				for _, n := range h.notes {
					if n.isSeq && n.seq == seq || n.Study == study && n.Text == "study ended" {
						passed[n.Site] = true
					}
				}
				for _, id := range h.ids {
					if h.sites[id].running && !passed[id] {
						return false
					}
				}
				return true
			})
			if err != nil {
				return err
			}
		}
		h.mu.Lock()
		same := before == len(h.posts)
		h.mu.Unlock()
		if same {
			return nil
		}
	}
}

// link is the coordinator as one hospital sees it.
type link struct {
	h    *Hostile
	site consilium.SiteID
}

// Follow delivers this hospital's version of the log.
func (l link) Follow(ctx context.Context, from uint64, fn func(*consilium.Event) error) error {
	if err := l.h.turnAway(l.site, 0); err != nil {
		return err
	}
	for next := 0; ; {
		l.h.mu.Lock()
		moved, view := l.h.moved, l.h.views[l.site]
		l.h.mu.Unlock()
		for ; next < len(view); next++ {
			if view[next].Seq < from {
				continue
			}
			if err := fn(view[next]); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-moved:
		}
	}
}

func (l link) Post(ctx context.Context, m *consilium.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := l.h.turnAway(l.site, 1); err != nil {
		return err
	}
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	if to := (deafTo{l.site, m.Kind}); l.h.deaf[to] > 0 {
		l.h.deaf[to]--
		return consilium.ErrUnavailable.Withf("nobody answers")
	}
	return l.h.take(l.site, m, nil)
}

// upload is a contribution as the coordinator stores it.
type upload struct {
	message    *consilium.Message
	header     *consilium.Header
	digest     consilium.Digest
	shape      wire.Shape
	ciphertext []byte
}

func (l link) Upload(ctx context.Context, m *consilium.Message, boxes [][]byte, shape wire.Shape, size uint64, ciphertext func() (io.ReadCloser, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	header, err := consilium.ParseHeader(m.Body)
	if err != nil {
		return consilium.ErrInvalid.With(err)
	}
	src, err := ciphertext()
	if err != nil {
		return err
	}
	defer src.Close()
	var buf bytes.Buffer
	if _, err := io.Copy(&buf, io.LimitReader(src, int64(size)+1)); err != nil {
		return err
	}
	u := &upload{message: m, header: header, digest: consilium.HeaderDigest(m.Body), shape: shape, ciphertext: buf.Bytes()}
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	for _, b := range boxes {
		l.h.blobs[consilium.DomainBox.Digest(b)] = b
	}
	if c := l.h.courses[m.Study]; c != nil && c.lie.serves {
		l.h.blobs[header.Ciphertext] = u.ciphertext
	}
	return l.h.take(l.site, m, u)
}

func (l link) Fetch(ctx context.Context, digest consilium.Digest, offset, length uint64) (io.ReadCloser, error) {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	b, ok := l.h.blobs[digest]
	if !ok || offset > uint64(len(b)) {
		return nil, consilium.ErrBlobMissing.Withf("%s", digest.Short())
	}
	for _, c := range l.h.courses {
		if c.lie.fetch != nil {
			b = c.lie.fetch(c, l.site, digest, b)
		}
	}
	b = b[offset:]
	if length > 0 && length < uint64(len(b)) {
		b = b[:length]
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (l link) PutBlob(_ context.Context, r io.ReadSeeker, size uint64) (consilium.Digest, error) {
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return consilium.Digest{}, err
	}
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	return l.h.put(b), nil
}

// put stores a blob. h.mu is held.
func (h *Hostile) put(b []byte) consilium.Digest {
	d := blob.Sum(b)
	h.blobs[d] = b
	return d
}

// take records what a hospital sent and lets its study go on. h.mu is held.
func (h *Hostile) take(site consilium.SiteID, m *consilium.Message, u *upload) error {
	h.posts = append(h.posts, Post{site, m})
	defer h.change()
	c := h.courses[m.Study]
	if c == nil {
		return consilium.ErrUnknownStudy
	}
	for _, have := range c.accepted {
		if have.Kind == m.Kind && have.By == m.By && bytes.Equal(have.Body, m.Body) {
			return nil
		}
	}
	if c.ended != 0 {
		return consilium.ErrStudyEnded
	}
	if err := c.take(site, m, u); err != nil {
		return err
	}
	c.accepted = append(c.accepted, m)
	return nil
}

// course is one study as the coordinator drives it.
type course struct {
	h        *Hostile
	id       consilium.StudyID
	lie      lie
	asked    []consilium.SiteID
	spec     *consilium.Spec
	sub      *consilium.Submission
	payload  []byte // of the submission
	approval []byte
	accepted []*consilium.Message

	enrols   map[consilium.SiteID]*consilium.Enrol
	declined int
	prior    *consilium.Charter // of the epoch before
	priorD   consilium.Digest
	first    uint32 // round of the epoch that is being made
	try      uint32
	departs  map[consilium.SiteID]bool
	draft    *consilium.Charter
	drafted  []byte
	charters map[consilium.SiteID][]byte
	charter  *consilium.Charter
	digest   consilium.Digest

	round, attempt uint32
	state          consilium.Digest
	sealing        []consilium.Digest
	absent         map[consilium.SiteID]bool // not waited for in round 1
	frozen         []consilium.Position
	uploads        map[consilium.Position]*upload
	set            *consilium.Contributors
	votes          map[consilium.Position]consilium.Digest
	openings       map[consilium.Position]*consilium.Message
	states         map[consilium.Position]*consilium.StateVote
	certified      bool
	summed         bool
	aggregate      []byte
	rejected       int
	done           bool

	releases map[consilium.Position]*consilium.Release
	ended    consilium.Phase

	sprung    bool                      // the lie is told in full
	lieSets   map[consilium.Digest]bool // sets that nobody may open
	lieSums   map[[2]uint32]bool        // round and attempt with a false sum
	lieDrafts map[consilium.Digest]bool // drafts that nobody may reveal under
	sets      map[consilium.Digest][]consilium.Position
	old       []*consilium.Message    // openings of round 1
	oldSet    *consilium.Contributors // of round 1
	oldSum    *consilium.Summed       // of round 1
	kept      map[string][]byte       // what a lie remembers
}

// Submit submits a study of so many rounds to the named hospitals, or to all,
// has the board approve it and admits it. The same name is the same question:
// two submissions differ by their token only.
func (h *Hostile) Submit(name string, rounds int, l string, asked ...consilium.SiteID) (consilium.StudyID, error) {
	lie, err := lieNamed(l)
	if err != nil {
		return "", err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	c, err := h.submit(name, rounds, lie, asked...)
	if err != nil {
		return "", err
	}
	return c.id, nil
}

func (h *Hostile) submit(name string, rounds int, l lie, asked ...consilium.SiteID) (*course, error) {
	if len(asked) == 0 {
		asked = h.ids
	}
	rule := h.rule
	rule.Only = asked
	spec := &consilium.Spec{
		APIVersion: consilium.APIVersion, Kind: "Study", Name: name, Question: "How often does it happen?",
		Purpose: consilium.Purpose{DUO: []string{"DUO:0000007"}, Disease: "MONDO:0018305", Class: "scientific_research"}, Legal: []byte("{}"),
		Data:    consilium.DataRef{Dataset: "tally", Patient: "id"},
		Sites:   rule,
		Columns: []consilium.Column{{Name: "id", Type: consilium.TypeID}, {Name: "value", Type: consilium.TypeNumber}},
		Derive:  []consilium.Derived{}, Analyses: []consilium.AnalysisSpec{{Name: "values", Type: consilium.AnalysisDescribe, Variables: []string{"value"}}},
		Privacy: consilium.Privacy{MinCohort: 5, Permits: []string{}}, Rounds: consilium.Rounds{Max: rounds, Tolerance: 1, Deadline: 3600},
	}
	if l.learned {
		spec.Sites.Missing, spec.Sites.Only = "continue", nil // whoever the roster names
		spec.Analyses[0] = consilium.AnalysisSpec{Name: "values", Type: consilium.AnalysisTrain}
	}
	body, err := canon.Marshal(spec)
	if err != nil {
		return nil, err
	}
	if _, err := consilium.ParseSpec(body); err != nil {
		return nil, err
	}
	sub := &consilium.Submission{
		APIVersion: consilium.APIVersion, Kind: "Submission", Team: "team", Token: fmt.Sprintf("%s %d", name, len(h.courses)),
		SpecBytes: body, Policy: consilium.DomainPolicy.Digest([]byte("whatever the vaults allow")), NotAfter: h.roster.NotAfter,
	}
	payload, err := canon.Marshal(sub)
	if err != nil {
		return nil, err
	}
	id := consilium.NewStudyID(consilium.DomainSubmission.Digest(payload))
	sig, err := h.team.Sign(consilium.DomainSubmission, payload)
	if err != nil {
		return nil, err
	}
	approval, err := client.Approval(id, sub, h.roster.NotBefore, h.roster.NotAfter)
	if err != nil {
		return nil, err
	}
	c := &course{
		h: h, id: id, lie: l, asked: asked, spec: spec, sub: sub, payload: payload, approval: approval,
		enrols: map[consilium.SiteID]*consilium.Enrol{}, charters: map[consilium.SiteID][]byte{}, absent: maps.Clone(h.excused),
		releases: map[consilium.Position]*consilium.Release{},
		lieSets:  map[consilium.Digest]bool{}, lieSums: map[[2]uint32]bool{}, lieDrafts: map[consilium.Digest]bool{},
		sets: map[consilium.Digest][]consilium.Position{}, kept: map[string][]byte{},
	}
	h.courses[id] = c
	h.relay(&consilium.Message{Kind: consilium.KindSubmission, Study: id, By: "team", Body: payload, Signature: sig})
	for i := range h.roster.Board.Threshold {
		sig, err := h.board[i].Sign(consilium.DomainApproval, approval)
		if err != nil {
			return nil, err
		}
		h.relay(&consilium.Message{Kind: consilium.KindApproval, Study: id, By: "board/" + h.roster.Board.Members[i].ID, Body: approval, Signature: sig})
	}
	h.tell(id, consilium.EventAdmitted, []byte("{}"))
	return c, nil
}

// The moments at which a lie may take the place of the honest step.
const (
	whenEnrolled    = "enrolled"    // all hospitals have answered: the draft
	whenContributed = "contributed" // all expected contributions are there: the proposal
	whenCertified   = "certified"   // t votes: the certificate and the sum
	whenSummed      = "summed"      // the sum is made: its announcement
	whenOpened      = "opened"      // every hospital has opened
)

func (c *course) step(when string, honest func() error) error {
	if f := c.lie.at[when]; f != nil {
		if took, err := f(c); took || err != nil {
			return err
		}
	}
	if honest == nil {
		return nil
	}
	return honest()
}

// late is what a statement gets whose moment has passed.
func (c *course) late(at consilium.At) error {
	if c.charter == nil || at.Charter != c.digest || at.Round != c.round || at.Attempt != c.attempt {
		return consilium.ErrRoundClosed
	}
	return nil
}

func (c *course) take(site consilium.SiteID, m *consilium.Message, u *upload) error {
	if c.lie.relay != nil {
		if took, err := c.lie.relay(c, m); took || err != nil {
			return err
		}
	}
	switch m.Kind {
	case consilium.KindDepart:
		if c.prior == nil || c.charter != nil {
			return consilium.ErrWrongPhase
		}
		c.departs[site] = true
		c.show(m)
		return c.answered()
	case consilium.KindEnrol:
		e, err := consilium.ParseEnrol(m.Body)
		if err != nil {
			return consilium.ErrInvalid.With(err)
		}
		if c.charter != nil || e.Previous != c.priorD {
			return consilium.ErrWrongPhase
		}
		c.enrols[site] = e
		c.show(m)
		return c.answered()
	case consilium.KindDecline:
		c.declined++
		c.show(m)
		return c.answered()
	case consilium.KindCharter:
		c.charters[site] = m.Body
		c.show(m)
		return c.chartered(m.Body)
	case consilium.KindHeader:
		if u == nil {
			return consilium.ErrInvalid.Withf("a header without its contribution")
		}
		if err := c.late(u.header.At); err != nil {
			return err
		}
		if c.set != nil {
			return consilium.ErrRoundClosed
		}
		c.uploads[u.header.Position] = u
		c.show(m)
		return c.contributed()
	case consilium.KindVote:
		v, err := consilium.ParseVote(m.Body)
		if err != nil {
			return consilium.ErrInvalid.With(err)
		}
		if err := c.late(v.At); err != nil {
			return err
		}
		c.votes[v.Position] = v.Set
		c.show(m)
		return c.voted()
	case consilium.KindOpening:
		o, err := consilium.ParseOpening(m.Body)
		if err != nil {
			return consilium.ErrInvalid.With(err)
		}
		if err := c.late(o.At); err != nil {
			return err
		}
		c.openings[o.Position] = m
		if c.round == 1 {
			c.old = append(c.old, m)
		}
		c.show(m)
		if len(c.openings) == len(c.charter.Members) {
			return c.step(whenOpened, nil)
		}
		return nil
	case consilium.KindStateVote:
		v, err := consilium.ParseStateVote(m.Body)
		if err != nil {
			return consilium.ErrInvalid.With(err)
		}
		if err := c.late(v.At); err != nil {
			return err
		}
		c.states[v.Position] = v
		c.show(m)
		return c.stated()
	case consilium.KindRelease:
		v, err := consilium.ParseRelease(m.Body)
		if err != nil {
			return consilium.ErrInvalid.With(err)
		}
		c.releases[v.Position] = v
	case consilium.KindPublish:
		v, err := consilium.ParsePublish(m.Body)
		if err != nil {
			return consilium.ErrInvalid.With(err)
		}
		c.show(m)
		c.end(consilium.PhaseDone, consilium.EventDone, v.Blob[:])
		return nil
	}
	c.show(m)
	return nil
}

// show passes a statement on, unless the lie withholds it.
func (c *course) show(m *consilium.Message) {
	if c.lie.withhold == nil || !c.lie.withhold(c, m) {
		c.h.relay(m)
	}
}

func (c *course) end(phase consilium.Phase, kind consilium.EventKind, body []byte) {
	c.ended = phase
	c.h.tell(c.id, kind, body)
}

func (c *course) answered() error {
	if c.draft != nil || len(c.enrols)+c.declined < len(c.asked) {
		return nil
	}
	if c.prior != nil && len(c.departs) < c.prior.ReleaseQuorum() && c.lie.at[whenEnrolled] == nil {
		return nil
	}
	return c.step(whenEnrolled, func() error {
		d, err := c.makeDraft()
		if err != nil {
			return err
		}
		return c.present(d)
	})
}

// makeDraft is the charter that the enrolments make.
func (c *course) makeDraft() (*consilium.Charter, error) {
	d := &consilium.Charter{
		APIVersion: consilium.APIVersion, Kind: "Charter", Protocol: consilium.ProtocolVersion, Study: c.id, Epoch: 1,
		Submission: consilium.DomainSubmission.Digest(c.payload), Spec: consilium.SpecDigest(c.sub.SpecBytes), Policy: c.sub.Policy,
		Approval: consilium.DomainApproval.Digest(c.approval), Roster: consilium.RosterDigest(c.h.signed.Payload),
		Team: "team", TeamKey: c.h.sealed.Public(), KEM: consilium.KEMX25519MLKEM768, MinSites: c.spec.Sites.Min,
	}
	if c.prior != nil {
		d.Epoch, d.Previous, d.Handover = c.prior.Epoch+1, c.priorD, &consilium.Handover{Round: c.first, State: c.state}
	}
	for _, id := range c.h.ids {
		e, site := c.enrols[id], c.h.sites[id]
		if e == nil {
			continue
		}
		d.Members = append(d.Members, consilium.Member{Site: id, Operator: string(id), Key: site.key.Public(), Sealing: e.Sealing,
			Nonce: e.Nonce, Commitment: e.Commitment, Decision: e.Decision})
	}
	if d.Faults = c.spec.Sites.Faults; d.Faults == 0 {
		d.Faults = consilium.DefaultFaults(len(d.Members), d.MinSites)
	}
	if c.prior != nil {
		d.Faults = consilium.SuccessorFaults(c.prior, c.spec.Sites.Faults, len(d.Members))
	}
	d.Threshold = consilium.Threshold(len(d.Members), d.Faults)
	return d, nil
}

// present shows a draft to all.
func (c *course) present(d *consilium.Charter) error {
	payload, err := canon.Marshal(d)
	if err != nil {
		return err
	}
	c.draft, c.drafted = d, payload
	c.h.tell(c.id, consilium.EventDrafted, payload)
	return nil
}

func (c *course) chartered(payload []byte) error {
	if c.charter != nil || c.draft == nil {
		return nil
	}
	for _, m := range c.draft.Members {
		if !bytes.Equal(c.charters[m.Site], payload) {
			return nil
		}
	}
	charter, err := consilium.ParseCharter(payload)
	if err != nil {
		return err
	}
	c.charter, c.digest = charter, consilium.CharterDigest(payload)
	c.sealing = make([]consilium.Digest, len(charter.Members))
	c.h.tell(c.id, consilium.EventChartered, payload)
	c.open(charter.FirstRound(), 1)
	return nil
}

func (c *course) open(round, attempt uint32) {
	c.round, c.attempt = round, attempt
	c.uploads = map[consilium.Position]*upload{}
	c.votes = map[consilium.Position]consilium.Digest{}
	c.openings = map[consilium.Position]*consilium.Message{}
	c.states = map[consilium.Position]*consilium.StateVote{}
	c.set, c.certified, c.summed, c.aggregate = nil, false, false, nil
	o := consilium.RoundOpened{Charter: c.digest, Round: round, Attempt: attempt, State: c.state,
		Deadline: c.h.now().Add(time.Hour).UnixMilli(), Sealing: c.sealing}
	if c.lie.opened == nil || !c.lie.opened(c, o) {
		c.h.tell(c.id, consilium.EventOpened, o.Encode())
	}
}

// expected are the positions whose contributions the attempt waits for.
func (c *course) expected() []consilium.Position {
	if c.frozen != nil {
		return c.frozen
	}
	var out []consilium.Position
	for i, m := range c.charter.Members {
		if !c.absent[m.Site] {
			out = append(out, consilium.Position(i+1))
		}
	}
	return out
}

func (c *course) contributed() error {
	for _, p := range c.expected() {
		if c.uploads[p] == nil {
			return nil
		}
	}
	return c.step(whenContributed, func() error {
		c.propose(c.setOf(c.expected()...))
		return nil
	})
}

// setOf is the set of some positions with the contributions that came.
func (c *course) setOf(positions ...consilium.Position) *consilium.Contributors {
	u := &consilium.Contributors{Charter: c.digest, Round: c.round, Attempt: c.attempt}
	for _, p := range positions {
		u.Members = append(u.Members, consilium.Contributor{Position: p, Header: c.uploads[p].digest})
	}
	return u
}

// propose shows a set to some hospitals, or to all.
func (c *course) propose(u *consilium.Contributors, to ...consilium.SiteID) {
	c.set = u
	c.sets[u.Digest()] = u.Positions()
	c.h.tell(c.id, consilium.EventProposed, u.Encode(), to...)
}

func (c *course) voted() error {
	if c.certified || c.set == nil {
		return nil
	}
	n := 0
	for _, d := range c.votes {
		if d == c.set.Digest() {
			n++
		}
	}
	if n < c.charter.Threshold {
		return nil
	}
	c.certified = true
	return c.step(whenCertified, c.certify)
}

func (c *course) certify() error {
	d := c.set.Digest()
	c.h.tell(c.id, consilium.EventCertified, d[:])
	var parts []*upload
	for _, m := range c.set.Members {
		parts = append(parts, c.uploads[m.Position])
	}
	var err error
	if c.aggregate, err = sumUploads(len(c.charter.Members), parts); err != nil {
		return err
	}
	if c.round == c.h.pauseAt {
		c.h.paused = c
		c.h.change()
		return nil
	}
	return c.sum()
}

func (c *course) sum() error {
	return c.step(whenSummed, func() error {
		c.announce(c.aggregate)
		return nil
	})
}

// sumUploads adds encrypted vectors.
func sumUploads(members int, parts []*upload) ([]byte, error) {
	p, err := he.Choose(parts[0].shape.Lanes, parts[0].shape.Bits, members)
	if err != nil {
		return nil, err
	}
	readers := make([]io.Reader, len(parts))
	for i, u := range parts {
		readers[i] = bytes.NewReader(u.ciphertext)
	}
	var out bytes.Buffer
	err = he.Sum(p, parts[0].shape.Lanes, readers, &out)
	return out.Bytes(), err
}

// announce says, to some hospitals or to all, that these bytes are the sum of the
// proposed set.
func (c *course) announce(aggregate []byte, to ...consilium.SiteID) {
	s := &consilium.Summed{Set: c.set.Digest(), Blob: c.h.put(aggregate), Size: uint64(len(aggregate))}
	if c.round == 1 {
		c.oldSum, c.oldSet = s, c.set
	}
	c.summed = true
	c.h.tell(c.id, consilium.EventSummed, s.Encode(), to...)
}

func (c *course) stated() error {
	type outcome struct {
		next         consilium.Digest
		done, reject bool
	}
	tally := map[outcome]int{}
	for _, v := range c.states {
		o := outcome{v.Next, v.Done, v.Reject}
		tally[o]++
		if tally[o] != c.charter.Threshold {
			continue
		}
		if o.reject {
			if c.sprung {
				return nil // the lie is told; the coordinator waits for who falls for it
			}
			c.rejected++
			if c.rejected > 1 {
				c.end(consilium.PhaseAborted, consilium.EventAborted, []byte("two sums were rejected"))
				return nil
			}
			c.open(c.round, c.attempt+1)
			return nil
		}
		return c.close(o.next, o.done)
	}
	return nil
}

func (c *course) close(next consilium.Digest, done bool) error {
	c.h.tell(c.id, consilium.EventClosed, next[:])
	if !c.lie.learned {
		c.frozen = c.set.Positions()
	}
	for _, m := range c.set.Members {
		c.sealing[m.Position-1] = m.Header
	}
	c.state = next
	if done {
		c.done = true
		c.round++ // statements about the round are late from here on
		c.h.tell(c.id, consilium.EventReleasing, nil)
		return nil
	}
	if c.h.renewAfter == c.round {
		c.h.renewing = c
		c.h.change()
		return nil
	}
	c.open(c.round+1, 1)
	return nil
}

// renew asks the members of the charter in force to leave it before a round,
// and some hospitals to enrol again.
func (c *course) renew(first uint32, asked []consilium.SiteID) {
	if c.charter != nil {
		c.prior, c.priorD, c.first, c.try = c.charter, c.digest, first, 0
		c.departs = map[consilium.SiteID]bool{}
	}
	c.try++
	c.charter, c.digest, c.draft, c.drafted = nil, consilium.Digest{}, nil, nil
	c.asked, c.declined = asked, 0
	c.enrols, c.charters = map[consilium.SiteID]*consilium.Enrol{}, map[consilium.SiteID][]byte{}
	v := &consilium.Renewal{Charter: c.priorD, Round: first, State: c.state, Roster: consilium.RosterDigest(c.h.signed.Payload), Try: c.try, Reason: "the roster has changed"}
	c.h.tell(c.id, consilium.EventRenewing, v.Encode())
}

// RenewAfter keeps studies from going on after a round until Renew.
func (h *Hostile) RenewAfter(round uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.renewAfter = round
}

// Renew waits for the round of RenewAfter to close, puts a roster in force that
// drops some hospitals, gives others new keys and takes in others, starts all who
// are left again under it, and asks for the next epoch.
func (h *Hostile) Renew(ctx context.Context, drop, rekey, add []consilium.SiteID) error {
	if err := h.await(ctx, "the last round of the epoch", func() bool { return h.renewing != nil }); err != nil {
		return err
	}
	if err := h.nextRoster(drop, rekey, add); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.renewing
	h.renewing, h.renewAfter = nil, 0
	c.renew(c.round+1, h.Sites())
	return nil
}

func (h *Hostile) nextRoster(drop, rekey, add []consilium.SiteID) error {
	r := *h.roster
	r.Version, r.Previous, r.Sites = r.Version+1, consilium.RosterDigest(h.signed.Payload), nil
	for _, id := range h.Sites() {
		if err := h.Stop(id); err != nil {
			return err
		}
	}
	for i, id := range add {
		s, err := h.newSite(id, len(h.ids)+i)
		if err != nil {
			return err
		}
		h.sites[id] = s
	}
	for _, id := range rekey {
		key, err := hostileKey(fmt.Sprintf("site %s, version %d", id, r.Version))
		if err != nil {
			return err
		}
		h.sites[id].key = key
	}
	h.mu.Lock()
	ids := slices.DeleteFunc(append(slices.Clone(h.ids), add...), func(id consilium.SiteID) bool { return slices.Contains(drop, id) })
	h.ids = slices.Sorted(slices.Values(ids))
	for _, id := range add { // it is shown the study from its beginning
		h.views[id] = slices.Clone(h.log)
	}
	h.mu.Unlock()
	for _, id := range h.ids {
		r.Sites = append(r.Sites, consilium.Site{ID: id, Name: string(id), Operator: string(id), Country: "NL", Key: h.sites[id].key.Public()})
	}
	if err := h.sign(&r); err != nil {
		return err
	}
	for _, id := range h.ids {
		if err := h.Start(id); err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
	}
	return nil
}

// sign puts a roster in force.
func (h *Hostile) sign(r *consilium.Roster) error {
	payload, err := canon.Marshal(r)
	if err != nil {
		return err
	}
	roster, err := consilium.ParseRoster(payload)
	if err != nil {
		return err
	}
	signed := &consilium.Signed{Payload: payload}
	for i := range r.Board.Threshold {
		sig, err := h.board[i].Sign(consilium.DomainRoster, payload)
		if err != nil {
			return err
		}
		signed.Signatures = append(signed.Signatures, consilium.Countersign{By: r.Board.Members[i].ID, Signature: sig})
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.roster, h.signed = roster, signed
	return nil
}

// deafTo is what the coordinator does not hear.
type deafTo struct {
	site consilium.SiteID
	kind consilium.MessageKind
}

// Deaf answers "unavailable" to so many of a hospital's next statements of a kind,
// as a hospital's client does that has tried for long enough.
func (h *Hostile) Deaf(id consilium.SiteID, kind consilium.MessageKind, times int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deaf[deafTo{id, kind}] = times
}

// Excuse lets studies that are submitted from now on begin without a
// hospital's contribution; it is a member all the same.
func (h *Hostile) Excuse(id consilium.SiteID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.excused[id] = true
}

// Limit lets a hospital, from its next start on, take part in so many studies at
// once.
func (h *Hostile) Limit(id consilium.SiteID, studies uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.memory[id] = studies
}

// ShutOut refuses a hospital's certificate when it follows, so many times, and when
// it posts, so many times: as all coordinators do while a clock is wrong.
func (h *Hostile) ShutOut(id consilium.SiteID, follows, posts int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shut[id] = [2]int{follows, posts}
}

func (h *Hostile) turnAway(id consilium.SiteID, at int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := h.shut[id]
	if left[at] == 0 {
		return nil
	}
	left[at]--
	h.shut[id] = left
	return consilium.ErrUnauthenticated.Withf("certificate valid from 2027-01-01 to 2028-01-01")
}

// Disk puts a file system under what a hospital's gate writes, from its next start
// on.
func (h *Hostile) Disk(id consilium.SiteID, fs durable.FS) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.disks[id] = fs
}

// PauseAt keeps back the sum of a round until Resume.
func (h *Hostile) PauseAt(round uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pauseAt = round
}

// Resume waits until the round of PauseAt is certified and goes on.
func (h *Hostile) Resume(ctx context.Context) error {
	if err := h.await(ctx, "the pause", func() bool { return h.paused != nil }); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.paused
	h.paused, h.pauseAt = nil, 0
	return c.sum()
}

// WaitLie returns when a study's lie is told and has had its effect.
func (h *Hostile) WaitLie(ctx context.Context, study consilium.StudyID) error {
	c := h.course(study)
	if c == nil {
		return consilium.ErrUnknownStudy
	}
	if err := h.await(ctx, "the lie to be told", func() bool { return c.sprung }); err != nil {
		return err
	}
	return h.Settle(ctx, study)
}

// Until waits for what hospitals post and log. cond must not call h.
func (h *Hostile) Until(ctx context.Context, what string, cond func([]Post, []Note) bool) error {
	return h.await(ctx, what, func() bool { return cond(h.posts, h.notes) })
}

// Wait returns how a study ended.
func (h *Hostile) Wait(ctx context.Context, study consilium.StudyID) (consilium.Phase, error) {
	c := h.course(study)
	if c == nil {
		return 0, consilium.ErrUnknownStudy
	}
	err := h.await(ctx, "the study's end", func() bool { return c.ended != 0 })
	return c.ended, err
}

func (h *Hostile) course(study consilium.StudyID) *course {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.courses[study]
}

// Result opens the released result of a study that is done, with the checks
// of a team: nothing counts but the signatures of t hospitals.
func (h *Hostile) Result(study consilium.StudyID) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var events []*consilium.Event
	for _, ev := range h.log {
		if ev.Study != study {
			continue
		}
		if _, err := consilium.ParseMessage(ev.Body); ev.Kind == consilium.EventMessage && err != nil {
			continue // a fence
		}
		events = append(events, ev)
	}
	proof, err := client.Check(h.roster, study, events)
	if err != nil {
		return nil, err
	}
	if proof.Publish == nil {
		return nil, errors.New("no released result")
	}
	plain, err := h.sealed.Open(consilium.DomainTeamEnvelope, proof.Digest[:], h.blobs[proof.Publish.Blob])
	if err != nil {
		return nil, err
	}
	if len(plain) < 32 || consilium.DomainResult.Digest(plain[:32], plain[32:]) != proof.Publish.Result {
		return nil, errors.New("the sealed result is not the released one")
	}
	env, err := consilium.ParseResultEnvelope(plain[32:])
	if err != nil {
		return nil, err
	}
	return env.Result, nil
}

// Dir is where a hospital's gate keeps its files.
func (h *Hostile) Dir(id consilium.SiteID) string { return filepath.Join(h.dir, string(id)) }

// Members are the positions of a set that was ever proposed.
func (h *Hostile) Members(set consilium.Digest) []consilium.Position {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.courses {
		if p, ok := c.sets[set]; ok {
			return p
		}
	}
	return nil
}

// Cut takes back what a hospital, which must not be running, was shown of a
// study from the first event of a kind on, and returns it for Show.
func (h *Hostile) Cut(id consilium.SiteID, study consilium.StudyID, kind consilium.EventKind) []*consilium.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	view := h.views[id]
	i := slices.IndexFunc(view, func(ev *consilium.Event) bool { return ev.Study == study && ev.Kind == kind })
	if i < 0 {
		return nil
	}
	// What comes while the view is cut waits with the rest.
	h.views[id] = slices.Clone(view[:i])
	return slices.Clone(view[i:])
}

// Hide takes back every statement of its own that a hospital, which must not be
// running, was shown of a study.
func (h *Hostile) Hide(id consilium.SiteID, study consilium.StudyID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.views[id] = slices.DeleteFunc(slices.Clone(h.views[id]), func(ev *consilium.Event) bool {
		m, err := consilium.ParseMessage(ev.Body)
		return ev.Study == study && ev.Kind == consilium.EventMessage && err == nil && m.By == string(id) && m.Kind == consilium.KindOpening
	})
}

// Show appends events to what a hospital sees.
func (h *Hostile) Show(id consilium.SiteID, events []*consilium.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.views[id] = append(h.views[id], events...)
	h.change()
}
