// Command streams writes what two wearables and a pharmacy's supplier would
// deliver to a hospital: signed batches of heart rates, and an EPCIS document.
// The heart rates are generated (a fixed seed, a daily rhythm and noise); they
// are nobody's. The supply-chain events are invented as well.
//
//	go run ./examples/streams --out DIR
//
// Then add to the worker's config.yaml, and run `consilium ledger anchor`:
//
//	streams:
//	- {name: heart, kind: wearable, path: DIR/heart, devices: DIR/devices.json}
//	- {name: drugs, kind: epcis, path: DIR/drugs}
//
// Delete DIR/heart/b-1 before the first anchoring, and the gap is named; put it
// back, and the gap closes.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"

	"consilium"
	"consilium/internal/hybrid"
	"consilium/provenance"
)

func main() {
	out := flag.String("out", "", "new `directory`")
	flag.Parse()
	if err := run(*out); err != nil {
		fmt.Fprintln(os.Stderr, "streams:", err)
		os.Exit(1)
	}
}

// batchSamples is how many a device signs at once: one every 15 seconds, for
// an hour.
const batchSamples = 240

const supply = `{"@context":["https://ref.gs1.org/standards/epcis/2.0.0/epcis-context.jsonld"],"type":"EPCISDocument","schemaVersion":"2.0",
"creationDate":"2026-01-05T12:00:00Z","epcisBody":{"eventList":[
{"type":"ObjectEvent","eventTime":"2026-01-05T08:00:00+01:00","eventTimeZoneOffset":"+01:00","epcList":["urn:epc:id:sgtin:4012345.011111.1001"],
 "action":"OBSERVE","bizStep":"shipping","disposition":"in_transit"},
{"type":"ObjectEvent","eventTime":"2026-01-05T11:30:00+01:00","eventTimeZoneOffset":"+01:00","epcList":["urn:epc:id:sgtin:4012345.011111.1001"],
 "action":"OBSERVE","bizStep":"receiving","disposition":"in_progress"}]}}
`

type device struct {
	Device  provenance.ID       `json:"device"`
	Key     consilium.PublicKey `json:"key"`
	Patient string              `json:"patient"`
}

func run(out string) error {
	if out == "" {
		return errors.New("name a new directory with --out")
	}
	if err := errors.Join(os.Mkdir(out, 0o700), os.Mkdir(filepath.Join(out, "heart"), 0o700), os.Mkdir(filepath.Join(out, "drugs"), 0o700)); err != nil {
		return err
	}
	var list []device
	for i, patient := range []string{"100", "101"} {
		key, err := hybrid.Generate()
		if err != nil {
			return err
		}
		d := device{provenance.NewID(), key.Public(), patient}
		list = append(list, d)
		r := rand.New(rand.NewPCG(1, uint64(i)))
		var prev consilium.Digest
		for seq := range uint64(4) {
			b := &provenance.DeviceBatch{Device: d.Device, Seq: seq, Prev: prev, Code: "8867-4", Unit: "/min"}
			for s := range batchSamples {
				at := int64(1_767_600_000_000) + (int64(seq)*batchSamples+int64(s))*15_000
				hour := float64(at%86_400_000) / 3_600_000
				b.Times = append(b.Times, at)
				b.Values = append(b.Values, math.Round(66-8*math.Cos(2*math.Pi*(hour-4)/24)+4*r.NormFloat64()))
			}
			signed, err := provenance.SignDeviceBatch(key, b)
			if err != nil {
				return err
			}
			prev = signed.Digest()
			if err := os.WriteFile(filepath.Join(out, "heart", fmt.Sprintf("%c-%d", 'a'+i, seq)), signed.Encode(), 0o600); err != nil {
				return err
			}
		}
	}
	doc, err := json.MarshalIndent(map[string]any{"devices": list}, "", " ")
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(out, "devices.json"), append(doc, '\n'), 0o600),
		os.WriteFile(filepath.Join(out, "drugs", "day-1.json"), []byte(supply), 0o600))
}
