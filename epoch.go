package consilium

import "fmt"

// A study changes its members, or their keys, only from one charter to the
// next. What must not happen at the boundary is what must not happen anywhere:
// a round opened for two different sets. A round belongs to the study, not to
// the epoch, so each hospital's vector of a round is the same on both sides;
// the rules here and in Charter.Succeeds keep the two sides from both opening.
//
//   - A member leaves an epoch with Depart: it has opened nothing from a round
//     on and never will. N-t+f+1 of these mean that fewer than t members can ever
//     open that round, the f dishonest ones included.
//   - Nobody signs a charter without that many, nor two charters after one.
//   - More than f operators of the new charter were members of the old one with
//     the same key: one of them is honest and has counted.

// Handover is where a later epoch takes the study over.
type Handover struct {
	Round uint32 `json:"round"` // the first round of the epoch
	State Digest `json:"state"` // certified under the epoch before it, after Round-1; zero if Round is 1
}

// FirstRound is the round with which the charter's epoch begins.
func (c *Charter) FirstRound() uint32 {
	if c.Handover == nil {
		return 1
	}
	return c.Handover.Round
}

// Succeeds says why c, or a draft of it, may not follow the charter prev, whose
// digest is given; nil if it may.
func (c *Charter) Succeeds(prev *Charter, digest Digest) error {
	switch {
	case c.Previous != digest || c.Epoch != prev.Epoch+1 || c.Handover == nil:
		return fmt.Errorf("epoch %d after %s does not follow epoch %d, %s", c.Epoch, c.Previous.Short(), prev.Epoch, digest.Short())
	case c.Study != prev.Study, c.Submission != prev.Submission, c.Spec != prev.Spec, c.Policy != prev.Policy, c.Approval != prev.Approval, c.Team != prev.Team:
		return fmt.Errorf("epoch %d is of another study, specification, policy, approval or team", c.Epoch)
	case c.MinSites != prev.MinSites:
		return fmt.Errorf("min_sites %d, the epoch before has %d", c.MinSites, prev.MinSites)
	case c.Faults < prev.Faults:
		return fmt.Errorf("faults %d: who may be dishonest does not become fewer by a new epoch, the one before has %d", c.Faults, prev.Faults)
	case c.Handover.Round < prev.FirstRound():
		return fmt.Errorf("begins with round %d, the epoch before with round %d", c.Handover.Round, prev.FirstRound())
	}
	if n := c.Operators(c.Veterans(prev)); n <= c.Faults {
		return fmt.Errorf("hospitals of %d operators go on from the epoch before with their keys, more than %d must", n, c.Faults)
	}
	return nil
}

// Veterans lists the members of c that were members of prev with the same key.
func (c *Charter) Veterans(prev *Charter) []Position {
	var out []Position
	for i := range c.Members {
		if p, ok := prev.Position(c.Members[i].Site); ok && prev.Members[p-1].Key == c.Members[i].Key {
			out = append(out, Position(i+1))
		}
	}
	return out
}

// SuccessorFaults is f of the epoch after prev with n members: the study's own
// number, or the default for n, and never less than before.
func SuccessorFaults(prev *Charter, faults, n int) int {
	if faults == 0 {
		faults = DefaultFaults(n, prev.MinSites)
	}
	return max(faults, prev.Faults)
}

// FixedContributors reports whether the hospitals of the first certified set
// contribute to every round: everything but learned models whose study lets
// hospitals go missing. Two exact sums over sets that differ by one hospital give
// away that hospital's part. Such a study goes into another epoch only with all
// of them, and takes nobody in.
func (s *Spec) FixedContributors() bool {
	for i := range s.Analyses {
		if s.Analyses[i].Type != AnalysisTrain {
			return true
		}
	}
	return s.Sites.Missing != "continue"
}

// Renewal asks the members of a charter to leave it and, with whoever else the
// study asks, to enrol in its successor. It is the coordinator's word:
// hospitals hold Round and State against what they know.
type Renewal struct {
	Charter Digest
	Round   uint32 // the first that has not closed
	State   Digest // certified after Round-1; zero if Round is 1
	Roster  Digest // under which the next epoch is made
	Try     uint32 // from 1: the roster changed again before anybody signed
	Reason  string
}

func (m *Renewal) Encode() []byte {
	e := enc{}
	e.digest(m.Charter)
	e.u32(m.Round)
	e.digest(m.State)
	e.digest(m.Roster)
	e.u32(m.Try)
	e.bytes16([]byte(m.Reason))
	return e.b
}

func ParseRenewal(b []byte) (*Renewal, error) {
	d := dec{b: b}
	m := &Renewal{Charter: d.digest(), Round: d.u32(), State: d.digest(), Roster: d.digest(), Try: d.u32(), Reason: string(d.bytes16(MaxReasonSize))}
	if d.err == nil && (m.Round == 0 || m.Try == 0 || (m.Round == 1) != m.State.IsZero()) {
		d.err = fmt.Errorf("round %d, try %d and the state do not fit", m.Round, m.Try)
	}
	return m, d.done("renewal")
}

// Depart leaves an epoch: its author has opened nothing of Round or later under
// Charter and never will, in whatever attempt.
type Depart struct {
	Charter  Digest
	Round    uint32
	State    Digest // certified after Round-1; zero if Round is 1
	Position Position
}

func (m *Depart) Encode() []byte {
	e := enc{}
	e.digest(m.Charter)
	e.u32(m.Round)
	e.digest(m.State)
	e.u16(uint16(m.Position))
	return e.b
}

func ParseDepart(b []byte) (*Depart, error) {
	d := dec{b: b}
	m := &Depart{Charter: d.digest(), Round: d.u32(), State: d.digest(), Position: Position(d.u16())}
	if d.err == nil && (m.Round == 0 || m.Position == 0 || m.Position > MaxSites || (m.Round == 1) != m.State.IsZero()) {
		d.err = fmt.Errorf("round %d, position %d and the state do not fit", m.Round, m.Position)
	}
	return m, d.done("depart")
}
