package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hatch"
	"consilium/internal/hybrid"
	"consilium/internal/trail"
	"consilium/worker"
)

// hostileSite is one hospital on the other side of a Hostile: a real gate with
// a small vault.
type hostileSite struct {
	h      *Hostile
	id     consilium.SiteID
	key    *hybrid.Key
	values []int32

	// h.mu guards the rest.
	running bool
	gate    *worker.Gate
	vault   *Tally
	ctx     context.Context
	stop    context.CancelFunc
	done    chan struct{}
	err     error
	halt    string
	dead    chan struct{}
}

func (h *Hostile) newSite(id consilium.SiteID, i int) (*hostileSite, error) {
	key, err := hostileKey("site " + string(id))
	if err != nil {
		return nil, err
	}
	return &hostileSite{h: h, id: id, key: key, values: tallyValues(i)}, nil
}

// tallyValues are the secret values of the i-th hospital.
func tallyValues(i int) []int32 {
	return []int32{int32(101 + 37*i), int32(-53 * (i + 1)), int32(7*i*i - 20), int32(1000 - 91*i)}
}

// memoryLedger takes the anchors of a trail.
type memoryLedger struct {
	mu sync.Mutex
	n  uint64
}

func (l *memoryLedger) Append(context.Context, []byte) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	return l.n - 1, nil
}

// Start opens the gate of a hospital from its directory, with a fresh vault,
// and runs it.
func (h *Hostile) Start(id consilium.SiteID) error {
	s := h.sites[id]
	if s == nil {
		return fmt.Errorf("no hospital %s", id)
	}
	board := map[string]consilium.PublicKey{}
	for _, m := range h.roster.Board.Members {
		board[m.ID] = m.Key
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.running {
		return fmt.Errorf("%s is running", id)
	}
	vault := NewTally(id, s.values)
	gate, err := worker.Open(worker.Config{
		Site: id, Dir: h.Dir(id), Signer: s.key, Secret: s.key.Seed(), Roster: h.signed, BoardKeys: board, Threshold: h.roster.Board.Threshold,
		Coordinator: link{h, id}, Vault: vault, Ledger: &memoryLedger{}, Now: h.now, Log: slog.New(&ear{h: h, site: id}), Crash: s.crash,
		Limits: worker.Limits{Memory: h.memory[id]}, FS: h.disks[id],
	})
	if err != nil {
		return err
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.running, s.gate, s.vault, s.done, s.err = true, gate, vault, make(chan struct{}), nil
	ctx, done := s.ctx, s.done
	go func() {
		defer close(done)
		if err := gate.Run(ctx); err != nil && ctx.Err() == nil {
			h.mu.Lock()
			s.err = err
			h.mu.Unlock()
		}
	}()
	return nil
}

// StartAll starts every hospital.
func (h *Hostile) StartAll() error {
	for _, id := range h.ids {
		if err := h.Start(id); err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
	}
	return nil
}

// Stop ends a hospital's gate wherever it is and returns what went wrong in it.
func (h *Hostile) Stop(id consilium.SiteID) error {
	h.mu.Lock()
	s := h.sites[id]
	if !s.running {
		h.mu.Unlock()
		return nil
	}
	s.running = false
	s.stop()
	h.mu.Unlock()
	<-s.done
	err := s.gate.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.change()
	return errors.Join(s.err, err)
}

// Ended waits until a hospital's gate has ended by itself. Stop says why.
func (h *Hostile) Ended(ctx context.Context, id consilium.SiteID) error {
	h.mu.Lock()
	done := h.sites[id].done
	h.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the end of %s: %w", id, ctx.Err())
	}
}

// Close ends every gate.
func (h *Hostile) Close() error {
	var errs []error
	for _, id := range h.ids {
		if err := h.Stop(id); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// HaltAt makes a gate die at a named crash point, once; the channel closes
// when it has. Stop and Start bring it back.
func (h *Hostile) HaltAt(id consilium.SiteID, point string) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sites[id]
	s.halt, s.dead = point, make(chan struct{})
	return s.dead
}

// crash is the gate's hook. A dying gate does nothing more: its goroutine
// waits for Stop and ends without another instruction of the gate.
func (s *hostileSite) crash(point string) {
	s.h.mu.Lock()
	if s.halt != point {
		s.h.mu.Unlock()
		return
	}
	s.halt = ""
	ctx := s.ctx
	close(s.dead)
	s.h.mu.Unlock()
	<-ctx.Done()
	runtime.Goexit()
}

// Trail is a hospital's trail of a study. The gate must not have been stopped
// by Stop before its last entry was read.
func (h *Hostile) Trail(id consilium.SiteID, study consilium.StudyID) ([]trail.Entry, error) {
	h.mu.Lock()
	s := h.sites[id]
	gate := s.gate
	h.mu.Unlock()
	if gate == nil {
		return nil, nil
	}
	signed, err := gate.Trail(study)
	if err != nil {
		return nil, err
	}
	return signed.Verify(s.key.Public(), study)
}

// ear hears what a gate logs.
type ear struct {
	h     *Hostile
	site  consilium.SiteID
	study consilium.StudyID
}

func (e *ear) Enabled(context.Context, slog.Level) bool { return true }
func (e *ear) WithGroup(string) slog.Handler            { return e }

func (e *ear) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := *e
	for _, a := range attrs {
		if a.Key == "study" {
			out.study = consilium.StudyID(a.Value.String())
		}
	}
	return &out
}

func (e *ear) Handle(_ context.Context, r slog.Record) error {
	n := Note{Site: e.site, Study: e.study, Text: r.Message}
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "err":
			n.Err = a.Value.String()
		case "seq":
			n.seq, n.isSeq = a.Value.Uint64(), true
		}
		return true
	})
	e.h.mu.Lock()
	defer e.h.mu.Unlock()
	e.h.notes = append(e.h.notes, n)
	e.h.change()
	return nil
}

