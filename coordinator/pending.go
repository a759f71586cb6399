package coordinator

import (
	"consilium"
)

// WorkKind tells apart what a leader owes.
type WorkKind uint8

const (
	WorkDecide  WorkKind = 1 // evaluate the study policy, propose Decide
	WorkSum     WorkKind = 2 // add up ciphertexts, make the sum durable, propose RecordSum
	WorkTick    WorkKind = 3 // at Due, propose Tick
	WorkCollect WorkKind = 4 // propose Collect
)

var workNames = [...]string{"", "decide", "sum", "tick", "collect"}

func (k WorkKind) String() string {
	if int(k) < len(workNames) {
		return workNames[k]
	}
	return "unknown work"
}

// Work is one thing that a leader owes now. It follows from the state alone
// and stays owed until a command settles it, so a new leader goes on where the
// old one died; doing it twice does no harm.
type Work struct {
	Kind    WorkKind
	Study   consilium.StudyID
	Round   uint32             // WorkSum
	Attempt uint32             // WorkSum
	Due     int64              // WorkTick: Unix milliseconds; it may lie in the future
	Set     consilium.Digest   // WorkSum: the certified set
	Parts   []Part             // WorkSum: ascending positions
	Blobs   []consilium.Digest // WorkCollect
}

// Part is one contribution of a certified set.
type Part struct {
	Position   consilium.Position
	Header     consilium.Digest
	Ciphertext consilium.Digest // as the header names it
	Upload     Upload
}

// Pending lists what a leader owes, studies in ascending order, then at most
// one WorkCollect, then at most one WorkTick for the earliest deadline.
func (s *State) Pending() []Work {
	var out []Work
	var due int64
	for _, st := range s.live() {
		if st.phase == consilium.PhaseSubmitted && s.approved(st) {
			out = append(out, Work{Kind: WorkDecide, Study: st.id})
		}
		if st.phase == consilium.PhaseOpening && st.sum == nil {
			w := Work{Kind: WorkSum, Study: st.id, Round: st.round, Attempt: st.attempt, Set: st.setDigest()}
			for _, m := range st.set {
				k := st.contributions[m.Position-1]
				w.Parts = append(w.Parts, Part{m.Position, m.Header, k.ciphertext, k.upload})
			}
			out = append(out, w)
		}
		if st.deadline > 0 && (due == 0 || st.deadline < due) {
			due = st.deadline
		}
	}
	if n := min(len(s.garbage), MaxCollect); n > 0 {
		out = append(out, Work{Kind: WorkCollect, Blobs: append([]consilium.Digest(nil), s.garbage[:n]...)})
	}
	if due > 0 {
		out = append(out, Work{Kind: WorkTick, Due: due})
	}
	return out
}
