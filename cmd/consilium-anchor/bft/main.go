// Command consilium-anchor-bft runs a hospital's validator of a chain that
// belongs to the hospitals alone (CometBFT), puts epochs into it and verifies
// them offline. It is for federations that trust no single operator: up to a
// third of the validators, less one, may lie, and a block is final at once. More
// than that down, and nothing is anchored until they are back; nothing wrong is.
//
// It is a module of its own: CometBFT would move the version of bbolt, on which
// the coordinators' Raft log rests.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cometbft/cometbft/config"
	"github.com/cometbft/cometbft/libs/log"
	"github.com/cometbft/cometbft/node"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
	"github.com/cometbft/cometbft/proxy"
	"github.com/cometbft/cometbft/rpc/client/http"
	"github.com/cometbft/cometbft/types"

	"consilium"
	"consilium/cmd/consilium-anchor/heads"
	"consilium/internal/durable"
	"consilium/internal/hybrid"
	"consilium/provenance"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "consilium-anchor-bft:", err)
		os.Exit(1)
	}
}

// card is what a validator sends to the others.
type card struct {
	Name   string `json:"name"`
	NodeID p2p.ID `json:"nodeID"`
	PubKey []byte `json:"pubKey"` // Ed25519
}

type list []string

func (l *list) String() string     { return fmt.Sprint(*l) }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("want init, submitter, genesis, run, put or verify")
	}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	var validators, peers, submitters list
	home := f.String("home", "", "the validator's `directory`")
	name := f.String("name", "", "the validator's `name`")
	chain := f.String("chain", "", "the chain's `name`")
	genesis := f.String("genesis", "", "the genesis `file`")
	listen := f.String("listen", "127.0.0.1:26656", "`address` for the other validators")
	rpc := f.String("rpc", "127.0.0.1:26657", "`address` of the validator's own interface")
	key := f.String("key", "", "`file` with the seed of the submitter's hybrid key; `submitter` makes it")
	anchor := f.String("anchor", "", "the anchor's `file`: put makes it and writes the proof into it")
	epoch := f.Uint64("epoch", 0, "for put, the epoch's `number`; each is larger than the one before")
	roster := f.String("roster", "", "for put, the federation's signed roster `file`")
	board := f.String("board", "", "for put, a kit's board.json `file`: the board whose roster it must be")
	var checkpoints heads.Files
	f.Var(&checkpoints, "checkpoint", "for put, a ledger's checkpoint `file`; give the flag for each hospital")
	f.Var(&validators, "validator", "a validator's card `file`")
	f.Var(&peers, "peer", "another validator, `ID@HOST:PORT`")
	f.Var(&submitters, "submitter", "public hybrid `key` of who may put epochs")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "init":
		return initHome(*home, *name, out)
	case "submitter":
		s, err := makeSubmitter(*key)
		if err != nil {
			return err
		}
		text, err := s.Public().MarshalText()
		fmt.Fprintf(out, "%s\n", text)
		return err
	case "genesis":
		return makeGenesis(*chain, validators, submitters, *genesis)
	case "run":
		return runNode(ctx, *home, *genesis, *listen, *rpc, peers, out)
	case "put":
		if err := begin(*anchor, *epoch, *roster, *board, checkpoints); err != nil {
			return err
		}
		return runPut(ctx, *rpc, *genesis, *key, *anchor, out)
	case "verify":
		a, err := readAnchor(*anchor)
		if err != nil {
			return err
		}
		g, err := os.ReadFile(*genesis)
		if err != nil {
			return err
		}
		if err := verify(a, g); err != nil {
			return err
		}
		fmt.Fprintf(out, "epoch %d with %d ledgers is in block %d, signed by the validators of the genesis\n", a.Epoch, len(a.Heads), a.Height)
		return nil
	}
	return fmt.Errorf("no command %q", args[0])
}

func homeConfig(home string) (*config.Config, error) {
	if home == "" {
		return nil, errors.New("--home is needed")
	}
	c := config.DefaultConfig().SetRoot(home)
	config.EnsureRoot(home)
	return c, nil
}

