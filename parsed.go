package consilium

import (
	"slices"

	"consilium/internal/memo"
)

// Charters and rosters are the largest documents, and the same one is parsed many
// times: every member of a study signs the charter, so each node and each hospital
// reads it once for every member, and a node reads its roster again with every
// snapshot. What a payload was parsed to is remembered by the payload itself, of
// those that are valid; each caller gets a copy of its own.
var (
	charters = memo.New[string, *Charter](maxParsed)
	drafts   = memo.New[string, *Charter](maxParsed)
	rosters  = memo.New[string, *Roster](maxParsed)
)

// maxParsed bounds each of a memo's two generations, parsedSize the payloads. A
// charter of 128 hospitals, the most that there are, is one megabyte with its
// payload; one of ten is 80 kilobytes.
const (
	maxParsed  = 8
	parsedSize = 1 << 20
)

// once parses what is not remembered.
func once[T interface{ clone() T }](m *memo.Memo[string, T], payload []byte, parse func([]byte) (T, error)) (T, error) {
	if v, ok := m.Get(string(payload)); ok {
		return v.clone(), nil
	}
	v, err := parse(payload)
	if err == nil && len(payload) <= parsedSize {
		m.Put(string(payload), v.clone())
	}
	return v, err
}

func (c *Charter) clone() *Charter {
	out := *c
	out.Members = slices.Clone(c.Members)
	if c.Handover != nil {
		copied := *c.Handover
		out.Handover = &copied
	}
	return &out
}

func (r *Roster) clone() *Roster {
	out := *r
	out.Board.Members = slices.Clone(r.Board.Members)
	for i := range out.Board.Members {
		out.Board.Members[i].TLS = slices.Clone(r.Board.Members[i].TLS)
	}
	out.Sites = slices.Clone(r.Sites)
	for i := range out.Sites {
		s := &out.Sites[i]
		s.Regimes, s.TLS = slices.Clone(s.Regimes), slices.Clone(s.TLS)
	}
	out.Coordinators = slices.Clone(r.Coordinators)
	for i := range out.Coordinators {
		out.Coordinators[i].TLS = slices.Clone(r.Coordinators[i].TLS)
	}
	out.Researchers = slices.Clone(r.Researchers)
	for i := range out.Researchers {
		out.Researchers[i].TLS = slices.Clone(r.Researchers[i].TLS)
	}
	out.Auditors = slices.Clone(r.Auditors)
	for i := range out.Auditors {
		out.Auditors[i].TLS = slices.Clone(r.Auditors[i].TLS)
	}
	if w := r.Witnessing; w != nil {
		copied := *w
		copied.Witnesses, copied.Groups = slices.Clone(w.Witnesses), slices.Clone(w.Groups)
		for i := range copied.Groups {
			copied.Groups[i].Members = slices.Clone(w.Groups[i].Members)
		}
		out.Witnessing = &copied
	}
	return &out
}
