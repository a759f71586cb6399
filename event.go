package consilium

import "fmt"

// Phase is where a study stands.
type Phase uint8

const (
	PhaseSubmitted Phase = iota + 1
	PhaseAdmitted
	PhaseEnrolling
	PhaseContributing
	PhaseCertifying
	PhaseOpening
	PhaseUpdating
	PhaseWaiting
	PhaseReleasing
	PhaseDone
	PhaseRefused
	PhaseAborted
	PhaseCancelled
)

var phaseNames = [...]string{"", "submitted", "admitted", "enrolling", "contributing", "certifying", "opening", "updating",
	"waiting", "releasing", "done", "refused", "aborted", "cancelled"}

func (p Phase) String() string {
	if int(p) < len(phaseNames) && p > 0 {
		return phaseNames[p]
	}
	return fmt.Sprintf("phase %d", uint8(p))
}

// Ended reports whether nothing more can happen to the study.
func (p Phase) Ended() bool { return p >= PhaseDone }

// EventKind tells apart what the coordinator's log says happened.
type EventKind uint8

const (
	EventMessage   EventKind = 1  // Body is a Message, accepted
	EventAdmitted  EventKind = 2  // Body is the decision record (JSON); advisory
	EventRefused   EventKind = 3  // Body is the decision record or a reason
	EventDrafted   EventKind = 4  // Body is the charter draft's payload (confirmation is zero)
	EventChartered EventKind = 5  // every member signed; Body is the charter's payload
	EventOpened    EventKind = 6  // a round's attempt opened; Body is RoundOpened
	EventProposed  EventKind = 7  // Body is Contributors
	EventCertified EventKind = 8  // t votes on one set; Body is the set's digest
	EventSummed    EventKind = 9  // Body is Summed
	EventClosed    EventKind = 10 // t equal state votes; Body is the next state's salted digest
	EventWaiting   EventKind = 11 // Body is a reason
	EventResumed   EventKind = 12 // Body is empty
	EventReleasing EventKind = 13 // the analysis ended; Body is empty
	EventDone      EventKind = 14 // Body is the blob digest of the sealed result
	EventAborted   EventKind = 15 // Body is a reason
	EventCancelled EventKind = 16 // Body is a reason
	EventRenewing  EventKind = 17 // the members are asked to leave the epoch and to enrol in the next; Body is Renewal
)

var eventNames = [...]string{"", "message", "admitted", "refused", "drafted", "chartered", "opened", "proposed", "certified",
	"summed", "closed", "waiting", "resumed", "releasing", "done", "aborted", "cancelled", "renewing"}

func (k EventKind) String() string {
	if int(k) < len(eventNames) && k > 0 {
		return eventNames[k]
	}
	return fmt.Sprintf("event %d", uint8(k))
}

// Event is one entry of the coordinator's log: what every replica recorded,
// what members follow, and a leaf of the audit log. Time is the proposer's
// and judges nothing at a hospital.
type Event struct {
	Seq   uint64 // of all events of the federation, from 0: the leaf index in the audit log
	Time  int64  // Unix milliseconds
	Study StudyID
	Kind  EventKind
	Body  []byte
}

// Encode is the event's one encoding; the audit log's leaf is its bytes.
func (ev *Event) Encode() []byte {
	e := enc{make([]byte, 0, len(ev.Body)+64)}
	e.u64(ev.Seq)
	e.u64(uint64(ev.Time))
	e.bytes16([]byte(ev.Study))
	e.u8(uint8(ev.Kind))
	e.bytes32(ev.Body)
	return e.b
}

// MaxEventSize bounds an encoded event.
const MaxEventSize = MaxMessageSize + 8192

// ParseEvent is the inverse of Encode.
func ParseEvent(b []byte) (*Event, error) {
	d := dec{b: b}
	ev := &Event{Seq: d.u64(), Time: int64(d.u64()), Study: StudyID(d.bytes16(64)), Kind: EventKind(d.u8()), Body: d.bytes32(MaxEventSize)}
	if d.err == nil && (ev.Kind == 0 || int(ev.Kind) >= len(eventNames)) {
		d.err = fmt.Errorf("unknown event kind %d", uint8(ev.Kind))
	}
	if err := d.done("event"); err != nil {
		return nil, err
	}
	return ev, nil
}

// RoundOpened opens one attempt of one round. Sealing lists, for each
// position, the message (enrolment or header) that published the sealing key
// to use; hospitals check that message's signature. The list is the
// coordinator's word, which may differ from hospital to hospital: every header
// names the one that its dealer was told, and a box under another is nobody's
// fault.
type RoundOpened struct {
	Charter  Digest
	Round    uint32
	Attempt  uint32
	State    Digest   // salted digest of the certified state; zero in round 1
	Deadline int64    // Unix milliseconds; it may end the round, never permit anything
	Sealing  []Digest // per position: header digest, or zero for the key in the charter
}

func (m *RoundOpened) Encode() []byte {
	e := enc{}
	e.digest(m.Charter)
	e.u32(m.Round)
	e.u32(m.Attempt)
	e.digest(m.State)
	e.u64(uint64(m.Deadline))
	e.u16(uint16(len(m.Sealing)))
	for _, s := range m.Sealing {
		e.digest(s)
	}
	return e.b
}

func ParseRoundOpened(b []byte) (*RoundOpened, error) {
	d := dec{b: b}
	m := &RoundOpened{Charter: d.digest(), Round: d.u32(), Attempt: d.u32(), State: d.digest(), Deadline: int64(d.u64())}
	n := int(d.u16())
	if n > MaxSites {
		return nil, fmt.Errorf("round opened: %d sealing keys", n)
	}
	for i := 0; i < n && d.err == nil; i++ {
		m.Sealing = append(m.Sealing, d.digest())
	}
	if d.err == nil && (m.Round == 0 || m.Attempt == 0) {
		d.err = fmt.Errorf("round %d, attempt %d: both count from 1", m.Round, m.Attempt)
	}
	return m, d.done("round opened")
}

// SealingDigest names the list of sealing keys.
func (m *RoundOpened) SealingDigest() Digest { return SealingDigest(m.Sealing) }

// SealingDigest names a list of sealing keys, as in RoundOpened.
func SealingDigest(list []Digest) Digest {
	e := enc{make([]byte, 0, 32*len(list))}
	for _, d := range list {
		e.digest(d)
	}
	return DomainSealing.Digest(e.b)
}

// Summed names the aggregate of a certified set.
type Summed struct {
	Set  Digest
	Blob Digest // of the aggregate's bytes
	Size uint64
}

func (m *Summed) Encode() []byte {
	e := enc{}
	e.digest(m.Set)
	e.digest(m.Blob)
	e.u64(m.Size)
	return e.b
}

func ParseSummed(b []byte) (*Summed, error) {
	d := dec{b: b}
	m := &Summed{Set: d.digest(), Blob: d.digest(), Size: d.u64()}
	return m, d.done("summed")
}
