package hatch

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"sync"

	"consilium"
)

// maxFrame bounds one frame: lanes and sums travel in pieces far below it.
const maxFrame = 64 << 20

// Methods of the pipe. The numbers are the protocol between a gate and a vault
// of the same release.
const (
	callAdmit = iota + 1
	callStart
	callLocal
	callLanes
	callSums
	callUpdate
	callAdopt
	callRelease
	callOpening
	callOpened
	callForget
	callState
	callGive
)

type request struct {
	ID     uint64
	Method int
	Body   []byte
}

type reply struct {
	ID   uint64
	Body []byte
	Code consilium.Code // "" for success
	Msg  string
	Next string
}

type lanesCall struct {
	Study         consilium.StudyID
	Round         uint32
	Offset, Count int
}

type sumsCall struct {
	Study  consilium.StudyID
	Round  uint32
	Offset int
	Sums   []int64
}

type stateCall struct {
	Study         consilium.StudyID
	Offset, Count int
}

// giveCall is a piece of a state that is longer than WholeState.
type giveCall struct {
	Study        consilium.StudyID
	Offset, Size int
	Piece        []byte
}

type studyCall struct {
	Study consilium.StudyID
	Round uint32
}

func writeFrame(w io.Writer, v any) error {
	var buf bytes.Buffer
	buf.Write(make([]byte, 4))
	if err := gob.NewEncoder(&buf).Encode(v); err != nil {
		return err
	}
	if buf.Len()-4 > maxFrame {
		return fmt.Errorf("hatch: a frame of %d bytes, at most %d", buf.Len()-4, maxFrame)
	}
	b := buf.Bytes()
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	_, err := w.Write(b)
	return err
}

func readFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return fmt.Errorf("hatch: a frame of %d bytes, at most %d", n, maxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return gob.NewDecoder(bytes.NewReader(b)).Decode(v)
}

func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	err := gob.NewEncoder(&buf).Encode(v)
	return buf.Bytes(), err
}

func decode(b []byte, v any) error { return gob.NewDecoder(bytes.NewReader(b)).Decode(v) }

// Serve answers calls on r and w with v until r ends or ctx does. Calls run
// side by side.
func Serve(ctx context.Context, r io.Reader, w io.Writer, v Vault) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var mu sync.Mutex // guards w
	in := bufio.NewReader(r)
	s := &server{v: v, given: map[consilium.StudyID][]byte{}}
	for {
		var req request
		if err := readFrame(in, &req); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		running.Go(func() {
			body, err := s.dispatch(ctx, req)
			rep := reply{ID: req.ID, Body: body}
			if err != nil {
				rep.Code, rep.Msg = consilium.CodeOf(err), err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			if err := writeFrame(w, rep); err != nil {
				cancel()
			}
		})
	}
}

// answer decodes a call's argument, runs it and encodes what it returns.
func answer[A, R any](body []byte, call func(A) (R, error)) ([]byte, error) {
	var a A
	if err := decode(body, &a); err != nil {
		return nil, err
	}
	r, err := call(a)
	if err != nil {
		return nil, err
	}
	return encode(&r)
}

// server is a vault's end of a pipe.
type server struct {
	v Vault

	mu    sync.Mutex                   // guards given
	given map[consilium.StudyID][]byte // long states, as far as they have come
}

// maxState bounds what is given, as a gate bounds a sealed state.
const maxState = 1 << 31

// give takes the next piece of a long state.
func (s *server) give(c giveCall) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Offset == 0 {
		delete(s.given, c.Study)
		if c.Size < 1 || c.Size > maxState {
			return fmt.Errorf("hatch: a state of %d bytes", c.Size)
		}
		s.given[c.Study] = make([]byte, 0, c.Size)
	}
	have := s.given[c.Study]
	if have == nil || c.Offset != len(have) || len(c.Piece) > cap(have)-len(have) || c.Size != cap(have) {
		return fmt.Errorf("hatch: %d bytes of a state from %d, after %d of %d", len(c.Piece), c.Offset, len(have), cap(have))
	}
	s.given[c.Study] = append(have, c.Piece...)
	return nil
}

