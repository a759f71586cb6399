package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"consilium"
	"consilium/internal/durable"
	"consilium/internal/hatch"
)

// simVault is a hospital's vault whose vector is a single one, in the slot of
// the hospital and the round. A sum over a set of hospitals is then a one in the
// slot of each of them and zero everywhere else: a two is a double count, a
// missing one is a loss, a one elsewhere is somebody who was not in the set, or
// another round (the one-hot oracle of Divvi Up's janus).
type simVault struct {
	s    *sim
	h    *simSite
	site consilium.SiteID

	mu      sync.Mutex
	studies map[consilium.StudyID]*simAnalysis
}

type simAnalysis struct {
	all   []consilium.SiteID // of any roster: a slot outlives an epoch's positions
	own   int                // the hospital's number among them
	sites []consilium.SiteID // by position in the charter in force
	exact bool
	state []byte
	sums  []int64
}

func newSimVault(s *sim, h *simSite) *simVault {
	return &simVault{s: s, h: h, site: h.id, studies: map[consilium.StudyID]*simAnalysis{}}
}

// simRounds is how many rounds an analysis has at most.
const simRounds = 3

func (a *simAnalysis) slot(site, round int) int { return site*simRounds + round - 1 }

func (a *simAnalysis) shape(done bool) hatch.Shape {
	if done {
		return hatch.Shape{State: a.state, Done: true, Frozen: a.exact}
	}
	return hatch.Shape{State: a.state, Frozen: a.exact, Layout: consilium.Layout{Blocks: []consilium.Block{
		{Name: "slots", Kind: consilium.Learned16, Length: len(a.all) * simRounds, Clip: 1}}}}
}

func (v *simVault) study(id consilium.StudyID) (*simAnalysis, error) {
	if a := v.studies[id]; a != nil {
		return a, nil
	}
	return nil, fmt.Errorf("the vault knows nothing of study %s", id)
}

// Admit implements hatch.Vault.
func (v *simVault) Admit(_ context.Context, r hatch.AdmitRequest) (hatch.AdmitReply, error) {
	if v.h.declines {
		return hatch.AdmitReply{Code: "SIM", Reason: "not today", Decision: dig("no")}, nil
	}
	return hatch.AdmitReply{Allow: true, Decision: dig("decision", v.site)}, nil
}

// Start implements hatch.Vault.
func (v *simVault) Start(_ context.Context, r hatch.StartRequest) (hatch.Shape, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	c, err := consilium.ParseCharter(r.Charter)
	if err != nil {
		return hatch.Shape{}, err
	}
	a := v.studies[r.Study]
	if a == nil {
		a = &simAnalysis{exact: v.s.isExact(r.Study), state: []byte("before round 1"), all: v.s.slots}
		a.own = slices.Index(a.all, v.site)
		v.studies[r.Study] = a
	}
	a.sites = nil // a later epoch has other members
	for _, m := range c.Members {
		a.sites = append(a.sites, m.Site)
	}
	return a.shape(false), nil
}

// Local implements hatch.Vault.
func (v *simVault) Local(_ context.Context, r hatch.LocalRequest) (hatch.LocalReply, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	a, err := v.study(r.Study)
	if err != nil {
		return hatch.LocalReply{}, err
	}
	if v.h.dry > 0 && r.Round >= v.h.dry {
		return hatch.LocalReply{}, nil
	}
	return hatch.LocalReply{Contribute: true, Lanes: len(a.all) * simRounds, RowSet: v.rows(r.Study), Decision: dig("decision"), Ledger: dig("ledger")}, nil
}

// rows names the rows of this hospital that a study uses. All studies use the
// same but the one that is asked last: the rule about sums that differ by few
// hospitals must not hold that one up.
func (v *simVault) rows(study consilium.StudyID) consilium.Digest {
	if p := v.s.fresh; p != nil && p.id == study {
		return dig("other rows", v.site)
	}
	return dig("rows", v.site)
}

// Lanes implements hatch.Vault.
func (v *simVault) Lanes(_ context.Context, study consilium.StudyID, round uint32, offset, count int) ([]int32, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	a, err := v.study(study)
	if err != nil {
		return nil, err
	}
	lanes := make([]int32, len(a.all)*simRounds)
	lanes[a.slot(a.own, int(round))] = 1
	return lanes[offset : offset+count], nil
}

// Sums implements hatch.Vault.
func (v *simVault) Sums(_ context.Context, study consilium.StudyID, _ uint32, offset int, sums []int64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	a, err := v.study(study)
	if err != nil {
		return err
	}
	a.sums = append(a.sums[:offset], sums...)
	return nil
}

