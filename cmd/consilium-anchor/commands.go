package main

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/ethclient"

	"consilium/cmd/consilium-anchor/evm"
	"consilium/cmd/consilium-anchor/heads"
	"consilium/internal/durable"
	"consilium/provenance"
	"consilium/provenance/chain"
)

// common flags of the commands that speak to a chain.
type chainFlags struct {
	rpc, dir, contract *string
	depth              *uint64
	tag                *bool
}

func newChainFlags(f *flag.FlagSet) chainFlags {
	return chainFlags{
		rpc:      f.String("rpc", "http://127.0.0.1:8545", "`URL` or socket of a node of the chain"),
		dir:      f.String("dir", "", "`directory` of the account's key and of what was sent"),
		contract: f.String("contract", "", "the contract's `address`; default what deploy wrote"),
		depth:    f.Uint64("depth", evm.DefaultDepth, "how many blocks on top make one final"),
		tag:      f.Bool("finalized", false, "believe the chain's own tag finalized instead of a depth"),
	}
}

const (
	keyFile      = "account.key"
	contractFile = "contract"
)

func parse(f *flag.FlagSet, args []string, needed ...string) error {
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return usagef("%v", err)
	}
	if f.NArg() > 0 {
		return usagef("unexpected %q", f.Arg(0))
	}
	for _, n := range needed {
		if f.Lookup(n).Value.String() == "" || f.Lookup(n).Value.String() == "0" {
			return usagef("--%s is needed", n)
		}
	}
	return nil
}

// key reads the account's key, or makes it. It pays for transactions and can put
// epochs; it says nothing about a ledger.
func (c chainFlags) key(make bool) (*ecdsa.PrivateKey, error) {
	path := filepath.Join(*c.dir, keyFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) && make {
		key, err := crypto.GenerateKey()
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(*c.dir, 0o700); err != nil {
			return nil, err
		}
		return key, crypto.SaveECDSA(path, key) // mode 0600
	}
	if err != nil {
		return nil, fmt.Errorf("%w; `consilium-anchor account --dir %s` makes one", err, *c.dir)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s: others may read it; chmod 600", path)
	}
	return crypto.LoadECDSA(path)
}

func (c chainFlags) open(ctx context.Context) (*evm.Anchorer, *ethclient.Client, error) {
	key, err := c.key(false)
	if err != nil {
		return nil, nil, err
	}
	address := *c.contract
	if address == "" {
		b, err := os.ReadFile(filepath.Join(*c.dir, contractFile))
		if err != nil {
			return nil, nil, usagef("--contract is needed; deploy has left none in %s", *c.dir)
		}
		address = strings.TrimSpace(string(b))
	}
	if !common.IsHexAddress(address) {
		return nil, nil, usagef("--contract %q is no address", address)
	}
	client, err := ethclient.DialContext(ctx, *c.rpc)
	if err != nil {
		return nil, nil, err
	}
	a, err := evm.New(evm.Config{Chain: client, Key: key, Contract: common.HexToAddress(address), Dir: *c.dir, Depth: *c.depth, Tag: *c.tag})
	return a, client, err
}

func runAccount(_ context.Context, f *flag.FlagSet, args []string, out io.Writer) error {
	c := newChainFlags(f)
	if err := parse(f, args, "dir"); err != nil {
		return err
	}
	key, err := c.key(true)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, crypto.PubkeyToAddress(key.PublicKey).Hex())
	return nil
}

