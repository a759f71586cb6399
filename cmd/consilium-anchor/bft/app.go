package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	abci "github.com/cometbft/cometbft/abci/types"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
)

// put is a transaction: one epoch's super-root, signed by a submitter whom the
// genesis names. The chain's own signatures are Ed25519; this one is hybrid.
type put struct {
	Chain     string              `json:"chain"`
	Epoch     uint64              `json:"epoch"`
	SuperRoot consilium.Digest    `json:"superRoot"`
	By        consilium.PublicKey `json:"by"`
	Signature consilium.Signature `json:"signature"`
}

func (p *put) message() []byte {
	b, err := canon.Marshal(map[string]any{"chain": p.Chain, "epoch": p.Epoch, "superRoot": p.SuperRoot})
	if err != nil {
		panic("put: " + err.Error()) // plain values only
	}
	return b
}

func signPut(s consilium.Signer, chain string, epoch uint64, root consilium.Digest) ([]byte, error) {
	p := &put{Chain: chain, Epoch: epoch, SuperRoot: root, By: s.Public()}
	var err error
	if p.Signature, err = s.Sign(consilium.DomainAnchor, p.message()); err != nil {
		return nil, err
	}
	return canon.Marshal(p)
}

func parsePut(tx []byte) (*put, error) {
	if len(tx) > 16<<10 {
		return nil, fmt.Errorf("%d bytes", len(tx))
	}
	if err := canon.Check(tx); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(tx))
	d.DisallowUnknownFields()
	p := &put{}
	if err := d.Decode(p); err != nil {
		return nil, err
	}
	if p.Epoch == 0 || p.SuperRoot.IsZero() {
		return nil, fmt.Errorf("epoch %d without a root", p.Epoch)
	}
	return p, nil
}

// appState is the genesis' part that is ours.
type appState struct {
	Submitters []consilium.PublicKey `json:"submitters"`
}

// state is what all validators agree on. next decides alone what may follow, so
// a proposer cannot get anything else into a block.
type state struct {
	chain      string
	submitters []consilium.PublicKey
	last       uint64
	roots      map[uint64]consilium.Digest
	height     int64
}

func (s *state) clone() *state {
	c := *s
	c.roots = maps.Clone(s.roots)
	return &c
}

// next applies a transaction or says why not; epochs grow and never change.
func (s *state) next(tx []byte) error {
	p, err := parsePut(tx)
	if err != nil {
		return err
	}
	switch {
	case p.Chain != s.chain:
		return fmt.Errorf("for another chain")
	case !slices.Contains(s.submitters, p.By):
		return fmt.Errorf("signed by nobody whom the genesis names")
	case p.Epoch <= s.last:
		return fmt.Errorf("epoch %d, the last is %d", p.Epoch, s.last)
	}
	if err := hybrid.Verify(p.By, consilium.DomainAnchor, p.message(), &p.Signature); err != nil {
		return err
	}
	s.last, s.roots[p.Epoch] = p.Epoch, p.SuperRoot
	return nil
}

func (s *state) hash() []byte {
	parts := [][]byte{[]byte(s.chain)}
	for _, e := range slices.Sorted(maps.Keys(s.roots)) {
		r := s.roots[e]
		parts = append(parts, strconv.AppendUint(nil, e, 10), r[:])
	}
	d := consilium.DomainAnchor.Digest(parts...)
	return d[:]
}

// app is the state machine that the validators run. It keeps nothing on disk:
// after a restart the node replays its blocks, of which there is one an epoch.
type app struct {
	abci.BaseApplication

	mu        sync.Mutex // guards the rest
	committed *state
	decided   *state // by FinalizeBlock, until Commit
}

func newApp() *app { return &app{committed: &state{roots: map[uint64]consilium.Digest{}}} }

func (a *app) Info(context.Context, *abci.InfoRequest) (*abci.InfoResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &abci.InfoResponse{Data: "consilium-anchor", Version: "1", AppVersion: 1, LastBlockHeight: a.committed.height}
	if a.committed.height > 0 {
		r.LastBlockAppHash = a.committed.hash()
	}
	return r, nil
}

func (a *app) InitChain(_ context.Context, r *abci.InitChainRequest) (*abci.InitChainResponse, error) {
	var g appState
	if err := json.Unmarshal(r.AppStateBytes, &g); err != nil {
		return nil, fmt.Errorf("genesis: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.committed.chain, a.committed.submitters = r.ChainId, g.Submitters
	return &abci.InitChainResponse{AppHash: a.committed.hash()}, nil
}

func (a *app) CheckTx(_ context.Context, r *abci.CheckTxRequest) (*abci.CheckTxResponse, error) {
	a.mu.Lock()
	s := a.committed.clone()
	a.mu.Unlock()
	if err := s.next(r.Tx); err != nil {
		return &abci.CheckTxResponse{Code: 1, Log: err.Error()}, nil
	}
	return &abci.CheckTxResponse{}, nil
}

func (a *app) PrepareProposal(_ context.Context, r *abci.PrepareProposalRequest) (*abci.PrepareProposalResponse, error) {
	a.mu.Lock()
	s := a.committed.clone()
	a.mu.Unlock()
	var txs [][]byte
	size := int64(0)
	for _, tx := range r.Txs {
		if size += int64(len(tx)) + 16; size > r.MaxTxBytes {
			break
		}
		if s.next(tx) == nil {
			txs = append(txs, tx)
		}
	}
	return &abci.PrepareProposalResponse{Txs: txs}, nil
}

// ProcessProposal refuses a block with a transaction that does not apply. So
// what stands in a block that two thirds signed was accepted, and a proof of
// inclusion proves the anchor.
func (a *app) ProcessProposal(_ context.Context, r *abci.ProcessProposalRequest) (*abci.ProcessProposalResponse, error) {
	a.mu.Lock()
	s := a.committed.clone()
	a.mu.Unlock()
	for _, tx := range r.Txs {
		if s.next(tx) != nil {
			return &abci.ProcessProposalResponse{Status: abci.PROCESS_PROPOSAL_STATUS_REJECT}, nil
		}
	}
	return &abci.ProcessProposalResponse{Status: abci.PROCESS_PROPOSAL_STATUS_ACCEPT}, nil
}

func (a *app) FinalizeBlock(_ context.Context, r *abci.FinalizeBlockRequest) (*abci.FinalizeBlockResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.committed.clone()
	s.height = r.Height
	results := make([]*abci.ExecTxResult, len(r.Txs))
	for i, tx := range r.Txs {
		results[i] = &abci.ExecTxResult{}
		if err := s.next(tx); err != nil {
			results[i] = &abci.ExecTxResult{Code: 1}
		}
	}
	a.decided = s
	return &abci.FinalizeBlockResponse{TxResults: results, AppHash: s.hash()}, nil
}

func (a *app) Commit(context.Context, *abci.CommitRequest) (*abci.CommitResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.committed = a.decided
	return &abci.CommitResponse{}, nil
}

// Query answers "epoch" with the root in hexadecimal, or nothing.
func (a *app) Query(_ context.Context, r *abci.QueryRequest) (*abci.QueryResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, err := strconv.ParseUint(string(r.Data), 10, 64)
	if err != nil || r.Path != "epoch" {
		return &abci.QueryResponse{Code: 1, Log: "want path epoch and a number"}, nil
	}
	q := &abci.QueryResponse{Height: a.committed.height}
	if root, ok := a.committed.roots[e]; ok {
		q.Value = []byte(root.String())
	}
	return q, nil
}
