package provenance

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"consilium"
	"consilium/internal/canon"
)

// A wearable signs what it measured in batches, each naming the digest of the
// one before. So a batch that was dropped, put in another order or replaced
// shows, whoever carried it; only the loss of the last ones shows no sooner
// than with the next that arrives.

const deviceVersion = 1

// MaxSamples is the most samples of one device batch: what fits an entry.
const MaxSamples = 1000

// DeviceBatch is what a device signs: samples of one quantity. It travels as
// RFC 8785 JSON. Value i was measured at Times[i].
type DeviceBatch struct {
	V      int              `json:"v"`
	Device ID               `json:"device"` // random
	Seq    uint64           `json:"seq"`    // from 0
	Prev   consilium.Digest `json:"prev"`   // of the device's batch before; zero at seq 0
	Code   string           `json:"code"`   // LOINC
	Unit   string           `json:"unit"`   // UCUM
	Times  []int64          `json:"times"`  // Unix milliseconds, ascending
	Values []float64        `json:"values"`
}

func (b *DeviceBatch) validate() error {
	switch {
	case b.V != deviceVersion:
		return fmt.Errorf("version %d", b.V)
	case b.Device.IsZero():
		return errors.New("no device")
	case (b.Seq == 0) != b.Prev.IsZero() || b.Seq > MaxTreeSize:
		return fmt.Errorf("seq %d and prev do not fit", b.Seq)
	case b.Code == "" || len(b.Code) > 32 || len(b.Unit) > 32:
		return errors.New("code and unit: want 1 to 32 and at most 32 characters")
	case len(b.Times) == 0 || len(b.Times) > MaxSamples || len(b.Times) != len(b.Values):
		return fmt.Errorf("%d times and %d values: want as many, 1 to %d", len(b.Times), len(b.Values), MaxSamples)
	}
	for i, t := range b.Times {
		if t <= 0 || t > 1<<52 || i > 0 && t < b.Times[i-1] {
			return fmt.Errorf("time %d is out of order or range", i)
		}
		if v := b.Values[i]; math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("value %d is no number", i)
		}
	}
	return nil
}

// SignedDeviceBatch is a device batch with the device's hybrid signature.
type SignedDeviceBatch struct {
	Batch     DeviceBatch
	payload   []byte
	signature consilium.Signature
}

// SignDeviceBatch signs b for its device. It sets b.V.
func SignDeviceBatch(s consilium.Signer, b *DeviceBatch) (*SignedDeviceBatch, error) {
	b.V = deviceVersion
	if err := b.validate(); err != nil {
		return nil, consilium.ErrInvalid.Withf("device batch: %w", err)
	}
	payload, err := canon.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("device batch: %w", err)
	}
	sig, err := s.Sign(consilium.DomainDeviceBatch, payload)
	if err != nil {
		return nil, err
	}
	d := &SignedDeviceBatch{Batch: *b, payload: payload, signature: sig}
	if n := len(d.Encode()); n > MaxEntrySize {
		return nil, consilium.ErrTooLarge.Withf("a device batch of %d bytes, at most %d: fewer samples", n, MaxEntrySize)
	}
	return d, nil
}

// Encode is the batch's one encoding: domain, document and signature, a line
// each.
func (d *SignedDeviceBatch) Encode() []byte {
	return encodeLines(consilium.DomainDeviceBatch, d.payload, &d.signature)
}

// ParseDeviceBatch is the inverse of Encode. It checks the form, not the
// signature.
func ParseDeviceBatch(b []byte) (*SignedDeviceBatch, error) {
	_, payload, sig, err := parseLines(b, consilium.DomainDeviceBatch)
	if err != nil {
		return nil, consilium.ErrData.Withf("device batch: %w", err)
	}
	d := &SignedDeviceBatch{payload: payload, signature: sig}
	if err := strictJSON(payload, &d.Batch); err != nil {
		return nil, consilium.ErrData.Withf("device batch: %w", err)
	}
	if err := d.Batch.validate(); err != nil {
		return nil, consilium.ErrData.Withf("device batch: %w", err)
	}
	return d, nil
}

