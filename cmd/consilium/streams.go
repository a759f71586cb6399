package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"consilium"
	"consilium/internal/table"
	"consilium/provenance"
	"consilium/provenance/epcis"
)

// A stream is a directory into which others deliver: wearables their signed
// batches, trading partners their EPCIS documents. Its files are kept: they
// are what the anchored rows are re-derived from.

const (
	streamWearable = "wearable"
	streamEPCIS    = "epcis"

	// maxStream bounds what one anchoring reads of one stream.
	maxStream = 4 << 30
)

type streamConfig struct {
	Name    string `yaml:"name"`
	Kind    string `yaml:"kind"`    // wearable or epcis
	Path    string `yaml:"path"`    // the directory of deliveries
	Devices string `yaml:"devices"` // wearable: who wears which device
}

// streamSource is a stream as the vault reads it.
type streamSource struct {
	Name    string        `json:"name"`
	Kind    string        `json:"kind"`
	Path    string        `json:"path"`
	Devices string        `json:"devices"`
	Stream  provenance.ID `json:"stream"`
}

func (c *streamConfig) source(path string) (streamSource, error) {
	out := streamSource{Name: c.Name, Kind: c.Kind}
	switch {
	case c.Name == "" || c.Path == "":
		return out, configError(path, nil, "give each entry of streams a name and a path", "a stream without name or path")
	case c.Kind != streamWearable && c.Kind != streamEPCIS:
		return out, configError(path, nil, "use wearable or epcis", "stream %s: kind %q", c.Name, c.Kind)
	case (c.Kind == streamWearable) != (c.Devices != ""):
		return out, configError(path, nil, "wearable streams name the file that lists their devices, and only they", "stream %s: devices: %q", c.Name, c.Devices)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return out, err
	}
	absolute := func(p string) string {
		if p == "" || filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(dir, p)
	}
	out.Path, out.Devices = absolute(c.Path), absolute(c.Devices)
	return out, nil
}

// tables are the names of all that is anchored, in the order of anchoring.
func (h *hospital) tables() []string {
	var out []string
	for _, d := range h.datasets {
		out = append(out, d.Name)
	}
	for _, s := range h.streamed {
		out = append(out, s.Name)
	}
	return out
}

func (h *hospital) streamSources(ids map[string]provenance.ID) ([]streamSource, error) {
	var out []streamSource
	for _, s := range h.streamed {
		id, ok := ids[s.Name]
		if !ok {
			return nil, consilium.ErrLedger.Withf("stream %s is not anchored; run `consilium ledger anchor --config %s`", s.Name, h.path)
		}
		s.Stream = id
		out = append(out, s)
	}
	return out, nil
}

// deviceList is the devices file.
type deviceList struct {
	Devices []deviceEntry `json:"devices"`
}

type deviceEntry struct {
	Device  provenance.ID       `json:"device"`
	Key     consilium.PublicKey `json:"key"`
	Patient string              `json:"patient"` // the hospital's own number
}

func (s *streamSource) devices() (*deviceList, error) {
	b, err := os.ReadFile(s.Devices)
	if err != nil {
		return nil, consilium.ErrData.Withf("stream %s: %w", s.Name, err)
	}
	var list deviceList
	if err := strictJSON(b, &list); err != nil {
		return nil, consilium.ErrData.Withf("stream %s: %s: %w", s.Name, s.Devices, err)
	}
	return &list, nil
}

// deliveries reads every file of the stream's directory, in the order of their
// names; hidden files and other kinds are refused, since a file that is not
// read would be a record that is silently left out.
func (s *streamSource) deliveries(each func(name string, b []byte) error) error {
	list, err := os.ReadDir(s.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return consilium.ErrData.Withf("stream %s: %w; make the directory", s.Name, err)
	} else if err != nil {
		return fmt.Errorf("stream %s: %w", s.Name, err)
	}
	total := int64(0)
	for _, f := range list {
		info, err := f.Info()
		if err != nil {
			return fmt.Errorf("stream %s: %w", s.Name, err)
		}
		if strings.HasSuffix(f.Name(), ".part") {
			continue // a delivery that is still being written
		}
		if !info.Mode().IsRegular() {
			return consilium.ErrData.Withf("stream %s: %s is no file; remove it", s.Name, f.Name())
		}
		if total += info.Size(); total > maxStream {
			return consilium.ErrTooLarge.Withf("stream %s holds more than %d bytes; begin another stream", s.Name, int64(maxStream))
		}
		b, err := os.ReadFile(filepath.Join(s.Path, f.Name()))
		if err != nil {
			return fmt.Errorf("stream %s: %w", s.Name, err)
		}
		if err := each(f.Name(), b); err != nil {
			return consilium.ErrData.Withf("stream %s: %s: %w; move the file away if it is not a delivery", s.Name, f.Name(), err)
		}
	}
	return nil
}

// read turns what was delivered into rows, and says what is wrong with it.
func (s *streamSource) read(pseudonymKey []byte) (provenance.Record, []string, error) {
	if s.Kind == streamEPCIS {
		var events []epcis.Event
		err := s.deliveries(func(_ string, b []byte) error {
			more, err := epcis.Parse(b)
			events = append(events, more...)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		rec, err := provenance.SupplyEvents(pseudonymKey, events)
		return rec, nil, err
	}
	list, err := s.devices()
	if err != nil {
		return nil, nil, err
	}
	devices := make([]provenance.Device, len(list.Devices))
	for i, d := range list.Devices {
		if d.Patient == "" {
			return nil, nil, consilium.ErrData.Withf("stream %s: device %s has no wearer", s.Name, d.Device)
		}
		devices[i] = provenance.Device{ID: d.Device, Key: d.Key, Patient: table.Pseudonym(pseudonymKey, d.Patient)}
	}
	var arrived []*provenance.SignedDeviceBatch
	err = s.deliveries(func(_ string, b []byte) error {
		d, err := provenance.ParseDeviceBatch(b)
		arrived = append(arrived, d)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	rec, findings, err := provenance.Samples(devices, arrived)
	var wrong []string
	for _, f := range findings {
		wrong = append(wrong, s.Name+": "+f.String())
	}
	return rec, wrong, err
}
