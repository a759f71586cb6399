package coordinator

import (
	"crypto/sha256"
	"slices"
	"sort"

	"consilium"
)

// State is everything that the replicas agree on. It changes only in Apply.
// It has no lock: the caller serialises. What its methods return is never
// modified later.
type State struct {
	index uint64 // of the last accepted command
	now   int64  // Unix milliseconds: the largest time of an accepted command
	seq   uint64 // of the next event

	// edge is the right edge of the audit log's tree (RFC 6962 §2.1): the
	// roots of the full subtrees of which seq leaves consist, largest first.
	edge []consilium.Digest

	roster        *consilium.Roster
	rosterPayload []byte
	rosterDigest  consilium.Digest

	studies map[consilium.StudyID]*study
	ended   map[consilium.StudyID]*endedStudy
	tokens  map[tokenKey]consilium.StudyID // follows from the two above

	garbage   []consilium.Digest // blobs that nothing needs any more
	collected []consilium.Digest // of the last Collects, so that no message names a blob that was just deleted
}

type tokenKey struct {
	team  consilium.ResearcherID
	token string
}

// Limits of the state.
const (
	// MaxLive bounds the studies that run at once.
	MaxLive = 256
	// MaxStudySize bounds the events of one live study, in bytes.
	MaxStudySize = 1 << 30
	// MaxAttempts bounds the attempts of one round.
	MaxAttempts = 5
	// maxCollected is how many collected blobs are remembered.
	maxCollected = 4 * MaxCollect
)

// Time limits that follow from a study's deadline, in milliseconds.
const (
	maxDeadline = 30 * 24 * 3600 * 1000
	// minStall is the least time that a study waits for a missing hospital
	// before it ends: a weekend of maintenance should not end one.
	minStall    = 72 * 3600 * 1000
	stallFactor = 20
)

// study is one live study.
type study struct {
	id         consilium.StudyID
	submission consilium.Digest
	team       consilium.ResearcherID
	token      string
	name       string
	spec       specFacts
	phase      consilium.Phase // never Waiting: that is waiting
	waiting    bool
	reason     string // why it waits
	submitted  int64
	events     []consilium.Event
	size       uint64                    // of the events' bodies
	seen       map[consilium.Digest]bool // statements among the events
	approval   consilium.Digest
	approvers  []string // ascending
	roster     consilium.Digest
	asked      []asked // ascending ids
	teamKey    consilium.SealingKey

	deadline int64 // when a Tick changes something, or 0
	late     uint8 // deadlines that have passed in this phase

	draft          []byte
	charterPayload []byte             // nil while the study goes from one epoch to the next
	charter        *consilium.Charter // the draft until chartered
	charterDigest  consilium.Digest   // zero until chartered

	epoch        uint32             // of the charter, or of the one that is being made
	renewal      string             // why another epoch is wanted or being made, or ""
	tries        uint32             // enrolments in this epoch; 0 in the first
	priorPayload []byte             // charter of the epoch before, or nil
	prior        *consilium.Charter // the same
	priorDigest  consilium.Digest
	departed     []bool             // who has left the epoch before, by its positions
	left         []consilium.SiteID // withdrawn or revoked, for good; ascending

	// By position.
	revealed  []bool
	signed    []consilium.Digest // of the charter that each member signed
	withdrawn []bool
	sealing   []consilium.Digest

	round, attempt uint32
	state          consilium.Digest     // certified by the last closed round
	closedAttempt  uint32               // in which the last round closed
	frozen         []consilium.Position // of the charter in force, or of prior while there is none
	frozenIn       uint32               // round whose certification froze them
	pinned         []consilium.Position // members of the set certified in an earlier attempt of this round
	rejected       int                  // the attempt of this round whose aggregate was rejected, or 0: there is one retry

	// Of the open attempt, by position.
	contributions []*contribution
	acks          [][]consilium.Position // dealers whose dealing the member found sound
	complaints    []complaint
	set           []consilium.Contributor // proposed
	votes         []consilium.Digest
	opened        []bool
	sum           *BlobRef
	outcomes      []outcome
	renounced     []uint32 // up to which attempt of this round
	everOpened    []bool   // in any attempt of this round
	suspected     []bool   // whose openings of the rejected attempt before this one each member suspects is recorded

	stale    []BlobRef // of earlier attempts of this round
	sealed   []sealedState
	shown    []sealedState // what accused hospitals showed in this round
	releases []release
}

// specFacts is what the state machine needs of a specification.
type specFacts struct {
	digest, policy consilium.Digest
	notAfter       int64 // Unix seconds
	min, faults    int
	missing        uint8
	only           []consilium.SiteID
	deadline       int64 // milliseconds
	rounds         int   // at most
	exact          bool  // the contributors freeze at the first certification
}

