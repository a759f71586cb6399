package vault

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"consilium"
	"consilium/internal/durable"
	"consilium/internal/fixed"
	"consilium/internal/table"
	"consilium/models"
	"consilium/models/net"
)

// A vault keeps, of each study, what its result followed from: the charter's
// facts, the digest of its own vector of each round, the sums that were opened to
// it, and the state that each led to. Sums are integers and updates are bit-exact,
// so that the same analysis can be run again later and has to end in the same
// bytes: Replay does. What is kept are sums that this hospital has seen anyway; no
// row is. It goes when the study's own date for working copies is reached, or
// when the hospital's own limit is, whichever is earlier.

// Kinds of records of a study's replay file.
const (
	replayStart  uint8 = 1
	replayLocal  uint8 = 2
	replaySums   uint8 = 3 // raw: round, then int32 sums; more of them continue
	replayUpdate uint8 = 4
	replayAdopt  uint8 = 5
	replayResult uint8 = 6
)

const (
	// maxReplay bounds one study's file, in bytes: the sums of a longer one are
	// not kept, and the replay says so.
	maxReplay = 256 << 20
	// replayChunk is how many sums stand in one record.
	replayChunk = 1 << 18
	// maxKept bounds the values of a state, and of a vector, of which anything is
	// kept: digests of larger ones would cost more than they tell.
	maxKept   = 1 << 24
	replayDir = "replays"
)

// DefaultKeepReplays is how long after its last record a study's replay file is
// kept where the configuration says nothing.
const DefaultKeepReplays = 90 * 24 * time.Hour

type startedReplay struct {
	Submission []byte             `json:"submission"`
	Approval   []byte             `json:"approval"`
	Roster     []byte             `json:"roster"`
	Charter    []byte             `json:"charter"`
	Sites      []consilium.SiteID `json:"sites"`    // of the study, the same in every epoch
	Position   consilium.Position `json:"position"` // of this hospital among them
	MinCohort  int                `json:"minCohort"`
	Permits    []string           `json:"permits"`
	Assume     []string           `json:"assume"`
	DeleteBy   int64              `json:"deleteBy"` // Unix time; the study's own date
}

type localReplay struct {
	Round  uint32           `json:"round"`
	RowSet consilium.Digest `json:"rowSet"`
	Vector consilium.Digest `json:"vector"`
	State  consilium.Digest `json:"state"` // that it was computed from
	// Included is the last round opened with this hospital in its set, as the log
	// had it then: whose memory counted. nil: a release before this field wrote it.
	Included   *uint32 `json:"included"`
	Remembered bool    `json:"remembered"` // the site had a memory then
}

type updateReplay struct {
	Round        uint32               `json:"round"`
	Contributors []consilium.Position `json:"contributors"` // among the study's sites
	Sums         int                  `json:"sums"`         // kept before this record; 0 if they were too many
	Next         consilium.Digest     `json:"next"`
}

type adoptReplay struct {
	Round uint32 `json:"round"`
	State []byte `json:"state"`
}

type resultReplay struct {
	Contributors []consilium.Position `json:"contributors"`
	Result       consilium.Digest     `json:"result"`
}

// replays keeps the files of live studies open.
type replays struct {
	dir  string
	keep time.Duration // 0 keeps nothing
	now  func() time.Time
	open map[consilium.StudyID]*replayFile
}

type replayFile struct {
	log  *durable.Journal
	size int64
}

func openReplays(dir string, keep time.Duration, now func() time.Time) (*replays, error) {
	r := &replays{dir: filepath.Join(dir, replayDir), keep: keep, now: now, open: map[consilium.StudyID]*replayFile{}}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, durable.Full(err)
	}
	return r, r.sweep()
}

func (r *replays) path(id consilium.StudyID) string { return filepath.Join(r.dir, string(id)) }

func (r *replays) file(id consilium.StudyID) (*replayFile, error) {
	if f := r.open[id]; f != nil {
		return f, nil
	}
	log, err := durable.Open(r.path(id))
	if err != nil {
		return nil, err
	}
	f := &replayFile{log: log}
	if info, err := os.Stat(r.path(id)); err == nil {
		f.size = info.Size()
	}
	r.open[id] = f
	return f, nil
}

