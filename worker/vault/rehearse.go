package vault

import (
	"context"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"

	"consilium"
	"consilium/internal/fixed"
	"consilium/internal/table"
	"consilium/models"
	"consilium/models/net"
	"consilium/policy"
)

// needs estimates the memory of a study at this hospital: its columns, what its
// analyses keep of them from round to round, and for its largest round the vector as lanes, the sums as they come and as they are
// added, their values, and the state before and after. A long round of training holds less when it is opened (openedSums), and about as much in its
// local step: weights, gradients, and how far the weights moved.
func (v *Vault) needs(facts consilium.Facts, rows arrow.Record) (uint64, error) {
	const perLane, perValue = 4 + 4 + 8, 8 + 2*8
	list, err := models.Describe(facts, v.cfg.Learned)
	if err != nil {
		return 0, err
	}
	var most uint64
	for _, d := range list {
		for _, l := range d.Layouts {
			most = max(most, uint64(l.Lanes())*perLane+uint64(l.Values())*perValue)
		}
	}
	perRow, err := models.KeptBytes(facts, v.cfg.Learned)
	if err != nil {
		return 0, err
	}
	return most + uint64(rows.NumRows())*(2*8*uint64(rows.NumCols())+perRow), nil
}

// rehearse takes the first local step of the study's analyses and throws the
// outcome away. A row that they cannot use, such as an interval that ends
// before it starts or a logarithm of zero, makes the hospital decline before
// anybody signs a charter with it, instead of leaving a study that has begun.
// So does a study that the hospital's privacy budget would not last for.
// No state, no memory and no randomness outlives the rehearsal.
func (v *Vault) rehearse(ctx context.Context, st *study, f *policy.Federation, u *usable) error {
	facts := consilium.Facts{Spec: st.spec, MinCohort: st.decided.MinCohort, Permits: st.decided.Permits}
	for i := range f.Sites {
		facts.Sites = append(facts.Sites, consilium.SiteID(f.Sites[i].ID))
	}
	position := consilium.Position(slices.Index(facts.Sites, v.cfg.Site) + 1)
	if position == 0 {
		return consilium.ErrNotMember.Withf("the study does not ask %s", v.cfg.Site)
	}
	analysis, err := models.New(facts, v.cfg.Learned)
	if err != nil {
		return err
	}
	if st.spec.Privacy.DP != nil {
		whole, err := models.Releases(facts, v.cfg.Learned)
		if err != nil {
			return err
		}
		if err := v.budget.lasts(st.id, whole, v.cfg.Budget.orDefault()); err != nil {
			return err
		}
	}
	state, err := analysis.Start(facts)
	if err != nil || state.Done {
		return err
	}
	layout, err := analysis.Layout(state)
	if err != nil {
		return err
	}
	derived, err := table.Derive(st.spec, st.record, u.selected)
	if err != nil {
		return err
	}
	if st.needs, err = v.needs(facts, derived); err != nil {
		return err
	}
	w, err := fixed.NewWriter(layout)
	if err != nil {
		return err
	}
	// Noise of a key of its own: what is rehearsed is thrown away, costs nothing,
	// and shares nothing with a round.
	_, err = analysis.Local(ctx, state, nil, &models.Rows{
		Noise: consilium.DomainNoise.Digest([]byte("rehearsal"), v.cfg.Pseudonym, []byte(st.id)),
		Site:  position, Seed: net.RoundSeed(st.spec.Seed, st.site.ID, 1), Patients: len(st.people.names), Excluded: u.excluded,
		Batches: []models.Batch{{Record: derived, Selected: u.selected, Patient: st.people.of, Holdout: st.people.holdout}},
	}, w)
	if err != nil {
		return err
	}
	_, err = w.Lanes()
	return err
}
