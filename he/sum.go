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
// A reader that is a Lender is read where its bytes lie.
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

// Lender is a reader that can give out its next bytes where they lie, as
// bytes.Buffer does: at most n, fewer only at its end. They are read before the
// next call.
type Lender interface {
	io.Reader
	Next(n int) []byte
}

// together is how many readers are added in one pass.
const together = 4

// adder sums a share of the readers, one chunk at a time.
type adder struct {
	p       Profile
	readers []io.Reader
	buf     []byte     // of one limb, for readers that do not lend
	zero    []byte     // the same, in place of readers where fewer than together are left
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
	a.buf, a.zero = LimbBuffer(size), make([]byte, size)
	return a
}

// lazy is how many residues mod q fit a 64-bit word beside a reduced one.
func lazy(q uint64) int { return int(min(uint64(1)<<30, ^uint64(0)/(q-1)-1)) }

func (a *adder) chunk(j int) {
	for i, q := range a.p.Primes {
		if f := fieldOf(q); f != nil {
			a.err = a.limb(a.acc[i], q, f, j, i)
		} else {
			a.err = a.portable(a.acc[i], q, j, i)
		}
		if a.err != nil {
			return
		}
	}
}

// limb sums one limb of every reader into acc, reduced. Readers that lend are
// added a few at a time, the others as they are read.
func (a *adder) limb(acc []uint64, q uint64, f *vec.Field, chunk, limb int) error {
	size := a.p.LimbSize(limb)
	started, held := false, 0 // held: residues in every word beside a reduced one
	room := func(n int) {
		if held += n; held > lazy(q) {
			f.Reduce(acc)
			held = n
		}
	}
	var lent [together][]byte
	n := 0
	for i, r := range a.readers {
		l, lends := r.(Lender)
		if lends {
			if lent[n] = l.Next(size); len(lent[n]) < size {
				return endsEarly(chunk, limb)
			}
			n++
		}
		if n == together || n > 0 && i+1 == len(a.readers) {
			for ; n < together; n++ {
				lent[n] = a.zero[:size]
			}
			room(together)
			if !f.Add(acc, &lent, started) {
				return unreduced(chunk, limb)
			}
			started, n = true, 0
		}
		if lends {
			continue
		}
		b := a.buf[:size]
		if err := readLimb(r, b, chunk, limb); err != nil {
			return err
		}
		room(1)
		if started && !f.UnpackAdd(acc, b) || !started && !f.Unpack(acc, b) {
			return unreduced(chunk, limb)
		}
		started = true
	}
	f.Reduce(acc)
	return nil
}

// portable is limb where there are no vector instructions for q.
func (a *adder) portable(acc []uint64, q uint64, chunk, limb int) error {
	b, room := a.buf[:a.p.LimbSize(limb)], lazy(q)
	for n, r := range a.readers {
		if err := readLimb(r, b, chunk, limb); err != nil {
			return err
		}
		if !unpack(acc, b, bits.Len64(q), q, n > 0) {
			return unreduced(chunk, limb)
		}
		if n > 0 && n%room == 0 || n > 0 && n+1 == len(a.readers) {
			reduce(acc, q)
		}
	}
	return nil
}

func unreduced(chunk, limb int) error {
	return consilium.ErrInvalid.Withf("encrypted vector, chunk %d, limb %d: %w", chunk, limb, errResidue)
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