const (
	missingWait uint8 = iota + 1
	missingAbort
	missingContinue
)

type asked struct {
	id       consilium.SiteID
	operator string
	key      consilium.PublicKey
	declined bool
	enrol    *enrolment
}

type enrolment struct {
	sealing                     consilium.SealingKey
	nonce, commitment, decision consilium.Digest
}

type contribution struct {
	header     consilium.Digest
	layout     consilium.Digest
	ciphertext consilium.Digest
	boxes      []consilium.Digest
	upload     Upload
}

// complaint is about one dealing to one hospital; answered says that the
// dealer has published that share to the group. Whether the answer is true is
// the hospitals' to judge.
type complaint struct {
	by, dealer consilium.Position
	answered   bool
}

type outcome struct {
	cast         bool
	next         consilium.Digest
	done, reject bool
}

type sealedState struct {
	by   consilium.Position
	blob BlobRef
}

type release struct {
	cast, allow bool
	result      consilium.Digest
	code        string
}

type endedStudy struct {
	info       StudyInfo
	token      string
	resultSize uint64
}

// NewState returns the state before the first command.
func NewState() *State {
	return &State{
		studies: map[consilium.StudyID]*study{},
		ended:   map[consilium.StudyID]*endedStudy{},
		tokens:  map[tokenKey]consilium.StudyID{},
	}
}

// live lists the live studies in ascending order. Nothing here ever ranges
// over a map to decide or to encode.
func (s *State) live() []*study {
	out := make([]*study, 0, len(s.studies))
	for _, st := range s.studies {
		out = append(out, st)
	}
	sort.Slice(out, func(i, k int) bool { return out[i].id < out[k].id })
	return out
}

func (s *State) endedList() []*endedStudy {
	out := make([]*endedStudy, 0, len(s.ended))
	for _, e := range s.ended {
		out = append(out, e)
	}
	sort.Slice(out, func(i, k int) bool { return out[i].info.ID < out[k].info.ID })
	return out
}

// apply is one Apply under way. Handlers check everything before they change
// anything, so that a rejection leaves the state as it was.
type apply struct {
	*State
	now int64
	out []consilium.Event
}

// maxTime is the end of the year 9999, in Unix milliseconds.
const maxTime = 253402300799999

// Apply executes the command at index of the replicated log. It returns the
// events that every replica records, none if the command repeats what is known,
// or the reason why nothing changed. The same states and commands give the
// same events and states, on every machine and at any time.
//
// An index that was accepted before is answered with nothing: a log may be
// replayed over a newer snapshot.
func (s *State) Apply(index uint64, cmd Command) ([]consilium.Event, *Rejection) {
	if index <= s.index {
		return nil, nil
	}
	if cmd.At < 0 || cmd.At > maxTime {
		return nil, reject(consilium.ErrInvalid, "a command of time %d", cmd.At)
	}
	a := &apply{State: s, now: max(s.now, cmd.At)}
	var r *Rejection
	switch op := cmd.Op.(type) {
	case *Tick:
		a.tick()
	case *RosterSet:
		r = a.setRoster(op)
	case *Post:
		r = a.post(op)
	case *Decide:
		r = a.decide(op)
	case *RecordSum:
		r = a.recordSum(op)
	case *Collect:
		r = a.collect(op)
	default:
		r = reject(consilium.ErrInvalid, "an unknown command")
	}
	if r != nil {
		return nil, r
	}
	s.index, s.now = index, a.now
	return a.out, nil
}

// emit records one event of a study.
func (a *apply) emit(st *study, kind consilium.EventKind, body []byte) {
	ev := consilium.Event{Seq: a.seq, Time: a.now, Study: st.id, Kind: kind, Body: body}
	a.seq++
	a.edge = appendLeaf(a.edge, ev.Seq, ev.Encode())
	st.events = append(st.events, ev)
	st.size += uint64(len(body))
	a.out = append(a.out, ev)
}

// appendLeaf extends the right edge of a tree of size leaves by one (RFC 6962
// §2.1): equal-sized neighbours merge.
func appendLeaf(edge []consilium.Digest, size uint64, data []byte) []consilium.Digest {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(data)
	var node consilium.Digest
	h.Sum(node[:0])
	edge = slices.Clone(edge)
	for ; size&1 == 1; size >>= 1 {
		node = nodeHash(edge[len(edge)-1], node)
		edge = edge[:len(edge)-1]
	}
	return append(edge, node)
}

func nodeHash(l, r consilium.Digest) (d consilium.Digest) {
	h := sha256.New()
	h.Write([]byte{1})
	h.Write(l[:])
	h.Write(r[:])
	h.Sum(d[:0])
	return d
}