// whole is the state that a request names, if all of it was given; it is given
// once.
func (s *server) whole(study consilium.StudyID, held consilium.Digest) ([]byte, consilium.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.given[study]
	if held.IsZero() || b == nil || len(b) < cap(b) || consilium.DomainState.Digest(b) != held {
		return nil, held
	}
	delete(s.given, study)
	return b, consilium.Digest{}
}

func (s *server) dispatch(ctx context.Context, req request) (_ []byte, err error) {
	v := s.v
	switch req.Method {
	case callAdmit:
		return answer(req.Body, func(a AdmitRequest) (AdmitReply, error) { return v.Admit(ctx, a) })
	case callStart:
		return answer(req.Body, func(a StartRequest) (Shape, error) { return v.Start(ctx, a) })
	case callLocal:
		return answer(req.Body, func(a LocalRequest) (LocalReply, error) {
			if a.State == nil {
				a.State, a.Held = s.whole(a.Study, a.Held)
			}
			return v.Local(ctx, a)
		})
	case callLanes:
		return answer(req.Body, func(a lanesCall) ([]int32, error) { return v.Lanes(ctx, a.Study, a.Round, a.Offset, a.Count) })
	case callSums:
		return answer(req.Body, func(a sumsCall) (bool, error) { return true, v.Sums(ctx, a.Study, a.Round, a.Offset, a.Sums) })
	case callUpdate:
		return answer(req.Body, func(a UpdateRequest) (Shape, error) { return v.Update(ctx, a) })
	case callAdopt:
		return answer(req.Body, func(a AdoptRequest) (Shape, error) {
			if a.State == nil {
				a.State, a.Held = s.whole(a.Study, a.Held)
			}
			return v.Adopt(ctx, a)
		})
	case callRelease:
		return answer(req.Body, func(a ReleaseRequest) (ReleaseReply, error) { return v.Release(ctx, a) })
	case callOpening:
		return answer(req.Body, func(a studyCall) (bool, error) { return true, v.Opening(ctx, a.Study, a.Round) })
	case callOpened:
		return answer(req.Body, func(a studyCall) (bool, error) { return true, v.Opened(ctx, a.Study, a.Round) })
	case callForget:
		return answer(req.Body, func(a studyCall) (bool, error) { return true, v.Forget(ctx, a.Study) })
	case callState:
		return answer(req.Body, func(a stateCall) ([]byte, error) { return v.State(ctx, a.Study, a.Offset, a.Count) })
	case callGive:
		return answer(req.Body, func(a giveCall) (bool, error) { return true, s.give(a) })
	default:
		return nil, fmt.Errorf("hatch: unknown call %d", req.Method)
	}
}

// Pipe calls a vault at the other end of a pair of streams.
type Pipe struct {
	w io.Writer

	mu      sync.Mutex // guards the rest and writes to w
	next    uint64
	waiting map[uint64]chan reply
	err     error // set once the reader has ended
}

var _ Vault = (*Pipe)(nil)

// Dial makes a Pipe; the caller runs its Run.
func Dial(w io.Writer) *Pipe { return &Pipe{w: w, waiting: map[uint64]chan reply{}} }

