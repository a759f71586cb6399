package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"consilium/provenance"
	"consilium/provenance/epcis"
)

// What the example writes is what the ledger reads, and its documented gap is
// found.
func TestExample(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	if err := run(out); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(out, "devices.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ Devices []device }
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	var devices []provenance.Device
	for _, d := range doc.Devices {
		p, err := provenance.NewPseudonym(make([]byte, 32), d.Patient)
		if err != nil {
			t.Fatal(err)
		}
		devices = append(devices, provenance.Device{ID: d.Device, Key: d.Key, Patient: p})
	}
	read := func() (out2 []*provenance.SignedDeviceBatch) {
		files, err := filepath.Glob(filepath.Join(out, "heart", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			d, err := provenance.ParseDeviceBatch(b)
			if err != nil {
				t.Fatal(err)
			}
			out2 = append(out2, d)
		}
		return out2
	}
	rec, wrong, err := provenance.Samples(devices, read())
	if err != nil || len(wrong) > 0 || rec.NumRows() != 2*4*batchSamples {
		t.Errorf("%v %v %d", err, wrong, rec.NumRows())
	}
	if err := os.Remove(filepath.Join(out, "heart", "b-1")); err != nil {
		t.Fatal(err)
	}
	if _, wrong, err = provenance.Samples(devices, read()); err != nil || len(wrong) != 1 || wrong[0].Kind != provenance.DeviceGap {
		t.Errorf("%v %v", err, wrong)
	}
	if b, err = os.ReadFile(filepath.Join(out, "drugs", "day-1.json")); err != nil {
		t.Fatal(err)
	}
	if events, err := epcis.Parse(b); err != nil || len(events) != 2 {
		t.Errorf("%v, %d events", err, len(events))
	}
}
