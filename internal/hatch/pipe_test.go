package hatch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"sync"
	"testing"

	"consilium"
)

// echo answers every call with values that depend on its argument.
type echo struct{ Vault }

func (echo) Admit(_ context.Context, a AdmitRequest) (AdmitReply, error) {
	if len(a.Submission) == 0 {
		return AdmitReply{}, consilium.ErrPolicy.Withf("no submission")
	}
	return AdmitReply{Allow: true, Reason: string(a.Study), Records: []Record{{Type: "decision", JSON: a.Submission}}}, nil
}

func (echo) Lanes(_ context.Context, _ consilium.StudyID, round uint32, offset, count int) ([]int32, error) {
	out := make([]int32, count)
	for i := range out {
		out[i] = int32(round)*1000 + int32(offset+i)
	}
	return out, nil
}

func (echo) Opened(context.Context, consilium.StudyID, uint32) error { return nil }

// broken is a vault whose disk refuses Opening, while Start is half done: that one
// ends well, but only when all calls are called off.
type broken struct {
	echo
	started chan struct{}
}

func (b broken) Start(ctx context.Context, _ StartRequest) (Shape, error) {
	close(b.started)
	<-ctx.Done()
	return Shape{Size: 7}, nil
}

func (b broken) Opening(context.Context, consilium.StudyID, uint32) error {
	<-b.started
	return fmt.Errorf("%w: %w", ErrStorage, consilium.ErrDiskFull)
}

// TestServeEndsWithItsStorage: a vault that cannot write answers nothing and ends,
// although its gate's end of the pipe stays open; nor does it answer a call that ran
// beside the one that found it out.
func TestServeEndsWithItsStorage(t *testing.T) {
	toVault, fromGate := io.Pipe()
	toGate, fromVault := io.Pipe()
	defer fromGate.Close()
	served := make(chan error, 1)
	go func() {
		err := Serve(t.Context(), toVault, fromVault, broken{started: make(chan struct{})})
		served <- err
		fromVault.Close()
	}()
	p := Dial(fromGate)
	go p.Run(toGate)
	if err := p.Opened(t.Context(), "s-x", 1); err != nil {
		t.Fatal(err)
	}
	beside := make(chan error, 1)
	go func() {
		shape, err := p.Start(t.Context(), StartRequest{Study: "s-x"})
		if err == nil {
			t.Errorf("a vault with a broken disk answers %+v", shape)
		}
		beside <- err
	}()
	err := p.Opening(t.Context(), "s-x", 1)
	var answer *consilium.Error
	if err == nil || errors.As(err, &answer) {
		t.Errorf("the gate is told %v: that is an answer about the study", err)
	}
	if err := <-served; !errors.Is(err, ErrStorage) || !errors.Is(err, consilium.ErrDiskFull) {
		t.Errorf("the vault ends with %v", err)
	}
	if err := <-beside; errors.As(err, &answer) {
		t.Errorf("the gate is told %v of the call beside", err)
	}
}

// dial is a pipe to a vault, and what ends both.
func dial(t *testing.T, v Vault) (*Pipe, func()) {
	toVault, fromGate := io.Pipe()
	toGate, fromVault := io.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := Serve(t.Context(), toVault, fromVault, v); err != nil {
			t.Error(err)
		}
		fromVault.Close()
	})
	p := Dial(fromGate)
	wg.Go(func() {
		if err := p.Run(toGate); err != nil {
			t.Error(err)
		}
	})
	return p, func() {
		fromGate.Close()
		wg.Wait()
	}
}

