package chain

import (
	"errors"
	"math/bits"
)

// item is one value of Ethereum's Recursive Length Prefix (Yellow Paper,
// appendix B): a string of bytes or a list of items.
type item struct {
	list  bool
	raw   []byte // with its prefix
	bytes []byte // of a string
	items []item // of a list
}

var errRLP = errors.New("malformed RLP")

// maxDepth bounds nesting. A header is a list of strings, and a node of a tree
// holds at most one smaller node in itself, and that another.
const maxDepth = 8

// decodeRLP reads exactly one item in its one canonical form.
func decodeRLP(b []byte) (item, error) {
	it, rest, err := readRLP(b, maxDepth)
	if err == nil && len(rest) > 0 {
		err = errRLP
	}
	return it, err
}

func readRLP(b []byte, depth int) (it item, rest []byte, err error) {
	if len(b) == 0 || depth == 0 {
		return it, nil, errRLP
	}
	first := b[0]
	if first < 0x80 {
		return item{raw: b[:1], bytes: b[:1]}, b[1:], nil
	}
	it.list = first >= 0xc0
	base := byte(0x80)
	if it.list {
		base = 0xc0
	}
	start, size := 1, uint64(first-base)
	if size > 55 {
		n := int(size - 55)
		if len(b) < 1+n || b[1] == 0 {
			return it, nil, errRLP
		}
		start, size = 1+n, 0
		for _, c := range b[1:start] {
			size = size<<8 | uint64(c)
		}
		if size <= 55 {
			return it, nil, errRLP // the short form exists
		}
	}
	if size > uint64(len(b)-start) {
		return it, nil, errRLP
	}
	end := start + int(size)
	body := b[start:end]
	it.raw = b[:end]
	if !it.list {
		if len(body) == 1 && body[0] < 0x80 {
			return it, nil, errRLP // the byte stands for itself
		}
		it.bytes = body
		return it, b[end:], nil
	}
	for len(body) > 0 {
		var x item
		if x, body, err = readRLP(body, depth-1); err != nil {
			return it, nil, err
		}
		it.items = append(it.items, x)
	}
	return it, b[end:], nil
}

// number reads a big-endian integer without leading zeros.
func (i item) number() (uint64, error) {
	if i.list || len(i.bytes) > 8 || len(i.bytes) > 0 && i.bytes[0] == 0 {
		return 0, errRLP
	}
	var n uint64
	for _, c := range i.bytes {
		n = n<<8 | uint64(c)
	}
	return n, nil
}

// putNumber is the string form of a number, for keys of storage and in tests.
func putNumber(n uint64) []byte {
	b := make([]byte, 0, 8)
	for i := (bits.Len64(n) + 7) / 8; i > 0; i-- {
		b = append(b, byte(n>>(8*(i-1))))
	}
	return b
}
