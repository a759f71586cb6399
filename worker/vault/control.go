package vault

import (
	"bytes"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"

	"consilium/policy"
	"consilium/provenance"
)

// control is the control table of a study's patients, as it was last made, with all
// that it was made from. Its rows judge nothing: whether they let a patient in is
// asked of the rules every time.
type control struct {
	people   *people              // in whose order it is
	consents *provenance.Consents // a store that was read again is another one
	ledger   []byte               // checkpoint that says which documents count
	period   provenance.Period    // in which no date of a consent comes
	register []Register
	table    arrow.Record
}

// controlTable states every patient's consent and register entry, now, for the row
// rules. What the register says is asked of it each time. What the consents say
// changes with the store's files, the ledger and the dates in the consents, and is
// read again when one of these has changed.
func (v *Vault) controlTable(st *study, ledger []byte) (arrow.Record, error) {
	at := v.cfg.Now()
	register := make([]Register, len(st.people.numbers))
	for o, number := range st.people.numbers {
		register[o] = v.cfg.Register(number)
	}
	if c := st.control; c != nil && c.people == st.people && c.consents == v.consents.Consents && bytes.Equal(c.ledger, ledger) &&
		c.period.Holds(at.Unix()) && slices.Equal(c.register, register) {
		return c.table, nil
	}
	st.control = nil
	c := &control{people: st.people, consents: v.consents.Consents, ledger: bytes.Clone(ledger), period: provenance.Always(), register: register}
	subjects := make([]policy.Subject, len(st.people.names))
	for o, name := range st.people.names {
		claims, err := c.consents.ClaimsWhile(name, at, &c.period)
		if err != nil {
			return nil, err
		}
		subjects[o] = Subject(st.spec, name, &claims, register[o])
	}
	c.table = policy.SubjectRecord(subjects)
	st.control = c
	return c.table, nil
}