func TestPipe(t *testing.T) {
	p, end := dial(t, echo{})
	ctx := t.Context()
	got, err := p.Admit(ctx, AdmitRequest{Study: "s-x", Submission: []byte("{}")})
	want := AdmitReply{Allow: true, Reason: "s-x", Records: []Record{{Type: "decision", JSON: []byte("{}")}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("Admit = %+v, %v", got, err)
	}
	if _, err := p.Admit(ctx, AdmitRequest{}); !errors.Is(err, consilium.ErrPolicy) {
		t.Errorf("the error's code is lost: %v", err)
	}
	var calls sync.WaitGroup
	for r := range uint32(20) {
		calls.Go(func() {
			lanes, err := p.Lanes(ctx, "s-x", r, 7, 3)
			if err != nil || !reflect.DeepEqual(lanes, []int32{int32(r)*1000 + 7, int32(r)*1000 + 8, int32(r)*1000 + 9}) {
				t.Errorf("round %d: Lanes = %v, %v", r, lanes, err)
			}
		})
	}
	calls.Wait()
	if err := p.Opened(ctx, "s-x", 1); err != nil {
		t.Error(err)
	}
	end()
	if _, err := p.Lanes(ctx, "s-x", 1, 0, 1); err == nil {
		t.Error("a call to an ended vault succeeds")
	}
}

// shelf is a vault that holds one long state, and the sums that came.
type shelf struct {
	Vault
	mu    sync.Mutex
	state []byte
	asked []string
	sums  []int64
}

func (s *shelf) take(what string, state []byte, held consilium.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, fmt.Sprintf("%s %d %v", what, len(state), !held.IsZero()))
	if held.IsZero() {
		s.state = slices.Clone(state)
		return nil
	}
	if consilium.DomainState.Digest(s.state) != held {
		return consilium.ErrBlobMissing.Withf("not this one")
	}
	return nil
}

func (s *shelf) Adopt(_ context.Context, a AdoptRequest) (Shape, error) {
	return Shape{Size: len(a.State)}, s.take("adopt", a.State, a.Held)
}

func (s *shelf) Local(_ context.Context, a LocalRequest) (LocalReply, error) {
	return LocalReply{Lanes: int(a.Round)}, s.take("local", a.State, a.Held)
}

func (s *shelf) State(_ context.Context, _ consilium.StudyID, offset, count int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.state[offset : offset+count]), nil
}

func (s *shelf) Sums(_ context.Context, study consilium.StudyID, round uint32, offset int, sums []int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if study != "s-x" || round != 7 || offset != len(s.sums) {
		return consilium.ErrInvalid.Withf("%s, round %d, from %d after %d", study, round, offset, len(s.sums))
	}
	s.sums = append(s.sums, sums...)
	return nil
}

func (s *shelf) Forget(context.Context, consilium.StudyID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = nil
	return nil
}

