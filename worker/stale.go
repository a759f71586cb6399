package worker

import (
	"fmt"

	"consilium"
	"consilium/internal/hybrid"
)

// A gate's directory that was put back from an older copy has forgotten promises,
// and a hospital that forgets is a dishonest one: it could vote twice, or open a
// sum that differs from a forgotten one by a single hospital. Two things outside
// the directory remember for it. The log holds statements under this hospital's
// own signature, which nobody else can make; and the hospital's witnessed ledger
// names the head of its trail at the end of each study. A gate that finds there
// what its directory does not hold says nothing any more but that: it withdraws
// from what runs and declines what comes, for good, since the ledger of opened
// sums that every later study is judged by has the same gap.

// Stale reports why this gate's directory is not the newest one of this
// hospital, or nil.
func (g *Gate) Stale() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stale == "" {
		return nil
	}
	return &consilium.Error{Code: consilium.ErrStale.Code, Msg: consilium.ErrStale.Msg, Err: fmt.Errorf("%s: this directory is older than what the hospital has promised", g.stale),
		Next: "put the newest copy of it back, if there is one; else take no further part under this identity: docs/operations.md"}
}

// setStale remembers it, in the journal too: a restart does not make the
// directory newer.
func (g *Gate) setStale(why string) error {
	g.mu.Lock()
	known := g.stale != ""
	if !known {
		g.stale = why
	}
	g.mu.Unlock()
	if known {
		return nil
	}
	g.log.Error("the gate's directory was put back from an older copy; this hospital takes no further part in any study", "found", why)
	if err := g.journal.setStale(why); err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	return nil
}

// remember holds a message of the log against the journal. What is in the log
// under this hospital's signature was journalled before it was sent.
func (a *actor) remember(ev *consilium.Event) error {
	if ev.Kind != consilium.EventMessage {
		return nil
	}
	m, err := consilium.ParseMessage(ev.Body)
	if err != nil || m.Study != a.study || m.By != string(a.gate.cfg.Site) {
		return nil // the replica judges it
	}
	if m.Kind == consilium.KindAck {
		return nil // no promise: it is made anew after a restart
	}
	if hybrid.Verify(a.gate.cfg.Signer.Public(), m.Kind.Domain(), m.Body, &m.Signature) != nil {
		return nil // forged, or of an identity before this one
	}
	if a.gate.journal.promised(a.study, m) {
		return nil
	}
	return a.gate.setStale(fmt.Sprintf("the log holds a signed %s of this hospital in study %s that its journal does not", m.Kind, a.study))
}
