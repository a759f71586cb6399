package worker

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"consilium"
	"consilium/internal/durable"
)

// Kinds of journal records. The journal holds nothing secret: promises that
// were or may have been sent, and what binds later ones. Secrets are in one
// file per study that is replaced, never appended to.
const (
	recordPromise uint8 = 1  // a message, by its slot
	recordBinding uint8 = 2  // what a round is bound to: the whole binding, the last one holds
	recordFrozen  uint8 = 3  // members and row sets of a study
	recordOpened  uint8 = 4  // an opened sum, for the differencing rule across studies
	recordEnded   uint8 = 5  // a study is over
	recordVector  uint8 = 6  // digest of the one vector of a round
	recordThaw    uint8 = 7  // the frozen set of a study is void: nothing was opened under it
	recordEpoch   uint8 = 8  // a study goes on under its next charter, with these frozen members if any
	recordStale   uint8 = 9  // this directory is older than what the hospital promised
	recordSalt    uint8 = 10 // which salt the digests of rows are under, the last one holds; older journals have none
)

// journal is what a gate remembers across crashes. Every method that records
// returns after the record is durable.
type journal struct {
	mu     sync.Mutex
	log    *durable.Journal
	slots  map[consilium.StudyID]map[string][]byte // slot -> encoded message
	bound  map[consilium.StudyID]map[place]binding
	epoch  map[consilium.StudyID]uint32 // above 1
	frozen map[consilium.StudyID]*frozen
	vector map[consilium.StudyID]map[uint32]vector
	ended  map[consilium.StudyID]bool
	opened []openedSum
	stale  string           // why the directory is not the newest, or ""
	salt   consilium.Digest // of the salt, or zero
}

type saltRecord struct {
	Salt consilium.Digest `json:"salt"`
}

type staleRecord struct {
	Why string `json:"why"`
}

// place is a round under one charter. Records of the first epoch name none.
type place struct{ epoch, round uint32 }

// frozen is what the first opening of an exact study fixes. Positions are of
// the charter in force.
type frozen struct {
	Round   uint32               `json:"round"` // whose opening fixed it
	Members []consilium.Position `json:"members"`
	RowSets []consilium.Digest   `json:"rowSets"` // salted, parallel to Members
}

// openedSum is one entry of the hospital's ledger of opened sums.
type openedSum struct {
	Study   consilium.StudyID  `json:"study"`
	Lineage lineage            `json:"lineage"`
	Faults  int                `json:"faults"`
	Sites   []consilium.SiteID `json:"sites"` // ascending
}

type promiseRecord struct {
	Study   consilium.StudyID `json:"study"`
	Slot    string            `json:"slot"`
	Message []byte            `json:"message"`
}

type bindingRecord struct {
	Study consilium.StudyID `json:"study"`
	Epoch uint32            `json:"epoch,omitempty"` // above 1
	Round uint32            `json:"round"`
	binding
}

type epochRecord struct {
	Study  consilium.StudyID `json:"study"`
	Epoch  uint32            `json:"epoch"`
	Frozen *frozen           `json:"frozen,omitempty"`
}

type frozenRecord struct {
	Study consilium.StudyID `json:"study"`
	frozen
}

// vector is the one vector of a round and the rows that it was computed from.
type vector struct {
	Vector consilium.Digest `json:"vector"`
	Rows   consilium.Digest `json:"rows"` // salted with the hospital's own secret, the same in all studies
}

type vectorRecord struct {
	Study consilium.StudyID `json:"study"`
	Round uint32            `json:"round"`
	vector
}

type endedRecord struct {
	Study consilium.StudyID `json:"study"`
}

func newJournal() *journal {
	return &journal{
		slots:  map[consilium.StudyID]map[string][]byte{},
		bound:  map[consilium.StudyID]map[place]binding{},
		epoch:  map[consilium.StudyID]uint32{},
		frozen: map[consilium.StudyID]*frozen{},
		vector: map[consilium.StudyID]map[uint32]vector{},
		ended:  map[consilium.StudyID]bool{},
	}
}

