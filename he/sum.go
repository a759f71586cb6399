package he

import (
	"io"
	"math/bits"
	"runtime"
	"slices"
	"sync"

	"consilium"
	"consilium/internal/vec"
)

// Sum reads one encrypted vector from each reader, in step, and writes their
// sum, an encrypted vector of the same size. It checks what Check checks: a
// short, long or unreduced input is an error and the output is void. Memory is
// a few chunks however many lanes there are, and some 70 KB for each reader; residues are
// added as 64-bit integers and reduced once.
//
// A reader that is a Lender is read where its bytes lie, any other ahead through
// a buffer. An Input also has the digest of what was added.
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

// together is how many readers are added in one pass: the kernel has registers for their
// places, and the sum is read and written once for four of them. More would also need more of
// each to be in the first cache at once.
const together = 4

// pieceResidues is how many residues of each reader are added before the next four
// readers': these and the sum are 37 KB, of which the first cache holds most. Sixteen files
// take 1.1 ns for a parameter, with their digests, in pieces of 512 or 1024, and 1.2 in 256
// or in whole polynomials of 8192, which fall out of the second cache between digest and
// addition.
const pieceResidues = 1024

// adder sums a share of the readers, one chunk at a time.
type adder struct {
	p       Profile
	readers []Lender
	buf     []byte     // of one piece, where there are no vector instructions
	zero    []byte     // the same, in place of readers where fewer than together are left
	acc     [][]uint64 // per limb
	err     error
}

func newAdder(p Profile, readers []Lender) *adder {
	a := &adder{p: p, readers: readers, acc: make([][]uint64, len(p.Primes))}
	size := 0
	for i, q := range p.Primes {
		a.acc[i] = make([]uint64, p.N())
		size = max(size, pieceResidues/8*bits.Len64(q))
	}
	a.buf, a.zero = LimbBuffer(size), make([]byte, size)
	return a
}

// lazy is how many residues mod q fit a 64-bit word beside a reduced one.
func lazy(q uint64) int { return int(min(uint64(1)<<30, ^uint64(0)/(q-1)-1)) }

func (a *adder) chunk(j int) {
	for i, q := range a.p.Primes {
		f := fieldOf(q)
		for part := range slices.Chunk(a.acc[i], pieceResidues) {
			size := len(part) / 8 * bits.Len64(q)
			var err error
			if f != nil {
				err = a.add(part, size, q, f)
			} else {
				err = a.portable(part, size, q)
			}
			if err != nil {
				a.err = inLimb(err, j, i)
				return
			}
		}
	}
}

// add sums a piece of size bytes of every reader into acc, reduced.
func (a *adder) add(acc []uint64, size int, q uint64, f *vec.Field) error {
	held := 0 // residues in every word beside a reduced one
	var lent [together][]byte
	for i := 0; i < len(a.readers); i += together {
		for k := range lent {
			lent[k] = a.zero[:size]
			if i+k < len(a.readers) {
				var err error
				if lent[k], err = a.readers[i+k].Next(size); err != nil {
					return err
				}
			}
		}
		if held += together; held > lazy(q) {
			f.Reduce(acc)
			held = together
		}
		if !f.Add(acc, &lent, i > 0) {
			return errResidue
		}
	}
	f.Reduce(acc)
	return nil
}

// portable is add where there are no vector instructions for q.
func (a *adder) portable(acc []uint64, size int, q uint64) error {
	b, room := a.buf[:size], lazy(q)
	for n, r := range a.readers {
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		if !unpack(acc, b, bits.Len64(q), q, n > 0) {
			return errResidue
		}
		if n > 0 && n%room == 0 || n > 0 && n+1 == len(a.readers) {
			reduce(acc, q)
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
	n := len(readers)
	lenders := make([]Lender, n)
	for i, r := range readers {
		var ok bool
		if lenders[i], ok = r.(Lender); !ok {
			lenders[i] = &Input{r: r}
		}
	}
	parts := min(runtime.GOMAXPROCS(0), n, 2)
	adders := make([]*adder, parts)
	for i := range adders {
		adders[i] = newAdder(p, lenders[n*i/parts:n*(i+1)/parts])
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
	for _, r := range lenders {
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
