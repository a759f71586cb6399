package consilium

import "fmt"

// Answer is a dealer's answer to a complaint: the share that it dealt to one
// hospital, sealed to the group of the round, so that every member can check it
// against the header's commitment and check polynomials. An honest dealer is
// only ever asked for shares of dishonest hospitals, which have them already:
// its boxes open, and an honest hospital that was told of other sealing keys than
// the dealer sees that in the header and does not complain. It gives at most f
// answers in an attempt.
type Answer struct {
	At            // of the dealer
	Header Digest // the dealing
	To     Position
	Sealed []byte
}

func (m *Answer) Encode() []byte {
	e := enc{make([]byte, 0, len(m.Sealed)+128)}
	e.at(m.At)
	e.digest(m.Header)
	e.u16(uint16(m.To))
	e.bytes32(m.Sealed)
	return e.b
}

func ParseAnswer(b []byte) (*Answer, error) {
	d := dec{b: b}
	m := &Answer{At: d.at(), Header: d.digest(), To: Position(d.u16()), Sealed: d.bytes32(MaxSealedSize)}
	if d.err == nil && (m.To == 0 || m.To > MaxSites || m.To == m.Position) {
		d.err = fmt.Errorf("an answer of position %d to position %d", m.Position, m.To)
	}
	return m, d.done("answer")
}

// Suspect names the hospitals whose opening shares of a rejected sum do not
// lie on the polynomial of the others. A hospital signs one such list in an
// attempt; t equal ones ask the accused to show the shares that they added.
// The list has at most t-1-f members: with the f shares that the dishonest
// hospitals hold, what is shown stays below t.
type Suspect struct {
	At
	Set     Digest
	Accused []Position // ascending
}

func (m *Suspect) Encode() []byte {
	e := enc{}
	e.at(m.At)
	e.digest(m.Set)
	e.u16(uint16(len(m.Accused)))
	for _, p := range m.Accused {
		e.u16(uint16(p))
	}
	return e.b
}

func ParseSuspect(b []byte) (*Suspect, error) {
	d := dec{b: b}
	m := &Suspect{At: d.at(), Set: d.digest()}
	n := int(d.u16())
	last := Position(0)
	for i := 0; i < n && d.err == nil; i++ {
		p := Position(d.u16())
		if d.err == nil && (p <= last || p > MaxSites) {
			return nil, fmt.Errorf("suspect: position %d after %d", p, last)
		}
		last = p
		m.Accused = append(m.Accused, p)
	}
	if d.err == nil && n == 0 {
		d.err = fmt.Errorf("nobody is accused")
	}
	return m, d.done("suspect")
}

// Show names the blob with the shares that an accused hospital had received
// from the members of the set, and added to its opening, sealed to the group. Every member checks each of
// them against its dealer's header, and their sum against the opening.
type Show struct {
	At
	Set  Digest
	Blob Digest // of the sealed bytes
}

func (m *Show) Encode() []byte {
	e := enc{}
	e.at(m.At)
	e.digest(m.Set)
	e.digest(m.Blob)
	return e.b
}

func ParseShow(b []byte) (*Show, error) {
	d := dec{b: b}
	m := &Show{At: d.at(), Set: d.digest(), Blob: d.digest()}
	return m, d.done("show")
}

// MaxAccused is how many hospitals may be asked to show their shares in one
// attempt: t - 1 - f.
func (c *Charter) MaxAccused() int { return max(c.Threshold-1-c.Faults, 0) }

// ReleaseQuorum is how many renouncements release a round's locks:
// N - t + f + 1. Fewer than t hospitals can then ever open an earlier attempt,
// the f dishonest ones included.
func (c *Charter) ReleaseQuorum() int { return len(c.Members) - c.Threshold + c.Faults + 1 }
