package epcis

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"consilium"
)

// MaxDocument is the most bytes of one document.
const MaxDocument = 64 << 20

// maxDepth bounds how deep a document may nest.
const maxDepth = 64

// Event is one event of a document.
type Event struct {
	Type    string    // ObjectEvent, AggregationEvent, …
	Time    time.Time // eventTime
	Prehash string    // the canonical text that is hashed
}

// Digest is SHA-256 of the canonical text.
func (e *Event) Digest() consilium.Digest { return sha256.Sum256([]byte(e.Prehash)) }

// Hash is the event's name in the form of RFC 6920, as CBV 2.0 writes it.
func (e *Event) Hash() string {
	d := e.Digest()
	return "ni:///sha-256;" + hex.EncodeToString(d[:]) + "?ver=CBV2.0"
}

// Parse reads an EPCIS document, a query document or a single event, in XML or
// JSON-LD, and returns its events in the order of the document.
func Parse(doc []byte) ([]Event, error) {
	if len(doc) > MaxDocument {
		return nil, consilium.ErrTooLarge.Withf("EPCIS document of %d bytes, at most %d: split it", len(doc), MaxDocument)
	}
	trimmed := bytes.TrimLeft(bytes.TrimPrefix(doc, []byte("\xef\xbb\xbf")), " \t\r\n")
	read := parseJSON
	if bytes.HasPrefix(trimmed, []byte("<")) {
		read = parseXML
	}
	nodes, ignore, err := read(trimmed)
	if err != nil {
		return nil, consilium.ErrData.Withf("EPCIS document: %w", err)
	}
	events := make([]Event, 0, len(nodes))
	for i, n := range nodes {
		e := Event{Type: n.name}
		if !strings.HasSuffix(n.name, "Event") {
			return nil, consilium.ErrData.Withf("EPCIS document: event %d is of type %q", i+1, clip(n.name))
		}
		for _, k := range n.kids {
			if k.name == "eventTime" {
				if e.Time, err = moment(k.text); err != nil {
					return nil, consilium.ErrData.Withf("EPCIS document: event %d: %w", i+1, err)
				}
			}
		}
		if e.Time.IsZero() {
			return nil, consilium.ErrData.Withf("EPCIS document: event %d has no eventTime", i+1)
		}
		if e.Prehash, err = prehash(n, ignore); err != nil {
			return nil, consilium.ErrData.Withf("EPCIS document: event %d: %w", i+1, err)
		}
		events = append(events, e)
	}
	return events, nil
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}
