// Package hatch is the only opening between a hospital's gate and its vault.
// The gate has the network and the keys and never sees a row; the vault has the
// rows and neither a socket nor an identity key. What passes is listed here:
// requests about a study, bounded integers to be encrypted, opened sums, and
// records for the hospital's own ledger.
//
// In production the vault is a child process and Dial and Serve carry the
// calls over its standard input and output; a simulation calls the vault
// directly. Both ends trust the machine they share, so the framing protects
// against mistakes, not against each other.
package hatch

import (
	"context"
	"errors"
	"fmt"

	"consilium"
)

// ErrStorage is inside every error of a vault that could not make durable what it
// must. What its disk holds is unknown to it by then, and what it holds in memory
// may be ahead: it answers nothing more and is opened anew. It says nothing about
// the study, which waits.
var ErrStorage = errors.New("the vault's own storage failed")

// Vault is what a gate asks of its vault.
type Vault interface {
	// Admit decides whether this hospital takes part in a study.
	Admit(context.Context, AdmitRequest) (AdmitReply, error)
	// Start prepares a chartered study and returns the state and shape of its
	// first round. It is idempotent. With the charter of a later epoch it goes on
	// with the same rows and the same memory.
	Start(context.Context, StartRequest) (Shape, error)
	// Local verifies the records, applies the policy and computes this
	// hospital's vector of one round. The same request gives the same vector.
	Local(context.Context, LocalRequest) (LocalReply, error)
	// Lanes reads count lanes of the last computed vector from offset.
	Lanes(ctx context.Context, study consilium.StudyID, round uint32, offset, count int) ([]int32, error)
	// Sums hands over opened sums, in order; Update uses them. The vault does not
	// keep the slice.
	Sums(ctx context.Context, study consilium.StudyID, round uint32, offset int, sums []int64) error
	// State reads count bytes, at most WholeState, of the state that the study has,
	// from offset. The slice is the caller's.
	State(ctx context.Context, study consilium.StudyID, offset, count int) ([]byte, error)
	// Update turns the opened sums into the next state.
	Update(context.Context, UpdateRequest) (Shape, error)
	// Adopt takes over a certified state that this hospital missed.
	Adopt(context.Context, AdoptRequest) (Shape, error)
	// Release decides on the result of a finished analysis.
	Release(context.Context, ReleaseRequest) (ReleaseReply, error)
	// Opening tells the vault that this hospital is about to open a round: the
	// cohort is durably in its ledger of opened cohorts on return.
	Opening(ctx context.Context, study consilium.StudyID, round uint32) error
	// Opened tells the vault that a round with this hospital in the set was
	// opened: the site's memory is committed.
	Opened(ctx context.Context, study consilium.StudyID, round uint32) error
	// Forget drops what the vault holds of an ended study.
	Forget(ctx context.Context, study consilium.StudyID) error
}

// AdmitRequest names a submitted and approved study.
type AdmitRequest struct {
	Study      consilium.StudyID
	Submission []byte           // payload
	Approval   []byte           // payload
	Roster     []byte           // payload
	Log        consilium.Digest // head of the vault's decision log as the trail last says it; zero without a use
}

// AdmitReply is the site's admission decision.
type AdmitReply struct {
	Allow    bool
	Code     string
	Reason   string
	Decision consilium.Digest
	Records  []Record
	Memory   uint64 // bytes that the study is estimated to need at this hospital
}

// Record is one entry for the hospital's own ledger: canonical JSON without
// personal data. It is written before the action that it announces.
type Record struct {
	Type string // decision, use, release, …
	JSON []byte
}

// StartRequest names a chartered study.
type StartRequest struct {
	Study      consilium.StudyID
	Charter    []byte // payload
	Submission []byte
	Approval   []byte
	Roster     []byte
	Position   consilium.Position
	Log        consilium.Digest // as of AdmitRequest
	// Sites are the study's hospitals in the order in which its analysis counts
	// them: the members of the first charter, then those whom later ones added.
	Sites []consilium.SiteID
}

// Shape is where an analysis stands and the shape of the vector that its next
// round asks for.
type Shape struct {
	State  []byte // the one encoding of the analysis state; nil if it is longer than WholeState
	Size   int    // of the state's encoding
	Layout consilium.Layout
	Frozen bool // contributors and row sets are frozen by the first opening
	Done   bool // the analysis has ended; Layout is empty
}

// WholeState is the longest state that passes as one message. ReadState reads a
// longer one piece by piece.
const WholeState = 1 << 20

// ReadState is the state that a shape is of. The vault goes on holding it.
func ReadState(ctx context.Context, v Vault, study consilium.StudyID, s *Shape) ([]byte, error) {
	if s.State != nil || s.Size == 0 {
		return s.State, nil
	}
	out := make([]byte, 0, s.Size)
	for len(out) < s.Size {
		n := min(s.Size-len(out), WholeState)
		b, err := v.State(ctx, study, len(out), n)
		if err != nil {
			return nil, err
		}
		if len(b) != n {
			return nil, fmt.Errorf("hatch: %d bytes of a state, asked for %d", len(b), n)
		}
		out = append(out, b...)
	}
	return out, nil
}

// LocalRequest asks for the vector of one round.
type LocalRequest struct {
	Study    consilium.StudyID
	Round    uint32
	State    []byte
	Held     consilium.Digest // instead of State, under DomainState: a vault that has another state fails with ErrBlobMissing
	Included uint32           // the last closed round with this hospital in its set; 0: none. It says which memory of the site counts
	// Audit asks for the vector of a round that was contributed before, to compare
	// it with what was sent: the rows are used as ever, and nothing of it takes the
	// place of what the contribution left.
	Audit bool
}

// LocalReply describes a computed vector. The digests are unsalted; the gate
// salts them before anything leaves the hospital.
type LocalReply struct {
	Contribute bool // false: this hospital contributes nothing, and says nothing else
	Lanes      int
	RowSet     consilium.Digest // of the verified, permitted rows
	Decision   consilium.Digest // of the row and column decisions
	Ledger     consilium.Digest // of the ledger checkpoint that the records were verified against
	Records    []Record
}

// UpdateRequest names the opened round.
type UpdateRequest struct {
	Study        consilium.StudyID
	Round        uint32
	Contributors []consilium.Position
}

// AdoptRequest hands over a certified state.
type AdoptRequest struct {
	Study consilium.StudyID
	Round uint32 // the round whose closing made the state
	State []byte
	Held  consilium.Digest // as of LocalRequest
}

// ReleaseRequest asks for the release decision of a finished analysis.
type ReleaseRequest struct {
	Study        consilium.StudyID
	Contributors []consilium.Position
	Rounds       uint32
}

// ReleaseReply is the release decision with the result document.
type ReleaseReply struct {
	Allow    bool
	Code     string
	Reason   string
	Decision consilium.Digest
	Result   []byte            // canonical JSON: the `result` half of result.json
	Files    map[string][]byte // weights and the like, by name
	Records  []Record
}