// A state that is longer than a message passes in pieces, and only to a vault that
// has another one.
func TestLongStates(t *testing.T) {
	v := &shelf{state: []byte("an older one")}
	p, end := dial(t, v)
	defer end()
	ctx := t.Context()
	long := make([]byte, 3*WholeState+5)
	for i := range long {
		long[i] = byte(i * i >> 3)
	}
	local := func(state []byte) {
		t.Helper()
		if r, err := p.Local(ctx, LocalRequest{Study: "s-x", Round: 9, State: state}); err != nil || r.Lanes != 9 {
			t.Fatal(r, err)
		}
	}
	adopt := func(state []byte) {
		t.Helper()
		if _, err := p.Adopt(ctx, AdoptRequest{Study: "s-x", Round: 9, State: state}); err != nil {
			t.Fatal(err)
		}
	}
	adopt(long)
	local(long)
	adopt(long)
	other := slices.Clone(long)
	other[len(other)-1]++
	local(other)
	adopt([]byte("short"))
	adopt(other)
	n := len(long)
	want := []string{"adopt 0 true", fmt.Sprintf("adopt %d false", n), "local 0 true", "adopt 0 true",
		"local 0 true", fmt.Sprintf("local %d false", n), "adopt 5 false", "adopt 0 true", fmt.Sprintf("adopt %d false", n)}
	if !slices.Equal(v.asked, want) {
		t.Errorf("%q, want %q", v.asked, want)
	}
	got, err := ReadState(ctx, p, "s-x", &Shape{Size: n})
	if err != nil || !bytes.Equal(got, other) {
		t.Errorf("a state of %d bytes, %v", len(got), err)
	}
	// Pieces that do not fit together are no state.
	s := &server{v: v, given: map[consilium.StudyID][]byte{}}
	for _, c := range []giveCall{
		{"s-x", 0, 0, nil}, {"s-x", 0, maxState + 1, nil}, {"s-x", 5, 10, make([]byte, 5)}, {"s-x", 0, 4, make([]byte, 5)},
	} {
		if err := s.give(c); err == nil {
			t.Errorf("%d bytes from %d of %d", len(c.Piece), c.Offset, c.Size)
		}
	}
	if err := s.give(giveCall{"s-x", 0, 10, make([]byte, 5)}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []giveCall{{"s-x", 5, 11, make([]byte, 5)}, {"s-x", 4, 10, make([]byte, 5)}, {"s-x", 5, 10, make([]byte, 6)}} {
		if err := s.give(c); err == nil {
			t.Errorf("%d bytes from %d of %d, after 5 of 10", len(c.Piece), c.Offset, c.Size)
		}
	}
	if b, _ := s.whole("s-x", consilium.DomainState.Digest(make([]byte, 5))); b != nil {
		t.Error("half of a state")
	}
	if err := s.give(giveCall{"s-x", 5, 10, make([]byte, 5)}); err != nil {
		t.Fatal(err)
	}
	if b, _ := s.whole("s-x", consilium.DomainState.Digest(make([]byte, 9))); b != nil {
		t.Error("a state of another digest")
	}
	if b, held := s.whole("s-x", consilium.DomainState.Digest(make([]byte, 10))); len(b) != 10 || !held.IsZero() {
		t.Error("a state that was given is not there")
	}
	if b, _ := s.whole("s-x", consilium.DomainState.Digest(make([]byte, 10))); b != nil {
		t.Error("a state that was taken is there still")
	}
	// What came of a state is forgotten with its study, and with no other.
	for _, study := range []consilium.StudyID{"s-x", "s-y"} {
		if err := s.give(giveCall{study, 0, 10, make([]byte, 5)}); err != nil {
			t.Fatal(err)
		}
	}
	body, err := encode(studyCall{Study: "s-x"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.dispatch(ctx, frame{kind: callForget, body: body}); err != nil {
		t.Fatal(err)
	}
	if len(s.given) != 1 || s.given["s-y"] == nil {
		t.Errorf("states of %d studies, after one of two is forgotten", len(s.given))
	}
}

// Sums pass bare: whatever they are, the vault has the same, or the gate an error.
func TestSums(t *testing.T) {
	v := &shelf{}
	p, end := dial(t, v)
	defer end()
	all := []int64{0, 1, -1, math.MaxInt32, math.MinInt32, 6 * 32767}
	for range 3 {
		if err := p.Sums(t.Context(), "s-x", 7, len(v.sums), all); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(v.sums, slices.Concat(all, all, all)) {
		t.Errorf("%v", v.sums)
	}
	for _, x := range []int64{math.MaxInt32 + 1, math.MinInt32 - 1, math.MaxInt64} {
		if err := p.Sums(t.Context(), "s-x", 7, len(v.sums), []int64{1, x}); !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("%d: %v", x, err)
		}
	}
	if err := p.Sums(t.Context(), "s-x", 8, 0, all); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("another round: %v", err)
	}
	b, err := encodeSums("s-x", 7, 3, all)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(b) {
		c, err := decodeSums(b[:n])
		if whole := n >= 17 && (n-17)%4 == 0; (err == nil) != whole || whole && len(c.sums) != (n-17)/4 {
			t.Errorf("%d bytes: %v, %v", n, c, err)
		}
	}
	if _, err := decodeLanes(make([]byte, 5)); err == nil {
		t.Error("five bytes are no lanes")
	}
}
