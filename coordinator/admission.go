package coordinator

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"consilium"
	"consilium/policy"
)

// DecisionLog takes this node's decisions: durable when Append returns nil.
type DecisionLog interface {
	Append(policy.AuditEntry) (policy.AuditRecord, error)
}

// Decisions is a node's decision log, of the same form as the hospitals':
// chained by digests, the question masked. It is opened at the first decision, when
// the node's directory stands, and verified from its first record.
type Decisions struct {
	path string
	key  consilium.Digest

	mu  sync.Mutex
	log *policy.Audit
}

// NewDecisions names the log in a node's directory. The key of its keyed digests
// follows from the node's own secret.
func NewDecisions(dir string, secret []byte) *Decisions {
	return &Decisions{path: filepath.Join(dir, "decisions.jsonl"), key: consilium.DomainAuditMask.Digest([]byte("coordinator"), secret)}
}

// Append implements DecisionLog.
func (d *Decisions) Append(e policy.AuditEntry) (policy.AuditRecord, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.log == nil {
		log, err := policy.OpenAudit(d.path, d.key[:])
		if err != nil {
			return policy.AuditRecord{}, err
		}
		d.log = log
	}
	rec, err := d.log.Append(e)
	if err != nil {
		// How far the record got is unknown, and this log takes no more. Opening it
		// anew cuts off what is torn; admission is asked again.
		d.log.Close()
		d.log = nil
	}
	return rec, err
}

// Close closes the log.
func (d *Decisions) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.log == nil {
		return nil
	}
	err := d.log.Close()
	d.log = nil
	return err
}

// PolicyAdmission is the Admission that evaluates the study rules of the
// policy that a submission names, and writes the answer into the node's decision
// log before it is proposed. A policy that this node does not have refuses nothing
// for good: the study waits until the node has it; so does one whose decision
// cannot be logged.
func PolicyAdmission(node consilium.NodeID, policies func(consilium.Digest) (*policy.Engine, error), log DecisionLog, now func() time.Time) Admission {
	return func(ctx context.Context, r AdmissionRequest) (bool, []byte, error) {
		if log == nil {
			return false, nil, errors.New("admission: no decision log: nothing is decided without a record")
		}
		sub, err := consilium.ParseSubmission(r.Submission)
		if err != nil {
			return false, nil, consilium.ErrInvalid.With(err)
		}
		spec, err := consilium.ParseSpec(sub.SpecBytes)
		if err != nil {
			return false, nil, consilium.ErrInvalid.With(err)
		}
		engine, err := policies(sub.Policy)
		if err != nil {
			return false, nil, err
		}
		study, err := policy.NewStudy(r.Study, sub.SpecBytes)
		if err != nil {
			return false, nil, err
		}
		federation, err := policy.NewFederation(r.Roster, sub.Team, spec.Sites.Only)
		if err != nil {
			return false, nil, err
		}
		in := policy.Input{Now: now().Unix(), Study: study, Federation: federation}
		d, err := engine.Decide(ctx, policy.PointStudy, in)
		if err != nil {
			return false, nil, err
		}
		if _, err := log.Append(policy.AuditEntry{Time: in.Now, Node: string(node), Study: r.Study, Point: policy.PointStudy, Input: in, Decision: d}); err != nil {
			return false, nil, err
		}
		record, err := d.Encode()
		return d.Allow, record, err
	}
}
