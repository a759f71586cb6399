package worker

import (
	"testing"
	"time"

	"consilium"
)

// TestPastTry: while history is replayed, the secret of the newest try of an
// enrolment is neither replaced in an earlier one nor revealed in it.
func TestPastTry(t *testing.T) {
	renewal := func(number, try uint32) *replica {
		r := &replica{submission: &consilium.Submission{}, admitted: true, spec: &consilium.Spec{}, counted: true,
			approval: &consilium.Approval{NotAfter: time.Now().Add(time.Hour).Unix()}}
		if number > 1 {
			r.prior, r.renewal = &epoch{charter: &consilium.Charter{Epoch: number - 1}}, &consilium.Renewal{Try: try}
		}
		return r
	}
	newest := &enrolSecret{Epoch: 2, Try: 2}
	for name, c := range map[string]struct {
		rep  *replica
		have *enrolSecret
		past bool
	}{
		"nothing committed":         {renewal(2, 1), nil, false},
		"the try before":            {renewal(2, 1), newest, true},
		"the epoch before":          {renewal(1, 0), newest, true},
		"this try":                  {renewal(2, 2), newest, false},
		"the next try":              {renewal(2, 3), newest, false},
		"the next epoch":            {renewal(3, 1), newest, false},
		"the first enrolment":       {renewal(1, 0), &enrolSecret{}, false},
		"an epoch after the newest": {renewal(3, 1), &enrolSecret{}, false},
	} {
		a := &actor{gate: &Gate{}, rep: c.rep, sec: &secrets{Enrol: c.have}, posted: map[string]bool{}}
		a.gate.cfg.Now = time.Now
		if got := a.pastTry(); got != c.past {
			t.Errorf("%s: past %v, want %v", name, got, c.past)
		}
		if !c.past {
			continue
		}
		// With nothing behind it, this actor could not take one more step.
		if err := a.enrol(t.Context()); err != nil || a.sec.Enrol != newest {
			t.Errorf("%s: %v, the secret is now of try %d.%d", name, err, a.sec.Enrol.Epoch, a.sec.Enrol.Try)
		}
	}
}
