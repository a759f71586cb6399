package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"consilium"
	"consilium/internal/durable"
	"consilium/provenance"
)

// A hospital's ledger has one writer at a time. That is the worker while it
// runs; the hospital's other commands then hand their signed entries to it
// over a socket in the data directory, and otherwise open the ledger
// themselves. What passes the socket is already signed by the hospital, and
// the ledger checks that again.

const (
	deskDir    = "desk"
	deskSocket = "ledger.sock"
	// maxDeskLine bounds one request: a consent record with the references of
	// every patient of a large hospital.
	maxDeskLine = 64 << 20
)

type deskRequest struct {
	Entries [][]byte `json:"entries"`
	Await   bool     `json:"await"`          // until a witnessed checkpoint covers them
	Busy    bool     `json:"busy,omitempty"` // instead: how many open rounds count on this hospital
}

type deskReply struct {
	Indices []uint64 `json:"indices"`
	Busy    int      `json:"busy,omitempty"`
	Error   string   `json:"error"`
}

// ledgerWriter is the part of provenance.Ledger that the desk needs.
type ledgerWriter interface {
	AppendAll(ctx context.Context, entries [][]byte) ([]uint64, error)
	Append(ctx context.Context, entry []byte) (uint64, error)
	Await(ctx context.Context, index uint64) ([]byte, error)
}

// desk is the right to write a hospital's ledger.
type desk struct {
	lock *durable.Dir
	open func(context.Context, *consilium.Roster) (*provenance.Ledger, provenance.WitnessPolicy, error)

	mu     sync.RWMutex // guards the two below
	writes *provenance.Ledger
	policy provenance.WitnessPolicy
}

// openDesk takes the ledger for this process. It fails with durable.ErrLocked
// while another holds it.
func openDesk(ctx context.Context, k *kit, c *workerConfig) (*desk, error) {
	lock, err := durable.Prepare(filepath.Join(c.Data, deskDir), "worker-desk")
	if err != nil {
		return nil, err
	}
	key, err := readNoteKey(c.Keys, ledgerFile)
	if err != nil {
		lock.Close()
		return nil, err
	}
	d := &desk{lock: lock, open: func(ctx context.Context, r *consilium.Roster) (*provenance.Ledger, provenance.WitnessPolicy, error) {
		p, err := c.witnesses(r)
		if err != nil {
			return nil, p, err
		}
		l, err := provenance.OpenLedger(ctx, provenance.LedgerConfig{Dir: c.ledgerDir(), Key: key, Site: k.signer.Public(), Witnesses: p})
		return l, p, err
	}}
	if d.writes, d.policy, err = d.open(ctx, k.roster); err != nil {
		lock.Close()
		return nil, err
	}
	return d, nil
}

// ledger is the ledger as it is open now.
func (d *desk) ledger() *provenance.Ledger {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.writes
}

// renew opens the ledger anew where a roster names other witnesses: from then on
// their quorum cosigns. What was appended is on disk, and is published again.
func (d *desk) renew(ctx context.Context, r *consilium.Roster, c *workerConfig) error {
	next, err := c.witnesses(r)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if reflect.DeepEqual(next, d.policy) {
		return nil
	}
	// Not every entry may have been cosigned by witnesses that are leaving: those
	// that come will.
	if err := d.writes.Close(); err != nil {
		slog.Warn("the ledger's last entries were not published before its witnesses changed", "err", err)
	}
	d.writes, d.policy, err = d.open(ctx, r)
	return err
}

func (d *desk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.writes == nil {
		return d.lock.Close()
	}
	return errors.Join(d.writes.Close(), d.lock.Close())
}

func (c *workerConfig) ledgerDir() string { return filepath.Join(c.Data, "ledger") }
func (c *workerConfig) gateDir() string   { return filepath.Join(c.Data, "gate") }
func (c *workerConfig) vaultDir() string  { return filepath.Join(c.Data, "vault") }
func (c *workerConfig) socket() string    { return filepath.Join(c.Data, deskDir, deskSocket) }

