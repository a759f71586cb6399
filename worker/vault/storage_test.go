package vault

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"consilium"
	"consilium/internal/durable"
	"consilium/internal/hatch"
	"consilium/policy"
)

// fullLog is a decision log without space.
type fullLog struct{}

func (fullLog) Append([]byte) error { return syscall.ENOSPC }

// TestStorageIsNoAnswer: a vault that cannot write says that, and nothing about
// the study: it declines none, and refuses none by a rule. Opened anew on a disk
// with space, it goes on.
func TestStorageIsNoAnswer(t *testing.T) {
	h := newHospital(t, someAges(24), nil)
	storage := func(what string, err error) {
		t.Helper()
		var e *consilium.Error
		if !errors.Is(err, hatch.ErrStorage) || errors.As(err, &e) && e.Code != consilium.ErrDiskFull.Code {
			t.Errorf("%s: %v", what, err)
		}
	}
	v := h.open()
	log := v.decisions
	var err error
	if v.decisions, err = policy.NewAudit(fullLog{}, h.cfg.Pseudonym, 0, consilium.Digest{}); err != nil {
		t.Fatal(err)
	}
	r, err := h.admit(v)
	if r.Code != "" {
		t.Errorf("the study is declined: %+v", r)
	}
	storage("admission", err)
	v.decisions = log
	if r, err := h.admit(v); err != nil || !r.Allow {
		t.Fatal(r, err)
	}
	shape := h.start(v)
	local := func() error {
		_, err := v.Local(t.Context(), hatch.LocalRequest{Study: h.study, Round: 1, State: shape.State})
		return err
	}
	// A file where the directory belongs: nothing can be put there, by whomever.
	in := filepath.Dir(v.pendingPath(h.study))
	if err := os.WriteFile(in, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	storage("what was contributed", local())
	if err := os.Remove(in); err != nil {
		t.Fatal(err)
	}
	v.replays.open[h.study].log.Close()
	storage("what a replay needs", local())
	v.Close()
	v = h.open()
	shape = h.start(v)
	h.round(v, 1, shape.State)
}

// TestStored: what does not fit into a journal would not fit after a restart, which
// must not be tried for ever.
func TestStored(t *testing.T) {
	j, err := durable.Open(filepath.Join(t.TempDir(), "j"))
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if err := stored(j.Append(1, make([]byte, durable.MaxRecord+1))); err == nil || errors.Is(err, hatch.ErrStorage) {
		t.Errorf("a record that is too large: %v", err)
	}
	if err := stored(nil); err != nil {
		t.Error(err)
	}
}
