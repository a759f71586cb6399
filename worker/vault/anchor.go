package vault

import (
	"time"

	"consilium"
	"consilium/provenance"
)

// Draft is a batch of a dataset's rows before the hospital signs its header.
type Draft struct {
	draft *provenance.Draft
	Rows  int
}

// Payload is what the hospital signs: the batch header.
func (d *Draft) Payload() []byte { return d.draft.Payload }

// Draft hashes a dataset's present rows into a batch: salted leaves, of which
// only the root will leave the vault. The caller signs Payload, appends the
// signed header to the ledger and gives it back to Keep.
func (v *Vault) Draft(name, origin string) (*Draft, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	def, err := v.definition(name)
	if err != nil {
		return nil, err
	}
	rows, err := readTable(def, def.dictionary(), v.cfg.Pseudonym)
	if err != nil {
		return nil, err
	}
	var after *provenance.SignedHeader
	list, err := v.batches.List()
	if err != nil {
		return nil, err
	}
	for i := range list {
		if list[i].Header.Header.Stream == def.Stream {
			after = list[i].Header
		}
	}
	now := v.cfg.Now()
	d, err := provenance.NewBatch(rows.Record, v.salts, provenance.BatchOptions{
		Origin: origin, Stream: def.Stream, After: after, From: now.Add(-time.Second).Unix(), To: now.Unix(),
	})
	if err != nil {
		return nil, err
	}
	return &Draft{draft: d, Rows: int(rows.Record.NumRows())}, nil
}

// Keep stores a signed batch beside its manifest.
func (v *Vault) Keep(d *Draft, signed *provenance.SignedHeader) error {
	if signed.Header.Root != d.draft.Header.Root {
		return consilium.ErrLedger.Withf("the signed header is of another batch")
	}
	return v.batches.Put(provenance.Batch{Header: signed, Manifest: d.draft.Manifest})
}
