package wire

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium"
	"consilium/api/v1"
)

// statuses is the one table of sentinel errors and gRPC codes. The stable code
// travels in the status details, so the way back is exact; the gRPC code is
// for generic tools.
var statuses = []struct {
	err  *consilium.Error
	code codes.Code
}{
	{consilium.ErrInvalid, codes.InvalidArgument},
	{consilium.ErrUnknownStudy, codes.NotFound},
	{consilium.ErrStudyRefused, codes.PermissionDenied},
	{consilium.ErrStudyEnded, codes.FailedPrecondition},
	{consilium.ErrStudyAborted, codes.FailedPrecondition},
	{consilium.ErrStudyExists, codes.AlreadyExists},
	{consilium.ErrStudyStalled, codes.FailedPrecondition},
	{consilium.ErrWrongPhase, codes.FailedPrecondition},
	{consilium.ErrRoundClosed, codes.FailedPrecondition},
	{consilium.ErrConflictingContribution, codes.AlreadyExists},
	{consilium.ErrConflictingVote, codes.AlreadyExists},
	{consilium.ErrConflictingMessage, codes.AlreadyExists},
	{consilium.ErrNotMember, codes.PermissionDenied},
	{consilium.ErrBelowMinimum, codes.FailedPrecondition},
	{consilium.ErrLocked, codes.FailedPrecondition},
	{consilium.ErrFrozen, codes.FailedPrecondition},
	{consilium.ErrOverlap, codes.PermissionDenied},
	{consilium.ErrAggregateRejected, codes.Aborted},
	{consilium.ErrSignature, codes.InvalidArgument},
	{consilium.ErrUnauthenticated, codes.Unauthenticated},
	{consilium.ErrForbidden, codes.PermissionDenied},
	{consilium.ErrKeyExchange, codes.Unauthenticated},
	{consilium.ErrNotLeader, codes.Unavailable},
	{consilium.ErrUnavailable, codes.Unavailable},
	{consilium.ErrBlobMissing, codes.NotFound},
	{consilium.ErrBlobCorrupt, codes.DataLoss},
	{consilium.ErrTooLarge, codes.ResourceExhausted},
	{consilium.ErrStale, codes.FailedPrecondition},
	{consilium.ErrDiskFull, codes.ResourceExhausted},
	{consilium.ErrLedger, codes.FailedPrecondition},
	{consilium.ErrPolicy, codes.PermissionDenied},
	{consilium.ErrData, codes.InvalidArgument},
}

// NotLeaderError says who leads, so that the caller can go there. It matches
// consilium.ErrNotLeader.
type NotLeaderError struct {
	Leader consilium.NodeID // "" if this node knows of none
}

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return consilium.ErrNotLeader.Msg + ": no leader is known"
	}
	return consilium.ErrNotLeader.Msg + ": " + string(e.Leader) + " is"
}

func (e *NotLeaderError) Unwrap() error { return consilium.ErrNotLeader }

const (
	maxStatusText = 4096
	maxNextText   = 512
)

// Status turns any error into a gRPC status error. An error without a stable
// code is ours: its text stays in our log.
func Status(err error) error {
	if err == nil {
		return nil
	}
	var e *consilium.Error
	if !errors.As(err, &e) {
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return status.Error(codes.DeadlineExceeded, "deadline exceeded")
		case errors.Is(err, context.Canceled):
			return status.Error(codes.Canceled, "cancelled")
		}
		return status.Error(codes.Internal, "internal error; the node's log says more")
	}
	code := codes.Internal
	for i := range statuses {
		if statuses[i].err.Code == e.Code {
			code = statuses[i].code
		}
	}
	text := e.Msg
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	f := &apiv1.Failure{Code: string(e.Code), Message: clip(text, maxStatusText), Next: clip(e.Next, maxNextText)}
	var nl *NotLeaderError
	if errors.As(err, &nl) {
		f.Leader = string(nl.Leader)
	}
	s := status.New(code, f.Message)
	if d, derr := s.WithDetails(f); derr == nil {
		s = d
	}
	return s.Err()
}

// clip bounds text for the wire, which carries only valid UTF-8.
func clip(s string, limit int) string {
	s = strings.ToValidUTF8(s, "?")
	for len(s) > limit {
		s = s[:limit]
		for len(s) > 0 && !utf8.ValidString(s) {
			s = s[:len(s)-1]
		}
	}
	return s
}

// remoteError is a sentinel as another node reported it.
type remoteError struct{ text string }

func (e remoteError) Error() string { return e.text }

// FromStatus turns a gRPC status error back. What carries a known stable code
// matches its sentinel; the rest is classified by the gRPC code.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, d := range s.Details() {
		f, ok := d.(*apiv1.Failure)
		if !ok {
			continue
		}
		if consilium.Code(f.GetCode()) == consilium.ErrNotLeader.Code {
			leader, err := consilium.ParseNodeID(f.GetLeader())
			if err != nil {
				leader = ""
			}
			return &NotLeaderError{Leader: leader}
		}
		for i := range statuses {
			base := statuses[i].err
			if string(base.Code) != f.GetCode() {
				continue
			}
			out := &consilium.Error{Code: base.Code, Msg: base.Msg, Next: clip(f.GetNext(), maxNextText)}
			if rest, ok := strings.CutPrefix(clip(f.GetMessage(), maxStatusText), base.Msg+": "); ok {
				out.Err = remoteError{rest}
			}
			return out
		}
	}
	switch s.Code() {
	case codes.Canceled:
		return context.Canceled
	case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted:
		return consilium.ErrUnavailable.Withf("%s", clip(s.Message(), maxStatusText))
	case codes.ResourceExhausted, codes.OutOfRange:
		return consilium.ErrTooLarge.Withf("%s", clip(s.Message(), maxStatusText))
	case codes.Unauthenticated:
		return consilium.ErrUnauthenticated.Withf("%s", clip(s.Message(), maxStatusText))
	case codes.PermissionDenied:
		return consilium.ErrForbidden.Withf("%s", clip(s.Message(), maxStatusText))
	case codes.InvalidArgument, codes.Unimplemented:
		return consilium.ErrInvalid.Withf("%s", clip(s.Message(), maxStatusText))
	}
	return remoteError{"remote node: " + clip(s.Message(), maxStatusText)}
}
