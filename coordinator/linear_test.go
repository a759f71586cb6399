package coordinator

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"

	"consilium"
)

// What a team does with its studies is linearizable: as if submit, status and
// result each happened at one moment between call and answer. Whoever was told
// that a study is recorded finds it; nobody sees a study go back; whoever saw it
// done gets the result.

type simOp uint8

const (
	opSubmit simOp = iota
	opStatus
	opResult
)

type simInput struct {
	token string
	study string // which of the contents under the token
	op    simOp
}

type simOutput struct {
	unknown bool // the call failed: it may have happened
	taken   bool // submit: the token names another study
	found   bool // status, result
	rank    int  // status: how far the study is
}

// simRecord is what a history knows of one token.
type simRecord struct {
	study string // "" before the submission
	rank  int    // the furthest that anybody saw
}

const rankDone = math.MaxInt

// rankOf is how far a study is, so that no study ever goes back: by the rounds that
// have closed, since a study that goes on in another epoch enrols again, and does
// the open round anew. 0 where a status does not tell.
func rankOf(phase consilium.Phase, round uint32) int {
	switch {
	case phase == consilium.PhaseDone:
		return rankDone
	case phase.Ended():
		return rankDone - 1
	case phase == consilium.PhaseWaiting && round > 0:
		return 0 // in this round, or on the way into another epoch after it
	case phase >= consilium.PhaseContributing && phase < consilium.PhaseReleasing && round > 0:
		round-- // it is open
	}
	if round > 0 {
		return 100 + int(round)
	}
	return int(min(phase, consilium.PhaseEnrolling))
}

var simModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) (out [][]porcupine.Operation) {
		at := map[string]int{}
		for _, op := range history {
			token := op.Input.(simInput).token
			i, ok := at[token]
			if !ok {
				i = len(out)
				at[token] = i
				out = append(out, nil)
			}
			out[i] = append(out[i], op)
		}
		return out
	},
	Init: func() any { return simRecord{} },
	Step: func(state, input, output any) (bool, any) {
		s, in, out := state.(simRecord), input.(simInput), output.(simOutput)
		own := s.study == in.study
		switch in.op {
		case opSubmit:
			switch {
			case out.unknown && s.study == "":
				s.study = in.study // or it never happened: then it is ordered after everything
				return true, s
			case out.unknown:
				return true, s
			case s.study == "":
				s.study = in.study
				return !out.taken, s
			}
			return out.taken != own, s
		case opStatus:
			if !out.found {
				return !own, s
			}
			if !own || out.rank != 0 && out.rank < s.rank {
				return false, s
			}
			s.rank = max(s.rank, out.rank)
			return true, s
		case opResult:
			if !out.found {
				return !own || s.rank != rankDone, s
			}
			if !own || s.rank == rankDone-1 {
				return false, s
			}
			s.rank = rankDone
			return true, s
		}
		return false, s
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// historyClock orders calls and answers; wall clocks are too coarse.
var historyClock atomic.Int64

// record runs one operation and adds it to the history.
func (s *sim) record(in simInput, run func() (simOutput, error)) error {
	call := historyClock.Add(1)
	out, err := run()
	op := porcupine.Operation{Input: in, Call: call, Return: historyClock.Add(1)}
	switch {
	case err == nil:
	case in.op == opSubmit && errors.Is(err, consilium.ErrStudyExists):
		out.taken = true
	case in.op == opStatus && errors.Is(err, consilium.ErrUnknownStudy), in.op == opResult && errors.Is(err, consilium.ErrBlobMissing):
		out.found = false
	case in.op == opSubmit && !errors.Is(err, consilium.ErrStale):
		out.unknown, op.Return = true, math.MaxInt64
	default:
		return err // a read without an answer, a submission that was refused: says nothing
	}
	op.Output = out
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history = append(s.history, op)
	return err
}

// linearizable checks the history.
func (s *sim) linearizable() {
	if porcupine.CheckOperationsTimeout(simModel, s.history, 10*time.Second) == porcupine.Illegal {
		s.violate("submit, status and result are not linearizable: %v", s.history)
	}
}
