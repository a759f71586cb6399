package provenance

import (
	"context"
	"fmt"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"

	"consilium"
)

// Input is a table as a vault is about to read it.
type Input struct {
	Stream  ID
	Batches []Batch        // what the vault keeps of the stream
	Records []arrow.Record // the very buffers that the analysis will read
	Salts   *Salts
}

// RowClass says what became of a row.
type RowClass uint8

const (
	RowAdded      RowClass = iota // no leaf is its own: fail closed is the zero value
	RowVerified                   // it re-derives to its leaf and the leaf to a root in the ledger
	RowAltered                    // its leaf is there, its content is another
	RowSuperseded                 // a later batch replaced it
	RowBatch                      // it fits its leaf, but the leaf's batch does not verify
)

func (c RowClass) String() string {
	switch c {
	case RowVerified:
		return "verified"
	case RowAltered:
		return "altered"
	case RowSuperseded:
		return "superseded"
	case RowBatch:
		return "batch not verified"
	}
	return "added"
}

// FindingKind is what a Finding reports.
type FindingKind uint8

const (
	FindAltered    FindingKind = 1 // the row's leaf holds another content
	FindMissing    FindingKind = 2 // a leaf without its row
	FindAdded      FindingKind = 3 // a row without a leaf
	FindReordered  FindingKind = 4 // a verified row in another place; it counts
	FindSuperseded FindingKind = 5 // a row that a correction replaced
	FindBatch      FindingKind = 6 // a whole batch
)

