package gram

// ChunkRows is how many rows of four columns are walked at a time. They stay in the
// cache, and a byte says which of them.
const ChunkRows = 256

// Chunk is rows of four columns, four values each.
type Chunk [4 * ChunkRows]float64

// RiskSet sums four columns over the rows at risk, as a Cox model walks them from
// the last time to the first. A row of four columns is four values in a row.
type RiskSet struct {
	setHi, setLo     [4]float64
	scoreHi, scoreLo [4]float64
	tied             [4]float64 // weighted rows that die at one time
}

// Score is the sum, over deaths, of the row less the mean, as hi + lo.
func (s *RiskSet) Score() (hi, lo [4]float64) { return s.scoreHi, s.scoreLo }

// Begin empties the risk set; its score goes on from hi + lo.
func (s *RiskSet) Begin(hi, lo [4]float64) { *s = RiskSet{scoreHi: hi, scoreLo: lo} }

// Enter adds the rows z with their weights, at most a chunk, in order, and writes
// the sum after each to sums.
func (s *RiskSet) Enter(sums, z *Chunk, w []float64) {
	if len(w) == 0 {
		return
	}
	_ = z[4*len(w)-1]
	if fast {
		enter(s, sums, z, w)
		return
	}
	s.portableEnter(sums, z, w)
}

func (s *RiskSet) portableEnter(sums, z *Chunk, w []float64) {
	for i, w := range w {
		for l := range 4 {
			s.setHi[l], s.setLo[l] = twoSum(s.setHi[l], s.setLo[l], float64(w*z[4*i+l]))
			sums[4*i+l] = s.setHi[l] + s.setLo[l]
		}
	}
}

// Single takes deaths that are alone at their times: after[k] is the row after
// whose entry the risk set is complete, own[k] that of the death, risk[k] the
// summed weights at risk. It writes the means over the risk set.
func (s *RiskSet) Single(means []float64, sums, z *Chunk, after, own []uint8, risk []float64) {
	n := len(risk)
	if n == 0 {
		return
	}
	after, own, means = after[:n], own[:n], means[:4*n]
	if fast {
		single(s, means, sums, z, after, own, risk)
		return
	}
	s.portableSingle(means, sums, z, after, own, risk)
}

func (s *RiskSet) portableSingle(means []float64, sums, z *Chunk, after, own []uint8, risk []float64) {
	for k, r := range risk {
		for l := range 4 {
			mean := sums[4*int(after[k])+l] / r
			s.scoreHi[l], s.scoreLo[l] = twoSum(s.scoreHi[l], s.scoreLo[l], z[4*int(own[k])+l])
			s.scoreHi[l], s.scoreLo[l] = twoSum(s.scoreHi[l], s.scoreLo[l], -mean)
			means[4*k+l] = mean
		}
	}
}

// Fall adds rows that die at one time, which Settle ends.
func (s *RiskSet) Fall(z *Chunk, w []float64, own []uint8) {
	if len(own) == 0 {
		return
	}
	for _, i := range own {
		_ = w[i]
	}
	if fast {
		fall(s, z, w, own)
		return
	}
	s.portableFall(z, w, own)
}

func (s *RiskSet) portableFall(z *Chunk, w []float64, own []uint8) {
	for _, i := range own {
		for l := range 4 {
			v := z[4*int(i)+l]
			s.tied[l] += float64(w[i] * v)
			s.scoreHi[l], s.scoreLo[l] = twoSum(s.scoreHi[l], s.scoreLo[l], v)
		}
	}
}

// Settle writes the means of deaths of one time at which sum is the risk set's: share
// is the part of the tied rows that has left before each. Settled ends the time.
func (s *RiskSet) Settle(means, sum, risk, share []float64) {
	if len(risk) == 0 {
		return
	}
	_, _, _ = means[4*len(risk)-1], sum[3], share[len(risk)-1]
	if fast {
		settle(s, means, sum, risk, share)
		return
	}
	s.portableSettle(means, sum, risk, share)
}

func (s *RiskSet) portableSettle(means, sum, risk, share []float64) {
	for k, r := range risk {
		for l := range 4 {
			mean := (sum[l] - float64(share[k]*s.tied[l])) / r
			s.scoreHi[l], s.scoreLo[l] = twoSum(s.scoreHi[l], s.scoreLo[l], -mean)
			means[4*k+l] = mean
		}
	}
}

// Settled forgets the rows that died at one time.
func (s *RiskSet) Settled() { s.tied = [4]float64{} }
