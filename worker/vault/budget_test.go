package vault

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"consilium"
	"consilium/internal/dp"
)

func oneDebit(t *testing.T, study string, epsilon float64) debit {
	t.Helper()
	mu, err := dp.Calibrate(epsilon, 1e-6, 1024*7, 1024, 1)
	if err != nil {
		t.Fatal(err)
	}
	return debit{Study: consilium.NewStudyID(consilium.DomainSpec.Digest([]byte(study))), Round: 1, Dataset: "cgd", RowSet: consilium.DomainRowSet.Digest([]byte(study)),
		Releases: []dp.Release{{L1: 1024 * 7, L2: 1024, Mu: mu}}}
}

// TestBudget: studies add up until the budget is spent; a round that comes
// again with the same rows costs nothing, with other rows it does; a table
// under a second name has no budget of its own.
func TestBudget(t *testing.T) {
	path := filepath.Join(t.TempDir(), "budget")
	b, err := openBudgetBook(path)
	if err != nil {
		t.Fatal(err)
	}
	budget := Budget{Epsilon: 1.6, Delta: 1e-6}
	first := oneDebit(t, "first", 1)
	for range 3 {
		if err := b.spend(first, nil, budget); err != nil {
			t.Fatal(err)
		}
	}
	if len(b.list) != 1 {
		t.Errorf("%d debits of one round", len(b.list))
	}
	if err := b.spend(oneDebit(t, "second", 1), nil, budget); err != nil {
		t.Errorf("epsilon 1 twice is 1.5 by composition: %v", err)
	}
	third := oneDebit(t, "third", 1)
	if err := b.spend(third, nil, budget); !errors.Is(err, consilium.ErrPolicy) {
		t.Errorf("a third study: %v", err)
	}
	changed := first
	changed.RowSet = third.RowSet
	if err := b.spend(changed, nil, budget); !errors.Is(err, consilium.ErrPolicy) {
		t.Errorf("the first round again over other rows draws other noise and is not refused: %v", err)
	}
	// The attack: the same table bound under a second name, which to the naive
	// twin, that keeps an account for each name, has a budget of its own.
	third.Dataset = "other"
	var own []dp.Release
	for _, have := range b.list {
		if have.Dataset == third.Dataset {
			own = append(own, have.Releases...)
		}
	}
	if dp.Epsilon(append(own, third.Releases...), budget.Delta) > budget.Epsilon {
		t.Error("the twin notices the second name")
	}
	if err := b.spend(third, nil, budget); !errors.Is(err, consilium.ErrPolicy) {
		t.Errorf("the same patients under another dataset name: %v", err)
	}
	// The same round of the same rows with other noise would share its key.
	other := first
	other.Releases = []dp.Release{{L1: first.Releases[0].L1, L2: first.Releases[0].L2, Mu: first.Releases[0].Mu + 1}}
	if err := b.spend(other, nil, budget); !errors.Is(err, consilium.ErrPolicy) || !strings.Contains(err.Error(), "other releases") {
		t.Errorf("other releases of a debited round: %v", err)
	}
	for _, bad := range []Budget{{}, {Epsilon: -1, Delta: 1e-6}, {Epsilon: 1, Delta: 0}, {Epsilon: 1, Delta: 2}} {
		if err := b.spend(oneDebit(t, "fourth", 0.01), nil, bad); err == nil {
			t.Errorf("a budget of %+v lets a study through", bad)
		}
	}
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
}

// TestBudgetSurvivesKill: what was debited when the process died between the
// debit and the sending is still spent, after a torn write too; the naive twin,
// which debits after sending, forgets it.
func TestBudgetSurvivesKill(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "budget")
	b, err := openBudgetBook(path)
	if err != nil {
		t.Fatal(err)
	}
	budget := Budget{Epsilon: 1.2, Delta: 1e-6}
	if err := b.spend(oneDebit(t, "first", 1), nil, budget); err != nil {
		t.Fatal(err)
	}
	// The process dies here: nothing is closed, and nothing after the debit runs.
	// What a new process reads is the file as it is, every prefix of a later
	// record included.
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 0; cut < 40; cut += 3 {
		torn := filepath.Join(dir, "torn")
		if err := os.WriteFile(torn, append(append([]byte{}, whole...), whole[len(whole)-min(cut, len(whole)/2):]...), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := openBudgetBook(torn)
		if err != nil {
			continue // a file that cannot be read lets nothing through
		}
		if err := again.spend(oneDebit(t, "second", 1), nil, budget); !errors.Is(err, consilium.ErrPolicy) {
			t.Errorf("after a kill (%d torn bytes) the first study is forgotten: %v", cut, err)
		}
		if err := again.spend(oneDebit(t, "first", 1), nil, budget); err != nil {
			t.Errorf("the first round cannot go on after a kill: %v", err)
		}
		again.close()
	}
	b.close()
	// The twin: the book is written after the vector has left, and the process
	// dies in between.
	twin, err := openBudgetBook(filepath.Join(dir, "twin"))
	if err != nil {
		t.Fatal(err)
	}
	defer twin.close()
	if err := twin.spend(oneDebit(t, "second", 1), nil, budget); err != nil {
		t.Errorf("the twin remembers what it never wrote: %v", err)
	}
}

