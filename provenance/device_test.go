package provenance

import (
	"bytes"
	"slices"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"

	"consilium"
	"consilium/internal/hybrid"
	"consilium/provenance/epcis"
)

type wearable struct {
	t    testing.TB
	id   ID
	key  *hybrid.Key
	seq  uint64
	prev consilium.Digest
}

func newWearable(t testing.TB) *wearable {
	key, err := hybrid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return &wearable{t: t, id: NewID(), key: key}
}

func (w *wearable) measure(values ...float64) *SignedDeviceBatch {
	w.t.Helper()
	b := &DeviceBatch{Device: w.id, Seq: w.seq, Prev: w.prev, Code: "8867-4", Unit: "/min", Values: values}
	for i := range values {
		b.Times = append(b.Times, 1_700_000_000_000+int64(w.seq)*60_000+int64(i)*1000)
	}
	d, err := SignDeviceBatch(w.key, b)
	if err != nil {
		w.t.Fatal(err)
	}
	w.seq, w.prev = w.seq+1, d.Digest()
	return d
}

// naive takes every batch that carries the device's signature, as a gateway
// without a chain does.
func naive(key consilium.PublicKey, arrived []*SignedDeviceBatch) (out []*SignedDeviceBatch) {
	for _, b := range arrived {
		if b.Verify(key) == nil {
			out = append(out, b)
		}
	}
	return out
}

func TestDeviceChain(t *testing.T) {
	w := newWearable(t)
	var all []*SignedDeviceBatch
	for i := range 6 {
		all = append(all, w.measure(float64(60+i), float64(61+i)))
	}
	key := w.key.Public()
	check := func(name string, arrived []*SignedDeviceBatch, count int, want ...DeviceFinding) {
		t.Helper()
		got, findings := CheckDevice(key, arrived)
		if len(got) != count || !slices.Equal(findings, want) {
			t.Errorf("%s: %d batches, %v; want %d, %v", name, len(got), findings, count, want)
		}
		for i := 1; i < len(got); i++ {
			if got[i].Batch.Seq <= got[i-1].Batch.Seq {
				t.Errorf("%s: out of order", name)
			}
		}
	}
	check("whole", all, 6)
	check("any order, twice", []*SignedDeviceBatch{all[3], all[1], all[0], all[5], all[4], all[2], all[3]}, 6)

	// Attack: the carrier drops a batch that would show something.
	dropped := slices.Delete(slices.Clone(all), 2, 4)
	check("dropped", dropped, 4, DeviceFinding{DeviceGap, w.id, 2, 3})
	if n := len(naive(key, dropped)); n != len(dropped) {
		t.Errorf("the naive twin should see nothing, it took %d of %d", n, len(dropped))
	}
	check("late", append(dropped, all[3], all[2]), 6)
	check("from the middle", all[2:], 4, DeviceFinding{DeviceGap, w.id, 0, 1})

	// Attack: a copy of the device signs another history from batch 3 on.
	copied := &wearable{t: t, id: w.id, key: w.key, seq: 3, prev: all[2].Digest()}
	other := []*SignedDeviceBatch{copied.measure(90), copied.measure(91), copied.measure(92)}
	check("two at one place", append(slices.Clone(all), other...), 3, DeviceFinding{DeviceFork, w.id, 3, 5})
	check("spliced", []*SignedDeviceBatch{all[0], all[1], all[2], all[3], other[1], other[2]}, 4, DeviceFinding{DeviceFork, w.id, 4, 5})
	if n := len(naive(key, append(slices.Clone(all), other...))); n != 9 {
		t.Errorf("the naive twin should take both histories, it took %d", n)
	}

	// Attack: another device's key, and a value changed on the way.
	stranger := newWearable(t)
	stranger.id, stranger.seq, stranger.prev = w.id, 6, w.prev
	check("forged", append(slices.Clone(all), stranger.measure(1)), 6, DeviceFinding{DeviceForged, w.id, 6, 6})
	changed, err := ParseDeviceBatch(bytes.Replace(all[5].Encode(), []byte("[65,66]"), []byte("[65,67]"), 1))
	if err != nil || bytes.Equal(changed.Encode(), all[5].Encode()) {
		t.Fatal(err)
	}
	check("changed", append(slices.Clone(all[:5]), changed), 5, DeviceFinding{DeviceForged, w.id, 5, 5})
}

func TestDeviceBatchEncoding(t *testing.T) {
	w := newWearable(t)
	d := w.measure(60.5, -0.25, 1e-7)
	again, err := ParseDeviceBatch(d.Encode())
	if err != nil || !bytes.Equal(again.Encode(), d.Encode()) || again.Verify(w.key.Public()) != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]*DeviceBatch{
		"no samples": {Device: w.id, Code: "x"},
		"backwards":  {Device: w.id, Code: "x", Times: []int64{2, 1}, Values: []float64{1, 1}},
		"lengths":    {Device: w.id, Code: "x", Times: []int64{2}, Values: []float64{1, 1}},
		"no device":  {Code: "x", Times: []int64{2}, Values: []float64{1}},
		"prev":       {Device: w.id, Seq: 1, Code: "x", Times: []int64{2}, Values: []float64{1}},
	} {
		if _, err := SignDeviceBatch(w.key, bad); err == nil {
			t.Errorf("%s was signed", name)
		}
	}
}

