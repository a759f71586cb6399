//go:build !amd64 || purego

package gram

const fast = false

type kernel struct{}

func (k *kernel) plan(*Block) {}

func (s *Standard) fast(groups int, eta, z, raw []float64) { s.portable(groups, eta, z, raw) }

func (s *Scan) fast(out, z, w, u []float64, marks *Marks) { s.portable(out, z, w, u, marks) }

func expose(e, r, w, h []float64, times, dead *Marks, after float64) {
	portableExpose(e, r, w, h, times, dead, after)
}

func addUp(to, from []float64, fours int) { portableAddUp(to, from, fours) }

func (b *Block) tiles(groups int, z, w, r, ahead []float64) { b.portableTiles(groups, z, w, r) }

// Nothing calls these while fast is false.
func exp(y, x []float64) int                 { panic("gram") }
func sumOf(v []float64) float64              { panic("gram") }
func within(v []float64, limit float64) bool { panic("gram") }
func subtract(r, y, x []float64) float64     { panic("gram") }
func totals(t *Totals, a, b, c, d []float64) { panic("gram") }
func addEach(hi, lo, v []float64)            { panic("gram") }
func logistic(w, r, ll, pearson []float64, product *[Lanes]float64, eta, y []float64) {
	panic("gram")
}