// TestZeroBudget: a hospital that sets a budget of nothing spends nothing. To
// the naive twin zero means that none was set, and the default holds.
func TestZeroBudget(t *testing.T) {
	b, err := openBudgetBook(filepath.Join(t.TempDir(), "budget"))
	if err != nil {
		t.Fatal(err)
	}
	zero, one := &Budget{}, oneDebit(t, "first", 1)
	if err := b.spend(one, nil, zero.orDefault()); !errors.Is(err, consilium.ErrPolicy) {
		t.Errorf("a budget of zero: %v", err)
	}
	// A sum that is no number is not below the budget.
	infinite := one
	infinite.Releases = []dp.Release{{L1: 1e300, L2: 1e300, Mu: 1e-300}}
	if err := b.spend(infinite, nil, Budget{Epsilon: 10, Delta: 1e-6}); !errors.Is(err, consilium.ErrPolicy) {
		t.Errorf("a release without end: %v", err)
	}
	naive := func(b *Budget) Budget {
		if *b == (Budget{}) {
			return DefaultBudget
		}
		return *b
	}
	if err := b.spend(one, nil, naive(zero)); err != nil {
		t.Errorf("the twin is not broken: %v", err)
	}
	if unset := (*Budget)(nil).orDefault(); unset != DefaultBudget {
		t.Errorf("a hospital that sets none has %+v", unset)
	}
}