// Tally is the smallest vault that has something to hide: four numbers, no
// table, no policy. In round 1 the hospitals sum a one-hot vector, which shows
// who is in the sum, and their values; in every later round the distance of
// their values from the mean so far, so that a round depends on the one before.
// Its contributors are frozen, unless the study is a learned one.
type Tally struct {
	site   consilium.SiteID
	values []int32

	mu      sync.Mutex // guards the rest
	broken  error
	audits  int // vectors that were asked for to audit a contribution
	lose    int // updates that are still to lose the state
	studies map[consilium.StudyID]*tallyStudy
}

// Break makes a hospital's local steps fail from now on.
func (h *Hostile) Break(id consilium.SiteID, err error) {
	t := h.sites[id].vault
	t.mu.Lock()
	defer t.mu.Unlock()
	t.broken = err
}

// Hold keeps a hospital from beginning a local step, until it is called with false.
func (h *Hostile) Hold(id consilium.SiteID, held bool) {
	h.mu.Lock()
	gate := h.sites[id].gate
	h.mu.Unlock()
	gate.Pause(held)
}

// Change gives a hospital other rows from now on.
func (h *Hostile) Change(id consilium.SiteID, values []int32) {
	t := h.sites[id].vault
	t.mu.Lock()
	defer t.mu.Unlock()
	t.values = values
}

// Lose makes the next updates of a hospital's vault fail and lose the state of
// their study, as an update does that ends in the middle. It returns how many are
// left.
func (h *Hostile) Lose(id consilium.SiteID, updates int) func() int {
	h.mu.Lock()
	t := h.sites[id].vault
	h.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lose = updates
	return func() int {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.lose
	}
}

type tallyStudy struct {
	position consilium.Position // among the study's hospitals of all epochs
	members  int                // so many
	rounds   int
	frozen   bool
	state    tallyState
	lanes    []int32
	sums     []int64
}

