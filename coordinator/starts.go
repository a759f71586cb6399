package coordinator

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	"consilium"
	"consilium/internal/durable"
)

// A data directory that is put back from an older copy holds an older log and an
// older vote under the same incarnation: its node could vote twice in a term, or
// help to elect a leader without an entry that a majority has acknowledged. Raft
// does not notice. So every start of a node has a random name. The node keeps the
// names of all its starts; each of the others keeps the last one it met. Before a
// replication connection carries anything, either end says by which start it last
// knew the other, and an end that finds no such start in its own list knows that it
// is an older copy, and stops. The other side is not asked to judge: this finds
// operators' mistakes, not lies.

// startSize is the length of a start's name.
const startSize = 16

type startName [startSize]byte

// MarshalText encodes a name for the two files.
func (s startName) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%x", s[:]), nil }

// UnmarshalText is the inverse of MarshalText.
func (s *startName) UnmarshalText(b []byte) error {
	var raw []byte
	if _, err := fmt.Sscanf(string(b), "%x", &raw); err != nil || len(raw) != startSize {
		return errors.New("a start's name is 32 hexadecimal characters")
	}
	copy(s[:], raw)
	return nil
}

// starts is what a node remembers of its own starts and of the others'.
type starts struct {
	dir  *durable.Dir // nil in memory
	self raft.ServerID
	own  []startName

	mu    sync.Mutex // guards known
	known map[raft.ServerID]startName
}

const (
	startsFile = "starts"
	peersFile  = "peers"
	// keptStarts bounds the list: a copy from before so many starts of this node
	// and none met by the others does not exist in practice.
	keptStarts = 1 << 16
)

// openStarts names this start, durably, before it is told to anybody.
func openStarts(dir *durable.Dir, self raft.ServerID) (*starts, error) {
	s := &starts{dir: dir, self: self, known: map[raft.ServerID]startName{}}
	if dir != nil {
		if err := readState(dir.Join(startsFile), &s.own); err != nil {
			return nil, err
		}
		if err := readState(dir.Join(peersFile), &s.known); err != nil {
			return nil, err
		}
	}
	var name startName
	if _, err := rand.Read(name[:]); err != nil {
		return nil, err
	}
	s.own = append(s.own, name)
	s.own = s.own[max(0, len(s.own)-keptStarts):]
	return s, s.save(startsFile, s.own)
}

func readState(path string, v any) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func (s *starts) save(name string, v any) error {
	if s.dir == nil {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return durable.WriteFile(s.dir.Join(name), append(b, '\n'), 0o600)
}

// said is what one end tells the other: its present start, and the one by which
// it last knew the other, or zeros.
func (s *starts) said(other raft.ServerID) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.known[other]
	return append(slices.Clone(s.own[len(s.own)-1][:]), known[:]...)
}

// errOlderCopy says that this node's directory is not its newest.
var errOlderCopy = errors.New("another node has met a later start of this data directory: it was put back from an older copy and must not vote")

// hear takes what the other end said and remembers its start, durably.
func (s *starts) hear(other raft.ServerID, r io.Reader) error {
	var theirs, mine startName
	for _, b := range []*startName{&theirs, &mine} {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return err
		}
	}
	if mine != (startName{}) && !slices.Contains(s.own, mine) {
		return &consilium.Error{Code: consilium.ErrStale.Code, Msg: consilium.ErrStale.Msg, Err: errOlderCopy,
			Next: "put the newest directory back, if there is one; else give the node a new id in the next roster and an empty directory, and the others bring it up to date"}
	}
	if theirs == (startName{}) {
		return consilium.ErrInvalid.Withf("%s does not name its start", other)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[other] == theirs {
		return nil
	}
	next := maps.Clone(s.known)
	next[other] = theirs
	if err := s.save(peersFile, next); err != nil {
		return err // and nothing is remembered: the next connection tries again
	}
	s.known = next
	return nil
}
