package consilium

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// enc appends fixed-width big-endian fields; dec reads them back and
// remembers the first failure. Every message below has exactly one encoding.
type enc struct{ b []byte }

func (e *enc) u8(v uint8)       { e.b = append(e.b, v) }
func (e *enc) u16(v uint16)     { e.b = binary.BigEndian.AppendUint16(e.b, v) }
func (e *enc) u32(v uint32)     { e.b = binary.BigEndian.AppendUint32(e.b, v) }
func (e *enc) u64(v uint64)     { e.b = binary.BigEndian.AppendUint64(e.b, v) }
func (e *enc) raw(v []byte)     { e.b = append(e.b, v...) }
func (e *enc) bytes16(v []byte) { e.u16(uint16(len(v))); e.raw(v) }
func (e *enc) bytes32(v []byte) { e.u32(uint32(len(v))); e.raw(v) }
func (e *enc) digest(v Digest)  { e.raw(v[:]) }

type dec struct {
	b   []byte
	err error
}

var errShort = errors.New("too short")

func (d *dec) take(n int) []byte {
	if d.err != nil || n < 0 || len(d.b) < n {
		if d.err == nil {
			d.err = errShort
		}
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *dec) u8() uint8 {
	if v := d.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *dec) u16() uint16 {
	if v := d.take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (d *dec) u32() uint32 {
	if v := d.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (d *dec) u64() uint64 {
	if v := d.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (d *dec) digest() (v Digest) { copy(v[:], d.take(len(v))); return v }

func (d *dec) bytes16(limit int) []byte { return d.limited(int(d.u16()), limit) }
func (d *dec) bytes32(limit int) []byte { return d.limited(int(d.u32()), limit) }

func (d *dec) limited(n, limit int) []byte {
	if d.err == nil && n > limit {
		d.err = fmt.Errorf("a field of %d bytes, at most %d", n, limit)
	}
	v := d.take(n)
	if d.err != nil {
		return nil
	}
	return append([]byte(nil), v...)
}

// done reports the first failure, or bytes left over.
func (d *dec) done(what string) error {
	if d.err == nil && len(d.b) > 0 {
		d.err = fmt.Errorf("%d bytes left over", len(d.b))
	}
	if d.err != nil {
		return fmt.Errorf("%s: %w", what, d.err)
	}
	return nil
}