func (r *replays) add(id consilium.StudyID, kind uint8, v any) error {
	if r.keep <= 0 {
		return nil
	}
	f, err := r.file(id)
	if err != nil {
		return stored(err)
	}
	b, ok := v.([]byte)
	if !ok {
		if b, err = json.Marshal(v); err != nil {
			return err
		}
	}
	f.size += int64(len(b))
	return stored(f.log.Append(kind, b))
}

// addSums keeps a round's sums, or says that there are too many. passed is told how
// many bytes are about to pass.
func (r *replays) addSums(id consilium.StudyID, round uint32, sums *openedSums, passed func(bytes int)) (int, error) {
	if r.keep <= 0 {
		return 0, nil
	}
	f, err := r.file(id)
	if err != nil || f.size+4*int64(sums.want) > maxReplay {
		return 0, stored(err)
	}
	part := make([]int32, min(sums.want, replayChunk))
	b := make([]byte, 0, 4+4*len(part))
	for from := 0; from < sums.want; from += len(part) {
		part = part[:min(len(part), sums.want-from)]
		if err := sums.read(part, from); err != nil {
			return 0, err
		}
		passed(4 * len(part))
		b = binary.BigEndian.AppendUint32(b[:0], round)
		for _, x := range part {
			b = binary.BigEndian.AppendUint32(b, uint32(x))
		}
		if err := r.add(id, replaySums, b); err != nil {
			return 0, err
		}
	}
	return sums.want, nil
}

func (r *replays) close(id consilium.StudyID) error {
	f := r.open[id]
	delete(r.open, id)
	if f == nil {
		return nil
	}
	return f.log.Close()
}

func (r *replays) closeAll() error {
	var errs []error
	for id := range r.open {
		errs = append(errs, r.close(id))
	}
	return errors.Join(errs...)
}