// tallyState is the state of the analysis.
type tallyState struct {
	Round uint32    `json:"round"` // closed so far
	Who   []int64   `json:"who"`
	Sums  [][]int64 `json:"sums"` // per round
}

// TallyResult is the released result.
type TallyResult = tallyState

// NewTally makes the vault of a hospital.
func NewTally(site consilium.SiteID, values []int32) *Tally {
	return &Tally{site: site, values: values, studies: map[consilium.StudyID]*tallyStudy{}}
}

var _ hatch.Vault = (*Tally)(nil)

func (t *Tally) digest(domain consilium.Domain) consilium.Digest {
	return domain.Digest([]byte(t.site), fmt.Append(nil, t.values))
}

// Admit takes part in everything.
func (t *Tally) Admit(context.Context, hatch.AdmitRequest) (hatch.AdmitReply, error) {
	return hatch.AdmitReply{Allow: true, Decision: t.digest(consilium.DomainDecision), Records: []hatch.Record{{Type: "decision", JSON: []byte(`{"allow":true}`)}}}, nil
}

func (t *Tally) Start(_ context.Context, r hatch.StartRequest) (hatch.Shape, error) {
	charter, err := consilium.ParseCharter(r.Charter)
	if err != nil {
		return hatch.Shape{}, err
	}
	sub, err := consilium.ParseSubmission(r.Submission)
	if err != nil {
		return hatch.Shape{}, err
	}
	spec, err := consilium.ParseSpec(sub.SpecBytes)
	if err != nil {
		return hatch.Shape{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.studies[r.Study]
	if s == nil {
		s = &tallyStudy{}
		t.studies[r.Study] = s
	}
	s.position = consilium.Position(slices.Index(r.Sites, charter.Members[r.Position-1].Site) + 1)
	s.members, s.rounds, s.frozen, s.state = len(r.Sites), spec.Rounds.Max, spec.FixedContributors(), tallyState{}
	return s.shape(s.state)
}

func (s *tallyStudy) shape(st tallyState) (hatch.Shape, error) {
	b, err := json.Marshal(st)
	if err != nil {
		return hatch.Shape{}, err
	}
	out := hatch.Shape{State: b, Frozen: s.frozen, Done: int(st.Round) == s.rounds}
	if !out.Done {
		out.Layout = consilium.Layout{Blocks: []consilium.Block{
			{Name: "who", Kind: consilium.Learned16, Length: s.members, Clip: 1}, {Name: "values", Kind: consilium.Learned16, Length: 4, Clip: 1}}}
	}
	return out, nil
}

func (t *Tally) study(id consilium.StudyID) (*tallyStudy, error) {
	s := t.studies[id]
	if s == nil {
		return nil, fmt.Errorf("study %s is not started", id)
	}
	return s, nil
}

func (s *tallyStudy) read(b []byte) error {
	var st tallyState
	if err := json.Unmarshal(b, &st); err != nil {
		return err
	}
	s.state = st
	return nil
}

// tallyLanes are one hospital's lanes in the round that follows st.
func tallyLanes(st tallyState, members int, p consilium.Position, values []int32) []int32 {
	out := make([]int32, members, members+len(values))
	out[p-1] = 1
	var n int64
	for _, w := range st.Who {
		n += w
	}
	for k, v := range values {
		if st.Round > 0 {
			v -= int32(st.Sums[0][k] / n)
			v *= int32(st.Round)
		}
		out = append(out, v)
	}
	return out
}

func (t *Tally) Local(_ context.Context, r hatch.LocalRequest) (hatch.LocalReply, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.broken != nil {
		return hatch.LocalReply{}, t.broken
	}
	s, err := t.study(r.Study)
	if err != nil {
		return hatch.LocalReply{}, err
	}
	if r.Audit {
		t.audits++
	}
	if err := s.read(r.State); err != nil {
		return hatch.LocalReply{}, err
	}
	if s.state.Round+1 != r.Round {
		return hatch.LocalReply{}, fmt.Errorf("round %d from the state after round %d", r.Round, s.state.Round)
	}
	s.lanes = tallyLanes(s.state, s.members, s.position, t.values)
	return hatch.LocalReply{Contribute: true, Lanes: len(s.lanes), RowSet: t.digest(consilium.DomainRowSet),
		Decision: t.digest(consilium.DomainDecision), Ledger: t.digest(consilium.DomainBatch)}, nil
}

func (t *Tally) Lanes(_ context.Context, study consilium.StudyID, _ uint32, offset, count int) ([]int32, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.study(study)
	if err != nil {
		return nil, err
	}
	if offset < 0 || count < 0 || offset+count > len(s.lanes) {
		return nil, fmt.Errorf("lanes %d to %d of %d", offset, offset+count, len(s.lanes))
	}
	return append([]int32(nil), s.lanes[offset:offset+count]...), nil
}

// Sums takes those of the round that follows the state, as every vault does.
func (t *Tally) Sums(_ context.Context, study consilium.StudyID, round uint32, offset int, sums []int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.study(study)
	if err != nil {
		return err
	}
	if s.state.Round+1 != round {
		return consilium.ErrRoundClosed.Withf("sums of round %d, the vault is at %d", round, s.state.Round+1)
	}
	if offset == 0 {
		s.sums = nil
	}
	if offset != len(s.sums) {
		return fmt.Errorf("sums from %d after %d", offset, len(s.sums))
	}
	s.sums = append(s.sums, sums...)
	return nil
}

// State is never asked for: every state fits a shape.
func (t *Tally) State(context.Context, consilium.StudyID, int, int) ([]byte, error) {
	return nil, errors.New("a tally's state is short")
}

func (t *Tally) Update(_ context.Context, r hatch.UpdateRequest) (hatch.Shape, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.study(r.Study)
	if err != nil {
		return hatch.Shape{}, err
	}
	if len(s.sums) != s.members+4 {
		return hatch.Shape{}, fmt.Errorf("%d sums for %d lanes", len(s.sums), s.members+4)
	}
	if t.lose > 0 {
		t.lose--
		s.state, s.sums = tallyState{Round: r.Round + 100}, nil
		return hatch.Shape{}, consilium.ErrUnavailable.Withf("the update did not end")
	}
	if s.state.Round+1 != r.Round {
		return hatch.Shape{}, fmt.Errorf("an update with round %d of the state after round %d", r.Round, s.state.Round)
	}
	next := tallyState{Round: r.Round, Who: append([]int64(nil), s.sums[:s.members]...)}
	next.Sums = append(append([][]int64(nil), s.state.Sums...), append([]int64(nil), s.sums[s.members:]...))
	s.state = next
	return s.shape(next)
}

func (t *Tally) Adopt(_ context.Context, r hatch.AdoptRequest) (hatch.Shape, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.study(r.Study)
	if err != nil {
		return hatch.Shape{}, err
	}
	if err := s.read(r.State); err != nil {
		return hatch.Shape{}, err
	}
	if s.state.Round != r.Round {
		return hatch.Shape{}, fmt.Errorf("the state after round %d for round %d", s.state.Round, r.Round)
	}
	return s.shape(s.state)
}

func (t *Tally) Release(_ context.Context, r hatch.ReleaseRequest) (hatch.ReleaseReply, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.study(r.Study)
	if err != nil {
		return hatch.ReleaseReply{}, err
	}
	b, err := canon.Marshal(s.state)
	if err != nil {
		return hatch.ReleaseReply{}, err
	}
	return hatch.ReleaseReply{Allow: true, Decision: t.digest(consilium.DomainDecision), Result: b}, nil
}

func (t *Tally) Opening(context.Context, consilium.StudyID, uint32) error { return nil }
func (t *Tally) Opened(context.Context, consilium.StudyID, uint32) error  { return nil }

func (t *Tally) Forget(_ context.Context, study consilium.StudyID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.studies, study)
	return nil
}
