package coordinator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"consilium"
	"consilium/internal/span"
	"consilium/internal/wire"
	"consilium/provenance"
)

// AdmissionRequest is what the advisory policy decision on a study sees.
type AdmissionRequest struct {
	Study      consilium.StudyID
	Submission []byte              // the signed payload
	Approvals  []consilium.Message // the board's, k of n
	Roster     *consilium.Roster
}

// Admission evaluates the study policy, outside the state machine. The record
// is the decision as JSON and becomes part of the log. An error leaves the study
// where it is, and the leader asks again later. The decision is advice: every
// hospital decides again.
type Admission func(ctx context.Context, r AdmissionRequest) (allow bool, record []byte, err error)

// Config is a node. The zero value of an optional field means its default.
type Config struct {
	ID          consilium.NodeID
	Book        *wire.Book
	Certificate tls.Certificate
	Signer      consilium.Signer    // the node's identity of the roster
	NoteKey     *provenance.NoteKey // signs checkpoints of the audit log
	Admission   Admission

	Dir      string // data directory
	InMemory bool   // instead of Dir: nothing touches a disk, nothing survives

	Listen  func(address string) (net.Listener, error) // optional: TCP
	Dial    wire.Dialer                                // optional: TCP
	Metrics string                                     // optional: host:port of /metrics, /healthz and /readyz
	Logger  *slog.Logger                               // optional: discard
	Trace   *span.Tracer                               // optional: no spans

	MaxContribution uint64           // bytes of one encrypted vector; default 16 GiB
	MaxBlob         uint64           // bytes of a sealed state or result; default 4 GiB
	Timing          Timing           // optional
	Now             func() time.Time // optional: time.Now
}

// Timing tunes elections and snapshots.
type Timing struct {
	Heartbeat time.Duration // a follower without word from the leader starts an election after this; default 1 s
	Commit    time.Duration // a quiet leader tells followers what is committed after this; default 50 ms
	Snapshots uint64        // log entries between snapshots; default 16384
	Drain     time.Duration // how long a stopping node lets calls finish; default 10 s
	Peer      time.Duration // Raft waits so long for a connection to another node, and for an answer; default 10 s

	// Leaderless is how long, once and again, a node without a leader keeps those
	// who follow it; default 3 s.
	Leaderless time.Duration
}

// FastTiming suits federations within one process or machine: a lost leader is
// replaced within about a second.
func FastTiming() Timing {
	return Timing{Heartbeat: 400 * time.Millisecond, Commit: 5 * time.Millisecond, Drain: 2 * time.Second}
}

// maxNodes bounds a cluster. Run one, three or five: an even number tolerates
// no more failures than one less, and is for the time in which a node is replaced.
const maxNodes = 7

// check fills in defaults and refuses what cannot run, in one place.
func (c *Config) check() error {
	switch {
	case c.Book == nil:
		return errors.New("coordinator: no roster")
	case c.Signer == nil || c.NoteKey == nil:
		return errors.New("coordinator: no identity key or no note key")
	case c.Admission == nil:
		return errors.New("coordinator: no admission policy; a node does not run without its gates")
	case c.InMemory == (c.Dir != ""):
		return fmt.Errorf("coordinator: dir %q and in-memory %v: set exactly one", c.Dir, c.InMemory)
	}
	me, ok := c.Book.Roster().Coordinator(c.ID)
	if !ok {
		return consilium.ErrUnauthenticated.Withf("the roster has no coordinator %q", c.ID)
	}
	if n := len(c.Book.Roster().Coordinators); n > maxNodes {
		return fmt.Errorf("coordinator: the roster names %d nodes, at most %d", n, maxNodes)
	}
	if c.Signer.Public() != me.Key {
		return consilium.ErrUnauthenticated.Withf("the identity key %s is not %s's in the roster", c.Signer.Public().Short(), c.ID)
	}
	if c.NoteKey.Verifier() != me.Ledger {
		return consilium.ErrUnauthenticated.Withf("the note key %q is not %s's in the roster", c.NoteKey.Verifier(), c.ID)
	}
	pin, err := wire.CertificatePin(c.Certificate)
	if err != nil {
		return err
	}
	id, err := c.Book.Lookup(pin)
	if err != nil {
		return fmt.Errorf("own certificate: %w", err)
	}
	if id.Role != wire.RoleCoordinator || id.Name != string(c.ID) {
		return consilium.ErrUnauthenticated.Withf("own certificate is pinned for %s, not for coordinator/%s", id, c.ID)
	}
	if c.Listen == nil {
		c.Listen = func(address string) (net.Listener, error) { return net.Listen("tcp", address) }
	}
	if c.Dial == nil {
		d := &net.Dialer{Timeout: 5 * time.Second}
		c.Dial = func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = c.Logger.With("node", string(c.ID))
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.MaxContribution == 0 {
		c.MaxContribution = 16 << 30
	}
	if c.MaxBlob == 0 {
		c.MaxBlob = 4 << 30
	}
	if c.Timing.Heartbeat == 0 {
		c.Timing.Heartbeat = time.Second
	}
	if c.Timing.Commit == 0 {
		c.Timing.Commit = 50 * time.Millisecond
	}
	if c.Timing.Snapshots == 0 {
		c.Timing.Snapshots = 16384
	}
	if c.Timing.Drain == 0 {
		c.Timing.Drain = 10 * time.Second
	}
	if c.Timing.Peer <= 0 {
		c.Timing.Peer = 10 * time.Second
	}
	if c.Timing.Leaderless <= 0 {
		c.Timing.Leaderless = 3 * time.Second
	}
	if c.Timing.Heartbeat < 5*time.Millisecond || c.Timing.Commit < time.Millisecond || c.Timing.Commit > c.Timing.Heartbeat {
		return fmt.Errorf("coordinator: heartbeat %s and commit %s: want at least 5 ms and 1 ms, commit not above heartbeat", c.Timing.Heartbeat, c.Timing.Commit)
	}
	return nil
}

// AuditOrigin names the federation's audit log in its checkpoints.
func AuditOrigin(r *consilium.Roster) string {
	name := strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '.', c == '_':
			return c
		}
		return '-'
	}, r.Name)
	return "consilium-audit/" + name
}
