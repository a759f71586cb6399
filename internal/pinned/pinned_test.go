package pinned

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
)

// A stranger writes a roster with a hospital of his own in it. The naive twin,
// which only parses, takes it; signed by a board of his own it opens unpinned, and
// under the board that the reader pins not at all.
func TestForgedRoster(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	roster := func(by ...*hybrid.Key) (*consilium.Signed, *consilium.Roster) {
		own, err := hybrid.Generate()
		if err != nil {
			t.Fatal(err)
		}
		r := &consilium.Roster{APIVersion: consilium.APIVersion, Kind: "Roster", Name: "test", Version: 1, NotBefore: 1, NotAfter: time.Now().Unix() + 1000,
			Board: consilium.Board{Name: "board", Members: []consilium.BoardMember{{ID: "b1", Key: own.Public(), TLS: []consilium.Digest{{1}}}}, Threshold: 1}}
		if by == nil {
			by = []*hybrid.Key{own}
		}
		payload, err := canon.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		s := &consilium.Signed{Payload: payload}
		for _, k := range by {
			if k == nil {
				continue
			}
			sig, err := k.Sign(consilium.DomainRoster, payload)
			if err != nil {
				t.Fatal(err)
			}
			s.Signatures = append(s.Signatures, consilium.Countersign{By: "b1", Signature: sig})
		}
		return s, r
	}
	genuine, r := roster()
	board := write("board.json", BoardOf(r))
	if got, err := OpenRoster(write("genuine.json", genuine), board); err != nil || !got.Pinned {
		t.Fatalf("%v", err)
	}
	forged, _ := roster()
	path := write("forged.json", forged)
	if _, _, err := ParseRoster(path); err != nil {
		t.Errorf("the naive twin noticed: %v", err)
	}
	if got, err := OpenRoster(path, ""); err != nil || got.Pinned || got.Unpinned() == "" {
		t.Errorf("unpinned: %v", err)
	}
	if _, err := OpenRoster(path, board); !errors.Is(err, consilium.ErrSignature) {
		t.Errorf("another board's roster: %v", err)
	}
	unsigned, _ := roster(nil)
	if _, err := OpenRoster(write("unsigned.json", unsigned), ""); !errors.Is(err, consilium.ErrSignature) {
		t.Errorf("an unsigned roster: %v", err)
	}
	if _, err := OpenRoster(path, filepath.Join(dir, "none.json")); err == nil {
		t.Error("without the board's file")
	}
	if _, err := OpenRoster(path, write("empty.json", map[string]any{})); err == nil {
		t.Error("an empty board")
	}
	broken := *genuine
	broken.Payload = append([]byte(nil), genuine.Payload...)
	broken.Payload[len(broken.Payload)-2] ^= 1
	if _, err := OpenRoster(write("broken.json", broken), board); err == nil {
		t.Error("an altered roster")
	}
}