func initHome(home, name string, out io.Writer) error {
	c, err := homeConfig(home)
	if err != nil {
		return err
	}
	nodeKey, err := p2p.LoadOrGenNodeKey(c.NodeKeyFile())
	if err != nil {
		return err
	}
	pv, err := privval.LoadOrGenFilePV(c.PrivValidatorKeyFile(), c.PrivValidatorStateFile(), nil)
	if err != nil {
		return err
	}
	pub, err := pv.GetPubKey()
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(card{Name: name, NodeID: nodeKey.ID(), PubKey: pub.Bytes()})
}

// makeSubmitter reads the submitter's key, or makes it. Only its own command
// makes one: a put with a mistyped path must not sign with a key that the genesis
// does not name.
func makeSubmitter(path string) (*hybrid.Key, error) {
	if path == "" {
		return nil, errors.New("--key is needed")
	}
	k, err := submitter(path)
	if !errors.Is(err, os.ErrNotExist) {
		return k, err
	}
	if k, err = hybrid.Generate(); err != nil {
		return nil, err
	}
	return k, durable.WriteFile(path, []byte(hex.EncodeToString(k.Seed())), 0o600)
}

func submitter(path string) (*hybrid.Key, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w; `consilium-anchor-bft submitter --key FILE` makes a key, which the genesis must name", err)
	}
	if err != nil {
		return nil, err
	}
	seed, err := hex.DecodeString(string(b))
	if err != nil {
		return nil, err
	}
	return hybrid.FromSeed(seed)
}

func runNode(ctx context.Context, home, genesis, listen, rpc string, peers []string, out io.Writer) error {
	c, err := homeConfig(home)
	if err != nil {
		return err
	}
	c.P2P.ListenAddress, c.RPC.ListenAddress = "tcp://"+listen, "tcp://"+rpc
	c.P2P.AddrBookStrict, c.P2P.AllowDuplicateIP, c.P2P.PexReactor = false, true, false
	c.P2P.PersistentPeers = strings.Join(peers, ",")
	c.Consensus.CreateEmptyBlocks = false // a block an epoch, and one that confirms it
	c.Consensus.TimeoutCommit = 200 * time.Millisecond
	c.GRPC.ListenAddress = ""
	nodeKey, err := p2p.LoadNodeKey(c.NodeKeyFile())
	if err != nil {
		return fmt.Errorf("%w; run init first", err)
	}
	pv := privval.LoadFilePV(c.PrivValidatorKeyFile(), c.PrivValidatorStateFile())
	n, err := node.NewNode(ctx, c, pv, nodeKey, proxy.NewLocalClientCreator(newApp()),
		func() (node.ChecksummedGenesisDoc, error) {
			b, err := os.ReadFile(genesis)
			if err != nil {
				return node.ChecksummedGenesisDoc{}, err
			}
			g, err := types.GenesisDocFromJSON(b)
			sum := sha256.Sum256(b)
			return node.ChecksummedGenesisDoc{GenesisDoc: g, Sha256Checksum: sum[:]}, err
		}, config.DefaultDBProvider, node.DefaultMetricsProvider(c.Instrumentation), log.NewNopLogger())
	if err != nil {
		return err
	}
	if err := n.Start(); err != nil {
		return err
	}
	fmt.Fprintln(out, "validator runs")
	<-ctx.Done()
	err = n.Stop()
	n.Wait()
	return err
}

// begin writes the anchor's file of a new epoch: heads of verified checkpoints
// under their super-root. A file that is there is that of a put that was
// interrupted, and must be of the same heads.
func begin(path string, epoch uint64, roster, board string, checkpoints []string) error {
	if path == "" {
		return errors.New("--anchor is needed: the file to write")
	}
	there, err := readAnchor(path)
	if err == nil && epoch == 0 && len(checkpoints) == 0 {
		return nil // put again
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if epoch == 0 || roster == "" || len(checkpoints) == 0 {
		return errors.New("--epoch, --roster, --board and --checkpoint are needed for a new epoch")
	}
	list, err := heads.Read(roster, board, checkpoints)
	if err != nil {
		return err
	}
	root, err := provenance.SuperRoot(epoch, list)
	if err != nil {
		return err
	}
	if there != nil {
		if there.Epoch != epoch || there.SuperRoot != root {
			return fmt.Errorf("%s is of epoch %d and other heads; give another file for another epoch", path, there.Epoch)
		}
		return nil
	}
	b, err := json.Marshal(&provenance.Anchor{APIVersion: consilium.APIVersion, Kind: "Anchor", Chain: provenance.ChainComet, Epoch: epoch, SuperRoot: root, Heads: list, Status: provenance.AnchorPending})
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(b, '\n'), 0o644)
}

