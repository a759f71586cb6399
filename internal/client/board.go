package client

import (
	"context"
	"errors"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/wire"
)

// Member is one member of the ethics board.
type Member struct {
	ID     string
	Signer consilium.Signer
	Wire   *wire.Client
	Book   *wire.Book
}

// Submitted reads a study's submission and checks its team's signature.
func Submitted(ctx context.Context, w *wire.Client, roster *consilium.Roster, study consilium.StudyID) (*consilium.Submission, error) {
	var sub *consilium.Submission
	err := w.FollowStudy(ctx, study, 0, func(ev *consilium.Event) error {
		proof, err := Check(roster, study, []*consilium.Event{ev})
		if err != nil {
			return err
		}
		if sub = proof.Submission; sub == nil {
			return consilium.ErrInvalid.Withf("the study does not begin with its submission")
		}
		return errEnded
	})
	if !errors.Is(err, errEnded) {
		return nil, err
	}
	return sub, nil
}

// Approval is the payload that a board signs for a submitted study.
func Approval(study consilium.StudyID, sub *consilium.Submission, notBefore, notAfter int64) ([]byte, error) {
	return canon.Marshal(&consilium.Approval{
		APIVersion: consilium.APIVersion, Kind: "Approval", Study: study,
		Spec: consilium.SpecDigest(sub.SpecBytes), Policy: sub.Policy, NotBefore: notBefore, NotAfter: notAfter,
	})
}

// Approve signs and posts an approval. All members of one board sign the same
// payload.
func (m *Member) Approve(ctx context.Context, study consilium.StudyID, payload []byte) error {
	if _, err := consilium.ParseApproval(payload); err != nil {
		return consilium.ErrInvalid.With(err)
	}
	return post(ctx, m.Wire, m.Signer, consilium.KindApproval, study, "board/"+m.ID, payload)
}
