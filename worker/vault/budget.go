package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"

	"consilium"
	"consilium/internal/dp"
	"consilium/internal/durable"
	"consilium/policy"
)

const recordDebit uint8 = 1

// Budget bounds what all differentially private studies together may learn
// about one patient of this hospital, whichever of its tables they use: a table
// may be bound under two names, and a patient may stand in two tables.
type Budget struct {
	Epsilon float64 `json:"epsilon"`
	Delta   float64 `json:"delta"`
}

// DefaultBudget is for hospitals that set none.
var DefaultBudget = Budget{Epsilon: 10, Delta: 1e-6}

// orDefault is the budget that was set, which may be zero, or DefaultBudget.
func (b *Budget) orDefault() Budget {
	if b == nil {
		return DefaultBudget
	}
	return *b
}

// debit is what one round of one study costs every patient of the hospital.
type debit struct {
	Study    consilium.StudyID `json:"study"`
	Round    uint32            `json:"round"`
	Dataset  string            `json:"dataset"`        // for whoever reads the book; it opens no account of its own
	RowSet   consilium.Digest  `json:"row_set"`        // salted: the same rows of the same round draw the same noise
	State    consilium.Digest  `json:"state,omitzero"` // from which the round is computed
	Releases []dp.Release      `json:"releases"`
}

// budgetBook is the durable account of privacy spent. A round is debited
// before its noisy vector exists outside Local, so that a crash at any point
// counts at least what was sent: if we crash after the debit, the budget is
// spent for nothing, and the same round with the same rows, which draws the
// same noise, is not debited again.
type budgetBook struct {
	mu   sync.Mutex
	log  *durable.Journal
	list []debit
	// running is what each study costs in all from its first payment in this process
	// until it ends: another one must not begin on what this one still needs.
	running map[consilium.StudyID][]dp.Release
}

func openBudgetBook(path string) (*budgetBook, error) {
	log, err := durable.Open(path)
	if err != nil {
		return nil, err
	}
	b := &budgetBook{log: log, running: map[consilium.StudyID][]dp.Release{}}
	err = log.Replay(func(kind uint8, data []byte) error {
		if kind != recordDebit {
			return fmt.Errorf("budget book: record of unknown kind %d", kind)
		}
		var d debit
		if err := json.Unmarshal(data, &d); err != nil {
			return err
		}
		if err := d.valid(); err != nil {
			return err
		}
		b.list = append(b.list, d)
		return nil
	})
	if err != nil {
		log.Close()
		return nil, err
	}
	return b, nil
}

func (d *debit) valid() error {
	if len(d.Releases) == 0 {
		return fmt.Errorf("budget book: a debit of nothing")
	}
	for _, r := range d.Releases {
		if err := r.Valid(); err != nil {
			return err
		}
	}
	return nil
}

// errBudget means that a study asks for more than is left.
var errBudget = errors.New("the privacy budget does not last for the study")

// taken is what all studies but one have spent or, while they run, will have. A
// study's releases are listed in the order in which it makes them.
func (b *budgetBook) taken(except consilium.StudyID) []dp.Release {
	spent := map[consilium.StudyID]int{}
	var all []dp.Release
	for _, have := range b.list {
		if have.Study != except {
			all = append(all, have.Releases...)
			spent[have.Study] += len(have.Releases)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(b.running)) {
		if whole := b.running[id]; id != except && len(whole) > spent[id] {
			all = append(all, whole[spent[id]:]...)
		}
	}
	return all
}

// end gives back what a study has set aside and not spent.
func (b *budgetBook) end(study consilium.StudyID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.running, study)
}

// lasts reports whether all rounds of a study could be paid, beside what other
// studies have spent and will. It debits nothing: spend decides once more.
func (b *budgetBook) lasts(study consilium.StudyID, whole []dp.Release, budget Budget) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	after := dp.Epsilon(append(b.taken(study), whole...), budget.Delta)
	if !(budget.Epsilon > 0) || !(budget.Delta > 0 && budget.Delta < 1) || math.IsInf(budget.Epsilon, 0) || !(after <= budget.Epsilon) {
		return fmt.Errorf("%w: it would make epsilon %.3g of %v; raise privacy.epsilon in the worker's configuration, or let the team ask for less", errBudget, after, budget.Epsilon)
	}
	return nil
}

// spend debits a round, or refuses it if the hospital's patients would have lost
// more than the budget by it, or, before the first round that is debited for the
// study here, by all the rounds of the study, which whole lists. It returns once the
// debit is durable. The same round with the same rows, state and noise costs nothing
// more; with another state or other noise it is refused, since both vectors would
// draw from one key.
func (b *budgetBook) spend(d debit, whole []dp.Release, budget Budget) error {
	if err := d.valid(); err != nil {
		return err
	}
	if !(budget.Epsilon > 0) || !(budget.Delta > 0 && budget.Delta < 1) || math.IsInf(budget.Epsilon, 0) {
		return consilium.ErrPolicy.Withf("privacy budget of epsilon %v and delta %v: nothing may be spent", budget.Epsilon, budget.Delta)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []dp.Release
	begun := false
	for _, have := range b.list {
		if have.Study == d.Study && have.Round == d.Round && have.RowSet == d.RowSet && have.Dataset == d.Dataset {
			if !slices.Equal(have.Releases, d.Releases) {
				return consilium.ErrPolicy.Withf("round %d of study %s was debited for other releases of the same rows: the study, its policy or this hospital's software changed in between; submit the study again", d.Round, d.Study)
			}
			if !have.State.IsZero() && have.State != d.State {
				return consilium.ErrPolicy.Withf("round %d of study %s was debited for the same rows and another state: the difference of two such vectors has no noise", d.Round, d.Study)
			}
			b.running[d.Study] = whole
			return nil
		}
		begun = begun || have.Study == d.Study
		all = append(all, have.Releases...)
	}
	before := dp.Epsilon(all, budget.Delta)
	next := append(all, d.Releases...)
	if !begun && len(whole) > len(d.Releases) {
		next = append(b.taken(d.Study), whole...)
	}
	if after := dp.Epsilon(next, budget.Delta); !(after <= budget.Epsilon) {
		return consilium.ErrPolicy.Withf("this hospital's privacy budget is spent: epsilon %.3g of %v is used, this study would make it %.3g; ask for less, or the hospital to raise its budget",
			before, budget.Epsilon, after)
	}
	data, err := json.Marshal(&d)
	if err != nil {
		return err
	}
	if err := b.log.Append(recordDebit, data); err != nil {
		return stored(err)
	}
	b.list = append(b.list, d)
	b.running[d.Study] = whole
	return nil
}

// account states, in millionths of epsilon, what all studies have spent and what
// may be spent: the one rounded up, the other down.
func (b *budgetBook) account(budget Budget) (spent, total int64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []dp.Release
	for _, have := range b.list {
		all = append(all, have.Releases...)
	}
	used, may := math.Ceil(dp.Epsilon(all, budget.Delta)*1e6), math.Floor(budget.Epsilon*1e6)
	if !(used >= 0 && used <= float64(policy.Never)) || !(may >= 0 && may <= float64(policy.Never)) {
		return 0, 0, consilium.ErrPolicy.Withf("the privacy budget cannot be told: epsilon %v of %v is used", used/1e6, budget.Epsilon)
	}
	return int64(used), int64(may), nil
}

func (b *budgetBook) close() error { return b.log.Close() }
