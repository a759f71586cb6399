package consilium

import (
	"fmt"
	"math"
)

// BlockKind says how the values of a block become the integers that are
// encrypted and summed.
type BlockKind uint8

const (
	// Exact values are float64 turned into 128-bit integers with 64
	// fractional bits: the sum of the integers is the exact sum. A value that
	// does not fit is an error at its site, never a wrap.
	Exact BlockKind = 1
	// Learned16 and Learned24 values are clipped to [-Clip, Clip] and rounded
	// to 16 and 24 bits.
	Learned16 BlockKind = 2
	Learned24 BlockKind = 3
)

// Block is a named run of Length values of one kind.
type Block struct {
	Name   string    `json:"name"`
	Kind   BlockKind `json:"kind"`
	Length int       `json:"length"`
	Clip   float64   `json:"clip,omitempty"` // Learned only: the largest magnitude, above 0
}

// Layout is the shape of one round's vector, equal at every site. All Learned
// blocks of a layout have one kind, so that a round has one lane width.
type Layout struct {
	Blocks []Block `json:"blocks"`
}

// MaxValues bounds the values of one layout.
const MaxValues = 1 << 27

// Validate reports the first thing that makes l unusable.
func (l Layout) Validate() error {
	if len(l.Blocks) == 0 {
		return fmt.Errorf("layout: no blocks")
	}
	names := map[string]bool{}
	var learned BlockKind
	total := 0
	for _, b := range l.Blocks {
		if b.Name == "" || names[b.Name] {
			return fmt.Errorf("layout: block name %q is empty or stands twice", clip(b.Name))
		}
		names[b.Name] = true
		if b.Length < 1 || b.Length > MaxValues-total {
			return fmt.Errorf("layout: block %s has %d values, want 1 to %d in all", b.Name, b.Length, MaxValues)
		}
		total += b.Length
		switch b.Kind {
		case Exact:
			if b.Clip != 0 {
				return fmt.Errorf("layout: exact block %s has a clip", b.Name)
			}
		case Learned16, Learned24:
			if !(b.Clip > 0) || math.IsInf(b.Clip, 0) {
				return fmt.Errorf("layout: block %s has clip %v, want above 0", b.Name, b.Clip)
			}
			if learned != 0 && learned != b.Kind {
				return fmt.Errorf("layout: block %s mixes 16 and 24 bit values", b.Name)
			}
			learned = b.Kind
		default:
			return fmt.Errorf("layout: block %s has unknown kind %d", b.Name, b.Kind)
		}
	}
	return nil
}

// Bits is the lane width of the layout: 24 if it holds Learned24 values,
// else 16.
func (l Layout) Bits() int {
	for _, b := range l.Blocks {
		if b.Kind == Learned24 {
			return 24
		}
	}
	return 16
}

// ExactLanes is how many 16-bit lanes carry one Exact value of 128 bits.
const ExactLanes = 8

// Lanes is the number of lanes that carry the layout's values, without the
// linear tags that he appends.
func (l Layout) Lanes() int {
	n := 0
	for _, b := range l.Blocks {
		if b.Kind == Exact {
			n += ExactLanes * b.Length
		} else {
			n += b.Length
		}
	}
	return n
}

// Values is the number of values of all blocks.
func (l Layout) Values() int {
	n := 0
	for _, b := range l.Blocks {
		n += b.Length
	}
	return n
}

// Append writes the layout's one binary encoding, which charters, headers and
// vector digests bind.
func (l Layout) Append(out []byte) []byte {
	e := enc{out}
	e.u32(uint32(len(l.Blocks)))
	for _, b := range l.Blocks {
		e.bytes16([]byte(b.Name))
		e.u8(uint8(b.Kind))
		e.u64(uint64(b.Length))
		e.u64(math.Float64bits(b.Clip))
	}
	return e.b
}