// Digest names the batch: what the next one's Prev holds.
func (d *SignedDeviceBatch) Digest() consilium.Digest {
	return consilium.DomainDeviceBatch.Digest(d.payload)
}

// Verify checks the device's signature, both halves.
func (d *SignedDeviceBatch) Verify(device consilium.PublicKey) error {
	e := Entry{Domain: consilium.DomainDeviceBatch, Payload: d.payload, Signature: d.signature}
	return e.Verify(device)
}

// DeviceFindingKind is what a DeviceFinding reports.
type DeviceFindingKind uint8

const (
	DeviceForged  DeviceFindingKind = 1 // a batch without the device's signature: left out
	DeviceGap     DeviceFindingKind = 2 // batches From to To have not arrived: what came later counts
	DeviceFork    DeviceFindingKind = 3 // two histories from From on: nothing from there on counts
	DeviceUnknown DeviceFindingKind = 4 // a batch of a device that the hospital does not know: left out
)

func (k DeviceFindingKind) String() string {
	names := [...]string{"", "forged", "gap", "fork", "unknown device"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// DeviceFinding is one deviation in a device's chain.
type DeviceFinding struct {
	Kind     DeviceFindingKind
	Device   ID
	From, To uint64 // seq, both included
}

func (f DeviceFinding) String() string {
	switch f.Kind {
	case DeviceGap:
		return fmt.Sprintf("device %s: batches %d to %d have not arrived", f.Device, f.From, f.To)
	case DeviceFork:
		return fmt.Sprintf("device %s: two histories from batch %d on; nothing from there on is anchored: take the device in", f.Device, f.From)
	}
	return fmt.Sprintf("device %s: batch %d: %s", f.Device, f.From, f.Kind)
}

// CheckDevice holds everything that arrived of one device against its chain.
// It returns the batches that count, in the order of seq, and what is wrong.
// Order of arrival and repeats do not matter, and a batch that arrives late
// closes its gap.
func CheckDevice(key consilium.PublicKey, arrived []*SignedDeviceBatch) ([]*SignedDeviceBatch, []DeviceFinding) {
	type link struct {
		batch  *SignedDeviceBatch
		digest consilium.Digest
	}
	var links []link
	var findings []DeviceFinding
	seen := map[consilium.Digest]bool{}
	for _, b := range arrived {
		// A repeat is told by its signed content; a forged copy of a good batch is
		// still forged.
		if err := b.Verify(key); err != nil {
			findings = append(findings, DeviceFinding{DeviceForged, b.Batch.Device, b.Batch.Seq, b.Batch.Seq})
			continue
		}
		if d := b.Digest(); !seen[d] {
			seen[d] = true
			links = append(links, link{b, d})
		}
	}
	slices.SortFunc(links, func(a, b link) int {
		if c := cmp.Compare(a.batch.Batch.Seq, b.batch.Batch.Seq); c != 0 {
			return c
		}
		return bytes.Compare(a.digest[:], b.digest[:])
	})
	var out []*SignedDeviceBatch
	next := uint64(0)
	for i, l := range links {
		b := &l.batch.Batch
		twice := i+1 < len(links) && links[i+1].batch.Batch.Seq == b.Seq
		broken := i > 0 && b.Seq == next && b.Prev != links[i-1].digest
		if twice || broken {
			return out, append(findings, DeviceFinding{DeviceFork, b.Device, b.Seq, links[len(links)-1].batch.Batch.Seq})
		}
		if b.Seq > next {
			findings = append(findings, DeviceFinding{DeviceGap, b.Device, next, b.Seq - 1})
		}
		out = append(out, l.batch)
		next = b.Seq + 1
	}
	return out, findings
}
