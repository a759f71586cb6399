package coordinator

import (
	"context"
	"time"

	"consilium"
	"consilium/policy"
)

// PolicyAdmission is the Admission that evaluates the study rules of the
// policy that a submission names. A policy that this node does not have refuses
// nothing for good: the study waits until the node has it.
func PolicyAdmission(policies func(consilium.Digest) (*policy.Engine, error), now func() time.Time) Admission {
	return func(ctx context.Context, r AdmissionRequest) (bool, []byte, error) {
		sub, err := consilium.ParseSubmission(r.Submission)
		if err != nil {
			return false, nil, consilium.ErrInvalid.With(err)
		}
		spec, err := consilium.ParseSpec(sub.SpecBytes)
		if err != nil {
			return false, nil, consilium.ErrInvalid.With(err)
		}
		engine, err := policies(sub.Policy)
		if err != nil {
			return false, nil, err
		}
		study, err := policy.NewStudy(r.Study, sub.SpecBytes)
		if err != nil {
			return false, nil, err
		}
		federation, err := policy.NewFederation(r.Roster, sub.Team, spec.Sites.Only)
		if err != nil {
			return false, nil, err
		}
		d, err := engine.Decide(ctx, policy.PointStudy, policy.Input{Now: now().Unix(), Study: study, Federation: federation})
		if err != nil {
			return false, nil, err
		}
		record, err := d.Encode()
		return d.Allow, record, err
	}
}