// TestBudgetOfRounds: a study of several rounds is debited round by round, and
// does not begin if its last round could not be paid.
func TestBudgetOfRounds(t *testing.T) {
	b, err := openBudgetBook(filepath.Join(t.TempDir(), "budget"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	one := oneDebit(t, "fit", 0.6)
	whole := []dp.Release{one.Releases[0], one.Releases[0], one.Releases[0], one.Releases[0]}
	need := dp.Epsilon(whole, 1e-6)
	if err := b.spend(one, whole, Budget{Epsilon: need - 0.01, Delta: 1e-6}); !errors.Is(err, consilium.ErrPolicy) {
		t.Errorf("a study begins that its budget does not last for: %v", err)
	}
	if err := b.lasts(one.Study, whole, Budget{Epsilon: need - 0.01, Delta: 1e-6}); !errors.Is(err, errBudget) {
		t.Errorf("a study is admitted that its budget does not last for: %v", err)
	}
	if err := b.lasts(one.Study, whole, Budget{Epsilon: need, Delta: 1e-6}); err != nil {
		t.Error(err)
	}
	for _, bad := range []Budget{{}, {Epsilon: math.Inf(1), Delta: 1e-6}, {Epsilon: 100, Delta: 0}, {Epsilon: math.NaN(), Delta: 1e-6}} {
		if err := b.lasts(one.Study, whole, bad); !errors.Is(err, errBudget) {
			t.Errorf("a budget of %+v admits a study: %v", bad, err)
		}
	}
	if len(b.list) != 0 {
		t.Error("a refusal is debited")
	}
	for round := uint32(1); round <= 4; round++ {
		one.Round = round
		ahead := whole
		if round > 1 {
			ahead = nil
		}
		for range 2 { // a repetition costs nothing
			if err := b.spend(one, ahead, Budget{Epsilon: need, Delta: 1e-6}); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
	}
	if err := b.lasts(one.Study, whole, Budget{Epsilon: need, Delta: 1e-6}); err != nil {
		t.Errorf("asked again, the study counts twice: %v", err)
	}
	if err := b.lasts("another", whole, Budget{Epsilon: need, Delta: 1e-6}); !errors.Is(err, errBudget) {
		t.Errorf("another study, of a budget that is spent: %v", err)
	}
	if len(b.list) != 4 {
		t.Errorf("%d debits of four rounds", len(b.list))
	}
	one.Round = 5
	if err := b.spend(one, nil, Budget{Epsilon: need, Delta: 1e-6}); !errors.Is(err, consilium.ErrPolicy) {
		t.Errorf("a round more than was paid: %v", err)
	}
}

// TestResultKeepsWhatWasSpent: what an analysis says of its budget stays in the
// result of a study of one; one that says nothing gets what was asked for.
func TestResultKeepsWhatWasSpent(t *testing.T) {
	asked := map[string]any{"dp": &consilium.DP{Epsilon: 2, Delta: 1e-6, Clip: 1}}
	for doc, want := range map[string]string{
		`{"dp":{"epsilon":2,"releases":7}}`:  `{"assumptions":[],"dp":{"epsilon":2,"releases":7}}`,
		`{"error":{"code":"analysis.rows"}}`: `{"assumptions":[],"dp":{"clip":1,"delta":0.000001,"epsilon":2},"error":{"code":"analysis.rows"}}`,
	} {
		got, err := assemble([]byte(doc), asked, nil)
		if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v", doc, got, err)
		}
	}
}

// What a running study still costs is set aside: another one that would not fit
// beside it does not begin, and neither is left in the middle. The twin, which looks
// only at what was debited, lets both begin, and neither ends.
func TestBudgetIsSetAside(t *testing.T) {
	const rounds = 6
	budget := Budget{Epsilon: 3, Delta: 1e-6}
	round := func(study string, n int) debit {
		d := oneDebit(t, study, 1)
		d.Round = uint32(n)
		return d
	}
	whole := func(study string) []dp.Release {
		var all []dp.Release
		for range rounds {
			all = append(all, oneDebit(t, study, 1).Releases...)
		}
		return all
	}
	for name, setAside := range map[string]bool{"set aside": true, "twin": false} {
		b, err := openBudgetBook(filepath.Join(t.TempDir(), "budget"))
		if err != nil {
			t.Fatal(err)
		}
		ended := map[string]bool{}
		for n := 1; n <= rounds; n++ {
			for _, study := range []string{"first", "second"} {
				d := round(study, n)
				err := b.spend(d, whole(study), budget)
				if !setAside {
					clear(b.running)
				}
				if err != nil && !errors.Is(err, consilium.ErrPolicy) {
					t.Fatal(err)
				}
				ended[study] = err == nil
			}
		}
		if ended["first"] != setAside || ended["second"] {
			t.Errorf("%s: %v", name, ended)
		}
		if err := b.lasts("third", oneDebit(t, "third", 1).Releases, Budget{Epsilon: 0.5, Delta: 1e-6}); !errors.Is(err, errBudget) {
			t.Errorf("%s: a third study: %v", name, err)
		}
		if err := b.close(); err != nil {
			t.Fatal(err)
		}
	}
	// An ended study gives back what it did not spend.
	b, err := openBudgetBook(filepath.Join(t.TempDir(), "budget"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	first, second := round("first", 1), round("second", 1)
	if err := b.spend(first, whole("first"), budget); err != nil {
		t.Fatal(err)
	}
	if err := b.spend(second, whole("second"), budget); !errors.Is(err, consilium.ErrPolicy) {
		t.Fatal(err)
	}
	b.end(first.Study)
	if err := b.spend(second, whole("second"), budget); err != nil {
		t.Fatal(err)
	}
}

// The noise of a round follows from its rows. Computed from another state, the
// vector would be another one with the same noise, and their difference exact.
func TestBudgetHoldsState(t *testing.T) {
	b, err := openBudgetBook(filepath.Join(t.TempDir(), "budget"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	budget := Budget{Epsilon: 3, Delta: 1e-6}
	d := oneDebit(t, "first", 1)
	d.State = consilium.Digest{1}
	for range 2 {
		if err := b.spend(d, nil, budget); err != nil {
			t.Fatal(err)
		}
	}
	d.State = consilium.Digest{2}
	if err := b.spend(d, nil, budget); !errors.Is(err, consilium.ErrPolicy) || !strings.Contains(err.Error(), "another state") {
		t.Errorf("another state: %v", err)
	}
}
