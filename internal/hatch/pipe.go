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
// side by side. The first error of v around ErrStorage ends it at once, with that
// error and without an answer: the caller ends the process, and with it the
// goroutine that still reads r.
func Serve(ctx context.Context, r io.Reader, w io.Writer, v Vault) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)
	var mu sync.Mutex // guards w
	requests, ended := make(chan request), make(chan error, 1)
	go func() {
		in := bufio.NewReader(r)
		for {
			var req request
			if err := readFrame(in, &req); err != nil {
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
		var req request
		select {
		case req = <-requests:
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-ctx.Done():
			if cause := context.Cause(ctx); errors.Is(cause, ErrStorage) {
				return cause
			}
			return ctx.Err()
		}
		running.Go(func() {
			body, err := dispatch(ctx, v, req)
			if errors.Is(err, ErrStorage) {
				cancel(err)
				return
			}
			rep := reply{ID: req.ID, Body: body}
			if err != nil {
				rep.Code, rep.Msg = consilium.CodeOf(err), err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			if err := writeFrame(w, rep); err != nil {
				cancel(nil)
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

func dispatch(ctx context.Context, v Vault, req request) (_ []byte, err error) {
	switch req.Method {
	case callAdmit:
		return answer(req.Body, func(a AdmitRequest) (AdmitReply, error) { return v.Admit(ctx, a) })
	case callStart:
		return answer(req.Body, func(a StartRequest) (Shape, error) { return v.Start(ctx, a) })
	case callLocal:
		return answer(req.Body, func(a LocalRequest) (LocalReply, error) { return v.Local(ctx, a) })
	case callLanes:
		return answer(req.Body, func(a lanesCall) ([]int32, error) { return v.Lanes(ctx, a.Study, a.Round, a.Offset, a.Count) })
	case callSums:
		return answer(req.Body, func(a sumsCall) (bool, error) { return true, v.Sums(ctx, a.Study, a.Round, a.Offset, a.Sums) })
	case callUpdate:
		return answer(req.Body, func(a UpdateRequest) (Shape, error) { return v.Update(ctx, a) })
	case callAdopt:
		return answer(req.Body, func(a AdoptRequest) (Shape, error) { return v.Adopt(ctx, a) })
	case callRelease:
		return answer(req.Body, func(a ReleaseRequest) (ReleaseReply, error) { return v.Release(ctx, a) })
	case callOpening:
		return answer(req.Body, func(a studyCall) (bool, error) { return true, v.Opening(ctx, a.Study, a.Round) })
	case callOpened:
		return answer(req.Body, func(a studyCall) (bool, error) { return true, v.Opened(ctx, a.Study, a.Round) })
	case callForget:
		return answer(req.Body, func(a studyCall) (bool, error) { return true, v.Forget(ctx, a.Study) })
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
	err = p.call(ctx, callLocal, a, &r)
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
	err = p.call(ctx, callAdopt, a, &r)
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