// State implements hatch.Vault: every state here fits a shape.
func (v *simVault) State(context.Context, consilium.StudyID, int, int) ([]byte, error) {
	return nil, errors.New("the state is short")
}

// Update implements hatch.Vault, and is where the oracle looks.
func (v *simVault) Update(_ context.Context, r hatch.UpdateRequest) (hatch.Shape, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	a, err := v.study(r.Study)
	if err != nil {
		return hatch.Shape{}, err
	}
	want := make([]int64, len(a.all)*simRounds)
	var names []consilium.SiteID
	for _, p := range r.Contributors {
		want[a.slot(slices.Index(a.all, a.sites[p-1]), int(r.Round))] = 1
		names = append(names, a.sites[p-1])
	}
	if !slices.Equal(a.sums, want) {
		v.s.violate("%s opened %v in round %d of %s over %v, which is not one for each of them", v.site, a.sums, r.Round, v.s.short(r.Study), names)
	}
	v.s.opened(r.Study, r.Round, names, a.exact)
	d := dig("state", r.Round, string(a.state), fmt.Sprint(a.sums))
	a.state = d[:]
	return a.shape(int(r.Round) >= v.s.rounds), nil
}

// Adopt implements hatch.Vault.
func (v *simVault) Adopt(_ context.Context, r hatch.AdoptRequest) (hatch.Shape, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	a, err := v.study(r.Study)
	if err != nil {
		return hatch.Shape{}, err
	}
	a.state = slices.Clone(r.State)
	return a.shape(int(r.Round) >= v.s.rounds), nil
}

// Release implements hatch.Vault.
func (v *simVault) Release(_ context.Context, r hatch.ReleaseRequest) (hatch.ReleaseReply, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	a, err := v.study(r.Study)
	if err != nil {
		return hatch.ReleaseReply{}, err
	}
	return hatch.ReleaseReply{Allow: true, Decision: dig("release", v.site), Result: []byte(fmt.Sprintf(`{"state":"%x"}`, a.state))}, nil
}

// Opening implements hatch.Vault.
func (v *simVault) Opening(context.Context, consilium.StudyID, uint32) error { return nil }

// Opened implements hatch.Vault.
func (v *simVault) Opened(context.Context, consilium.StudyID, uint32) error { return nil }

// Forget implements hatch.Vault.
func (v *simVault) Forget(_ context.Context, study consilium.StudyID) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.studies, study)
	return nil
}

// simLedger is the hospital's transparency log, which no rule here reads.
type simLedger struct{}

func (simLedger) Append(context.Context, []byte) (uint64, error) { return 0, nil }

// simFS is a hospital's disk, with errors on demand. Journal, trail and secrets are
// in memory. The spool is on the machine's: the gate writes it here, and reads and
// removes it there.
type simFS struct {
	simFiles
	mu   sync.Mutex
	fail fileFault
}

type fileFault uint8

const (
	fileFine fileFault = iota
	fileLost           // an error, nothing written
	fileTorn           // an error, half of it written
	fileKept           // an error on syncing, all of it written
)

func (f *simFS) arm(fault fileFault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fault
}

func (f *simFS) take(sync bool) fileFault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if sync != (f.fail == fileKept) {
		return fileFine
	}
	fault := f.fail
	f.fail = fileFine
	return fault
}

// OpenFile implements durable.FS.
func (f *simFS) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	var files durable.FS = &f.simFiles
	if strings.Contains(name, "/spool/") {
		files = durable.OS
	}
	file, err := files.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &simFile{file, f}, nil
}

type simFile struct {
	durable.File
	fs *simFS
}

var errSimFile = errors.New("input/output error")

func (f *simFile) Write(b []byte) (int, error) {
	return f.guard(b, func(b []byte) (int, error) { return f.File.Write(b) })
}

func (f *simFile) WriteAt(b []byte, off int64) (int, error) {
	return f.guard(b, func(b []byte) (int, error) { return f.File.WriteAt(b, off) })
}

func (f *simFile) guard(b []byte, write func([]byte) (int, error)) (int, error) {
	switch f.fs.take(false) {
	case fileLost:
		return 0, errSimFile
	case fileTorn:
		n, _ := write(b[:len(b)/2])
		return n, errSimFile
	}
	return write(b)
}

func (f *simFile) Sync() error {
	if f.fs.take(true) != fileFine {
		return errSimFile
	}
	return nil
}
