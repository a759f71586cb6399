// Package canon gives every JSON document one encoding: RFC 8785 (JCS). It
// promises that what Marshal makes, Check accepts, and that Check refuses any
// other spelling of the same value: duplicate keys, blanks, other number
// forms.
package canon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// ErrNotCanonical says that a document is not the RFC 8785 encoding of its
// value.
var ErrNotCanonical = errors.New("not canonical JSON (RFC 8785)")

// Marshal encodes v as RFC 8785 JSON.
func Marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	out, err := transform(b)
	if err != nil {
		return nil, fmt.Errorf("canonical JSON: %w", err)
	}
	return bytes.Clone(out), nil
}

// Check accepts exactly the RFC 8785 encoding of a JSON object.
func Check(b []byte) error {
	out, err := transform(b)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotCanonical, err)
	}
	if !bytes.Equal(out, b) {
		return ErrNotCanonical
	}
	return nil
}