// Run reads replies until r ends, then fails every call that still waits.
func (p *Pipe) Run(r io.Reader) error {
	in := bufio.NewReader(r)
	for {
		var rep reply
		err := readFrame(in, &rep)
		p.mu.Lock()
		if err != nil {
			p.err = fmt.Errorf("the vault has ended: %w", err)
			for id, ch := range p.waiting {
				delete(p.waiting, id)
				close(ch)
			}
			p.mu.Unlock()
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		ch := p.waiting[rep.ID]
		delete(p.waiting, rep.ID)
		p.mu.Unlock()
		if ch != nil {
			ch <- rep
		}
	}
}

func (p *Pipe) call(ctx context.Context, method int, arg, out any) error {
	body, err := encode(arg)
	if err != nil {
		return err
	}
	ch := make(chan reply, 1)
	p.mu.Lock()
	if p.err != nil {
		p.mu.Unlock()
		return p.err
	}
	p.next++
	id := p.next
	p.waiting[id] = ch
	err = writeFrame(p.w, request{ID: id, Method: method, Body: body})
	if err != nil {
		delete(p.waiting, id)
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case rep, ok := <-ch:
		if !ok {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.err
		}
		if rep.Code != "" {
			return &consilium.Error{Code: rep.Code, Msg: rep.Msg}
		}
		return decode(rep.Body, out)
	case <-ctx.Done():
		p.mu.Lock()
		delete(p.waiting, id)
		p.mu.Unlock()
		return ctx.Err()
	}
}

func (p *Pipe) Admit(ctx context.Context, a AdmitRequest) (r AdmitReply, err error) {
	err = p.call(ctx, callAdmit, a, &r)
	return r, err
}

func (p *Pipe) Start(ctx context.Context, a StartRequest) (r Shape, err error) {
	err = p.call(ctx, callStart, a, &r)
	return r, err
}

func (p *Pipe) Local(ctx context.Context, a LocalRequest) (r LocalReply, err error) {
	err = p.withState(ctx, a.Study, &a.State, &a.Held, func() error { return p.call(ctx, callLocal, a, &r) })
	return r, err
}

// withState makes a call that names a state. A long one is given piece by piece,
// and only to a vault that does not have it.
func (p *Pipe) withState(ctx context.Context, study consilium.StudyID, state *[]byte, held *consilium.Digest, call func() error) error {
	long := *state
	if len(long) <= WholeState {
		return call()
	}
	*state, *held = nil, consilium.DomainState.Digest(long)
	err := call()
	if !errors.Is(err, consilium.ErrBlobMissing) {
		return err
	}
	for from := 0; from < len(long); from += WholeState {
		var ok bool
		piece := long[from:min(from+WholeState, len(long))]
		if err := p.call(ctx, callGive, giveCall{study, from, len(long), piece}, &ok); err != nil {
			return err
		}
	}
	return call()
}

func (p *Pipe) State(ctx context.Context, study consilium.StudyID, offset, count int) (r []byte, err error) {
	err = p.call(ctx, callState, stateCall{study, offset, count}, &r)
	return r, err
}

func (p *Pipe) Lanes(ctx context.Context, study consilium.StudyID, round uint32, offset, count int) (r []int32, err error) {
	err = p.call(ctx, callLanes, lanesCall{study, round, offset, count}, &r)
	return r, err
}

func (p *Pipe) Sums(ctx context.Context, study consilium.StudyID, round uint32, offset int, sums []int64) error {
	var ok bool
	return p.call(ctx, callSums, sumsCall{study, round, offset, sums}, &ok)
}

func (p *Pipe) Update(ctx context.Context, a UpdateRequest) (r Shape, err error) {
	err = p.call(ctx, callUpdate, a, &r)
	return r, err
}

func (p *Pipe) Adopt(ctx context.Context, a AdoptRequest) (r Shape, err error) {
	err = p.withState(ctx, a.Study, &a.State, &a.Held, func() error { return p.call(ctx, callAdopt, a, &r) })
	return r, err
}

func (p *Pipe) Release(ctx context.Context, a ReleaseRequest) (r ReleaseReply, err error) {
	err = p.call(ctx, callRelease, a, &r)
	return r, err
}

func (p *Pipe) Opening(ctx context.Context, study consilium.StudyID, round uint32) error {
	var ok bool
	return p.call(ctx, callOpening, studyCall{study, round}, &ok)
}

func (p *Pipe) Opened(ctx context.Context, study consilium.StudyID, round uint32) error {
	var ok bool
	return p.call(ctx, callOpened, studyCall{study, round}, &ok)
}

func (p *Pipe) Forget(ctx context.Context, study consilium.StudyID) error {
	var ok bool
	return p.call(ctx, callForget, studyCall{Study: study}, &ok)
}
