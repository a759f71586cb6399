package sha

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 7})
	r.Read(b)
	return b
}

// TestEveryLength: all lengths up to six blocks, numbers of messages around one
// and two batches, strides, and prefixes of no, one and three blocks, against
// crypto/sha256.
func TestEveryLength(t *testing.T) {
	var b Batch
	for size := range 6*64 + 2 {
		for _, n := range []int{0, 1, 15, 16, 17, 33} {
			for _, blocks := range []int{0, 1, 3} {
				stride := size + (size+n)%5
				data := noise(max(0, (n-1)*stride+size), uint64(size*100+n))
				prefix := noise(64*blocks, uint64(blocks))
				var from *State
				if blocks > 0 {
					s := Absorb(prefix)
					from = &s
				}
				out := make([][32]byte, n)
				b.Sum(out, from, data, stride, size)
				for i := range out {
					want := sha256.Sum256(append(bytes.Clone(prefix), data[i*stride:i*stride+size]...))
					if out[i] != want {
						t.Fatalf("message %d of %d, %d bytes after %d blocks: %x, want %x", i, n, size, blocks, out[i], want)
					}
				}
			}
		}
	}
}

func TestSumEach(t *testing.T) {
	var b Batch
	for _, size := range []int{0, 1, 32, 55, 56, 63, 64, 65, 200} {
		const n = 37
		data := noise(n*size, uint64(size))
		after, prefixes := make([]*[32]byte, n), make([][]byte, n)
		for i := range n {
			prefixes[i] = noise(64, uint64(1000+i))
			s := Absorb(prefixes[i])
			after[i] = new([32]byte)
			for j, v := range s.h {
				binary.BigEndian.PutUint32(after[i][4*j:], v)
			}
		}
		out := make([][32]byte, n)
		b.SumEach(out, after, 64, data, size, size)
		for i := range out {
			if want := sha256.Sum256(append(bytes.Clone(prefixes[i]), data[i*size:(i+1)*size]...)); out[i] != want {
				t.Fatalf("message %d of %d bytes: %x, want %x", i, size, out[i], want)
			}
		}
	}
}

// TestPacker: messages of all lengths in any order, each digest in its place.
func TestPacker(t *testing.T) {
	var p Packer
	r := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{0, 1, 15, 16, 17, 1000} {
		out, messages := make([][32]byte, n), make([][]byte, n)
		for i := range messages {
			messages[i] = noise(r.IntN(700), uint64(i))
			p.Add(messages[i], &out[i])
		}
		p.Flush()
		for i := range out {
			if out[i] != sha256.Sum256(messages[i]) {
				t.Fatalf("message %d of %d, %d bytes", i, n, len(messages[i]))
			}
		}
	}
	p.Wipe()
}

// TestLengthsThatDoNotFit: nothing is read past the data.
func TestLengthsThatDoNotFit(t *testing.T) {
	for _, f := range []func(*Batch){
		func(b *Batch) { b.Sum(make([][32]byte, 16), nil, make([]byte, 16*10-1), 10, 10) },
		func(b *Batch) { b.Sum(make([][32]byte, 2), nil, make([]byte, 100), 9, 10) },
		func(b *Batch) { b.Sum(make([][32]byte, 2), nil, make([]byte, 100), 10, -1) },
		func(b *Batch) { b.SumEach(make([][32]byte, 2), make([]*[32]byte, 1), 64, make([]byte, 100), 10, 10) },
		func(b *Batch) { b.SumEach(nil, nil, 63, nil, 10, 10) },
		func(b *Batch) { Absorb(make([]byte, 63)) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("accepted")
				}
			}()
			f(new(Batch))
		}()
	}
}

func FuzzSum(f *testing.F) {
	f.Add([]byte("sixteen messages"), uint8(1), uint8(0))
	f.Add(bytes.Repeat([]byte{0x80}, 16*130), uint8(16), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, n, gap uint8) {
		if n == 0 {
			return
		}
		size := len(data)/int(n) - int(gap)
		if size < 0 {
			return
		}
		stride := size + int(gap)
		var b Batch
		out := make([][32]byte, n)
		b.Sum(out, nil, data, stride, size)
		for i := range out {
			if out[i] != sha256.Sum256(data[i*stride:i*stride+size]) {
				t.Fatalf("message %d of %d", i, n)
			}
		}
	})
}

// BenchmarkSum gives MB/s of one stream of crypto/sha256 and of batches.
func BenchmarkSum(b *testing.B) {
	for _, size := range []int{41, 105, 1024, 4096} {
		data := noise(256*size, 1)
		out := make([][32]byte, 256)
		b.Run(fmt.Sprintf("standard/%d", size), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				for i := range out {
					out[i] = sha256.Sum256(data[i*size : (i+1)*size])
				}
			}
		})
		b.Run(fmt.Sprintf("batch/%d", size), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			var batch Batch
			for b.Loop() {
				batch.Sum(out, nil, data, size, size)
			}
		})
	}
}
