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
	"slices"
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

// failure is the body of a reply to a call that failed.
type failure struct {
	Code consilium.Code
	Msg  string
}

// Kinds of replies.
const (
	replyDone   = 0
	replyFailed = 1
)

type lanesCall struct {
	Study         consilium.StudyID
	Round         uint32
	Offset, Count int
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

// A frame is its length, the number of the call, what it is (a method, or a kind of
// reply) and a body. Bodies are gob, but for lanes, sums and states, which are
// long: those are bare, so that what passes leaves little garbage.
const frameHead = 4 + 8 + 1

type frame struct {
	id   uint64
	kind uint8
	body []byte // of the pool; release gives it back
}

// bodies are buffers for bodies. Nothing that is decoded from one keeps a part of
// it.
var bodies = sync.Pool{New: func() any { return new([]byte) }}

// pooledSize bounds the buffers that are kept.
const pooledSize = 4 << 20

func newBody(n int) []byte {
	b := *bodies.Get().(*[]byte)
	return slices.Grow(b[:0], n)[:n]
}

func release(b []byte) {
	if cap(b) <= pooledSize {
		bodies.Put(&b)
	}
}

func writeFrame(w io.Writer, f frame) error {
	if len(f.body) > maxFrame {
		return fmt.Errorf("hatch: a frame of %d bytes, at most %d", len(f.body), maxFrame)
	}
	var head [frameHead]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(f.body)))
	binary.BigEndian.PutUint64(head[4:], f.id)
	head[12] = f.kind
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	_, err := w.Write(f.body)
	return err
}

func readFrame(r io.Reader) (frame, error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return frame{}, fmt.Errorf("hatch: a frame of %d bytes, at most %d", n, maxFrame)
	}
	f := frame{binary.BigEndian.Uint64(head[4:]), head[12], newBody(int(n))}
	if _, err := io.ReadFull(r, f.body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	return f, nil
}

// sums are the body of callSums: the study's name with its length, round, offset,
// and the sums as 32-bit integers.
func encodeSums(study consilium.StudyID, round uint32, offset int, sums []int64) ([]byte, error) {
	b := newBody(0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(study)))
	b = append(b, study...)
	b = binary.BigEndian.AppendUint32(b, round)
	b = binary.BigEndian.AppendUint64(b, uint64(offset))
	b = slices.Grow(b, 4*len(sums))
	for _, x := range sums {
		if x != int64(int32(x)) {
			return nil, consilium.ErrInvalid.Withf("a sum of %d: no lanes sum to this", x)
		}
		b = binary.BigEndian.AppendUint32(b, uint32(x))
	}
	return b, nil
}

type sumsCall struct {
	study  consilium.StudyID
	round  uint32
	offset int
	sums   []int64
}

// sumBuffers are for what decodeSums returns.
var sumBuffers = sync.Pool{New: func() any { return new([]int64) }}

func decodeSums(b []byte) (c sumsCall, err error) {
	bad := errors.New("hatch: sums of a broken length")
	if len(b) < 2 {
		return c, bad
	}
	n := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; len(b) < n+12 || (len(b)-n)%4 != 0 {
		return c, bad
	}
	c.study, b = consilium.StudyID(b[:n]), b[n:]
	c.round, c.offset = binary.BigEndian.Uint32(b), int(binary.BigEndian.Uint64(b[4:]))
	b = b[12:]
	c.sums = slices.Grow((*sumBuffers.Get().(*[]int64))[:0], len(b)/4)
	for ; len(b) > 0; b = b[4:] {
		c.sums = append(c.sums, int64(int32(binary.BigEndian.Uint32(b))))
	}
	return c, nil
}

func encodeLanes(lanes []int32) []byte {
	b := newBody(4 * len(lanes))
	for i, x := range lanes {
		binary.BigEndian.PutUint32(b[4*i:], uint32(x))
	}
	return b
}

