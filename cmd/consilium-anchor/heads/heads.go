// Package heads is what every program that anchors begins with: the hospitals'
// checkpoints, verified under a roster that their board signed.
package heads

import (
	"fmt"
	"os"
	"strings"
	"time"

	"consilium/internal/pinned"
	"consilium/provenance"
)

// Files is a flag that names a checkpoint file each time it is given.
type Files []string

func (f *Files) String() string     { return strings.Join(*f, ",") }
func (f *Files) Set(s string) error { *f = append(*f, s); return nil }

// Read verifies the roster under the board that the caller trusts, and the
// checkpoints under the roster.
func Read(rosterFile, boardFile string, checkpoints []string) ([]provenance.Head, error) {
	if boardFile == "" {
		return nil, fmt.Errorf("--board is needed: the board.json of a kit; a roster that only vouches for itself names anybody's ledgers")
	}
	roster, err := pinned.OpenRoster(rosterFile, boardFile)
	if err != nil {
		return nil, err
	}
	var raw [][]byte
	for _, file := range checkpoints {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		raw = append(raw, b)
	}
	out, err := provenance.Heads(roster.Roster, raw, time.Now())
	if err != nil {
		return nil, fmt.Errorf("%w (of %s)", err, strings.Join(checkpoints, ", "))
	}
	return out, nil
}
