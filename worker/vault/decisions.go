package vault

import (
	"context"
	"errors"
	"path/filepath"

	"consilium"
	"consilium/policy"
)

// Every decision that the vault makes is in its decision log, durable, before
// the vault acts on it: without the record there is no action. The log stays
// here; what it says of the input is masked. Its last digest goes with every use
// into the hospital's signed trail, which fixes the log up to there.

// openDecisions opens the log. The key of its keyed digests is the one of the
// pseudonyms: both hide the same patients from the same readers, and the digests'
// domain keeps them apart.
func (v *Vault) openDecisions() (err error) {
	v.decisions, err = policy.OpenAudit(filepath.Join(v.cfg.Dir, "decisions.jsonl"), v.cfg.Pseudonym)
	return err
}

// decide asks the policy and records the answer. A question that the policy has
// answered before may be answered from memory (policy.DecideAgain); it is a
// decision and a record all the same.
func (v *Vault) decide(ctx context.Context, st *study, point policy.Point, in policy.Input) (policy.Decision, error) {
	d, recalled, err := st.engine.DecideAgain(ctx, point, in)
	if err != nil {
		return policy.Decision{}, err
	}
	return d, v.recordDecision(st, policy.AuditEntry{Point: point, Input: in, Decision: d, Recalled: recalled})
}

// recordDecision appends to the decision log.
func (v *Vault) recordDecision(st *study, e policy.AuditEntry) error {
	_, err := v.decisions.Append(v.entry(st, e))
	return logged(err)
}

// logged marks a decision log that cannot be written: its vault opens it again, and
// no rule has refused anything.
func logged(err error) error {
	if errors.Is(err, policy.ErrAudit) {
		return stored(err)
	}
	return err
}

func (v *Vault) entry(st *study, e policy.AuditEntry) policy.AuditEntry {
	e.Time, e.Node, e.Study, e.Round = e.Input.Now, string(v.cfg.Site), st.id, st.round
	return e
}

// holds refuses a decision log that does not hold the line which the hospital's
// signed trail names: it was removed, cut short, or put back from an older copy.
// Zero, of a trail without any use of rows, is held by every log.
func (v *Vault) holds(head consilium.Digest) error {
	if v.decisions.Holds(head) {
		return nil
	}
	return consilium.ErrPolicy.Withf("the decision log %s does not hold line %s, which this hospital's signed trail names: put the newest copy of it back; nothing is decided until then",
		filepath.Join(v.cfg.Dir, "decisions.jsonl"), head.Short())
}

// StopDir is where a hospital keeps the board's stops, beside a vault's
// directory.
func StopDir(vaultDir string) string { return filepath.Join(filepath.Dir(vaultDir), "stops") }

// stop is the board's refusal of a stopped study, or nil. It reads the list
// each time: a stop holds from the next use on, whatever policy the study began
// with.
func (v *Vault) stop(st *study, point policy.Point) (*policy.Decision, error) {
	stops, err := policy.ReadStops(StopDir(v.cfg.Dir), v.cfg.BoardKeys)
	if err != nil {
		return nil, err
	}
	in := policy.Input{Now: v.cfg.Now().Unix()}
	d := stops.Denial(point, st.id, st.submission.Policy, in.Now)
	if d == nil {
		return nil, nil
	}
	return d, v.recordDecision(st, policy.AuditEntry{Point: point, Input: in, Decision: *d})
}

// stopped is stop as an error.
func (v *Vault) stopped(st *study, point policy.Point) error {
	d, err := v.stop(st, point)
	if err != nil || d == nil {
		return err
	}
	return d.Err()
}
