package consilium

import (
	"errors"
	"fmt"
)

// Code is a stable name of a failure, for programs and for the table in
// docs/errors.md. internal/wire maps codes to gRPC codes, both ways.
type Code string

// Error is a failure with a stable code and, where there is one, the next
// step. Two of them are the same to errors.Is when their codes are equal.
type Error struct {
	Code Code
	Msg  string
	Next string // what the reader can do, or ""
	Err  error
}

func (e *Error) Error() string {
	s := e.Msg
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Next != "" {
		s += "; " + e.Next
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Is compares codes, so a wrapped or remote error matches its sentinel.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// With returns e's code and message around a cause.
func (e *Error) With(err error) *Error {
	return &Error{Code: e.Code, Msg: e.Msg, Next: e.Next, Err: err}
}

// Withf is With for a formatted cause.
func (e *Error) Withf(format string, args ...any) *Error {
	return e.With(fmt.Errorf(format, args...))
}

// CodeOf is the code of the first Error in err's chain, or "internal".
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return "internal"
}

// The sentinel errors. Their texts are for people; programs compare codes.
var (
	ErrInvalid                 = &Error{Code: "invalid", Msg: "malformed request"}
	ErrUnknownStudy            = &Error{Code: "study.unknown", Msg: "no such study", Next: "list the studies with `consilium study list`"}
	ErrStudyRefused            = &Error{Code: "study.refused.policy", Msg: "policy refuses the study"}
	ErrStudyEnded              = &Error{Code: "study.ended", Msg: "the study has ended"}
	ErrStudyAborted            = &Error{Code: "study.aborted", Msg: "the study was aborted"}
	ErrStudyExists             = &Error{Code: "study.exists", Msg: "another submission has this token", Next: "choose a new token"}
	ErrStudyStalled            = &Error{Code: "study.stalled", Msg: "the study cannot go on"}
	ErrWrongPhase              = &Error{Code: "study.phase", Msg: "the study is not in the phase for this"}
	ErrRoundClosed             = &Error{Code: "round.closed", Msg: "the round is closed"}
	ErrConflictingContribution = &Error{Code: "round.conflict.contribution", Msg: "another contribution of this hospital is already recorded for this attempt"}
	ErrConflictingVote         = &Error{Code: "round.conflict.vote", Msg: "another vote of this hospital is already recorded for this attempt"}
	ErrConflictingMessage      = &Error{Code: "round.conflict", Msg: "another statement of this hospital is already recorded here"}
	ErrNotMember               = &Error{Code: "study.member", Msg: "not a member of this study"}
	ErrBelowMinimum            = &Error{Code: "round.minimum", Msg: "fewer hospitals than min_sites"}
	ErrLocked                  = &Error{Code: "round.locked", Msg: "this hospital has opened another set of this round"}
	ErrFrozen                  = &Error{Code: "study.frozen", Msg: "the contributors of this study are frozen"}
	ErrOverlap                 = &Error{Code: "cohort.overlap", Msg: "the cohort differs from an earlier one by too few patients"}
	ErrAggregateRejected       = &Error{Code: "round.rejected", Msg: "aggregate rejected"}
	ErrSignature               = &Error{Code: "signature", Msg: "signature does not verify"}
	ErrUnauthenticated         = &Error{Code: "auth.unknown", Msg: "the certificate is not pinned in the roster", Next: "ask the board for the current roster"}
	ErrForbidden               = &Error{Code: "auth.role", Msg: "this role may not do that"}
	ErrKeyExchange             = &Error{Code: "auth.key-exchange", Msg: "the key exchange is not post-quantum", Next: "use X25519MLKEM768"}
	ErrNotLeader               = &Error{Code: "coordinator.not-leader", Msg: "this node is not the leader"}
	ErrUnavailable             = &Error{Code: "coordinator.unavailable", Msg: "no majority of coordinators answers", Next: "retry; nothing acknowledged is lost"}
	ErrBlobMissing             = &Error{Code: "blob.missing", Msg: "no such blob"}
	ErrBlobCorrupt             = &Error{Code: "blob.corrupt", Msg: "a stored blob does not match its digest"}
	ErrTooLarge                = &Error{Code: "too-large", Msg: "larger than the study allows"}
	ErrStale                   = &Error{Code: "stale", Msg: "expired or replayed"}
	ErrDiskFull                = &Error{Code: "disk.full", Msg: "no space left", Next: "free space and restart; nothing acknowledged is lost"}
	ErrLedger                  = &Error{Code: "ledger", Msg: "the records do not agree with the hospital's ledger"}
	ErrPolicy                  = &Error{Code: "policy", Msg: "policy refuses"}
	ErrData                    = &Error{Code: "data", Msg: "the table does not fit the study"}
)
