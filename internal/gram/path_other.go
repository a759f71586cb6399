//go:build !amd64 || purego

package gram

const fast = false

type kernel struct{}

func (s *Standard) fast(groups int, eta, z, raw []float64, width, zWidth, first int) {
	s.portable(groups, eta, z, raw, width, zWidth, first)
}

func transpose(to, from []float64, groups, toStep, fromStep int) {
	portableTranspose(to, from, groups, toStep, fromStep)
}

func fetch([]float64, int, int) {}

func addUp(to, from []float64, groups int) { portableAddUp(to, from, groups) }

func (b *Block) tiles(steps int, z, w, r, ahead []float64) { b.portableTiles(steps, z, w, r) }

// Nothing calls these while fast is false.
func exp(y, x []float64) bool                              { panic("gram") }
func log(y, x []float64) bool                              { panic("gram") }
func logistic(w, r, ll, pearson, eta, y []float64) bool    { panic("gram") }
func totals(t *Totals, a, b, c, d []float64)               { panic("gram") }
func addEach(hi, lo, v []float64)                          { panic("gram") }
func enter(s *RiskSet, sums, z *Chunk, w []float64)        { panic("gram") }
func fall(s *RiskSet, z *Chunk, w []float64, own []uint8)  { panic("gram") }
func settle(s *RiskSet, means, sum, risk, share []float64) { panic("gram") }
func single(s *RiskSet, means []float64, sums, z *Chunk, after, own []uint8, risk []float64) {
	panic("gram")
}