func openJournal(fsys durable.FS, path string) (*journal, error) {
	j := newJournal()
	log, err := durable.OpenFS(fsys, path)
	if err != nil {
		return nil, err
	}
	j.log = log
	if err := log.Replay(j.replay); err != nil {
		log.Close()
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	return j, nil
}

func (j *journal) close() error { return j.log.Close() }

func (j *journal) replay(kind uint8, data []byte) error {
	switch kind {
	case recordPromise:
		var r promiseRecord
		if err := json.Unmarshal(data, &r); err != nil {
			return err
		}
		j.keepPromise(r)
	case recordBinding:
		var r bindingRecord
		if err := json.Unmarshal(data, &r); err != nil {
			return err
		}
		j.keepBinding(r)
	case recordThaw:
		var r endedRecord
		if err := json.Unmarshal(data, &r); err != nil {
			return err
		}
		delete(j.frozen, r.Study)
	case recordFrozen:
		var r frozenRecord
		if err := json.Unmarshal(data, &r); err != nil {
			return err
		}
		j.frozen[r.Study] = &r.frozen
	case recordOpened:
		var r openedSum
		if err := json.Unmarshal(data, &r); err != nil {
			return err
		}
		j.opened = append(j.opened, r)
	case recordEnded:
		var r endedRecord
		if err := json.Unmarshal(data, &r); err != nil {
			return err
		}
		j.keepEnded(r.Study)
	case recordStale:
		var r staleRecord
		if err := json.Unmarshal(data, &r); err != nil {
			return err
		}
		j.stale = r.Why
	case recordSalt:
		var r saltRecord
		if err := json.Unmarshal(data, &r); err != nil {
			return err
		}
		j.salt = r.Salt
	case recordVector:
		var r vectorRecord
		if err := json.Unmarshal(data, &r); err != nil {
			return err
		}
		j.keepVector(r)
	case recordEpoch:
		var r epochRecord
		if err := json.Unmarshal(data, &r); err != nil {
			return err
		}
		j.keepEpoch(r)
	default:
		return fmt.Errorf("record of unknown kind %d: a newer release wrote it", kind)
	}
	return nil
}

func (j *journal) keepPromise(r promiseRecord) {
	if j.slots[r.Study] == nil {
		j.slots[r.Study] = map[string][]byte{}
	}
	j.slots[r.Study][r.Slot] = r.Message
}

func (j *journal) keepBinding(r bindingRecord) {
	if j.bound[r.Study] == nil {
		j.bound[r.Study] = map[place]binding{}
	}
	j.bound[r.Study][place{max(r.Epoch, 1), r.Round}] = r.binding
}

func (j *journal) keepEpoch(r epochRecord) {
	j.epoch[r.Study] = r.Epoch
	if r.Frozen == nil {
		delete(j.frozen, r.Study)
	} else {
		j.frozen[r.Study] = r.Frozen
	}
}

func (j *journal) keepVector(r vectorRecord) {
	if j.vector[r.Study] == nil {
		j.vector[r.Study] = map[uint32]vector{}
	}
	j.vector[r.Study][r.Round] = r.vector
}

func (j *journal) keepEnded(study consilium.StudyID) {
	j.ended[study] = true
	delete(j.slots, study)
	delete(j.bound, study)
	delete(j.epoch, study)
	delete(j.frozen, study)
	delete(j.vector, study)
}

func (j *journal) append(kind uint8, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return j.log.Append(kind, b)
}

// promise returns the message of a slot, if one was journalled.
func (j *journal) promise(study consilium.StudyID, slot string) ([]byte, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	m, ok := j.slots[study][slot]
	return m, ok
}

// setPromise journals the one message of a slot. A second, different message
// for the same slot is refused: that is the promise.
func (j *journal) setPromise(study consilium.StudyID, slot string, message []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, ok := j.slots[study][slot]; ok {
		return fmt.Errorf("slot %s of study %s is taken", slot, study)
	}
	r := promiseRecord{study, slot, message}
	if err := j.append(recordPromise, r); err != nil {
		return err
	}
	j.keepPromise(r)
	return nil
}

// promised reports whether some slot of the study holds this very statement.
// Signatures of one statement may differ.
func (j *journal) promised(study consilium.StudyID, m *consilium.Message) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ended[study] {
		return true // its slots are gone with it, and it takes no more statements
	}
	for _, b := range j.slots[study] {
		if have, err := consilium.ParseMessage(b); err == nil && have.Kind == m.Kind && bytes.Equal(have.Body, m.Body) {
			return true
		}
	}
	return false
}

func (j *journal) setStale(why string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.append(recordStale, staleRecord{why}); err != nil {
		return err
	}
	j.stale = why
	return nil
}

// nameSalt records the salt in force. The digest tells nobody anything: a salt is
// 32 random bytes.
func (j *journal) nameSalt(d consilium.Digest) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.append(recordSalt, saltRecord{d}); err != nil {
		return err
	}
	j.salt = d
	return nil
}

