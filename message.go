package consilium

import (
	"fmt"
)

// MessageKind tells apart what a member of the federation posts. Each kind
// has its own signature domain.
type MessageKind uint8

const (
	KindSubmission  MessageKind = 1  // researcher: Submission
	KindApproval    MessageKind = 2  // board member: Approval
	KindEnrol       MessageKind = 3  // site: Enrol
	KindDecline     MessageKind = 4  // site: Decline
	KindReveal      MessageKind = 5  // site: Reveal
	KindCharter     MessageKind = 6  // site: the charter's payload, signed
	KindHeader      MessageKind = 7  // site: Header
	KindAck         MessageKind = 8  // site: Ack
	KindComplaint   MessageKind = 9  // site: Complaint
	KindVote        MessageKind = 10 // site: Vote
	KindOpening     MessageKind = 11 // site: Opening
	KindRenounce    MessageKind = 12 // site: Renounce
	KindStateVote   MessageKind = 13 // site: StateVote
	KindSealedState MessageKind = 14 // site: SealedState
	KindRelease     MessageKind = 15 // site: Release
	KindPublish     MessageKind = 16 // site: Publish
	KindWithdraw    MessageKind = 17 // site: Withdraw, leaves the study
	KindCancel      MessageKind = 18 // researcher: Cancel
	KindAnswer      MessageKind = 19 // site: Answer, a dealer's to a complaint
	KindSuspect     MessageKind = 20 // site: Suspect, about openings of a rejected sum
	KindShow        MessageKind = 21 // site: Show, an accused hospital's received shares
	KindDepart      MessageKind = 22 // site: Depart, leaves an epoch of the study
)

var kindNames = map[MessageKind]struct {
	name   string
	domain Domain
}{
	KindSubmission:  {"submission", DomainSubmission},
	KindApproval:    {"approval", DomainApproval},
	KindEnrol:       {"enrol", DomainEnrol},
	KindDecline:     {"decline", DomainDecline},
	KindReveal:      {"reveal", DomainReveal},
	KindCharter:     {"charter", DomainCharter},
	KindHeader:      {"header", DomainHeader},
	KindAck:         {"ack", DomainAck},
	KindComplaint:   {"complaint", DomainComplaint},
	KindVote:        {"vote", DomainVote},
	KindOpening:     {"opening", DomainOpening},
	KindRenounce:    {"renounce", DomainRenounce},
	KindStateVote:   {"state-vote", DomainStateVote},
	KindSealedState: {"sealed-state", DomainSealedState},
	KindRelease:     {"release", DomainRelease},
	KindPublish:     {"publish", DomainResult},
	KindWithdraw:    {"withdraw", DomainWithdraw},
	KindCancel:      {"cancel", DomainCancel},
	KindAnswer:      {"answer", DomainAnswer},
	KindSuspect:     {"suspect", DomainSuspect},
	KindShow:        {"show", DomainShow},
	KindDepart:      {"depart", DomainDepart},
}

// Domain is the signature domain of the kind, or "" for an unknown one.
func (k MessageKind) Domain() Domain { return kindNames[k].domain }