func readAnchor(path string) (*provenance.Anchor, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return provenance.ParseAnchor(b)
}

// runPut puts the epoch of an anchor's file and writes the proof into it. It may
// be run again: an epoch that is there with this root is proven, not sent.
func runPut(ctx context.Context, rpc, genesis, keyPath, path string, out io.Writer) error {
	a, err := readAnchor(path)
	if err != nil {
		return err
	}
	g, err := os.ReadFile(genesis)
	if err != nil {
		return err
	}
	doc, _, _, err := readGenesis(g)
	if err != nil {
		return err
	}
	s, err := submitter(keyPath)
	if err != nil {
		return err
	}
	c, err := http.New("http://" + rpc)
	if err != nil {
		return err
	}
	// The signed transaction is kept before it is sent: sent again it is the same.
	kept := path + ".tx"
	tx, err := os.ReadFile(kept)
	if errors.Is(err, os.ErrNotExist) {
		if tx, err = signPut(s, doc.ChainID, a.Epoch, a.SuperRoot); err == nil {
			err = durable.WriteFile(kept, tx, 0o600)
		}
	}
	if err != nil {
		return err
	}
	have, err := c.ABCIQuery(ctx, "epoch", []byte(strconv.FormatUint(a.Epoch, 10)))
	if err != nil {
		return err
	}
	switch v := string(have.Response.Value); {
	case v != "" && v != a.SuperRoot.String():
		return fmt.Errorf("the chain holds another root for epoch %d", a.Epoch)
	case v == "":
		r, err := c.BroadcastTxSync(ctx, tx)
		if err != nil && !known(err) {
			return err
		}
		if r != nil && r.Code != 0 {
			return fmt.Errorf("refused: %s", r.Log)
		}
	}
	hash := types.Tx(tx).Hash()
	for {
		r, err := c.Tx(ctx, hash, true)
		if err == nil {
			commit, err := c.Commit(ctx, &r.Height)
			if err != nil {
				return err
			}
			if !commit.CanonicalCommit {
				goto wait // the next block carries the canonical one
			}
			if a.Proof, err = encodeProof(&proof{Block: commit.SignedHeader, Tx: r.Proof}); err != nil {
				return err
			}
			a.Chain, a.ChainID, a.Tx, a.Height, a.Status = provenance.ChainComet, doc.ChainID, hex.EncodeToString(hash), uint64(r.Height), provenance.AnchorFinal
			a.Block = hex.EncodeToString(commit.Hash())
			if err := verify(a, g); err != nil {
				return err
			}
			b, err := json.Marshal(a)
			if err != nil {
				return err
			}
			if err := durable.WriteFile(path, b, 0o644); err != nil {
				return err
			}
			fmt.Fprintf(out, "epoch %d: final in block %d\n", a.Epoch, a.Height)
			return nil
		}
	wait:
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("epoch %d is not final yet: %w", a.Epoch, ctx.Err())
		}
	}
}

// known says that a node has the transaction in its mempool already.
func known(err error) bool { return strings.Contains(err.Error(), "already exists in cache") }

func makeGenesis(chain string, cards, submitters []string, path string) error {
	g := &types.GenesisDoc{ChainID: chain, GenesisTime: time.Now().UTC().Truncate(time.Second), ConsensusParams: types.DefaultConsensusParams()}
	for _, file := range cards {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var c card
		if err := json.Unmarshal(b, &c); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		pub, err := ed25519Key(c.PubKey)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		g.Validators = append(g.Validators, types.GenesisValidator{Address: pub.Address(), PubKey: pub, Power: 1, Name: c.Name})
	}
	var s appState
	for _, text := range submitters {
		var k consilium.PublicKey
		if err := k.UnmarshalText([]byte(text)); err != nil {
			return err
		}
		s.Submitters = append(s.Submitters, k)
	}
	if len(g.Validators) < 4 || len(s.Submitters) == 0 {
		return errors.New("at least four validators, so that one may fail, and one submitter")
	}
	var err error
	if g.AppState, err = json.Marshal(s); err != nil {
		return err
	}
	if err := g.ValidateAndComplete(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return g.SaveAs(path)
}
