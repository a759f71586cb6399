package vault

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"consilium"
	"consilium/internal/durable"
	"consilium/policy"
)

const (
	recordCohort uint8 = 1 // about which a sum was opened
	recordRead   uint8 = 2 // whose rows an analysis read; written before it reads them
)

// openedCohort is a cohort as the book keeps it: who was in it, for comparison
// with studies over any table, and what each patient's rows were, for
// comparison with studies over the same table: a changed or excluded row shows in
// the difference of two sums like a patient who left.
type openedCohort struct {
	policy.OpenedCohort
	Dataset  string          `json:"dataset"`
	Contents []policy.Member `json:"contents"`
	About    About           `json:"about"` // for the patients who ask
}

// About says in a study's own words who used which kinds of data for what: what
// a patient is told. Books of before it hold none.
type About struct {
	Name       string   `json:"name"`
	Question   string   `json:"question"`
	Team       string   `json:"team"`
	Purposes   []string `json:"purposes"`
	Disease    string   `json:"disease"`
	Categories []string `json:"categories"` // of the columns read
	Frozen     bool     `json:"frozen"`     // its sums are over the same rows in every round: with other rows this hospital leaves it
}

// about reads it from an admitted study.
func (st *study) about() About {
	a := About{Name: st.spec.Name, Question: st.spec.Question, Team: string(st.submission.Team), Purposes: st.spec.Purpose.DUO, Disease: st.spec.Purpose.Disease, Categories: []string{}, Frozen: st.frozen()}
	for _, c := range st.spec.Columns {
		category := c.Category
		if category == "" {
			category = "general"
		}
		if slices.Contains(policy.UsedColumns(st.spec), c.Name) && !slices.Contains(a.Categories, category) {
			a.Categories = append(a.Categories, category)
		}
	}
	slices.Sort(a.Categories)
	return a
}

// cohortBook is the durable list of the cohorts that this hospital has helped
// to open a sum about. It is written before the vault lets a first opening be
// acted upon, and read before every new study. It also holds, for the patients
// who ask, every cohort whose rows an analysis read: a study that was aborted
// before its first opening has read them all the same, and so has one whose first
// step was rehearsed here and which then went on without this hospital.
type cohortBook struct {
	mu   sync.Mutex
	log  *durable.Journal
	list []openedCohort
	read map[consilium.StudyID]consilium.Digest // of the cohort recorded last
}

func openCohortBook(path string) (*cohortBook, error) {
	log, err := durable.Open(path)
	if err != nil {
		return nil, err
	}
	b := &cohortBook{log: log, read: map[consilium.StudyID]consilium.Digest{}}
	err = log.Replay(func(kind uint8, data []byte) error {
		if kind != recordCohort && kind != recordRead {
			return fmt.Errorf("cohort book: record of unknown kind %d", kind)
		}
		var c openedCohort
		if err := json.Unmarshal(data, &c); err != nil {
			return err
		}
		if kind == recordRead {
			b.read[c.Study] = readersOf(c.Patients)
		} else {
			b.list = append(b.list, c)
		}
		return nil
	})
	if err != nil {
		log.Close()
		return nil, err
	}
	return b, nil
}

// others lists the cohorts of all studies but one.
func (b *cohortBook) others(study consilium.StudyID) []openedCohort {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []openedCohort
	for _, c := range b.list {
		if c.Study != study {
			out = append(out, c)
		}
	}
	return out
}

// of is the cohort of one study.
func (b *cohortBook) of(study consilium.StudyID) (openedCohort, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.list {
		if c.Study == study {
			return c, true
		}
	}
	return openedCohort{}, false
}

// add records a cohort once per study.
func (b *cohortBook) add(c openedCohort) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, have := range b.list {
		if have.Study == c.Study {
			return nil
		}
	}
	data, err := json.Marshal(&c)
	if err != nil {
		return err
	}
	if err := b.log.Append(recordCohort, data); err != nil {
		return stored(err)
	}
	b.list = append(b.list, c)
	return nil
}

// reads records that an analysis is about to read the rows of a cohort: once for
// each set of patients in a row, so every patient of every round stands in it.
func (b *cohortBook) reads(c openedCohort) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	who := readersOf(c.Patients)
	if have, ok := b.read[c.Study]; ok && have == who {
		return nil
	}
	c.Contents = nil
	data, err := json.Marshal(&c)
	if err != nil {
		return err
	}
	if err := b.log.Append(recordRead, data); err != nil {
		return stored(err)
	}
	b.read[c.Study] = who
	return nil
}

// readersOf names a set of patients, which is in order.
func readersOf(patients []policy.Member) consilium.Digest {
	var all []byte
	for _, p := range patients {
		all = append(all, p[:]...)
	}
	return consilium.DomainCohort.Digest([]byte("read"), all)
}

// Read is a study that read rows of a patient, as the book has it.
type Read struct {
	Study   consilium.StudyID
	Columns []string
	About   About
}

// Reads lists, from the book in a file, the studies whose analysis read rows of
// the patient, each once, in the order in which they came.
func Reads(path string, patient policy.Member) ([]Read, error) {
	log, err := durable.Open(path)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	var out []Read
	err = log.Replay(func(_ uint8, data []byte) error {
		var c openedCohort
		if err := json.Unmarshal(data, &c); err != nil {
			return err
		}
		if slices.Contains(c.Patients, patient) && !slices.ContainsFunc(out, func(r Read) bool { return r.Study == c.Study }) {
			out = append(out, Read{c.Study, c.Columns, c.About})
		}
		return nil
	})
	return out, err
}

func (b *cohortBook) close() error { return b.log.Close() }
