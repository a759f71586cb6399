package consilium

import (
	"fmt"
)

// ResultEnvelope is what hospitals sign at the release and seal to the team:
// the result document and the files beside it.
type ResultEnvelope struct {
	Result []byte // RFC 8785 JSON: the `result` half of result.json
	Files  []ResultFile
}

// ResultFile is a file beside the result, for example model.onnx.
type ResultFile struct {
	Name    string
	Content []byte
}

// MaxResultFiles bounds the files of one envelope.
const MaxResultFiles = 256

// Encode is the envelope's one encoding. Files stand in ascending order of
// their names.
func (r *ResultEnvelope) Encode() ([]byte, error) {
	if len(r.Files) > MaxResultFiles {
		return nil, fmt.Errorf("result: %d files, at most %d", len(r.Files), MaxResultFiles)
	}
	e := enc{}
	e.bytes32(r.Result)
	e.u16(uint16(len(r.Files)))
	for i, f := range r.Files {
		if !isFileName(f.Name) || i > 0 && r.Files[i-1].Name >= f.Name {
			return nil, fmt.Errorf("result: file name %q is not plain or not in ascending order", clip(f.Name))
		}
		e.bytes16([]byte(f.Name))
		e.bytes32(f.Content)
	}
	return e.b, nil
}

// ParseResultEnvelope is the inverse of Encode.
func ParseResultEnvelope(b []byte) (*ResultEnvelope, error) {
	d := dec{b: b}
	r := &ResultEnvelope{Result: d.bytes32(len(b))}
	n := int(d.u16())
	if n > MaxResultFiles {
		return nil, fmt.Errorf("result: %d files, at most %d", n, MaxResultFiles)
	}
	for i := 0; i < n && d.err == nil; i++ {
		f := ResultFile{Name: string(d.bytes16(255)), Content: d.bytes32(len(b))}
		if d.err == nil && (!isFileName(f.Name) || i > 0 && r.Files[i-1].Name >= f.Name) {
			return nil, fmt.Errorf("result: file name %q is not plain or not in ascending order", clip(f.Name))
		}
		r.Files = append(r.Files, f)
	}
	return r, d.done("result")
}

// isFileName accepts names that are safe to create in a directory.
func isFileName(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
