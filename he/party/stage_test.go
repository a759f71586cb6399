package party

import (
	"math/bits"
	"testing"
	"time"

	"consilium/he"
	"consilium/internal/vec"
)

// BenchmarkStages times the parts of one chunk, to see where time goes.
func BenchmarkStages(b *testing.B) {
	p := mustProfile(b, 13, 16, 16)
	e, err := engineFor(p)
	if err != nil {
		b.Fatal(err)
	}
	f := newFederation(b, p, p.ChunkLanes(), 3, 3)
	s, d := e.newSlot(false), e.newSlot(true)
	src := make([]int32, p.ChunkLanes())
	rk := e.newKey(make([]int64, p.N()))
	var k [32]byte
	block := newBlock(&k)
	l := &e.limbs[0]
	per := func(name string, f func()) {
		b.Run(name, func(b *testing.B) {
			// The least of all runs: the machine without whoever else uses it.
			least := time.Duration(1 << 62)
			for b.Loop() {
				start := time.Now()
				f()
				least = min(least, time.Since(start))
			}
			b.ReportMetric(float64(least.Nanoseconds())/float64(p.ChunkLanes()), "least-ns/lane")
		})
	}
	vh, tg := NewVectorHash(k), newTagger(p, f.group, f.at(1)).below(p.Bits)
	fp := &fingerprintOf(b, k, nil).lanes
	if w := e.wide; w != nil {
		// What the vector engine runs in place of the portable parts below, tile by
		// tile or block by block.
		const tile = tileResidues
		wide, x := e.newSlots(1, false)[0], d.res[0]
		base, words := wide.packed[:tile], wide.packed[tile:tile*(1+w.words)]
		per("wide/ntt", func() {
			for i := range w.limbs {
				w.limbs[i].ring.Forward(x)
			}
		})
		per("wide/intt", func() {
			for i := range w.limbs {
				clear(d.res[i])
				w.limbs[i].ring.Inverse(d.res[i], w.half)
			}
		})
		per("wide/gauss", func() {
			for at := 0; at < p.N(); at += tile {
				block.aes.Stream(wide.tile[:], 0, uint64(at/2))
				gaussTree.Fill(wide.noise, wide.tile[:])
			}
		})
		per("wide/pack", func() {
			for at := 0; at < p.N(); at += tile {
				vec.Gather16(base, words[:tile], words[tile:], wide.narrow[16*at:16*(at+tile)], wide.noise, noiseOffset, p.W, p.Delta)
			}
		})
		per("wide/residues", func() {
			for at := 0; at < p.N(); at += tile {
				for i := range w.limbs {
					w.limbs[i].ring.Residues(wide.res[i][at:at+tile], base, words, w.words, &w.limbs[i].weights, p.Primes[i]-noiseOffset)
				}
			}
		})
		per("wide/multiply", func() {
			for i := range w.limbs {
				b, size, k := wide.bytes, p.LimbSize(i), rk
				w.eachTile(e, wide, block, i, 1, nil, func(at, to int) bool {
					return w.limbs[i].field.MulAddPack(b[at*size/p.N():to*size/p.N()], wide.res[i][at:to], k[i][at:to], k[len(w.limbs)+i][at:to], wide.tile[:])
				}, nil)
			}
		})
		per("wide/join", func() { w.join(e, d, 100) })
		tg.signed16()
		per("wide/fill", func() {
			src, f := Lanes(src), &feeder{in: &Encryption{Lanes: len(src) + 1, Profile: p}, tags: tg, again: fp, offset: 1 << 15}
			f.in.Source = &src
			if err := f.fillNarrow(wide.narrow); err != nil {
				b.Fatal(err)
			}
		})
		per("wide/encrypt", func() { e.encrypt(wide, rk, block, block, 0) })
		per("wide/decrypt", func() { e.decrypt(d, rk, block, 100) })
	}
	e, rk = portableEngine(e), portableEngine(e).newKey(make([]int64, p.N()))
	s, d = e.newSlot(false), e.newSlot(true)
	per("raise", func() { raise(s.lanes, src, 1<<15) })
	per("ntt", func() {
		for i := range e.limbs {
			e.limbs[i].ring.NTTLazy(d.res[i], d.res[i])
		}
	})
	per("intt", func() {
		for i := range e.limbs {
			e.limbs[i].ring.INTTLazy(d.res[i], d.res[i])
		}
	})
	per("uniform", func() {
		for i := range e.limbs {
			s.rand.open(block, uint64(i))
			s.rand.uniform(s.mask, e.limbs[i].q, e.limbs[i].width)
		}
	})
	per("gauss", func() { s.rand.open(block, 9); s.rand.gaussians(s.noise) })
	per("pack", func() { e.pack(s) })
	per("residues", func() {
		for i := range e.limbs {
			e.limbs[i].residues(s.limb, s.packed, e.words)
		}
	})
	per("packlimb", func() {
		for range e.limbs {
			he.PackLimb(s.bytes[:p.LimbSize(0)], s.limb, l.width)
		}
	})
	per("unpacklimb", func() {
		for i := range e.limbs {
			he.UnpackLimb(d.res[i], s.bytes[:p.LimbSize(0)], bits.Len64(l.q), l.q)
		}
	})
	per("tags", func() { tg.add(s.lanes) })
	per("vectorhash", func() { vh.Write(src) })
	per("fingerprint", func() { fp.write(src) })
	per("encrypt", func() { e.encrypt(s, rk, block, block, 0) })
	per("decrypt", func() { e.decrypt(d, rk, block, 100) })
	per("unpack", func() { e.unpack(d, 100) })
}
