package vault

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"consilium"
	"consilium/internal/hatch"
	"consilium/provenance"
	"consilium/provenance/chain"
	"consilium/provenance/chain/chaintest"
)

// TestLedgerIsWaitedFor: a witness that is down, a clock that is wrong and a
// witness that has not cosigned yet hold a study up and do not end it: what the
// gate is told may be repeated, no row is used, nothing is decided or logged, and
// afterwards the study goes on.
func TestLedgerIsWaitedFor(t *testing.T) {
	h := newHospital(t, someAges(24), nil)
	var ahead time.Duration
	h.cfg.Now = func() time.Time { return time.Now().Add(ahead) }
	v := h.open()
	waits := func(what string, v *Vault, shape *hatch.Shape) {
		t.Helper()
		before := len(v.logged(t))
		if r, err := h.admit(v); !errors.Is(err, consilium.ErrUnavailable) {
			t.Errorf("%s: the study is answered %+v, %v", what, r, err)
		}
		if shape != nil {
			r, err := v.Local(t.Context(), hatch.LocalRequest{Study: h.study, Round: 1, State: shape.State})
			if !errors.Is(err, consilium.ErrUnavailable) || r.Contribute {
				t.Errorf("%s: the round is answered %+v, %v", what, r, err)
			}
			if lanes, err := v.Lanes(t.Context(), h.study, 1, 0, 1); err == nil {
				t.Errorf("%s: rows were used: %v", what, lanes)
			}
		}
		if n := len(v.logged(t)); n != before {
			t.Errorf("%s: %d decisions were logged for nothing", what, n-before)
		}
	}
	ahead = 20 * time.Minute
	waits("enrolment, the witness is down", v, nil)
	ahead = 0
	if r, err := h.admit(v); err != nil || !r.Allow {
		t.Fatalf("afterwards the study is answered %+v, %v", r, err)
	}
	shape := h.start(v)
	ahead = 20 * time.Minute
	waits("the witness is down, or the clock is ahead", v, &shape)
	ahead = -24 * 365 * time.Hour
	if r, err := h.admit(v); !errors.Is(err, consilium.ErrUnavailable) {
		t.Errorf("the clock is a year back: the study is answered %+v, %v", r, err)
	}
	ahead = -5 * time.Minute
	waits("the clock was set back", v, &shape)
	ahead = 0

	other, err := provenance.NewWitnessKey("vault.test/other")
	if err != nil {
		t.Fatal(err)
	}
	old := h.cfg.Witnesses
	v.Close()
	h.cfg.Witnesses = provenance.SingleWitness(other.Verifier(), old.Witnesses[0].URL)
	v = h.open()
	again := h.start(v)
	waits("the roster names another witness", v, &again)
	v.Close()
	h.cfg.Witnesses = old
	v = h.open()
	h.start(v)
	h.round(v, 1, shape.State)
	v.Close()

	// An anchor that is too old is waited for like a witness.
	raw, err := os.ReadFile(filepath.Join(h.cfg.LedgerDir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := provenance.ParseCheckpoint(raw)
	if err != nil {
		t.Fatal(err)
	}
	h.cfg.Anchors = &chain.Watch{Dir: t.TempDir(), Contract: chain.Address{0xc0}, Blocks: filepath.Join(t.TempDir(), "blocks"), MaxAge: time.Hour}
	anchor := func(age time.Duration) {
		t.Helper()
		a, block, err := chaintest.Anchor(h.cfg.Anchors.Contract, 1, []provenance.Head{{Origin: c.Origin, Size: c.Size, Root: c.Root}}, 100, time.Now().Add(-age))
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(h.cfg.Anchors.Dir, "epoch-1.json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(h.cfg.Anchors.Blocks, []byte(block.String()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	v = h.open()
	anchor(2 * time.Hour)
	waits("enrolment, the newest anchor is too old", v, nil)
	anchor(time.Minute)
	if r, err := h.admit(v); err != nil || !r.Allow {
		t.Errorf("under an anchor that is new the study is answered %+v, %v", r, err)
	}
	h.start(v)
	anchor(2 * time.Hour)
	waits("the newest anchor is too old", v, &shape)
}

// TestRollbackIsNoWait: a ledger that got smaller is no trouble that passes, nor is
// another history, whatever their witnesses say or leave unsaid.
func TestRollbackIsNoWait(t *testing.T) {
	h := newHospital(t, someAges(24), nil)
	var ahead time.Duration
	h.cfg.Now = func() time.Time { return time.Now().Add(ahead) }
	v := h.open()
	at := filepath.Join(h.cfg.LedgerDir, "checkpoint")
	early, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	h.withdraw("p-00")
	if r, err := h.admit(v); err != nil || !r.Allow {
		t.Fatal(r, err)
	}
	shape := h.start(v)
	h.ledger.Close()
	last, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	c, err := provenance.ParseCheckpoint(last)
	if err != nil {
		t.Fatal(err)
	}
	fork, err := provenance.SignCheckpoint(c.Origin, c.Size, consilium.DomainCohort.Digest([]byte("another root")), h.log)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name  string
		bytes []byte
		late  time.Duration
		want  error
	}{
		{"a ledger that was rolled back", early, 0, provenance.ErrRollback},
		{"yesterday's copy", early, 20 * time.Minute, provenance.ErrRollback},
		{"another history, which the log alone signed", fork, 0, provenance.ErrSplitView},
	} {
		ahead = x.late
		if err := os.WriteFile(at, x.bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = v.Local(t.Context(), hatch.LocalRequest{Study: h.study, Round: 1, State: shape.State})
		if !errors.Is(err, x.want) || errors.Is(err, consilium.ErrUnavailable) {
			t.Errorf("%s: %v", x.name, err)
		}
		if r, err := h.admit(v); err != nil || r.Allow || r.Code != string(consilium.ErrLedger.Code) {
			t.Errorf("a study on %s: %+v, %v", x.name, r, err)
		}
	}
}
