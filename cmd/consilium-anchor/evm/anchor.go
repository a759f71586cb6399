package evm

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/rpc"

	"consilium"
	"consilium/internal/durable"
	"consilium/provenance"
)

// Chain is the part of an Ethereum client that anchoring needs.
type Chain interface {
	ethereum.ChainReader
	ethereum.TransactionReader
	ethereum.TransactionSender
	ethereum.GasEstimator
	ethereum.GasPricer1559
	ethereum.ContractCaller
	PendingNonceAt(ctx context.Context, account common.Address) (uint64, error)
	ChainID(ctx context.Context) (*big.Int, error)
}

// Config makes an Anchorer.
type Config struct {
	Chain    Chain
	Key      *ecdsa.PrivateKey // of the account that deployed the contract
	Contract common.Address
	Dir      string // where sent transactions are kept
	Depth    uint64 // blocks on top of one that make it final where Tag is not set
	Tag      bool   // believe the chain's own tag "finalized" instead
}

// DefaultDepth is more than two epochs of Ethereum, after which only a failure
// of a third of all validators' stake replaces a block.
const DefaultDepth = 64

// Anchorer puts epochs and follows them. One at a time uses a Dir.
type Anchorer struct{ cfg Config }

// New checks cfg.
func New(cfg Config) (*Anchorer, error) {
	if cfg.Chain == nil || cfg.Key == nil || cfg.Dir == "" {
		return nil, errors.New("anchor: chain, key and directory are needed")
	}
	if cfg.Depth == 0 {
		cfg.Depth = DefaultDepth
	}
	return &Anchorer{cfg}, os.MkdirAll(cfg.Dir, 0o700)
}

// sent is what is kept of an epoch before anything is sent: with the signed
// transaction at hand, sending again is sending the same.
type sent struct {
	Anchor provenance.Anchor `json:"anchor"`
	Raw    []byte            `json:"raw"` // the signed transaction
}

func (a *Anchorer) path(epoch uint64) string {
	return filepath.Join(a.cfg.Dir, fmt.Sprintf("epoch-%d.json", epoch))
}

func (a *Anchorer) read(epoch uint64) (*sent, error) {
	b, err := os.ReadFile(a.path(epoch))
	if err != nil {
		return nil, err
	}
	s := &sent{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%s: %w", a.path(epoch), err)
	}
	return s, nil
}

func (a *Anchorer) keep(s *sent) error {
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	return durable.WriteFile(a.path(s.Anchor.Epoch), append(b, '\n'), 0o600)
}

// Deploy puts the contract on a chain and returns its address, which is known
// before the transaction is in a block.
func Deploy(ctx context.Context, c Chain, key *ecdsa.PrivateKey) (common.Address, common.Hash, error) {
	tx, err := sign(ctx, c, key, nil, bytecode())
	if err != nil {
		return common.Address{}, common.Hash{}, err
	}
	if err := c.SendTransaction(ctx, tx); err != nil {
		return common.Address{}, common.Hash{}, err
	}
	return crypto.CreateAddress(crypto.PubkeyToAddress(key.PublicKey), tx.Nonce()), tx.Hash(), nil
}

func sign(ctx context.Context, c Chain, key *ecdsa.PrivateKey, to *common.Address, data []byte) (*types.Transaction, error) {
	from := crypto.PubkeyToAddress(key.PublicKey)
	id, err := c.ChainID(ctx)
	if err != nil {
		return nil, err
	}
	nonce, err := c.PendingNonceAt(ctx, from)
	if err != nil {
		return nil, err
	}
	tip, err := c.SuggestGasTipCap(ctx)
	if err != nil {
		return nil, err
	}
	head, err := c.HeaderByNumber(ctx, nil)
	if err != nil {
		return nil, err
	}
	gas, err := c.EstimateGas(ctx, ethereum.CallMsg{From: from, To: to, Data: data})
	if err != nil {
		return nil, fmt.Errorf("the chain would refuse the transaction: %w", err)
	}
	// The cap leaves room for six full blocks (12.5 % more each): a transaction
	// that waits must not become too cheap to be taken.
	fee := new(big.Int).Add(tip, new(big.Int).Mul(head.BaseFee, big.NewInt(2)))
	return types.SignNewTx(key, types.LatestSignerForChainID(id), &types.DynamicFeeTx{
		ChainID: id, Nonce: nonce, GasTipCap: tip, GasFeeCap: fee, Gas: gas + gas/4, To: to, Data: data,
	})
}

