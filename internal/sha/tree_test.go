package sha

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// slow is the definition, RFC 6962 §2.1 with other prefixes, by recursion.
func slow(domain string, context, b []byte) []byte {
	prefix := func(kind byte) []byte {
		p := binary.BigEndian.AppendUint64(nil, uint64(len(domain)))
		p = append(append(p, domain...), kind)
		return append(p, make([]byte, 64-len(p))...)
	}
	h := func(parts ...[]byte) []byte {
		d := sha256.Sum256(bytes.Join(parts, nil))
		return d[:]
	}
	var pieces [][]byte
	for rest := b; len(rest) > 0 || len(pieces) == 0; {
		n := min(4096, len(rest))
		pieces, rest = append(pieces, rest[:n]), rest[n:]
	}
	var root func([][]byte) []byte
	root = func(list [][]byte) []byte {
		if len(list) == 1 {
			return h(prefix(0), list[0])
		}
		k := 1
		for 2*k < len(list) {
			k *= 2
		}
		return h(prefix(1), root(list[:k]), root(list[k:]))
	}
	return h(prefix(2), context, binary.BigEndian.AppendUint64(nil, uint64(len(b))), root(pieces))
}

// TestTree holds the stream to the definition: lengths around leaves, batches and
// levels, written in pieces of any length, with a digest in the middle.
func TestTree(t *testing.T) {
	const domain = "consilium test domain"
	long := noise(4096*1100+3, 5)
	r := rand.New(rand.NewPCG(1, 2))
	lengths := []int{0, 1, 4095, 4096, 4097, 8192, 3 * 4096, 15 * 4096, 16 * 4096, 16*4096 + 1, 17 * 4096, 31*4096 + 9, 32 * 4096, 33 * 4096, 47 * 4096,
		64*4096 + 5, 511 * 4096, 512 * 4096, 513*4096 + 1, 1024 * 4096, 1025 * 4096, len(long)}
	for range 20 {
		lengths = append(lengths, r.IntN(len(long)))
	}
	for _, n := range lengths {
		context := noise(n%40, 9)
		s := NewStream(domain, context...)
		for at := 0; at < n; {
			m := min(1+r.IntN(1<<r.IntN(20)), n-at)
			s.Write(long[at : at+m])
			if at += m; r.IntN(50) == 0 {
				if got, want := s.Sum(nil), slow(domain, context, long[:at]); !bytes.Equal(got, want) {
					t.Fatalf("%d of %d bytes: %x, want %x", at, n, got, want)
				}
			}
		}
		if got, want := s.Sum(nil), slow(domain, context, long[:n]); !bytes.Equal(got, want) {
			t.Fatalf("%d bytes: %x, want %x", n, got, want)
		}
	}
}

// TestTreeSeparates: nothing that is not the string has its digest.
func TestTreeSeparates(t *testing.T) {
	sum := func(domain string, context, b []byte) string {
		s := NewStream(domain, context...)
		s.Write(b)
		return string(s.Sum(nil))
	}
	b := noise(3*4096, 1)
	leaf := Prefix("d", KindLeaf)
	one := leaf.Sum(b[:4096])
	two := leaf.Sum(b[4096:8192])
	seen := map[string]string{}
	for name, d := range map[string]string{
		"the string":           sum("d", nil, b),
		"shorter":              sum("d", nil, b[:2*4096]),
		"longer by a zero":     sum("d", nil, append(bytes.Clone(b), 0)),
		"shorter by a byte":    sum("d", nil, b[:len(b)-1]),
		"another domain":       sum("e", nil, b),
		"a longer domain":      sum("d\x00", nil, b),
		"a context":            sum("d", []byte{1}, b),
		"its leaves' hashes":   sum("d", nil, append(one[:], two[:]...)),
		"empty":                sum("d", nil, nil),
		"a zero":               sum("d", nil, []byte{0}),
		"pieces in order 2, 1": sum("d", nil, append(bytes.Clone(b[4096:8192]), b[:4096]...)),
	} {
		if other, ok := seen[d]; ok {
			t.Errorf("%s and %s have one digest", name, other)
		}
		seen[d] = name
	}
}

func FuzzTree(f *testing.F) {
	f.Add([]byte("some bytes"), uint16(3), uint8(200))
	f.Fuzz(func(t *testing.T, b []byte, cut uint16, times uint8) {
		b = bytes.Repeat(b, int(times)+1)
		if len(b) > 1<<21 {
			return
		}
		s := NewStream("fuzz")
		at := min(int(cut), len(b))
		s.Write(b[:at])
		s.Sum(nil)
		s.Write(b[at:])
		if want := slow("fuzz", nil, b); !bytes.Equal(s.Sum(nil), want) {
			t.Fatal("another digest than by the definition")
		}
	})
}