// charters lists the charters of a study that this hospital has signed.
func (j *journal) charters(study consilium.StudyID) ([]*consilium.Charter, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []*consilium.Charter
	for slot, b := range j.slots[study] {
		if slot != "charter" && !strings.HasSuffix(slot, "/charter") {
			continue
		}
		m, err := consilium.ParseMessage(b)
		if err != nil {
			return nil, fmt.Errorf("slot %s: %w", slot, err)
		}
		c, err := consilium.ParseCharter(m.Body)
		if err != nil {
			return nil, fmt.Errorf("slot %s: %w", slot, err)
		}
		out = append(out, c)
	}
	return out, nil
}

// binding returns what this hospital has bound itself to in a round of an epoch.
func (j *journal) binding(study consilium.StudyID, epoch, round uint32) binding {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.bound[study][place{epoch, round}]
}

// openedFrom reports whether this hospital has opened under a charter in a round
// or a later one.
func (j *journal) openedFrom(study consilium.StudyID, epoch, round uint32) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for at, b := range j.bound[study] {
		if at.epoch == epoch && at.round >= round && b.Opened {
			return true
		}
	}
	return false
}

func (j *journal) setBinding(study consilium.StudyID, epoch, round uint32, b binding) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := bindingRecord{Study: study, Round: round, binding: b}
	if epoch > 1 {
		r.Epoch = epoch
	}
	if err := j.append(recordBinding, r); err != nil {
		return err
	}
	j.keepBinding(r)
	return nil
}

// epochOf is the epoch in which this hospital is in a study: 1 until setEpoch.
func (j *journal) epochOf(study consilium.StudyID) uint32 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return max(j.epoch[study], 1)
}

// setEpoch records that a study goes on in a later epoch, with the frozen set
// carried over or, if f is nil, with none.
func (j *journal) setEpoch(study consilium.StudyID, epoch uint32, f *frozen) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := epochRecord{Study: study, Epoch: epoch, Frozen: f}
	if err := j.append(recordEpoch, r); err != nil {
		return err
	}
	j.keepEpoch(r)
	return nil
}

// thaw takes the frozen set of a study back.
func (j *journal) thaw(study consilium.StudyID) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.append(recordThaw, endedRecord{study}); err != nil {
		return err
	}
	delete(j.frozen, study)
	return nil
}

func (j *journal) freeze(study consilium.StudyID) *frozen {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.frozen[study]
}

func (j *journal) setFrozen(study consilium.StudyID, f *frozen) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.append(recordFrozen, frozenRecord{study, *f}); err != nil {
		return err
	}
	j.frozen[study] = f
	return nil
}

func (j *journal) vectorOf(study consilium.StudyID, round uint32) (vector, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	d, ok := j.vector[study][round]
	return d, ok
}

func (j *journal) setVector(study consilium.StudyID, round uint32, v vector) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := vectorRecord{study, round, v}
	if err := j.append(recordVector, r); err != nil {
		return err
	}
	j.keepVector(r)
	return nil
}

// sums lists the opened sums of related lineages by other studies.
func (j *journal) sums(l lineage, except consilium.StudyID) []openedSum {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []openedSum
	for _, o := range j.opened {
		if o.Study != except && l.meets(o.Lineage) {
			out = append(out, o)
		}
	}
	return out
}

// setOpened records an opened sum once per study and lineage and set.
func (j *journal) setOpened(o openedSum) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, have := range j.opened {
		if have.Study == o.Study && have.Lineage.equal(o.Lineage) && equalSites(have.Sites, o.Sites) {
			return nil
		}
	}
	if err := j.append(recordOpened, o); err != nil {
		return err
	}
	j.opened = append(j.opened, o)
	return nil
}

func (j *journal) setEnded(study consilium.StudyID) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ended[study] {
		return nil
	}
	if err := j.append(recordEnded, endedRecord{study}); err != nil {
		return err
	}
	j.keepEnded(study)
	return nil
}

func (j *journal) hasEnded(study consilium.StudyID) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.ended[study]
}

