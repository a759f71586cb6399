// Command heads makes what .ci/anchor.sh anchors: a roster of two hospitals and
// witnessed checkpoints of their ledgers, and one of a stranger's.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
	"consilium/internal/pinned"
	"consilium/provenance"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(dir string) error {
	witness, err := provenance.NewWitnessKey("witness.example")
	if err != nil {
		return err
	}
	board, err := hybrid.Generate()
	if err != nil {
		return err
	}
	now := time.Now()
	r := consilium.Roster{APIVersion: consilium.APIVersion, Kind: "Roster", Name: "anchor.example", Version: 1, NotBefore: now.Unix(), NotAfter: now.Add(time.Hour).Unix(),
		Board: consilium.Board{Name: "board", Members: []consilium.BoardMember{{ID: "b1", Key: board.Public(), TLS: []consilium.Digest{{9}}}}, Threshold: 1, Witness: witness.Verifier()}}
	for i, name := range []string{"one", "two", "foreign"} {
		log, err := provenance.NewLogKey("ledger.example/" + name)
		if err != nil {
			return err
		}
		var leaves []consilium.Digest
		for n := range 3 + 2*i {
			leaves = append(leaves, provenance.LeafHash([]byte{byte(n), byte(i)}))
		}
		cp, err := provenance.SignCheckpoint(log.Name(), uint64(len(leaves)), provenance.TreeRoot(leaves), log, witness)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), cp, 0o644); err != nil {
			return err
		}
		if name == "foreign" {
			continue
		}
		key, err := hybrid.Generate()
		if err != nil {
			return err
		}
		r.Sites = append(r.Sites, consilium.Site{ID: consilium.SiteID(name), Name: name, Operator: name, Country: "NL", Regimes: []string{"GDPR"}, Key: key.Public(), TLS: []consilium.Digest{{byte(i + 1)}}, Ledger: log.Verifier()})
	}
	payload, err := canon.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := consilium.ParseRoster(payload); err != nil {
		return err
	}
	sig, err := board.Sign(consilium.DomainRoster, payload)
	if err != nil {
		return err
	}
	for name, doc := range map[string]any{
		"roster.json":   consilium.Signed{Payload: payload, Signatures: []consilium.Countersign{{By: "b1", Signature: sig}}},
		"unsigned.json": consilium.Signed{Payload: payload, Signatures: []consilium.Countersign{}},
		"board.json":    pinned.BoardOf(&r),
	} {
		b, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}