// enter moves a study to a phase and sets its deadline, ms from now; 0 is
// none. Whatever the study waited for has come.
func (a *apply) enter(st *study, phase consilium.Phase, ms int64) {
	if st.waiting {
		st.waiting, st.reason = false, ""
		a.emit(st, consilium.EventResumed, nil)
	}
	st.phase, st.late, st.deadline = phase, 0, 0
	if ms > 0 {
		st.deadline = a.now + ms
	}
}

// wait stops a study until what it misses comes, but not for ever.
func (a *apply) wait(st *study, reason string) {
	st.waiting, st.reason = true, reason
	st.late = lateWaiting
	st.deadline = a.now + max(minStall, stallFactor*st.spec.deadline)
	a.emit(st, consilium.EventWaiting, []byte(reason))
}

// Values of study.late.
const (
	lateNot     uint8 = 0 // before the deadline
	lateGrace   uint8 = 1 // after it: nobody new, but what came may still settle
	lateWaiting uint8 = 2 // waiting; the next deadline ends the study
)

// end moves a study from the live ones to the ended ones.
func (a *apply) end(st *study, phase consilium.Phase, kind consilium.EventKind, body []byte, reason string, result *BlobRef) {
	a.emit(st, kind, body)
	info := st.info()
	info.Phase, info.Reason, info.Deadline, info.Ended = phase, reason, 0, a.now
	e := &endedStudy{info: info, token: st.token}
	if result != nil {
		e.info.Result, e.resultSize = result.Digest, result.Size
	}
	blobs := st.blobs()
	delete(a.studies, st.id)
	a.ended[st.id] = e
	a.discard(blobs)
}

func (a *apply) abort(st *study, reason string) {
	a.end(st, consilium.PhaseAborted, consilium.EventAborted, []byte(reason), reason, nil)
}

// discard marks blobs as garbage unless something live still names them.
func (a *apply) discard(blobs []BlobRef) {
	needed := map[consilium.Digest]bool{}
	for _, b := range a.LiveBlobs() {
		needed[b.Digest] = true
	}
	for _, d := range a.garbage {
		needed[d] = true // already listed
	}
	for _, b := range blobs {
		if !needed[b.Digest] {
			needed[b.Digest] = true
			a.garbage = append(a.garbage, b.Digest)
		}
	}
}

// keep takes blobs that a message names out of the garbage.
func (a *apply) keep(blobs ...BlobRef) {
	for _, b := range blobs {
		if i := slices.Index(a.garbage, b.Digest); i >= 0 {
			a.garbage = slices.Delete(slices.Clone(a.garbage), i, i+1)
		}
	}
}

// blobs lists what a live study refers to.
func (st *study) blobs() []BlobRef {
	var out []BlobRef
	for _, k := range st.contributions {
		if k != nil {
			out = append(out, k.upload.Ciphertext, k.upload.Boxes)
		}
	}
	if st.sum != nil {
		out = append(out, *st.sum)
	}
	out = append(out, st.stale...)
	for _, b := range st.sealed {
		out = append(out, b.blob)
	}
	for _, b := range st.shown {
		out = append(out, b.blob)
	}
	return out
}

// active counts the members that have not withdrawn.
func (st *study) active() int {
	n := 0
	for _, gone := range st.withdrawn {
		if !gone {
			n++
		}
	}
	return n
}

// positions lists the active members for which ok holds.
func (st *study) positions(ok func(p consilium.Position) bool) []consilium.Position {
	var out []consilium.Position
	for i, gone := range st.withdrawn {
		if p := consilium.Position(i + 1); !gone && ok(p) {
			out = append(out, p)
		}
	}
	return out
}

// required is the set of members that this round is bound to, or nil.
func (st *study) required() []consilium.Position {
	if st.frozen != nil {
		return st.frozen
	}
	return st.pinned
}

// names lists the hospitals at positions, for people.
func (st *study) names(positions []consilium.Position) string {
	var b []byte
	for i, p := range positions {
		switch {
		case i > 0 && i == len(positions)-1:
			b = append(b, " and "...)
		case i > 0:
			b = append(b, ", "...)
		}
		b = append(b, st.charter.Members[p-1].Site...)
	}
	return string(b)
}

func (st *study) contributors() *consilium.Contributors {
	return &consilium.Contributors{Charter: st.charterDigest, Round: st.round, Attempt: st.attempt, Members: st.set}
}

func (st *study) setDigest() consilium.Digest { return st.contributors().Digest() }

func (st *study) setPositions() []consilium.Position { return st.contributors().Positions() }