func (k MessageKind) String() string {
	if n, ok := kindNames[k]; ok {
		return n.name
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Limits of what travels. A header carries per member two digests and its
// check polynomials.
const (
	MaxMessageSize   = 1 << 20
	MaxCheckSize     = 1 << 16
	MaxSealedSize    = 1 << 16
	MaxReasonSize    = 1 << 12
	MaxDocumentSize  = 1 << 20
	MaxBoxSize       = 1 << 20
	MaxContributions = MaxSites
)

// Message is one signed statement. By is a site id, a researcher id or
// "board/" and a member id. The signature covers Kind.Domain().Message(Body);
// every Body binds its study, by id or by charter digest.
type Message struct {
	Kind      MessageKind
	Study     StudyID
	By        string
	Body      []byte
	Signature Signature
}

// Encode is the message's one encoding.
func (m *Message) Encode() []byte {
	e := enc{make([]byte, 0, len(m.Body)+SignatureSize+128)}
	e.u8(uint8(m.Kind))
	e.bytes16([]byte(m.Study))
	e.bytes16([]byte(m.By))
	e.bytes32(m.Body)
	e.raw(m.Signature[:])
	return e.b
}

// ParseMessage is the inverse of Encode. It checks form, not signatures.
func ParseMessage(b []byte) (*Message, error) {
	d := dec{b: b}
	m := &Message{Kind: MessageKind(d.u8())}
	m.Study = StudyID(d.bytes16(64))
	m.By = string(d.bytes16(128))
	m.Body = d.bytes32(MaxMessageSize)
	copy(m.Signature[:], d.take(SignatureSize))
	if d.err == nil && m.Kind.Domain() == "" {
		d.err = fmt.Errorf("unknown message kind %d", uint8(m.Kind))
	}
	if err := d.done("message"); err != nil {
		return nil, err
	}
	if _, err := ParseStudyID(string(m.Study)); err != nil {
		return nil, fmt.Errorf("message: %w", err)
	}
	return m, nil
}

// At says where in a study a statement of a hospital stands. It opens the
// body of every round message.
type At struct {
	Charter  Digest
	Round    uint32 // from 1
	Attempt  uint32 // from 1
	Position Position
}

const atSize = 32 + 4 + 4 + 2

func (e *enc) at(a At) {
	e.digest(a.Charter)
	e.u32(a.Round)
	e.u32(a.Attempt)
	e.u16(uint16(a.Position))
}

func (d *dec) at() At {
	a := At{Charter: d.digest(), Round: d.u32(), Attempt: d.u32(), Position: Position(d.u16())}
	if d.err == nil && (a.Round == 0 || a.Attempt == 0 || a.Position == 0 || a.Position > MaxSites) {
		d.err = fmt.Errorf("round %d, attempt %d, position %d: all count from 1", a.Round, a.Attempt, a.Position)
	}
	return a
}

// Encode is the binding's one encoding; derivations and associated data
// use it too.
func (a At) Encode() []byte {
	e := enc{make([]byte, 0, atSize)}
	e.at(a)
	return e.b
}

// Enrol asks to take part in a study.
type Enrol struct {
	Study      StudyID
	Submission Digest // of the submission's payload
	Roster     Digest
	Sealing    SealingKey // for the first round and for the reveals
	Nonce      Digest
	Commitment Digest // to the site's contribution to the group key
	Decision   Digest // of the site's own admission decision
	Previous   Digest // charter that it goes on from; zero, and not encoded, for epoch 1
}

func (m *Enrol) Encode() []byte {
	e := enc{make([]byte, 0, SealingKeySize+256)}
	e.bytes16([]byte(m.Study))
	e.digest(m.Submission)
	e.digest(m.Roster)
	e.raw(m.Sealing[:])
	e.digest(m.Nonce)
	e.digest(m.Commitment)
	e.digest(m.Decision)
	if !m.Previous.IsZero() {
		e.digest(m.Previous)
	}
	return e.b
}

func ParseEnrol(b []byte) (*Enrol, error) {
	d := dec{b: b}
	m := &Enrol{Study: StudyID(d.bytes16(64)), Submission: d.digest(), Roster: d.digest()}
	copy(m.Sealing[:], d.take(SealingKeySize))
	m.Nonce, m.Commitment, m.Decision = d.digest(), d.digest(), d.digest()
	if d.err == nil && len(d.b) > 0 {
		if m.Previous = d.digest(); d.err == nil && m.Previous.IsZero() {
			d.err = fmt.Errorf("a previous charter of zero is left out")
		}
	}
	return m, d.done("enrol")
}

// Decline refuses to take part. Code is a policy code such as GDPR-6; Reason
// is for people and names no record.
type Decline struct {
	Study      StudyID
	Submission Digest
	Decision   Digest
	Code       string
	Reason     string
}

func (m *Decline) Encode() []byte {
	e := enc{}
	e.bytes16([]byte(m.Study))
	e.digest(m.Submission)
	e.digest(m.Decision)
	e.bytes16([]byte(m.Code))
	e.bytes16([]byte(m.Reason))
	return e.b
}

func ParseDecline(b []byte) (*Decline, error) {
	d := dec{b: b}
	m := &Decline{Study: StudyID(d.bytes16(64)), Submission: d.digest(), Decision: d.digest()}
	m.Code, m.Reason = string(d.bytes16(128)), string(d.bytes16(MaxReasonSize))
	return m, d.done("decline")
}

// Reveal hands every member of a drafted charter the site's contribution to
// the group key, sealed to that member's first-round key.
type Reveal struct {
	Draft Digest // of the draft's payload
	Boxes []SealedBox
}

// SealedBox is one sealed value for one position.
type SealedBox struct {
	To     Position
	Sealed []byte
}

func (m *Reveal) Encode() []byte {
	e := enc{}
	e.digest(m.Draft)
	e.u16(uint16(len(m.Boxes)))
	for _, b := range m.Boxes {
		e.u16(uint16(b.To))
		e.bytes16(b.Sealed)
	}
	return e.b
}

func ParseReveal(b []byte) (*Reveal, error) {
	d := dec{b: b}
	m := &Reveal{Draft: d.digest()}
	n := int(d.u16())
	if n > MaxSites {
		return nil, fmt.Errorf("reveal: %d boxes", n)
	}
	for i := 0; i < n && d.err == nil; i++ {
		m.Boxes = append(m.Boxes, SealedBox{To: Position(d.u16()), Sealed: d.bytes16(MaxSealedSize)})
		if m.Boxes[i].To != Position(i+1) {
			return nil, fmt.Errorf("reveal: box %d is for position %d", i+1, m.Boxes[i].To)
		}
	}
	return m, d.done("reveal")
}

// Header is one hospital's signed statement about its contribution to one
// round and attempt. Boxes and Commitments have one entry for each position.
type Header struct {
	At
	State       Digest     // salted digest of the certified state that the round builds on
	Sealing     Digest     // RoundOpened.SealingDigest: the keys that the boxes are sealed to
	Layout      Digest     // DomainState digest of the layout's encoding
	Vector      Digest     // salted by the hospital alone: fixed for all attempts of the round
	RowSet      Digest     // salted cohort manifest
	Decision    Digest     // of the row and column decisions
	Ledger      Digest     // salted: the ledger checkpoint that was verified
	Ciphertext  Digest     // of the encrypted vector's bytes
	Size        uint64     // of the encrypted vector, in bytes
	NextSealing SealingKey // for boxes of later rounds
	Boxes       []Digest   // SHA-256 of each sealed box
	Commitments []Digest   // salted commitment to each key share
	Check       []byte     // published check polynomials, read by he/party
}

func (m *Header) Encode() []byte {
	e := enc{make([]byte, 0, 2048+64*len(m.Boxes)+len(m.Check))}
	e.at(m.At)
	e.digest(m.State)
	e.digest(m.Sealing)
	e.digest(m.Layout)
	e.digest(m.Vector)
	e.digest(m.RowSet)
	e.digest(m.Decision)
	e.digest(m.Ledger)
	e.digest(m.Ciphertext)
	e.u64(m.Size)
	e.raw(m.NextSealing[:])
	e.u16(uint16(len(m.Boxes)))
	for _, b := range m.Boxes {
		e.digest(b)
	}
	e.u16(uint16(len(m.Commitments)))
	for _, c := range m.Commitments {
		e.digest(c)
	}
	e.bytes32(m.Check)
	return e.b
}

func ParseHeader(b []byte) (*Header, error) {
	d := dec{b: b}
	m := &Header{At: d.at(), State: d.digest(), Sealing: d.digest(), Layout: d.digest(), Vector: d.digest(), RowSet: d.digest(),
		Decision: d.digest(), Ledger: d.digest(), Ciphertext: d.digest(), Size: d.u64()}
	copy(m.NextSealing[:], d.take(SealingKeySize))
	n := int(d.u16())
	for i := 0; i < n && d.err == nil; i++ {
		m.Boxes = append(m.Boxes, d.digest())
	}
	c := int(d.u16())
	for i := 0; i < c && d.err == nil; i++ {
		m.Commitments = append(m.Commitments, d.digest())
	}
	m.Check = d.bytes32(MaxCheckSize)
	if err := d.done("header"); err != nil {
		return nil, err
	}
	if n != c || n < 3 || n > MaxSites || int(m.Position) > n {
		return nil, fmt.Errorf("header: %d boxes, %d commitments, position %d", n, c, m.Position)
	}
	return m, nil
}

// HeaderDigest names a header by its exact bytes.
func HeaderDigest(body []byte) Digest { return DomainHeader.Digest(body) }

// Contributor is one member of a contributor set.
type Contributor struct {
	Position Position
	Header   Digest
}

// Contributors is U: which contribution of which hospital is summed.
type Contributors struct {
	Charter Digest
	Round   uint32
	Attempt uint32
	Members []Contributor // ascending positions
}

func (u *Contributors) Encode() []byte {
	e := enc{}
	e.digest(u.Charter)
	e.u32(u.Round)
	e.u32(u.Attempt)
	e.u16(uint16(len(u.Members)))
	for _, m := range u.Members {
		e.u16(uint16(m.Position))
		e.digest(m.Header)
	}
	return e.b
}

func ParseContributors(b []byte) (*Contributors, error) {
	d := dec{b: b}
	u := &Contributors{Charter: d.digest(), Round: d.u32(), Attempt: d.u32()}
	n := int(d.u16())
	last := Position(0)
	for i := 0; i < n && d.err == nil; i++ {
		m := Contributor{Position: Position(d.u16()), Header: d.digest()}
		if d.err == nil && (m.Position <= last || m.Position > MaxSites) {
			return nil, fmt.Errorf("contributors: position %d after %d", m.Position, last)
		}
		last = m.Position
		u.Members = append(u.Members, m)
	}
	if err := d.done("contributors"); err != nil {
		return nil, err
	}
	if u.Round == 0 || u.Attempt == 0 || n == 0 {
		return nil, fmt.Errorf("contributors: round %d, attempt %d, %d members", u.Round, u.Attempt, n)
	}
	return u, nil
}

// Digest names the set by its one encoding.
func (u *Contributors) Digest() Digest { return DomainContributors.Digest(u.Encode()) }

// Positions lists the members' positions, ascending.
func (u *Contributors) Positions() []Position {
	out := make([]Position, len(u.Members))
	for i, m := range u.Members {
		out[i] = m.Position
	}
	return out
}

// Has reports whether p contributes, and with which header.
func (u *Contributors) Has(p Position) (Digest, bool) {
	for _, m := range u.Members {
		if m.Position == p {
			return m.Header, true
		}
	}
	return Digest{}, false
}

// Ack says which dealings a hospital received and found sound. It is advice
// to the leader; only votes count.
type Ack struct {
	At
	Good []Contributor // ascending positions
}

func (m *Ack) Encode() []byte {
	e := enc{}
	e.at(m.At)
	e.u16(uint16(len(m.Good)))
	for _, g := range m.Good {
		e.u16(uint16(g.Position))
		e.digest(g.Header)
	}
	return e.b
}

func ParseAck(b []byte) (*Ack, error) {
	d := dec{b: b}
	m := &Ack{At: d.at()}
	n := int(d.u16())
	last := Position(0)
	for i := 0; i < n && d.err == nil; i++ {
		g := Contributor{Position: Position(d.u16()), Header: d.digest()}
		if d.err == nil && (g.Position <= last || g.Position > MaxSites) {
			return nil, fmt.Errorf("ack: position %d after %d", g.Position, last)
		}
		last = g.Position
		m.Good = append(m.Good, g)
	}
	return m, d.done("ack")
}

// Complaint says that one dealing to the complaining hospital is bad.
type Complaint struct {
	At
	Header Digest // the dealing complained about
	Reason string
}

func (m *Complaint) Encode() []byte {
	e := enc{}
	e.at(m.At)
	e.digest(m.Header)
	e.bytes16([]byte(m.Reason))
	return e.b
}

func ParseComplaint(b []byte) (*Complaint, error) {
	d := dec{b: b}
	m := &Complaint{At: d.at(), Header: d.digest(), Reason: string(d.bytes16(MaxReasonSize))}
	return m, d.done("complaint")
}

// Vote is a hospital's one vote of an attempt, for one contributor set.
type Vote struct {
	At
	Set Digest
}

func (m *Vote) Encode() []byte {
	e := enc{}
	e.at(m.At)
	e.digest(m.Set)
	return e.b
}

func ParseVote(b []byte) (*Vote, error) {
	d := dec{b: b}
	m := &Vote{At: d.at(), Set: d.digest()}
	return m, d.done("vote")
}

// Opening is a hospital's opening share for a certified set, sealed to the
// group.
type Opening struct {
	At
	Set    Digest
	Sealed []byte
}

// MaxOpeningSize bounds a sealed opening share: logN 14 packs 16384
// coefficients six to an eight-byte element.
const MaxOpeningSize = 1 << 16

func (m *Opening) Encode() []byte {
	e := enc{}
	e.at(m.At)
	e.digest(m.Set)
	e.bytes32(m.Sealed)
	return e.b
}

func ParseOpening(b []byte) (*Opening, error) {
	d := dec{b: b}
	m := &Opening{At: d.at(), Set: d.digest(), Sealed: d.bytes32(MaxOpeningSize)}
	return m, d.done("opening")
}

// Renounce promises that a hospital has not opened and never will open in
// this round up to this attempt. N-t+f+1 of them release the round's locks: at
// least N-t+1 are of honest hospitals, so t shares of those attempts never come
// together.
type Renounce struct {
	At
}

func (m *Renounce) Encode() []byte { return m.At.Encode() }

func ParseRenounce(b []byte) (*Renounce, error) {
	d := dec{b: b}
	m := &Renounce{At: d.at()}
	return m, d.done("renounce")
}

// StateVote is a hospital's statement about the state that follows a round.
// Next is salted with a value derived from the group key, so that its bytes
// say nothing about the sums. Done says that the analysis has ended.
type StateVote struct {
	At
	Set    Digest
	Next   Digest // salted digest of the next state
	Done   bool
	Reject bool // the aggregate was rejected; Next is zero
}

func (m *StateVote) Encode() []byte {
	e := enc{}
	e.at(m.At)
	e.digest(m.Set)
	e.digest(m.Next)
	var flags uint8
	if m.Done {
		flags |= 1
	}
	if m.Reject {
		flags |= 2
	}
	e.u8(flags)
	return e.b
}

func ParseStateVote(b []byte) (*StateVote, error) {
	d := dec{b: b}
	m := &StateVote{At: d.at(), Set: d.digest(), Next: d.digest()}
	flags := d.u8()
	if d.err == nil && (flags > 2 || (flags == 2) != m.Next.IsZero()) {
		d.err = fmt.Errorf("flags %#x do not fit the next state", flags)
	}
	m.Done, m.Reject = flags&1 != 0, flags&2 != 0
	return m, d.done("state vote")
}

// SealedState offers the certified state, encrypted to the group, to
// hospitals that missed the round.
type SealedState struct {
	At
	Next Digest // as certified
	Blob Digest // of the stored bytes
}

func (m *SealedState) Encode() []byte {
	e := enc{}
	e.at(m.At)
	e.digest(m.Next)
	e.digest(m.Blob)
	return e.b
}

func ParseSealedState(b []byte) (*SealedState, error) {
	d := dec{b: b}
	m := &SealedState{At: d.at(), Next: d.digest(), Blob: d.digest()}
	return m, d.done("sealed state")
}

// Release is a hospital's decision on the opened result. Result is the salted
// digest of the result document's bytes. A refusal carries a code.
type Release struct {
	At
	Result   Digest
	Decision Digest
	Allow    bool
	Code     string
	Reason   string
}

func (m *Release) Encode() []byte {
	e := enc{}
	e.at(m.At)
	e.digest(m.Result)
	e.digest(m.Decision)
	if m.Allow {
		e.u8(1)
	} else {
		e.u8(0)
	}
	e.bytes16([]byte(m.Code))
	e.bytes16([]byte(m.Reason))
	return e.b
}

func ParseRelease(b []byte) (*Release, error) {
	d := dec{b: b}
	m := &Release{At: d.at(), Result: d.digest(), Decision: d.digest()}
	allow := d.u8()
	m.Allow = allow == 1
	m.Code, m.Reason = string(d.bytes16(128)), string(d.bytes16(MaxReasonSize))
	if d.err == nil && (allow > 1 || m.Allow != (m.Code == "")) {
		d.err = fmt.Errorf("a release allows without a code or refuses with one")
	}
	return m, d.done("release")
}

// Publish hands over the released result, sealed to the team.
type Publish struct {
	At
	Result Digest // as signed in the releases
	Blob   Digest // of the sealed envelope
}

func (m *Publish) Encode() []byte {
	e := enc{}
	e.at(m.At)
	e.digest(m.Result)
	e.digest(m.Blob)
	return e.b
}

func ParsePublish(b []byte) (*Publish, error) {
	d := dec{b: b}
	m := &Publish{At: d.at(), Result: d.digest(), Blob: d.digest()}
	return m, d.done("publish")
}

// Withdraw takes a hospital out of a study, for good.
type Withdraw struct {
	Study  StudyID
	Reason string
}

func (m *Withdraw) Encode() []byte {
	e := enc{}
	e.bytes16([]byte(m.Study))
	e.bytes16([]byte(m.Reason))
	return e.b
}

func ParseWithdraw(b []byte) (*Withdraw, error) {
	d := dec{b: b}
	m := &Withdraw{Study: StudyID(d.bytes16(64)), Reason: string(d.bytes16(MaxReasonSize))}
	return m, d.done("withdraw")
}

// Cancel ends a study at its team's request.
type Cancel struct {
	Study  StudyID
	Reason string
}

func (m *Cancel) Encode() []byte {
	e := enc{}
	e.bytes16([]byte(m.Study))
	e.bytes16([]byte(m.Reason))
	return e.b
}

func ParseCancel(b []byte) (*Cancel, error) {
	d := dec{b: b}
	m := &Cancel{Study: StudyID(d.bytes16(64)), Reason: string(d.bytes16(MaxReasonSize))}
	return m, d.done("cancel")
}
