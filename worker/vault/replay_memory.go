package vault

import (
	"slices"

	"consilium"
)

// replayedMemory is a siteMemory in a replay. A replay has of it what the steps
// that it could run again left; where the log counted another step, what the
// hospital remembered then is not known.
type replayedMemory struct {
	opened  recalled // as of the last opened round with this hospital in it
	pending recalled // of the last step
}

type recalled struct {
	round uint32 // that left it; 0: the beginning
	bytes []byte
	known bool
}

// beginning is the memory of a site that has computed nothing.
func beginning() *replayedMemory {
	return &replayedMemory{opened: recalled{known: true}, pending: recalled{known: true}}
}

// lose notes that the round had a step that was not run again.
func (m *replayedMemory) lose(round uint32) { m.pending = recalled{round: round} }

// settle is the memory that a step began with: that of the round that the step's
// own record names. A record that names none is of an older release; then the
// round of the step before counts if its update, as it was seen here, has this
// hospital in it, and if it was not seen, nobody knows.
func (m *replayedMemory) settle(self consilium.Position, rounds map[uint32]*replayedRound, l *localReplay) recalled {
	included := m.opened.round
	if l.Included != nil {
		included = *l.Included
	} else if last := rounds[m.pending.round]; last != nil && last.update == nil {
		m.opened = recalled{round: m.pending.round}
		return m.opened
	} else if last != nil && slices.Contains(last.update.Contributors, self) {
		included = m.pending.round
	}
	switch included {
	case m.pending.round:
		m.opened = m.pending
	case m.opened.round:
	default: // nothing is kept of that round
		m.opened = recalled{round: included}
	}
	return m.opened
}
