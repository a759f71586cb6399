package provenance

import (
	"context"
	"fmt"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
)

// Thirteen hospitals anchor at once with one witness, as in a small study; and
// Tessera's own checker agrees with every ledger.
func TestThirteenHospitals(t *testing.T) {
	board := witnessKeys(t, 1)[0]
	const n = 13
	hospitals := make([]*hospital, n)
	var logs []string
	for i := range hospitals {
		log, err := NewLogKey(fmt.Sprintf("consilium.test/site/h%d", i))
		if err != nil {
			t.Fatal(err)
		}
		hospitals[i] = &hospital{t: t, dir: t.TempDir(), key: newHospitalKey(t), log: log, board: board, salts: NewSalts(), stream: NewID()}
		logs = append(logs, log.Verifier())
	}
	w, err := OpenWitness(WitnessConfig{Key: board, Dir: t.TempDir(), Logs: logs})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(w)
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	start := time.Now()
	var wg sync.WaitGroup
	for _, h := range hospitals {
		h.server = server
		wg.Go(func() {
			l, err := OpenLedger(ctx, LedgerConfig{Dir: h.dir, Key: h.log, Site: h.key.Public(), Witnesses: h.policy()})
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Close()
			b := h.draft(testRows())
			h.batches = []Batch{b}
			at, err := l.AppendAll(ctx, [][]byte{b.Header.Entry(), h.record("decision"), h.record("use")})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := l.Await(ctx, at[2]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d ledgers opened, written, cosigned and closed in %v", n, time.Since(start))
	for _, h := range hospitals {
		if v := h.verify(h.gate(nil), record(t, testRows())); v.Counts.Verified != len(testRows()) {
			t.Errorf("%s: %+v", h.log.Name(), v.Counts)
		}
	}
	h := hospitals[0]
	v, err := note.NewVerifier(h.log.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	leaves := func(bundle []byte) ([][]byte, error) {
		var b api.EntryBundle
		if err := b.UnmarshalText(bundle); err != nil {
			return nil, err
		}
		var out [][]byte
		for _, e := range b.Entries {
			out = append(out, rfc6962.DefaultHasher.HashLeaf(e))
		}
		return out, nil
	}
	if err := fsck.New(h.log.Name(), v, client.FileFetcher{Root: h.dir}, leaves, fsck.Opts{N: 1}).Check(ctx); err != nil {
		t.Errorf("Tessera's checker: %v", err)
	}
	other := *h
	other.log = hospitals[1].log
	if _, err := other.gate(nil).Update(ctx, DirView(h.dir)); err == nil {
		t.Error("one hospital's ledger passed for another's")
	}
}