func equalSites(a, b []consilium.SiteID) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// secrets is what a gate must keep secret of one live study. The file is
// replaced whole, so what a round no longer needs is gone from it ("best
// effort": Go and storage may keep copies).
type secrets struct {
	Epoch   uint32            `json:"epoch,omitempty"`  // whose Group it is; 0 is the first
	Enrol   *enrolSecret      `json:"enrol,omitempty"`  // gone once the charter is signed by all
	Group   []byte            `json:"group,omitempty"`  // the group key of Round, as he/party encodes it
	Round   uint32            `json:"round"`            // the round that Group and State belong to
	State   []byte            `json:"state,omitempty"`  // analysis state that Round starts from
	Salt    []byte            `json:"salt,omitempty"`   // of the digest under which State was certified, to hand it over to another epoch
	Next    []byte            `json:"next,omitempty"`   // the state after Round, once this hospital has opened its sum
	Sealing map[string][]byte `json:"sealing"`          // secret by the header digest that published it; "charter" for the first
	Memory  uint64            `json:"memory,omitempty"` // bytes that the study is estimated to need here
	Dealt   map[string][]byte `json:"dealt,omitempty"`  // seed and masks of each dealing of Round, by slot; gone when it closes
}

type enrolSecret struct {
	Nonce        consilium.Digest `json:"nonce"`
	Contribution []byte           `json:"contribution"`

	// Of a later epoch; in the first they are in secrets.
	Epoch uint32 `json:"epoch,omitempty"`
	Try   uint32 `json:"try,omitempty"`
	Key   []byte `json:"key,omitempty"`   // the secret sealing key
	Group []byte `json:"group,omitempty"` // the group key of the epoch's first round, once it was combined
}

// secretStore keeps one secrets file per live study.
type secretStore struct {
	fs  durable.FS
	dir string
}

func newSecretStore(fsys durable.FS, dir string) (secretStore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return secretStore{}, err
	}
	return secretStore{fsys, dir}, nil
}

func (s secretStore) path(study consilium.StudyID) string {
	return filepath.Join(s.dir, string(study)+".json")
}

func (s secretStore) load(study consilium.StudyID) (*secrets, error) {
	f, err := s.fs.OpenFile(s.path(study), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return &secrets{Sealing: map[string][]byte{}}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	var out secrets
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, fmt.Errorf("secrets of study %s: %w", study, err)
	}
	if out.Sealing == nil {
		out.Sealing = map[string][]byte{}
	}
	return &out, nil
}

func (s secretStore) save(study consilium.StudyID, v *secrets) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return durable.WriteFileFS(s.fs, s.path(study), b, 0o600)
}

func (s secretStore) drop(study consilium.StudyID) error {
	err := s.fs.Remove(s.path(study))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// empty reports whether nothing was ever recorded that a salt may stand behind.
func (j *journal) empty() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.slots)+len(j.bound)+len(j.epoch)+len(j.frozen)+len(j.vector)+len(j.ended)+len(j.opened) == 0 && j.stale == ""
}

// saltName is how the journal names a salt.
func saltName(salt []byte) consilium.Digest {
	return consilium.DomainRowSet.Digest([]byte("salt"), salt)
}

// openSalt reads the secret with which this hospital salts digests of its rows.
// It is not the identity key's: a hospital that gets a new one must still recognise
// the rows of sums that it opened before. A directory of a release that salted with
// the identity secret takes that over.
//
// Under another salt the same rows have other names, and the rules on sums about
// the same rows would find nothing to compare with. So the journal names its salt,
// and a gate with another one, or with none, does not open. While the journal
// holds nothing else a salt that was lost is made anew. A journal of a release that
// did not name it names the one that is there.
//
// If we crash between file and journal, Open finds a salt that is not named yet.
func openSalt(path string, identity []byte, j *journal) ([]byte, error) {
	b, err := os.ReadFile(path)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case err != nil && !missing:
		return nil, err
	case missing && j.empty():
		b = make([]byte, 32)
		if _, err := io.ReadFull(rand.Reader, b); err != nil {
			return nil, err
		}
	case missing:
		b = bytes.Clone(identity)
		if !j.salt.IsZero() && j.salt != saltName(b) {
			return nil, fmt.Errorf("%s is missing, and without it this hospital would not recognise the rows of the sums that it has opened: restore the file", path)
		}
	case len(b) != 32:
		return nil, fmt.Errorf("salt of %d bytes in %s, want 32: restore the file", len(b), path)
	case !j.salt.IsZero() && j.salt != saltName(b):
		return nil, fmt.Errorf("%s is not the salt that this hospital's journal names: restore the file that belongs to it", path)
	}
	if missing {
		if err := durable.WriteFile(path, b, 0o600); err != nil {
			return nil, err
		}
	}
	if name := saltName(b); j.salt != name {
		if err := j.nameSalt(name); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// sortedSites returns the sites in ascending order.
func sortedSites(in []consilium.SiteID) []consilium.SiteID {
	out := append([]consilium.SiteID(nil), in...)
	sort.Slice(out, func(i, k int) bool { return out[i] < out[k] })
	return out
}
