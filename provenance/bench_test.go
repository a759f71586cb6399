package provenance

import (
	"crypto/sha256"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"

	"consilium"
)

// BenchmarkRederive reports how much longer the gate needs for a table than
// SHA-256 alone needs for the bytes of its leaves, on one core ("x-sha256",
// the goal is 4 at most), and how many rows a second all cores check.
func BenchmarkRederive(b *testing.B) {
	const n = 200_000
	rows := make([]row, n)
	for i := range rows {
		rows[i] = row{fmt.Sprint("p", i/20), float64(i % 90), []string{"male", "female", ""}[i%3], i%2 == 0, int32(i % 400)}
	}
	rec := record(b, rows)
	salts := NewSalts()
	d, err := NewBatch(rec, salts, BatchOptions{Origin: "consilium.test/a", Stream: NewID(), From: 1, To: 2})
	if err != nil {
		b.Fatal(err)
	}
	hospital := newHospitalKey(b)
	sh, err := SignHeader(hospital, d.Payload)
	if err != nil {
		b.Fatal(err)
	}
	in := Input{Stream: d.Header.Stream, Batches: []Batch{{Header: sh, Manifest: d.Manifest}}, Records: []arrow.Record{rec}, Salts: salts}
	know := &knowledge{streams: map[ID][]*knownBatch{d.Header.Stream: {{header: d.Header, digest: sh.Digest(), key: hospital.Public()}}}}
	verify := func() *Verified {
		rc, err := newRowCoder(rec)
		if err != nil {
			b.Fatal(err)
		}
		m := &matcher{in: in, v: &Verified{}, coders: []*rowCoder{rc}, total: n}
		m.judgeBatches(know)
		m.listLeaves()
		m.match()
		m.report()
		return m.v
	}
	if v := verify(); v.Counts.Verified != n {
		b.Fatalf("%+v", v.Counts)
	}
	leaves := make([][]byte, n)
	rc, err := newRowCoder(rec)
	if err != nil {
		b.Fatal(err)
	}
	var salt consilium.Digest
	for r := range leaves {
		leaves[r] = append(make([]byte, 0, 160), 0)
		leaves[r] = append(append(leaves[r], rc.schema[:]...), salt[:]...)
		leaves[r] = rc.append(leaves[r], r)
	}
	procs := runtime.GOMAXPROCS(1)
	best := func(f func()) time.Duration {
		least := time.Duration(1 << 62)
		for i := 0; i < 5; i++ {
			start := time.Now()
			f()
			least = min(least, time.Since(start))
		}
		return least
	}
	raw := best(func() {
		for _, l := range leaves {
			sha256.Sum256(l)
		}
	})
	one := best(func() { verify() })
	runtime.GOMAXPROCS(procs)
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		verify()
	}
	b.ReportMetric(float64(one)/float64(raw), "x-sha256")
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}