// serve answers the hospital's other commands until ctx ends.
func (d *desk) serve(ctx context.Context, c *workerConfig, busy func() (int, error), log *slog.Logger) error {
	path := c.socket()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // ours: the lock is held
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("the desk's socket: %w; a shorter path for data: helps where the system limits it", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go func() {
			defer conn.Close()
			if err := d.answer(ctx, conn, busy); err != nil && ctx.Err() == nil {
				log.Warn("desk", "err", err)
			}
		}()
	}
}

func (d *desk) answer(ctx context.Context, conn net.Conn, busy func() (int, error)) error {
	in := bufio.NewScanner(conn)
	in.Buffer(nil, maxDeskLine)
	for in.Scan() {
		var req deskRequest
		if err := strictJSON(in.Bytes(), &req); err != nil {
			return err
		}
		var reply deskReply
		var err error
		if req.Busy {
			reply.Busy, err = busy()
		} else {
			reply.Indices, err = d.ledger().AppendAll(ctx, req.Entries)
		}
		if err == nil && req.Await && len(reply.Indices) > 0 {
			_, err = d.ledger().Await(ctx, reply.Indices[len(reply.Indices)-1])
		}
		if err != nil {
			reply.Error = err.Error()
		}
		if err := json.NewEncoder(conn).Encode(reply); err != nil {
			return err
		}
	}
	return in.Err()
}

// remoteDesk writes through a running worker.
type remoteDesk struct {
	conn net.Conn
	in   *bufio.Scanner
}

func (r *remoteDesk) call(ctx context.Context, req deskRequest) ([]uint64, error) {
	if deadline, ok := ctx.Deadline(); ok {
		r.conn.SetDeadline(deadline)
	}
	if err := json.NewEncoder(r.conn).Encode(req); err != nil {
		return nil, err
	}
	if !r.in.Scan() {
		return nil, errors.Join(errors.New("the worker has ended; run the command again"), r.in.Err())
	}
	var reply deskReply
	if err := strictJSON(r.in.Bytes(), &reply); err != nil {
		return nil, err
	}
	if reply.Error != "" {
		return reply.Indices, consilium.ErrLedger.Withf("%s", reply.Error)
	}
	// An answer that does not say where the entries stand is no acknowledgement.
	if len(reply.Indices) != len(req.Entries) {
		return nil, consilium.ErrLedger.Withf("the worker acknowledged %d of %d entries; run the command again", len(reply.Indices), len(req.Entries))
	}
	return reply.Indices, nil
}

func (r *remoteDesk) AppendAll(ctx context.Context, entries [][]byte) ([]uint64, error) {
	return r.call(ctx, deskRequest{Entries: entries})
}

func (r *remoteDesk) Append(ctx context.Context, entry []byte) (uint64, error) {
	at, err := r.call(ctx, deskRequest{Entries: [][]byte{entry}, Await: true})
	if err != nil {
		return 0, errors.Join(err, ctx.Err())
	}
	return at[0], nil
}

// Await has nothing left to do: Append waits.
func (r *remoteDesk) Await(context.Context, uint64) ([]byte, error) { return nil, nil }

// writer finds who may write the ledger: this process, or the running worker.
func writer(ctx context.Context, k *kit, c *workerConfig) (ledgerWriter, func() error, error) {
	for tries := 0; ; tries++ {
		d, err := openDesk(ctx, k, c)
		if err == nil {
			return d.ledger(), d.Close, nil
		}
		if !errors.Is(err, durable.ErrLocked) {
			return nil, nil, err
		}
		conn, err := net.Dial("unix", c.socket())
		if err == nil {
			in := bufio.NewScanner(conn)
			in.Buffer(nil, maxDeskLine)
			return &remoteDesk{conn, in}, conn.Close, nil
		}
		// The worker is starting or stopping.
		if tries == 50 {
			return nil, nil, fmt.Errorf("another process holds the ledger and does not answer: %w; stop it, or try again", err)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}