func decodeLanes(b []byte) ([]int32, error) {
	if len(b)%4 != 0 {
		return nil, errors.New("hatch: lanes of a broken length")
	}
	out := make([]int32, len(b)/4)
	for i := range out {
		out[i] = int32(binary.BigEndian.Uint32(b[4*i:]))
	}
	return out, nil
}

func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	err := gob.NewEncoder(&buf).Encode(v)
	return buf.Bytes(), err
}

func decode(b []byte, v any) error { return gob.NewDecoder(bytes.NewReader(b)).Decode(v) }

// Serve answers calls on r and w with v until r ends or ctx does. Calls run
// side by side. The first error of v around ErrStorage ends it at once, with that
// error and without an answer, to this call or to any that still runs: the caller
// ends the process, and with it the goroutine that still reads r.
func Serve(ctx context.Context, r io.Reader, w io.Writer, v Vault) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)
	unsound := func() bool { return errors.Is(context.Cause(ctx), ErrStorage) }
	var mu sync.Mutex // guards w
	s := &server{v: v, given: map[consilium.StudyID][]byte{}}
	requests, ended := make(chan frame), make(chan error, 1)
	go func() {
		in := bufio.NewReader(r)
		for {
			req, err := readFrame(in)
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- req:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		var req frame
		select {
		case req = <-requests:
		case err := <-ended:
			switch {
			case unsound(): // in the same moment
				return context.Cause(ctx)
			case errors.Is(err, io.EOF):
				return nil
			}
			return err
		case <-ctx.Done():
		}
		if unsound() { // though a request came in the same moment
			return context.Cause(ctx)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		running.Go(func() {
			body, err := s.dispatch(ctx, req)
			if errors.Is(err, ErrStorage) {
				cancel(err)
				return
			}
			release(req.body)
			rep := frame{id: req.id, kind: replyDone, body: body}
			if err != nil {
				rep.kind = replyFailed
				rep.body, err = encode(failure{consilium.CodeOf(err), err.Error()})
			}
			mu.Lock()
			defer mu.Unlock()
			if unsound() { // meanwhile another call found the storage broken
				return
			}
			if err == nil {
				err = writeFrame(w, rep)
			}
			if err != nil {
				cancel(nil)
			}
			release(rep.body)
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

// forget drops what has come of a study's state.
func (s *server) forget(study consilium.StudyID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.given, study)
}

func (s *server) dispatch(ctx context.Context, req frame) (_ []byte, err error) {
	v := s.v
	switch req.kind {
	case callAdmit:
		return answer(req.body, func(a AdmitRequest) (AdmitReply, error) { return v.Admit(ctx, a) })
	case callStart:
		return answer(req.body, func(a StartRequest) (Shape, error) { return v.Start(ctx, a) })
	case callLocal:
		return answer(req.body, func(a LocalRequest) (LocalReply, error) {
			if a.State == nil {
				a.State, a.Held = s.whole(a.Study, a.Held)
			}
			return v.Local(ctx, a)
		})
	case callLanes:
		var a lanesCall
		if err := decode(req.body, &a); err != nil {
			return nil, err
		}
		lanes, err := v.Lanes(ctx, a.Study, a.Round, a.Offset, a.Count)
		if err != nil {
			return nil, err
		}
		return encodeLanes(lanes), nil
	case callSums:
		a, err := decodeSums(req.body)
		if err != nil {
			return nil, err
		}
		defer sumBuffers.Put(&a.sums)
		return nil, v.Sums(ctx, a.study, a.round, a.offset, a.sums)
	case callUpdate:
		return answer(req.body, func(a UpdateRequest) (Shape, error) { return v.Update(ctx, a) })
	case callAdopt:
		return answer(req.body, func(a AdoptRequest) (Shape, error) {
			if a.State == nil {
				a.State, a.Held = s.whole(a.Study, a.Held)
			}
			return v.Adopt(ctx, a)
		})
	case callRelease:
		return answer(req.body, func(a ReleaseRequest) (ReleaseReply, error) { return v.Release(ctx, a) })
	case callOpening:
		return answer(req.body, func(a studyCall) (bool, error) { return true, v.Opening(ctx, a.Study, a.Round) })
	case callOpened:
		return answer(req.body, func(a studyCall) (bool, error) { return true, v.Opened(ctx, a.Study, a.Round) })
	case callForget:
		return answer(req.body, func(a studyCall) (bool, error) {
			s.forget(a.Study)
			return true, v.Forget(ctx, a.Study)
		})
	case callState:
		var a stateCall
		if err := decode(req.body, &a); err != nil {
			return nil, err
		}
		return v.State(ctx, a.Study, a.Offset, a.Count)
	case callGive:
		return answer(req.body, func(a giveCall) (bool, error) { return true, s.give(a) })
	default:
		return nil, fmt.Errorf("hatch: unknown call %d", req.kind)
	}
}

// Pipe calls a vault at the other end of a pair of streams.
type Pipe struct {
	w io.Writer

	mu      sync.Mutex // guards the rest and writes to w
	next    uint64
	waiting map[uint64]chan frame
	err     error // set once the reader has ended
}

var _ Vault = (*Pipe)(nil)

// Dial makes a Pipe; the caller runs its Run.
func Dial(w io.Writer) *Pipe { return &Pipe{w: w, waiting: map[uint64]chan frame{}} }

// Run reads replies until r ends, then fails every call that still waits.
func (p *Pipe) Run(r io.Reader) error {
	in := bufio.NewReader(r)
	for {
		rep, err := readFrame(in)
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
		ch := p.waiting[rep.id]
		delete(p.waiting, rep.id)
		p.mu.Unlock()
		if ch != nil {
			ch <- rep
		}
	}
}

// call makes a call of gob.
func (p *Pipe) call(ctx context.Context, method uint8, arg, out any) error {
	body, err := encode(arg)
	if err != nil {
		return err
	}
	return p.bare(ctx, method, body, func(b []byte) error { return decode(b, out) })
}

// bare makes a call with a body as it is. read must not keep a part of the reply.
func (p *Pipe) bare(ctx context.Context, method uint8, body []byte, read func([]byte) error) error {
	ch := make(chan frame, 1)
	p.mu.Lock()
	if p.err != nil {
		p.mu.Unlock()
		return p.err
	}
	p.next++
	id := p.next
	p.waiting[id] = ch
	err := writeFrame(p.w, frame{id, method, body})
	if err != nil {
		delete(p.waiting, id)
	}
	p.mu.Unlock()
	release(body)
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
		defer release(rep.body)
		if rep.kind == replyDone {
			return read(rep.body)
		}
		var f failure
		if err := decode(rep.body, &f); err != nil {
			return err
		}
		return &consilium.Error{Code: f.Code, Msg: f.Msg}
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
	body, err := encode(stateCall{study, offset, count})
	if err != nil {
		return nil, err
	}
	err = p.bare(ctx, callState, body, func(b []byte) error {
		r = slices.Clone(b)
		return nil
	})
	return r, err
}

func (p *Pipe) Lanes(ctx context.Context, study consilium.StudyID, round uint32, offset, count int) (r []int32, err error) {
	body, err := encode(lanesCall{study, round, offset, count})
	if err != nil {
		return nil, err
	}
	err = p.bare(ctx, callLanes, body, func(b []byte) (err error) {
		r, err = decodeLanes(b)
		return err
	})
	return r, err
}

func (p *Pipe) Sums(ctx context.Context, study consilium.StudyID, round uint32, offset int, sums []int64) error {
	body, err := encodeSums(study, round, offset, sums)
	if err != nil {
		return err
	}
	return p.bare(ctx, callSums, body, func([]byte) error { return nil })
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
