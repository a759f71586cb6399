package vec

// Sampler turns uniform bits into samples by inversion of a table.
type Sampler struct {
	// tree is a binary tree of six levels over the entries, each level padded
	// to whole registers: the places 0, 8, 16, 24, 32 and 48 are where the
	// levels of 1, 2, 4, 8, 16 and 32 entries begin.
	tree [80]uint64
}

// NewSampler takes ascending entries, at most 63, below 2^63.
func NewSampler(table []uint64) *Sampler {
	if len(table) > 63 {
		panic("vec: a table of more than 63 entries")
	}
	s := &Sampler{}
	for level, at := range []int{0, 8, 16, 24, 32, 48} {
		for i := range max(8, 1<<level) {
			// What is not in the table is above every draw.
			s.tree[at+i] = 1 << 63
			place := i
			if level == 0 {
				place = 0 // in all of the register
			}
			if k := (2*place+1)<<(5-level) - 1; k < len(table) {
				s.tree[at+i] = table[k]
			}
		}
	}
	return s
}

// Fill fills dst from a keystream, eight bytes a sample: the top bit is the
// sign, and the magnitude is how many entries are not above the other bits.
// len(dst) is a multiple of 8.
func (s *Sampler) Fill(dst []int64, src []byte) {
	if len(dst) == 0 || len(dst)%8 != 0 || len(src) != 8*len(dst) {
		panic("vec: lengths do not fit")
	}
	gaussians(&dst[0], &src[0], len(dst), &s.tree)
}

// Cut is where the lanes of a coefficient lie in its words: lanes of width
// bits from bit delta on. At most eight lanes, in at most eight words.
type Cut struct {
	gather [64]byte
	shift  [8]uint64
	mask   uint64
	lanes  int
}

// NewCut makes the places of lanes lanes.
func NewCut(delta, width, lanes int) *Cut {
	if lanes < 1 || lanes > 8 || width > 32 || delta+width*lanes > 512 {
		panic("vec: no such lanes")
	}
	c := &Cut{mask: 1<<width - 1, lanes: lanes}
	for r := range lanes {
		at := delta + r*width
		c.shift[r] = uint64(at & 7)
		for b := range 8 {
			c.gather[8*r+b] = byte(min(at>>3+b, 63))
		}
	}
	return c
}

// CutSlack is how many words past the coefficients, and lanes past dst, Lanes
// touches.
const CutSlack = 8

// Lanes cuts coefficients of words words each into lanes; both slices need
// room for CutSlack more.
func (c *Cut) Lanes(dst []uint32, coefficients []uint64, words int) {
	n := len(coefficients) / words
	if n == 0 || words > 8 || n*words != len(coefficients) || len(dst) != n*c.lanes ||
		cap(coefficients) < len(coefficients)+CutSlack || cap(dst) < len(dst)+CutSlack {
		panic("vec: lengths do not fit")
	}
	cut(&dst[0], &coefficients[0], n, words, c.lanes, c)
}

// Gather8 gathers the eight lanes of every coefficient into three words: in
// base the noise, offset and, from bit delta on, the first two lanes; in one
// and two three lanes each. Lanes are below 2^width, width is at most 21, and
// noise + offset is in [0, 2^delta).
func Gather8(base, one, two []uint64, lanes []uint32, noise []int64, offset uint64, width, delta int) {
	n := len(base)
	if n == 0 || n%8 != 0 || len(one) != n || len(two) != n || len(lanes) != 8*n || len(noise) != n || width > 21 || delta+2*width > 63 {
		panic("vec: lengths do not fit")
	}
	gather8(&base[0], &one[0], &two[0], &lanes[0], &noise[0], n, offset, uint64(width), uint64(delta))
}

// Gather16 is Gather8 of lanes that lie as signed words of 16 bits, little-endian,
// and count from -2^15: lane 0 is 0x8000. width is at least 16.
func Gather16(base, one, two []uint64, lanes []byte, noise []int64, offset uint64, width, delta int) {
	n := len(base)
	if n == 0 || n%8 != 0 || len(one) != n || len(two) != n || len(lanes) != 16*n || len(noise) != n || width < 16 || width > 21 || delta+2*width > 63 {
		panic("vec: lengths do not fit")
	}
	gather16(&base[0], &one[0], &two[0], &lanes[0], &noise[0], n, offset, uint64(width), uint64(delta))
}