// Samples and supply-chain events pass the whole way: into the ledger, past
// the gate, out of it when a device batch is replaced, and into nothing but
// hashes when the wearer is erased.
func TestStreamsThroughTheLedger(t *testing.T) {
	h := newHospital(t)
	a, b := newWearable(t), newWearable(t)
	devices := []Device{{a.id, a.key.Public(), pseudonym(t, "p1")}, {b.id, b.key.Public(), pseudonym(t, "p2")}}
	arrived := []*SignedDeviceBatch{a.measure(60, 61), b.measure(70), a.measure(62)}
	rec, findings, err := Samples(devices, arrived)
	if err != nil || len(findings) > 0 || rec.NumRows() != 4 {
		t.Fatalf("%v %v %d", err, findings, rec.NumRows())
	}
	put := func(rec arrow.Record) {
		t.Helper()
		h.anchorRecord(rec)
	}
	put(rec)
	// More arrives: only what is new makes the next batch.
	arrived = append(arrived, b.measure(71, 72), a.measure(63))
	rec, _, err = Samples(devices, arrived)
	if err != nil {
		t.Fatal(err)
	}
	v := h.verify(h.gate(nil), rec)
	if v.Counts.Verified != 4 || v.Counts.Added != 3 {
		t.Fatalf("%+v", v.Counts)
	}
	fresh := make([]bool, rec.NumRows())
	for i := range fresh {
		fresh[i] = !v.Rows[0][i]
	}
	part, err := SelectRows(rec, fresh)
	if err != nil || part.NumRows() != 3 {
		t.Fatal(err)
	}
	put(part)
	if v = h.verify(h.gate(nil), rec); v.Counts.Verified != 7 || v.Counts.Missing+v.Counts.Added > 0 {
		t.Fatalf("%+v", v.Counts)
	}
	if none, err := SelectRows(rec, make([]bool, 7)); err != nil || none.NumRows() != 0 {
		t.Fatal(err)
	}
	// The carrier replaces what is anchored by another history that the device's
	// key signed: the chain is whole, the ledger is not.
	other := &wearable{t: t, id: b.id, key: b.key}
	replaced, findings, err := Samples(devices, []*SignedDeviceBatch{arrived[0], arrived[2], arrived[4], other.measure(99), other.measure(98)})
	if err != nil || len(findings) > 0 {
		t.Fatal(err, findings)
	}
	if v = h.verify(h.gate(nil), replaced); v.Counts.Verified != 4 || v.Counts.Altered != 2 || v.Counts.Missing != 1 {
		t.Errorf("%+v", v.Counts)
	}
	if _, _, err := Samples(append(devices, devices[0]), nil); err == nil {
		t.Error("a device stands twice")
	}
	if _, f, _ := Samples(devices[:1], arrived); len(f) != 2 || f[0].Kind != DeviceUnknown {
		t.Errorf("%v", f)
	}

	events, err := epcis.Parse([]byte(`{"epcisBody":{"eventList":[
	 {"type":"ObjectEvent","eventTime":"2026-01-02T00:00:00Z","epcList":["urn:epc:id:sgtin:4012345.011111.2"],"action":"OBSERVE"},
	 {"type":"ObjectEvent","eventTime":"2026-01-01T00:00:00Z","epcList":["urn:epc:id:sgtin:4012345.011111.1"],"action":"ADD"},
	 {"type":"ObjectEvent","eventTime":"2026-01-01T01:00:00+01:00","epcList":["https://example.com/01/04012345111118/21/1"],"action":"ADD"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	supply, err := SupplyEvents(make([]byte, 32), events)
	if err != nil || supply.NumRows() != 2 {
		t.Fatalf("%v, %d rows", err, supply.NumRows())
	}
	h.stream = NewID()
	put(supply)
	if v = h.verify(h.gate(nil), supply); v.Counts.Verified != 2 {
		t.Errorf("%+v", v.Counts)
	}
}

// FuzzDeviceBatch: accepted implies that it encodes to the same bytes.
func FuzzDeviceBatch(f *testing.F) {
	w := newWearable(f)
	f.Add(w.measure(60, 61).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := ParseDeviceBatch(b); err == nil && !bytes.Equal(d.Encode(), b) {
			t.Fatal("another encoding")
		}
	})
}

// anchorRecord is anchor for any record.
func (h *hospital) anchorRecord(rec arrow.Record) {
	h.t.Helper()
	var after *SignedHeader
	for _, b := range h.batches {
		if b.Header.Header.Stream == h.stream {
			after = b.Header
		}
	}
	d, err := NewBatch(rec, h.salts, BatchOptions{Origin: h.log.Name(), Stream: h.stream, After: after, From: 1, To: 2})
	if err != nil {
		h.t.Fatal(err)
	}
	sh, err := SignHeader(h.key, d.Payload)
	if err != nil {
		h.t.Fatal(err)
	}
	h.append(sh.Entry())
	h.batches = append(h.batches, Batch{Header: sh, Manifest: d.Manifest})
}
