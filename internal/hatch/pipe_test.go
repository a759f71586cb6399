package hatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
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

// broken is a vault whose disk refuses the second call.
type broken struct{ echo }

func (broken) Opening(context.Context, consilium.StudyID, uint32) error {
	return fmt.Errorf("%w: %w", ErrStorage, consilium.ErrDiskFull)
}

// TestServeEndsWithItsStorage: a vault that cannot write answers nothing and ends,
// although its gate's end of the pipe stays open.
func TestServeEndsWithItsStorage(t *testing.T) {
	toVault, fromGate := io.Pipe()
	toGate, fromVault := io.Pipe()
	defer fromGate.Close()
	served := make(chan error, 1)
	go func() {
		err := Serve(t.Context(), toVault, fromVault, broken{})
		served <- err
		fromVault.Close()
	}()
	p := Dial(fromGate)
	go p.Run(toGate)
	if err := p.Opened(t.Context(), "s-x", 1); err != nil {
		t.Fatal(err)
	}
	err := p.Opening(t.Context(), "s-x", 1)
	var answer *consilium.Error
	if err == nil || errors.As(err, &answer) {
		t.Errorf("the gate is told %v: that is an answer about the study", err)
	}
	if err := <-served; !errors.Is(err, ErrStorage) || !errors.Is(err, consilium.ErrDiskFull) {
		t.Errorf("the vault ends with %v", err)
	}
}

func TestPipe(t *testing.T) {
	toVault, fromGate := io.Pipe()
	toGate, fromVault := io.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := Serve(t.Context(), toVault, fromVault, echo{}); err != nil {
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
	fromGate.Close()
	wg.Wait()
	if _, err := p.Lanes(ctx, "s-x", 1, 0, 1); err == nil {
		t.Error("a call to an ended vault succeeds")
	}
}