// Put anchors an epoch. It may be called again at any time: the same epoch with
// the same heads sends the same signed transaction, other heads are refused.
func (a *Anchorer) Put(ctx context.Context, epoch uint64, heads []provenance.Head) (*provenance.Anchor, error) {
	root, err := provenance.SuperRoot(epoch, heads)
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	s, err := a.read(epoch)
	switch {
	case err == nil && s.Anchor.SuperRoot != root:
		return nil, consilium.ErrInvalid.Withf("anchor: epoch %d was sent with other heads; use the next epoch", epoch)
	case errors.Is(err, os.ErrNotExist):
		data, err := putData(epoch, root)
		if err != nil {
			return nil, err
		}
		tx, err := sign(ctx, a.cfg.Chain, a.cfg.Key, &a.cfg.Contract, data)
		if err != nil {
			return nil, err
		}
		raw, err := tx.MarshalBinary()
		if err != nil {
			return nil, err
		}
		s = &sent{Raw: raw, Anchor: provenance.Anchor{APIVersion: consilium.APIVersion, Kind: "Anchor", Chain: provenance.ChainEVM, ChainID: tx.ChainId().String(),
			Contract: a.cfg.Contract.Hex(), Epoch: epoch, SuperRoot: root, Heads: heads, Tx: tx.Hash().Hex(), Status: provenance.AnchorPending}}
		// If we crash after this, Poll sends what is kept.
		if err := a.keep(s); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	if err := a.send(ctx, s); err != nil {
		return nil, err
	}
	return &s.Anchor, nil
}

// send sends the kept transaction. A node that has it already says so in
// several words, all of which are fine; one that has the nonce used by another
// transaction is found by Poll, which then sees no receipt.
func (a *Anchorer) send(ctx context.Context, s *sent) error {
	tx := new(types.Transaction)
	if err := tx.UnmarshalBinary(s.Raw); err != nil {
		return err
	}
	err := a.cfg.Chain.SendTransaction(ctx, tx)
	if err == nil {
		return nil
	}
	known, _, lookup := a.cfg.Chain.TransactionByHash(ctx, tx.Hash())
	if lookup == nil && known != nil {
		return nil
	}
	if lookup = indexing(lookup); errors.Is(lookup, ErrIndexing) {
		return fmt.Errorf("%w; the node refused epoch %d: %w", ErrIndexing, s.Anchor.Epoch, err)
	}
	return fmt.Errorf("anchor: epoch %d: %w", s.Anchor.Epoch, err)
}

// Poll asks the chain where an epoch stands, and sends again what fell out.
// Every answer is read anew: a receipt of before says nothing about now.
func (a *Anchorer) Poll(ctx context.Context, epoch uint64) (*provenance.Anchor, error) {
	s, err := a.read(epoch)
	if err != nil {
		return nil, err
	}
	status, block, height, err := a.look(ctx, s)
	if err != nil {
		return nil, err
	}
	before := s.Anchor.Status
	if status == provenance.AnchorPending && (before == provenance.AnchorIncluded || before == provenance.AnchorFinal || before == provenance.AnchorReorged) {
		status = provenance.AnchorReorged
	}
	s.Anchor.Status, s.Anchor.Block, s.Anchor.Height = status, block, height
	if err := a.keep(s); err != nil {
		return nil, err
	}
	if status == provenance.AnchorPending || status == provenance.AnchorReorged {
		if err := a.send(ctx, s); err != nil {
			return &s.Anchor, err
		}
	}
	return &s.Anchor, nil
}

// ErrIndexing: the chain's node cannot say yet; ask again.
var ErrIndexing = errors.New("anchor: the chain's node still indexes its transactions; ask again in a moment")

// indexing tells a node that does not know yet, for it still indexes its
// transactions (geth answers so for a while after its start), from one that
// fails: asking again later is right, and nothing follows from the answer.
func indexing(err error) error {
	if err != nil && strings.Contains(err.Error(), "transaction indexing is in progress") {
		return ErrIndexing
	}
	return err
}

func (a *Anchorer) look(ctx context.Context, s *sent) (provenance.AnchorStatus, string, uint64, error) {
	r, err := a.cfg.Chain.TransactionReceipt(ctx, common.HexToHash(s.Anchor.Tx))
	if errors.Is(err, ethereum.NotFound) {
		return provenance.AnchorPending, "", 0, nil
	}
	if err != nil {
		return "", "", 0, indexing(err)
	}
	// The receipt may be of a block that is canonical no more.
	head, err := a.cfg.Chain.HeaderByNumber(ctx, r.BlockNumber)
	if errors.Is(err, ethereum.NotFound) || err == nil && head.Hash() != r.BlockHash {
		return provenance.AnchorPending, "", 0, nil
	}
	if err != nil {
		return "", "", 0, err
	}
	if r.Status != types.ReceiptStatusSuccessful {
		return "", "", 0, consilium.ErrForbidden.Withf("anchor: the contract refused epoch %d in block %d; it holds another root, a later epoch, or belongs to another account", s.Anchor.Epoch, r.BlockNumber)
	}
	final := false
	if a.cfg.Tag {
		f, err := a.cfg.Chain.HeaderByNumber(ctx, big.NewInt(int64(rpc.FinalizedBlockNumber)))
		if err != nil && !errors.Is(err, ethereum.NotFound) {
			return "", "", 0, fmt.Errorf("anchor: the chain knows no finalized block: %w", err)
		}
		final = err == nil && f.Number.Cmp(r.BlockNumber) >= 0
	} else {
		last, err := a.cfg.Chain.HeaderByNumber(ctx, nil)
		if err != nil {
			return "", "", 0, err
		}
		final = last.Number.Uint64() >= r.BlockNumber.Uint64()+a.cfg.Depth
	}
	status := provenance.AnchorIncluded
	if final {
		status = provenance.AnchorFinal
	}
	return status, r.BlockHash.Hex(), r.BlockNumber.Uint64(), nil
}