// sweep removes what may not be kept any longer. A file that does not say until
// when it may be kept is removed: retention fails towards forgetting.
func (r *replays) sweep() error {
	list, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	now := r.now()
	for _, e := range list {
		id := consilium.StudyID(e.Name())
		if r.open[id] != nil || strings.HasPrefix(e.Name(), durable.TempPrefix) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		until, err := r.until(id)
		if err == nil && now.Before(until) && now.Before(info.ModTime().Add(r.keep)) {
			continue
		}
		if err := os.Remove(r.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

var errEnough = errors.New("enough")

func (r *replays) until(id consilium.StudyID) (time.Time, error) {
	log, err := durable.Open(r.path(id))
	if err != nil {
		return time.Time{}, err
	}
	defer log.Close()
	var s startedReplay
	err = log.Replay(func(kind uint8, data []byte) error {
		if kind != replayStart {
			return fmt.Errorf("it begins with a record of kind %d", kind)
		}
		return errors.Join(json.Unmarshal(data, &s), errEnough)
	})
	if !errors.Is(err, errEnough) || s.DeleteBy == 0 {
		return time.Time{}, errors.Join(err, errors.New("no date"))
	}
	return time.Unix(s.DeleteBy, 0), nil
}

// deleteBy is until when the study lets working copies be kept: the earliest
// date of its legal block; none means not at all.
func deleteBy(spec *consilium.Spec) int64 {
	var block struct {
		Retention []struct {
			Object   string  `json:"object"`
			DeleteBy *string `json:"deleteBy"`
		} `json:"retention"`
	}
	if json.Unmarshal(spec.Legal, &block) != nil {
		return 0
	}
	var least int64
	for _, r := range block.Retention {
		if r.Object != "working_copies" || r.DeleteBy == nil {
			continue
		}
		t, err := time.Parse(time.DateOnly, *r.DeleteBy)
		if err != nil {
			return 0
		}
		if least == 0 || t.Unix() < least {
			least = t.Unix()
		}
	}
	return least
}

func stateDigest(s *models.State) consilium.Digest {
	size := int64(s.Size())
	d, err := consilium.DomainState.DigestReader(io.NewSectionReader(s, 0, size), uint64(size))
	if err != nil {
		panic(fmt.Sprintf("a state in memory cannot be read: %v", err)) // State.ReadAt fails at its end alone
	}
	return d
}

// keepable reports whether a round of this size is kept.
func keepable(s *models.State, l consilium.Layout) bool {
	return len(s.F64)+len(s.F32) <= maxKept && s.Size() <= 8*maxKept && l.Lanes() <= maxKept
}

// notKept says why nothing is known of how a round closed. last is the last round
// of which anything is.
func notKept(round, last uint32, s *models.State, l consilium.Layout) string {
	if !keepable(s, l) {
		return fmt.Sprintf("nothing of round %d is kept: it is of more than %d values", round, maxKept)
	}
	why := "the study ended before it closed, or this hospital did not see it close"
	if round < last {
		why = "this hospital was not in the study when it closed, or was away"
	}
	return fmt.Sprintf("nothing of round %d is kept: %s, or its state is of more than %d values", round, why, maxKept)
}

// returned is the first round after one that this hospital did not see closing
// of which anything but its own vector is kept, if its state was adopted there;
// 0 if there is none.
func returned(rounds map[uint32]*replayedRound, after uint32) uint32 {
	var first uint32
	for n, r := range rounds {
		if n > after && (r.update != nil || r.adopt != nil) && (first == 0 || n < first) {
			first = n
		}
	}
	if first == 0 || rounds[first].update != nil {
		return 0
	}
	return first
}

func vectorDigest(v *fixed.Vector) consilium.Digest {
	lanes := make([]int32, min(v.Len(), 1<<16))
	var parts []byte
	for at := 0; at < v.Len(); at += len(lanes) {
		lanes = lanes[:min(len(lanes), v.Len()-at)]
		v.Copy(lanes, at)
		b := make([]byte, 0, 4*len(lanes))
		for _, x := range lanes {
			b = binary.BigEndian.AppendUint32(b, uint32(x))
		}
		d := consilium.DomainVector.Digest(b)
		parts = append(parts, d[:]...)
	}
	return consilium.DomainVector.Digest(parts)
}

// Replayed is what came of running a study again.
type Replayed struct {
	Study  consilium.StudyID `json:"study"`
	Rounds []ReplayedRound   `json:"rounds"`
	// Result is the document that the sums lead to; Same, whether it is the one
	// that this hospital decided on.
	Result json.RawMessage `json:"result,omitempty"`
	Same   bool            `json:"same"`
	Why    string          `json:"why,omitempty"` // if it is not
}

// ReplayedRound is one round of it.
type ReplayedRound struct {
	Round uint32 `json:"round"`
	// Vector says whether the hospital's own step gives the same vector: "same",
	// "differs", or why it was not run or is not known.
	Vector string `json:"vector"`
	// State says it of the state that the opened sums lead to.
	State string `json:"state"`
}

// Values of ReplayedRound.
const (
	ReplaySame    = "same"
	ReplayDiffers = "differs"
)

// replayedRound is what is kept of one round.
type replayedRound struct {
	local  *localReplay
	sums   []int32
	update *updateReplay
	adopt  *adoptReplay
}

// Replay runs a study again from what the vault kept, and its own steps again
// from the rows as they are now, behind the same ledger check, policy and
// consents as any other use: a patient who has withdrawn since is in no replay
// either, and the step is then reported as not run. Nothing is sent, no budget is
// spent, and each use is in the log of decisions.
func (v *Vault) Replay(ctx context.Context, id consilium.StudyID) (*Replayed, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var start *startedReplay
	var end *resultReplay
	rounds := map[uint32]*replayedRound{}
	at := func(n uint32) *replayedRound {
		if rounds[n] == nil {
			rounds[n] = &replayedRound{}
		}
		return rounds[n]
	}
	if _, err := os.Stat(v.replays.path(id)); err != nil {
		return nil, &consilium.Error{Code: consilium.ErrUnknownStudy.Code, Msg: fmt.Sprintf("nothing of %s is kept here to be replayed", id),
			Next: "it was never computed here, or its time of retention is over"}
	}
	f, err := v.replays.file(id)
	if err != nil {
		return nil, err
	}
	err = f.log.Replay(func(kind uint8, data []byte) error {
		switch kind {
		case replayStart:
			start = &startedReplay{}
			return json.Unmarshal(data, start)
		case replayLocal:
			var l localReplay
			err := json.Unmarshal(data, &l)
			at(l.Round).local = &l
			return err
		case replaySums:
			if len(data)%4 != 0 || len(data) < 4 {
				return errors.New("sums of a broken length")
			}
			r := at(binary.BigEndian.Uint32(data))
			if r.update != nil { // an attempt after the one that was opened first
				r.sums, r.update = nil, nil
			}
			for b := data[4:]; len(b) > 0; b = b[4:] {
				r.sums = append(r.sums, int32(binary.BigEndian.Uint32(b)))
			}
			return nil
		case replayUpdate:
			var u updateReplay
			if err := json.Unmarshal(data, &u); err != nil {
				return err
			}
			r := at(u.Round)
			r.update = &u
			// Sums of an update that a crash kept from its own record come before.
			r.sums = r.sums[max(0, len(r.sums)-u.Sums):]
			return nil
		case replayAdopt:
			var a adoptReplay
			err := json.Unmarshal(data, &a)
			at(a.Round).adopt = &a
			return err
		case replayResult:
			end = &resultReplay{}
			return json.Unmarshal(data, end)
		}
		return fmt.Errorf("record of unknown kind %d: a newer release wrote it", kind)
	})
	if err != nil {
		return nil, err
	}
	if start == nil {
		return nil, consilium.ErrInvalid.Withf("the replay of %s has no beginning", id)
	}
	st, err := v.resume(id, start)
	if err != nil {
		return nil, err
	}
	out := &Replayed{Study: id, Rounds: []ReplayedRound{}}
	var rowsGone error
	memory := beginning()
	held := true // st.state is what the round began with
	for round := uint32(1); !held || !st.state.Done; round++ {
		r := rounds[round]
		if r == nil {
			r = &replayedRound{}
		}
		seen := r.update != nil || r.adopt != nil
		if !seen && held {
			layout, err := st.analysis.Layout(st.state)
			if err != nil {
				return nil, err
			}
			// Of a round that is too large nothing is kept, whoever took part in it.
			if returned(rounds, round) == 0 || !keepable(st.state, layout) {
				out.Why = notKept(round, slices.Max(append(slices.Collect(maps.Keys(rounds)), 0)), st.state, layout)
				return out, nil
			}
		}
		done := ReplayedRound{Round: round, Vector: "not computed here"}
		switch {
		case r.local == nil && !seen:
			done.Vector = "not run"
		case r.local == nil:
		case !held:
			done.Vector = "not run: the state that it began from is not here"
			memory.lose(round)
		default:
			if rowsGone == nil {
				done.Vector, rowsGone = v.again(ctx, st, memory, rounds, r)
			}
			if rowsGone != nil {
				done.Vector = "not run: " + rowsGone.Error()
			}
		}
		switch {
		case !seen && !held && r.local == nil:
			done.State = fmt.Sprintf("nothing is kept of it: this hospital was away, or it is of more than %d values", maxKept)
		case !seen:
			done.State, held = "not seen: this hospital was not in the study when the round closed, or was away", false
		case r.update == nil:
			held = true
			done.State = "adopted: this hospital missed the round"
			if st.state, err = models.Parse(st.analysis, r.adopt.State); err != nil {
				return nil, err
			}
		case len(r.sums) == 0:
			done.State = "not run: the sums were too many to be kept"
			out.Rounds, out.Why = append(out.Rounds, done), done.State
			return out, nil
		default:
			if err := v.step(st, r, round); err != nil {
				return nil, fmt.Errorf("round %d: %w", round, err)
			}
			done.State = ReplaySame
			if stateDigest(st.state) != r.update.Next {
				done.State = ReplayDiffers
			}
		}
		out.Rounds = append(out.Rounds, done)
	}
	if end == nil {
		out.Why = "no result was decided on here"
		return out, nil
	}
	res, err := st.analysis.Result(st.state)
	if err != nil {
		return nil, err
	}
	if out.Result, err = v.document(st, res, end.Contributors, start.Assume); err != nil {
		return nil, err
	}
	if out.Same = consilium.DomainResult.Digest(out.Result) == end.Result; !out.Same {
		out.Why = "the result differs from the one that this hospital decided on"
	}
	return out, nil
}

// resume makes a study from what was kept. Nothing is admitted by it: the rows
// are asked for separately.
func (v *Vault) resume(id consilium.StudyID, s *startedReplay) (*study, error) {
	st := &study{id: id, position: s.Position}
	var err error
	if st.submission, st.approval, st.spec, err = parseStudy(s.Submission, s.Approval); err != nil {
		return nil, err
	}
	if consilium.NewStudyID(consilium.DomainSubmission.Digest(s.Submission)) != id {
		return nil, consilium.ErrInvalid.Withf("the replay is of another study")
	}
	if st.charter, err = consilium.ParseCharter(s.Charter); err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	if st.roster, st.site, err = v.parseRoster(s.Roster); err != nil {
		return nil, err
	}
	st.digest = consilium.CharterDigest(s.Charter)
	st.facts = consilium.Facts{Spec: st.spec, MinCohort: s.MinCohort, Permits: s.Permits}
	st.facts.Sites = s.Sites
	if st.analysis, err = models.New(st.facts, v.cfg.Learned); err != nil {
		return nil, err
	}
	st.state, err = st.analysis.Start(st.facts)
	return st, err
}

// again takes the hospital's own step of one round once more.
func (v *Vault) again(ctx context.Context, st *study, memory *replayedMemory, rounds map[uint32]*replayedRound, r *replayedRound) (string, error) {
	round := r.local.Round
	before := memory.settle(st.position, rounds, r.local)
	memory.lose(round) // unless it is computed below
	if st.engine == nil {
		// The policy as it stands now, and only while the approval holds.
		now := v.cfg.Now().Unix()
		if now < st.approval.NotBefore || now >= st.approval.NotAfter {
			return "", consilium.ErrStale.Withf("the board's approval has ended")
		}
		var err error
		if st.engine, err = v.cfg.Policies(st.submission.Policy); err != nil {
			return "", err
		}
	}
	if stateDigest(st.state) != r.local.State {
		return ReplayDiffers, nil
	}
	u, err := v.use(ctx, st, round)
	if err != nil {
		return "", err
	}
	if u.rowSet != r.local.RowSet {
		return "", errors.New("the rows that may be used now are not those of then")
	}
	derived, err := table.Derive(st.spec, st.record, u.selected)
	if err != nil {
		return "", err
	}
	layout, err := st.analysis.Layout(st.state)
	if err != nil {
		return "", err
	}
	w, err := fixed.NewWriter(layout)
	if err != nil {
		return "", err
	}
	rows := &models.Rows{
		Site: st.position, Seed: net.RoundSeed(st.spec.Seed, st.site.ID, round), Patients: len(st.people.names), Excluded: u.excluded,
		Batches: []models.Batch{{Record: derived, Selected: u.selected, Patient: st.people.of, Holdout: st.people.holdout}},
	}
	if st.spec.Privacy.DP != nil {
		rows.Noise = v.noise(st, round, v.salt(st, u.rowSet))
	}
	next, err := st.analysis.Local(ctx, st.state, before.bytes, rows, w)
	if err != nil {
		return "", err
	}
	lanes, err := w.Vector()
	if err != nil {
		return "", err
	}
	same := vectorDigest(lanes) == r.local.Vector
	// What a step began with is known, too, if that was nothing.
	known := before.known || r.local.Included != nil && !r.local.Remembered
	switch {
	case known && same:
		memory.pending.bytes, memory.pending.known = next, true
		return ReplaySame, nil
	case known:
		return ReplayDiffers, nil // and left something else than the hospital kept
	case same && len(next) == 0:
		return ReplaySame, nil // a step that remembers nothing, as of fedavg
	}
	return fmt.Sprintf("not known: it depends on what this hospital remembered of round %d, which is not here", before.round), nil
}

// step takes the update of one round once more.
func (v *Vault) step(st *study, r *replayedRound, round uint32) error {
	layout, err := st.analysis.Layout(st.state)
	if err != nil {
		return err
	}
	values, err := fixed.Open(layout, r.sums, len(r.update.Contributors))
	if err != nil {
		return err
	}
	st.state, err = st.analysis.Update(st.state, models.Opened{Round: round, Contributors: r.update.Contributors, Values: values})
	return err
}