func runDeploy(ctx context.Context, f *flag.FlagSet, args []string, out io.Writer) error {
	c := newChainFlags(f)
	if err := parse(f, args, "dir"); err != nil {
		return err
	}
	path := filepath.Join(*c.dir, contractFile)
	if b, err := os.ReadFile(path); err == nil {
		fmt.Fprint(out, string(b))
		return nil // deployed before: the same answer
	}
	key, err := c.key(true)
	if err != nil {
		return err
	}
	client, err := ethclient.DialContext(ctx, *c.rpc)
	if err != nil {
		return err
	}
	defer client.Close()
	address, tx, err := evm.Deploy(ctx, client, key)
	if err != nil {
		return fmt.Errorf("%w; the account %s pays", err, crypto.PubkeyToAddress(key.PublicKey))
	}
	for {
		if r, err := client.TransactionReceipt(ctx, tx); err == nil {
			if r.Status != 1 || r.ContractAddress != address {
				return fmt.Errorf("the chain refused the contract in block %d", r.BlockNumber)
			}
			break
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := durable.WriteFile(path, []byte(address.Hex()+"\n"), 0o644); err != nil {
		return err
	}
	fmt.Fprintln(out, address.Hex())
	return nil
}

func runPut(ctx context.Context, f *flag.FlagSet, args []string, out io.Writer) error {
	var files heads.Files
	c := newChainFlags(f)
	epoch := f.Uint64("epoch", 0, "the epoch's `number`; each is larger than the one before")
	roster := f.String("roster", "", "the federation's signed roster `file`")
	board := f.String("board", "", "a kit's board.json `file`: the board whose roster it must be")
	f.Var(&files, "checkpoint", "a ledger's checkpoint `file`; give the flag for each hospital")
	if err := parse(f, args, "dir", "epoch", "roster", "board", "checkpoint"); err != nil {
		return err
	}
	list, err := heads.Read(*roster, *board, files)
	if err != nil {
		return err
	}
	a, client, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	anchor, err := a.Put(ctx, *epoch, list)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "epoch %d, super-root %s over %d ledgers: sent as %s\n", anchor.Epoch, anchor.SuperRoot.Short(), len(anchor.Heads), anchor.Tx)
	return nil
}

func runStatus(ctx context.Context, f *flag.FlagSet, args []string, out io.Writer) error {
	c := newChainFlags(f)
	epoch := f.Uint64("epoch", 0, "the epoch's `number`")
	wait := f.Duration("wait", 0, "how long to wait for it to be final")
	if err := parse(f, args, "dir", "epoch"); err != nil {
		return err
	}
	a, client, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	for deadline := time.Now().Add(*wait); ; {
		anchor, err := a.Poll(ctx, *epoch)
		late := !time.Now().Before(deadline)
		if err != nil && (late || !errors.Is(err, evm.ErrIndexing)) {
			return err
		}
		if final := err == nil && anchor.Status == provenance.AnchorFinal; final || late {
			fmt.Fprintf(out, "epoch %d: %s, block %d %s\n", anchor.Epoch, anchor.Status, anchor.Height, anchor.Block)
			if !final {
				return errIncomplete
			}
			return nil
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func runProve(ctx context.Context, f *flag.FlagSet, args []string, out io.Writer) error {
	c := newChainFlags(f)
	epoch := f.Uint64("epoch", 0, "the epoch's `number`")
	to := f.String("out", "", "`file` for the anchor with its proof")
	if err := parse(f, args, "dir", "epoch", "out"); err != nil {
		return err
	}
	a, client, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	anchor, err := a.Poll(ctx, *epoch)
	if err != nil {
		return err
	}
	if anchor.Status != provenance.AnchorFinal && anchor.Status != provenance.AnchorIncluded {
		return fmt.Errorf("epoch %d is %s: %w", *epoch, anchor.Status, errIncomplete)
	}
	proven, err := evm.Prove(ctx, client, client.Client(), anchor, anchor.Height)
	if err != nil {
		return err
	}
	b, err := json.Marshal(proven)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(*to, append(b, '\n'), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: epoch %d, %s, %d bytes; verify it against contract %s and block %s as another node tells it\n", *to, *epoch, proven.Status, len(b), proven.Contract, proven.Block)
	return nil
}

func runVerify(_ context.Context, f *flag.FlagSet, args []string, out io.Writer) error {
	file := f.String("anchor", "", "the anchor's `file`")
	contract := f.String("contract", "", "`address` of the federation's contract, as its operators announced it: anybody can deploy another one")
	block := f.String("block", "", "`hash` of a final block that you trust, from a source of your own")
	if err := parse(f, args, "anchor", "contract", "block"); err != nil {
		return err
	}
	b, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	a, err := provenance.ParseAnchor(b)
	if err != nil {
		return err
	}
	var trust chain.Trust
	if trust.Contract, err = chain.ParseAddress(*contract); err != nil {
		return usagef("--contract: %v", err)
	}
	hash, err := chain.ParseHash(*block)
	if err != nil {
		return usagef("--block: %v", err)
	}
	trust.Blocks = []chain.Hash{hash}
	facts, err := chain.Verify(a, trust)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "epoch %d with %d ledgers is in the state of block %d of %s, contract %s\n", facts.Epoch, len(a.Heads), facts.Number, facts.Time.Format(time.RFC3339), trust.Contract)
	return nil
}
