package he

import (
	"io"
	"math/bits"
	"runtime"
	"sync"

	"consilium"
	"consilium/internal/vec"
)

// Sum reads one encrypted vector from each reader, in step, and writes their
// sum, an encrypted vector of the same size. It checks what Check checks: a
// short, long or unreduced input is an error and the output is void. Memory is
// a few chunks however many readers and lanes there are; residues are added as
// 64-bit integers and reduced once.
//
// Sum does not know whose vectors these are: that they are exactly the
// certified set, each with its header's digest, is the caller's to ensure.
func Sum(p Profile, lanes int, readers []io.Reader, w io.Writer) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if lanes < 1 || lanes > MaxLanes {
		return consilium.ErrInvalid.Withf("%d lanes: want 1 to %d", lanes, MaxLanes)
	}
	if len(readers) < 1 || len(readers) > p.MaxN {
		return consilium.ErrInvalid.Withf("a sum of %d contributions, the profile holds at most %d", len(readers), p.MaxN)
	}
	return p.sum(p.Chunks(lanes), readers, w)
}

// adder sums a share of the readers, one chunk at a time.
type adder struct {
	p       Profile
	readers []io.Reader
	buf     []byte     // of one limb
	acc     [][]uint64 // per limb
	err     error
}

func newAdder(p Profile, readers []io.Reader) *adder {
	a := &adder{p: p, readers: readers, acc: make([][]uint64, len(p.Primes))}
	size := 0
	for i := range p.Primes {
		a.acc[i] = make([]uint64, p.N())
		size = max(size, p.LimbSize(i))
	}
	a.buf = LimbBuffer(size)
	return a
}

// lazy is how many residues mod q fit a 64-bit word beside a reduced one.
func lazy(q uint64) int { return int(min(uint64(1)<<30, ^uint64(0)/(q-1)-1)) }

func (a *adder) chunk(j int) {
	for i, q := range a.p.Primes {
		if a.err = a.limb(a.acc[i], a.buf[:a.p.LimbSize(i)], q, fieldOf(q), j, i); a.err != nil {
			return
		}
	}
}

// limb sums one limb of every reader into acc, reduced.
func (a *adder) limb(acc []uint64, b []byte, q uint64, f *vec.Field, chunk, limb int) error {
	width, room := bits.Len64(q), lazy(q)
	for n, r := range a.readers {
		if err := readLimb(r, b, chunk, limb); err != nil {
			return err
		}
		var ok bool
		switch {
		case f == nil:
			ok = unpack(acc, b, width, q, n > 0)
		case n == 0:
			ok = f.Unpack(acc, b)
		default:
			ok = f.UnpackAdd(acc, b)
		}
		if !ok {
			return consilium.ErrInvalid.Withf("encrypted vector, chunk %d, limb %d: %w", chunk, limb, errResidue)
		}
		if n > 0 && n%room == 0 || n > 0 && n+1 == len(a.readers) {
			if f != nil {
				f.Reduce(acc)
			} else {
				reduce(acc, q)
			}
		}
	}
	return nil
}

// reduce brings every word of v below q, with one multiplication: the
// quotient by floor(2^64/q) is short by at most one.
func reduce(v []uint64, q uint64) {
	m := ^uint64(0) / q
	for i, x := range v {
		h, _ := bits.Mul64(x, m)
		x -= h * q
		d := x - q
		// d's top bit says that x was already below q; both are below 2^63.
		x = d + q&-(d>>63)
		v[i] = x
	}
}

func (p Profile) sum(chunks int, readers []io.Reader, w io.Writer) error {
	parts := min(runtime.GOMAXPROCS(0), len(readers), 2)
	adders := make([]*adder, parts)
	for i := range adders {
		n := len(readers)
		adders[i] = newAdder(p, readers[n*i/parts:n*(i+1)/parts])
	}
	// A second goroutine adds its readers while this goroutine adds the others; they
	// meet after every chunk.
	var start, done chan int
	var wg sync.WaitGroup
	if parts > 1 {
		start, done = make(chan int), make(chan int)
		wg.Go(func() {
			for j := range start {
				adders[1].chunk(j)
				done <- j
			}
		})
		defer wg.Wait()
		defer close(start)
	}
	out := make([]byte, p.ChunkSize())
	for j := 0; j < chunks; j++ {
		if parts > 1 {
			start <- j
		}
		adders[0].chunk(j)
		if parts > 1 {
			<-done
		}
		for _, a := range adders {
			if a.err != nil {
				return a.err
			}
		}
		b := out
		for i, q := range p.Primes {
			acc := adders[0].acc[i]
			if parts > 1 {
				addMod(acc, adders[1].acc[i], q)
			}
			PackLimb(b[:p.LimbSize(i)], acc, bits.Len64(q))
			b = b[p.LimbSize(i):]
		}
		if _, err := w.Write(out); err != nil {
			return err
		}
	}
	for _, r := range readers {
		if err := atEnd(r, tooLong); err != nil {
			return err
		}
	}
	return nil
}

func addMod(v, x []uint64, q uint64) {
	x = x[:len(v)]
	for i := range v {
		d := v[i] + x[i] - q
		v[i] = d + q&-(d>>63)
	}
}