// MaxBlock is the most lanes that one call of Dot takes.
const MaxBlock = 384

// Weights are two constants for each lane of a block, below 2^61, each whole
// and as its upper half: a product takes the lower half of either.
type Weights [4][MaxBlock]uint64

// Set gives lane i its constants.
func (w *Weights) Set(i int, a, b uint64) {
	w[0][i], w[1][i], w[2][i], w[3][i] = a, a>>32, b, b>>32
}

// Dot is the two sums of lane times constant, each as lo + hi·2^32. Lanes are a
// multiple of 8 in number, and below 2^32 divided by that number, so that nothing
// exceeds 64 bits.
func (w *Weights) Dot(lanes []uint32) (hi, lo [2]uint64) {
	if len(lanes) == 0 || len(lanes)%8 != 0 || len(lanes) > MaxBlock {
		panic("vec: lengths do not fit")
	}
	var sums [4]uint64
	dot(&sums, &lanes[0], len(lanes), w)
	return [2]uint64{sums[1], sums[3]}, [2]uint64{sums[0], sums[2]}
}

// Limbs are two constants for each lane of a block, below 2^61, in six limbs of 11
// bits each.
type Limbs [12][MaxBlock]int16

// Set gives lane i its constants.
func (w *Limbs) Set(i int, a, b uint64) {
	for j := range 6 {
		w[j][i], w[6+j][i] = int16(a>>(11*j)&(1<<11-1)), int16(b>>(11*j)&(1<<11-1))
	}
}

// Dot is the two sums of lane times constant, each as lo + hi·2^33 with lo and hi
// below 2^58 in magnitude. Lanes are signed words of 16 bits, little-endian, a multiple
// of 32 in number: twelve pairs of products below 2^26 to a double word.
func (w *Limbs) Dot(lanes []byte) (hi, lo [2]int64) {
	if len(lanes) == 0 || len(lanes)%64 != 0 || len(lanes) > 2*MaxBlock {
		panic("vec: lengths do not fit")
	}
	var sums [4]int64
	dot16(&sums, &lanes[0], len(lanes)/2, w)
	return [2]int64{sums[1], sums[3]}, [2]int64{sums[0], sums[2]}
}

// NH is three sums of products of neighbouring lanes, modulo 2^64, each lane plus its word
// of the key modulo 2^32; the key moves on by four words from sum to sum. Lanes are a
// multiple of 16 in number, the key has at least eight words more.
func NH(lanes []int32, key []uint32) [3]uint64 {
	if len(lanes) == 0 || len(lanes)%16 != 0 || len(key) < len(lanes)+8 {
		panic("vec: lengths do not fit")
	}
	var sums [4]uint64
	nh(&sums, &lanes[0], len(lanes), &key[0])
	return [3]uint64(sums[:3])
}

// Signed is dst = src - offset. It takes a multiple of 8.
func Signed(dst []int64, src []uint32, offset int64) {
	if len(src) == 0 || len(src)%8 != 0 || len(dst) != len(src) {
		panic("vec: lengths do not fit")
	}
	signed(&dst[0], &src[0], len(src), uint64(offset))
}

// Raise is dst = src + offset and reports whether every lane was in
// [-offset, offset). It takes a multiple of 16.
func Raise(dst []uint32, src []int32, offset int32) bool {
	if len(src) == 0 || len(src)%16 != 0 || len(dst) != len(src) {
		panic("vec: lengths do not fit")
	}
	return raise(&dst[0], &src[0], len(src), uint32(offset))>>31 == 0
}

// Above reports whether some lane, of at most 31 bits, is above most. It takes a
// multiple of 16.
func Above(src []uint32, most uint32) bool {
	if len(src) == 0 || len(src)%16 != 0 {
		panic("vec: lengths do not fit")
	}
	return above(&src[0], len(src), most)>>31 != 0
}

// Narrow writes lanes as sixteen bits each, little-endian, and reports whether
// all fit. It takes a multiple of 16.
func Narrow(dst []byte, src []int32) bool {
	if len(src) == 0 || len(src)%16 != 0 || len(dst) != 2*len(src) {
		panic("vec: lengths do not fit")
	}
	return narrow(&dst[0], &src[0], len(src))>>16 == 0
}
