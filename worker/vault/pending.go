package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"consilium"
	"consilium/internal/durable"
)

// A contribution outlives the vault that computed it: the gate has promised it,
// and opens the round later, perhaps with a vault that was started in between. The
// cohort that goes into the book is the one that was contributed, and no other
// that the rows or the consents would give by then; so it is on disk before the
// vector leaves the vault. An audit of the contribution computes another one and
// keeps nothing of it.

// pendingCohort is the cohort of a study's last computed round.
type pendingCohort struct {
	Round  uint32       `json:"round"`
	Cohort openedCohort `json:"cohort"`
}

func (v *Vault) pendingPath(id consilium.StudyID) string {
	return filepath.Join(v.cfg.Dir, "contributed", string(id))
}

// keepCohort writes it. If we crash before, the vector has not left the vault.
func (v *Vault) keepCohort(st *study, round uint32, cohort *openedCohort) error {
	p := pendingCohort{round, *cohort}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(v.pendingPath(st.id)), 0o700); err != nil {
		return stored(err)
	}
	if err := durable.WriteFile(v.pendingPath(st.id), b, 0o600); err != nil {
		return stored(err)
	}
	st.given = &p
	return nil
}

// contributed finds the cohort that this hospital contributed to a round.
func (v *Vault) contributed(st *study, round uint32) (*openedCohort, error) {
	if st.given != nil && st.given.Round == round {
		return &st.given.Cohort, nil
	}
	b, err := os.ReadFile(v.pendingPath(st.id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, consilium.ErrInvalid.Withf("round %d is about to be opened and this hospital's vault has computed no contribution of the study", round)
	}
	if err != nil {
		return nil, err
	}
	var p pendingCohort
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("%s: %w", v.pendingPath(st.id), err)
	}
	if p.Round != round || p.Cohort.Study != st.id {
		return nil, consilium.ErrInvalid.Withf("round %d is about to be opened and this hospital's vault last computed round %d", round, p.Round)
	}
	return &p.Cohort, nil
}

func (v *Vault) forgetCohort(id consilium.StudyID) error {
	if _, err := consilium.ParseStudyID(string(id)); err != nil {
		return nil // nothing was ever kept under such a name
	}
	if err := os.Remove(v.pendingPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