func (k FindingKind) String() string {
	names := [...]string{"", "altered", "missing", "added", "reordered", "superseded", "batch"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Finding is one deviation. Name is all that may leave the hospital: it names
// the row only to holders of the patient's key.
type Finding struct {
	Kind        FindingKind
	Record, Row int // -1 where there is no row
	Batch       ID
	Leaf        int // -1 where there is no leaf
	Name        consilium.Digest
	Detail      string
}

// Counts sums up a verification. They are personal data of small hospitals
// and leave only inside encrypted sums.
type Counts struct {
	Verified   int // rows that may be read
	Altered    int
	Missing    int
	Added      int
	Reordered  int // among Verified
	Superseded int
	InBadBatch int
	Erased     int // leaves whose row or key was erased: only the hash stays
	Decoys     int
}

// BatchVerdict is one batch of the stream, in the order of seq; batches that
// the ledger does not know come last.
type BatchVerdict struct {
	ID       ID
	Seq      uint64
	Header   consilium.Digest
	Root     consilium.Digest
	OK       bool
	Reason   string // why not
	Verified int
	Erased   int
	Decoys   int
}

// Verified is the outcome for exactly the buffers that were passed in. It
// holds as long as nobody writes to them.
type Verified struct {
	Rows       [][]bool     // by record and row: may be read
	Class      [][]RowClass // by record and row
	Findings   []Finding    // rows first, in their order, then leaves and batches
	Counts     Counts
	Batches    []BatchVerdict
	Roots      []consilium.Digest // of the batches that verified
	Checkpoint *Checkpoint

	leaves [][]consilium.Digest
}

// Leaf is the leaf hash of a verified row: what a salted cohort manifest is
// made of.
func (v *Verified) Leaf(record, row int) (consilium.Digest, bool) {
	if record < 0 || record >= len(v.Rows) || row < 0 || row >= len(v.Rows[record]) || !v.Rows[record][row] {
		return consilium.Digest{}, false
	}
	return v.leaves[record][row], true
}

// leaf is one row leaf of the stream while it is matched.
type leafAt struct {
	batch      int // index into the verdicts
	index      uint32
	superseded bool
	taken      bool
}

// Verify updates the gate from view and checks in against it. An error is a
// consilium.ErrLedger (or ErrData for records that cannot be anchored): then
// no row may be read. Otherwise exactly the rows marked in Verified may.
func (g *Gate) Verify(ctx context.Context, view View, in Input) (*Verified, error) {
	if in.Salts == nil {
		return nil, consilium.ErrInvalid.Withf("gate: no salts")
	}
	g.mu.Lock()
	c, know, err := g.update(ctx, view)
	g.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return verify(c, know, in)
}

// verify checks in against what the ledger says at c.
func verify(c *Checkpoint, know *knowledge, in Input) (*Verified, error) {
	var err error
	coders := make([]*rowCoder, len(in.Records))
	total := 0
	for i, rec := range in.Records {
		if coders[i], err = newRowCoder(rec); err != nil {
			return nil, err
		}
		total += coders[i].rows
	}
	v := &Verified{Checkpoint: c}
	m := &matcher{in: in, v: v, coders: coders, total: total}
	m.judgeBatches(know)
	m.listLeaves()
	m.match()
	m.report()
	return v, nil
}

type matcher struct {
	in     Input
	v      *Verified
	coders []*rowCoder
	total  int // rows

	manifests []*Manifest // by verdict; nil if unusable
	leaves    []leafAt    // row leaves in order, of all batches with a manifest
	keys      []*patientKey
	starts    []int   // first global row of each record
	matched   []int32 // by global row: leaf or -1
	altered   []int32 // by global row: the leaf whose content differs, or -1
}

// judgeBatches compares what the vault keeps with what the ledger says.
func (m *matcher) judgeBatches(know *knowledge) {
	type kept struct {
		b   Batch
		why string
	}
	have := map[ID]*kept{}
	var strangers []BatchVerdict
	for _, b := range m.in.Batches {
		if b.Header == nil {
			strangers = append(strangers, BatchVerdict{Reason: "no header"})
			continue
		}
		id := b.Header.Header.Batch
		if k := have[id]; k != nil {
			k.why = "kept twice"
			continue
		}
		have[id] = &kept{b: b}
	}
	used := map[ID]bool{}
	seqOf := map[ID]int{} // verdict index of each batch before
	for _, kb := range know.streams[m.in.Stream] {
		h := &kb.header
		verdict := BatchVerdict{ID: h.Batch, Seq: h.Seq, Header: kb.digest, Root: h.Root}
		used[h.Batch] = true
		var man *Manifest
		if k := have[h.Batch]; k == nil {
			verdict.Reason = "the ledger has it, the hospital does not"
		} else if k.why != "" {
			verdict.Reason = k.why
		} else {
			man = k.b.Manifest
			verdict.Reason = judge(kb, k.b, know, seqOf, m.manifests)
			verdict.OK = verdict.Reason == ""
		}
		seqOf[h.Batch] = len(m.v.Batches)
		m.v.Batches = append(m.v.Batches, verdict)
		m.manifests = append(m.manifests, man)
	}
	for _, b := range m.in.Batches {
		if b.Header == nil {
			continue
		}
		if h := b.Header.Header; !used[h.Batch] {
			used[h.Batch] = true
			reason := "not in the ledger"
			if h.Stream != m.in.Stream {
				reason = "of another stream"
			}
			m.v.Batches = append(m.v.Batches, BatchVerdict{ID: h.Batch, Seq: h.Seq, Header: b.Header.Digest(), Root: h.Root, Reason: reason})
			m.manifests = append(m.manifests, b.Manifest)
		}
	}
	for _, s := range strangers {
		m.v.Batches = append(m.v.Batches, s)
		m.manifests = append(m.manifests, nil)
	}
}

// judge says what is wrong with a kept batch, or "".
func judge(kb *knownBatch, b Batch, know *knowledge, seqOf map[ID]int, manifests []*Manifest) string {
	h := &kb.header
	man := b.Manifest
	switch {
	case b.Header.Digest() != kb.digest:
		return "its header is not the one in the ledger"
	case b.Header.Verify(kb.key) != nil:
		return "its header does not carry the hospital's signature"
	case man == nil:
		return "its manifest is gone"
	case man.batch != h.Batch || man.schema != h.Schema:
		return "its manifest is of another batch or schema"
	case uint64(man.Len()) != uint64(h.N):
		return fmt.Sprintf("its manifest lists %d leaves, the header says %d", man.Len(), h.N)
	case refsDigest(man.refs) != h.Supersedes:
		return "its list of superseded leaves was changed"
	}
	for _, r := range man.refs {
		i, ok := seqOf[r.Batch]
		if !ok || manifests[i] != nil && r.Leaf >= uint32(manifests[i].Len()) {
			return "it supersedes a leaf that no earlier batch has"
		}
	}
	if man.Root() != h.Root {
		return "its leaves do not hash to the root in the ledger"
	}
	return ""
}

// listLeaves flattens the row leaves and finds their patients' keys.
func (m *matcher) listLeaves() {
	superseded := map[LeafRef]bool{}
	n := 0
	for i, man := range m.manifests {
		if man == nil {
			continue
		}
		if m.v.Batches[i].OK {
			for _, r := range man.refs {
				superseded[r] = true
			}
		}
		n += man.Len()
	}
	m.leaves, m.keys = make([]leafAt, 0, n), make([]*patientKey, 0, n)
	s := m.in.Salts
	s.mu.RLock()
	defer s.mu.RUnlock()
	var last *Pseudonym // whose key came last: a patient's rows mostly stand together
	for i, man := range m.manifests {
		if man == nil {
			continue
		}
		verdict := &m.v.Batches[i]
		for j := range man.leaves {
			switch man.kinds[j] {
			case leafErased:
				verdict.Erased++
				continue
			case leafDecoy:
				verdict.Decoys++
				continue
			}
			p := &man.patients[j]
			var key *patientKey
			if last != nil && *last == *p {
				key = m.keys[len(m.keys)-1]
			} else {
				key = s.keys[*p]
			}
			if key == nil { // the key is erased: the leaf is a stub now
				verdict.Erased++
				continue
			}
			l := leafAt{batch: i, index: uint32(j)}
			if len(superseded) > 0 {
				l.superseded = superseded[LeafRef{Batch: man.batch, Leaf: uint32(j)}]
			}
			m.leaves = append(m.leaves, l)
			m.keys = append(m.keys, key)
			last = p
		}
	}
}

// at finds the record of a global row.
func (m *matcher) at(row int) (record, r int) {
	i, found := slices.BinarySearch(m.starts, row)
	if !found {
		i--
	}
	for i+1 < len(m.starts) && m.starts[i+1] == row { // empty records before it
		i++
	}
	return i, row - m.starts[i]
}

// patientOf is whose row leaf l is.
func (m *matcher) patientOf(l int) *Pseudonym {
	at := &m.leaves[l]
	return &m.manifests[at.batch].patients[at.index]
}

// scratch is what a goroutine reuses from row to row.
type scratch struct {
	chain *chain
	buf   []byte
}

func newScratch() *scratch { return &scratch{newChain(), make([]byte, 0, 512)} }

// fits recomputes the leaf of a row as leaf l.
func (m *matcher) fits(s *scratch, rc *rowCoder, r int, l int) bool {
	at := &m.leaves[l]
	man := m.manifests[at.batch]
	if man.schema != rc.schema {
		return false
	}
	salt := m.keys[l].saltWith(s.chain, &man.batch, at.index)
	var got consilium.Digest
	got, s.buf = rc.leaf(s.buf, &salt, r)
	return got == man.leaves[at.index]
}

func (m *matcher) match() {
	m.starts = make([]int, len(m.coders))
	m.matched, m.altered = make([]int32, m.total), make([]int32, m.total)
	for i, start := 0, 0; i < len(m.coders); i++ {
		m.starts[i] = start
		start += m.coders[i].rows
	}
	live := make([]int32, 0, len(m.leaves))
	for l := range m.leaves {
		if !m.leaves[l].superseded {
			live = append(live, int32(l))
		}
	}
	// Where nothing was touched, the rows stand in the order of the leaves.
	parallel(m.total, func(lo, hi int) {
		h, rows, places := newRehasher(), make([]leafOf, 0, rehashRows), make([]int, 0, rehashRows)
		var got [rehashRows]consilium.Digest
		compare := func() {
			h.leaves(got[:], rows)
			for i, row := range places {
				l := int(live[row])
				if at := &m.leaves[l]; got[i] == m.manifests[at.batch].leaves[at.index] {
					m.matched[row] = int32(l)
					at.taken = true // row and leaf are one to one here
				}
			}
			rows, places = rows[:0], places[:0]
		}
		for row := lo; row < hi; {
			rec, r := m.at(row)
			rc := m.coders[rec]
			for ; row < hi && r < rc.rows; row, r = row+1, r+1 {
				m.matched[row], m.altered[row] = -1, -1
				if row >= len(live) {
					continue
				}
				l := int(live[row])
				at := &m.leaves[l]
				man := m.manifests[at.batch]
				if *m.patientOf(l) != rc.patientOf(r) || man.schema != rc.schema {
					continue
				}
				rows, places = append(rows, leafOf{rc, r, m.keys[l], &man.batch, at.index}), append(places, row)
				if len(rows) == rehashRows {
					compare()
				}
			}
		}
		compare()
	})
	m.matchByPatient()
}

// matchByPatient settles what did not stand in its place, patient by patient.
func (m *matcher) matchByPatient() {
	rows := map[Pseudonym][]int32{}
	var order []Pseudonym
	for row := range m.matched {
		if m.matched[row] < 0 {
			rec, r := m.at(row)
			p := m.coders[rec].patientOf(r)
			if rows[p] == nil {
				order = append(order, p)
			}
			rows[p] = append(rows[p], int32(row))
		}
	}
	if len(order) == 0 {
		return
	}
	live, old := map[Pseudonym][]int32{}, map[Pseudonym][]int32{}
	for l := range m.leaves {
		p := *m.patientOf(l)
		if m.leaves[l].taken || rows[p] == nil {
			continue
		}
		if m.leaves[l].superseded {
			old[p] = append(old[p], int32(l))
		} else {
			live[p] = append(live[p], int32(l))
		}
	}
	parallel(len(order), func(lo, hi int) {
		s := newScratch()
		for _, p := range order[lo:hi] {
			left, leaves := rows[p], live[p]
			left, leaves = m.pair(left, leaves, s)
			left, _ = m.pair(left, old[p], s)
			// What remains of both is taken as altered, in order.
			for i := 0; i < len(left) && i < len(leaves); i++ {
				m.altered[left[i]] = leaves[i]
				m.leaves[leaves[i]].taken = true
			}
		}
	})
}

const (
	lookAhead = 64      // rows of one patient that may be missing in a run
	allPairs  = 1 << 16 // beyond the look-ahead, at most so many tries a patient
)

// pair matches one patient's rows with leaves by content and returns what is
// left of both: first in order with a look-ahead, which is linear, then every
// pair while that is cheap. Rows in a wild order beyond that stay unmatched,
// and unread.
func (m *matcher) pair(rows, leaves []int32, s *scratch) ([]int32, []int32) {
	try := func(row, l int32) bool {
		rec, r := m.at(int(row))
		ok := m.fits(s, m.coders[rec], r, int(l))
		if ok {
			m.matched[row] = l
			m.leaves[l].taken = true
		}
		return ok
	}
	next := 0
	for _, row := range rows {
		for l := next; l < len(leaves) && l < next+lookAhead; l++ {
			if try(row, leaves[l]) {
				next = l + 1
				break
			}
		}
	}
	rest := func() ([]int32, []int32) {
		var rs, ls []int32
		for _, row := range rows {
			if m.matched[row] < 0 {
				rs = append(rs, row)
			}
		}
		for _, l := range leaves {
			if !m.leaves[l].taken {
				ls = append(ls, l)
			}
		}
		return rs, ls
	}
	rs, ls := rest()
	if len(rs)*len(ls) > 0 && len(rs)*len(ls) <= allPairs {
		for _, row := range rs {
			for _, l := range ls {
				if !m.leaves[l].taken && try(row, l) {
					break
				}
			}
		}
		rs, ls = rest()
	}
	return rs, ls
}

// report turns matches into classes, findings and counts.
func (m *matcher) report() {
	v := m.v
	v.Rows, v.Class, v.leaves = make([][]bool, len(m.coders)), make([][]RowClass, len(m.coders)), make([][]consilium.Digest, len(m.coders))
	moved := outOfOrder(m.matched)
	for rec, rc := range m.coders {
		v.Rows[rec], v.Class[rec], v.leaves[rec] = make([]bool, rc.rows), make([]RowClass, rc.rows), make([]consilium.Digest, rc.rows)
		for r := 0; r < rc.rows; r++ {
			row := m.starts[rec] + r
			if l := m.matched[row]; l >= 0 {
				at := &m.leaves[l]
				man, verdict := m.manifests[at.batch], &v.Batches[at.batch]
				switch {
				case !verdict.OK:
					v.Class[rec][r] = RowBatch
					v.Counts.InBadBatch++
				case at.superseded:
					v.Class[rec][r] = RowSuperseded
					v.Counts.Superseded++
					v.Findings = append(v.Findings, m.finding(FindSuperseded, rec, r, int(l)))
				default:
					v.Class[rec][r], v.Rows[rec][r] = RowVerified, true
					v.leaves[rec][r] = man.leaves[at.index]
					v.Counts.Verified++
					verdict.Verified++
					if moved != nil && moved[row] {
						v.Counts.Reordered++
						v.Findings = append(v.Findings, m.finding(FindReordered, rec, r, int(l)))
					}
				}
				continue
			}
			if l := m.altered[row]; l >= 0 {
				v.Class[rec][r] = RowAltered
				v.Counts.Altered++
				v.Findings = append(v.Findings, m.finding(FindAltered, rec, r, int(l)))
				continue
			}
			v.Class[rec][r] = RowAdded
			v.Counts.Added++
			v.Findings = append(v.Findings, Finding{Kind: FindAdded, Record: rec, Row: r, Leaf: -1, Name: m.strangerName(rc, row, r)})
		}
	}
	for l := range m.leaves {
		at := &m.leaves[l]
		if !at.taken && !at.superseded && v.Batches[at.batch].OK {
			v.Counts.Missing++
			v.Findings = append(v.Findings, m.finding(FindMissing, -1, -1, l))
		}
	}
	for i := range v.Batches {
		b := &v.Batches[i]
		v.Counts.Erased += b.Erased
		v.Counts.Decoys += b.Decoys
		if b.OK {
			v.Roots = append(v.Roots, b.Root)
		} else {
			v.Findings = append(v.Findings, Finding{Kind: FindBatch, Record: -1, Row: -1, Batch: b.ID, Leaf: -1, Name: b.Header, Detail: b.Reason})
		}
	}
}

func (m *matcher) finding(kind FindingKind, rec, r, l int) Finding {
	at := &m.leaves[l]
	id := m.manifests[at.batch].batch
	return Finding{Kind: kind, Record: rec, Row: r, Batch: id, Leaf: int(at.index), Name: m.keys[l].rowName(id, at.index)}
}

// strangerName names a row that no leaf knows. If its patient has a key, only
// the hospital can tell whose it is; else it goes by its place in the table,
// which is nobody's.
func (m *matcher) strangerName(rc *rowCoder, row, r int) consilium.Digest {
	if key := m.in.Salts.get(rc.patientOf(r)); key != nil {
		return key.rowName(ID{}, uint32(row))
	}
	w := enc{}
	w.raw(m.in.Stream[:])
	w.u64(uint64(row))
	return consilium.DomainAuditMask.Digest(m.v.Checkpoint.Root[:], w.b)
}

// outOfOrder marks the fewest rows whose removal leaves the matched leaves in
// ascending order; nil where there are none.
func outOfOrder(matched []int32) []bool {
	last, sorted := int32(-1), true
	for _, l := range matched {
		if l >= 0 {
			sorted = sorted && l > last
			last = l
		}
	}
	if sorted {
		return nil
	}
	out := make([]bool, len(matched))
	// The longest ascending run of leaves (patience sorting) stays.
	var tails []int // by length-1: row that ends the run with the smallest leaf
	prev := make([]int, len(matched))
	for row, l := range matched {
		prev[row] = -1
		if l < 0 {
			continue
		}
		i, _ := slices.BinarySearchFunc(tails, l, func(t int, l int32) int { return int(matched[t]) - int(l) })
		if i > 0 {
			prev[row] = tails[i-1]
		}
		if i == len(tails) {
			tails = append(tails, row)
		} else {
			tails[i] = row
		}
		out[row] = true
	}
	for row := tails[len(tails)-1]; row >= 0; row = prev[row] {
		out[row] = false
	}
	return out
}
