package federation

import (
	"context"
	"crypto/rand"
	"encoding/hex"

	"consilium"
	"consilium/internal/client"
	"consilium/models"
	"consilium/models/net"
)

// learned are the analysis types of other rooms than models.
func learned() map[string]models.Constructor {
	return map[string]models.Constructor{
		consilium.AnalysisTrain: func(f consilium.Facts, s *consilium.AnalysisSpec) (models.Analysis, error) { return net.New(f, s) },
	}
}

// Submit submits a study under a policy with a fresh token.
func (f *Federation) Submit(ctx context.Context, spec []byte, policy consilium.Digest) (consilium.StudyID, error) {
	var token [16]byte
	if _, err := rand.Read(token[:]); err != nil {
		return "", err
	}
	return f.Team.Submit(ctx, spec, policy, hex.EncodeToString(token[:]), f.Roster.NotAfter)
}

// Run submits a study, has the board approve it and follows it to its end.
func (f *Federation) Run(ctx context.Context, spec []byte, policy consilium.Digest, progress func(*consilium.Event)) (*client.Outcome, error) {
	id, err := f.Submit(ctx, spec, policy)
	if err != nil {
		return nil, err
	}
	if err := f.Approve(ctx, id); err != nil {
		return nil, err
	}
	return f.Team.Wait(ctx, id, progress)
}
