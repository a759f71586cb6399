package models

import (
	"math"

	"consilium"
	"consilium/internal/det"
)

// The last round of a regression asks for what needs the estimate: robust
// errors, the check of proportional hazards, concordance, histograms of fitted
// probabilities. Each is a block of sums.
const (
	blockClusters    = "clusters"
	blockMeat        = "meat"
	blockPHScore     = "ph-score"    // q: sums of g(t) times the Schoenfeld residuals
	blockPHCross     = "ph-cross"    // packed: information times g(t)
	blockPHSquare    = "ph-square"   // packed: information times g(t)²
	blockConcordance = "concordance" // concordanceLen
	blockEvaluate    = "evaluate"    // evaluateLen
)

// finals lists the blocks of the last round; none means no such round.
func (g *regression) finals() []consilium.Block {
	var out []consilium.Block
	q := g.q()
	if g.robust {
		out = append(out, exactBlock(blockClusters, 1), exactBlock(blockMeat, packedLen(q)))
	}
	if g.phCheck != "" && !g.common() { // there the opened risk sets say it
		out = append(out, exactBlock(blockPHScore, q), exactBlock(blockPHCross, packedLen(q)), exactBlock(blockPHSquare, packedLen(q)))
	}
	if g.concordance {
		out = append(out, exactBlock(blockConcordance, concordanceLen))
	}
	if g.evaluate > 0 {
		out = append(out, exactBlock(blockEvaluate, evaluateLen(g.evaluate)))
	}
	return out
}

func (g *regression) finalLen() int {
	n := 0
	for _, b := range g.finals() {
		n += b.Length
	}
	return n
}

// final is one of the opened blocks of the last round.
func (g *regression) final(f *fit, name string) []float64 {
	at := 0
	for _, b := range g.finals() {
		if b.Name == name {
			return f.final[at : at+b.Length]
		}
		at += b.Length
	}
	return nil
}

// phSums collects the check of proportional hazards at one hospital: the score
// test for adding g(t) times every column (R's cox.zph from survival 3.0 on).
type phSums struct {
	transform     string
	score         []total
	cross, square []total
}

// timeValue is g(t).
func timeValue(transform string, t float64) float64 {
	if transform == "log" {
		return det.Log(t)
	}
	return t
}

type phTest struct {
	Name  string  `json:"name"`
	Chisq float64 `json:"chisq"`
	DF    int     `json:"df"`
	P     float64 `json:"p"`
}

type phCheck struct {
	Transform string   `json:"transform"`
	Terms     []phTest `json:"terms"`
	Global    *phTest  `json:"global,omitempty"`
}

// phResult tests each term, and all together. Scale and centre of the columns
// leave a score test alone.
func (g *regression) phResult(f *fit) *phCheck {
	q := g.q()
	info, bad := invert(unpack(f.vcov, q), 1e-13)
	if bad >= 0 {
		return nil
	}
	score := g.final(f, blockPHScore)
	cross, square := g.final(f, blockPHCross), g.final(f, blockPHSquare)
	if g.common() {
		if len(f.ph) != q+2*packedLen(q) {
			return nil
		}
		score, cross, square = f.ph[:q], f.ph[q:q+packedLen(q)], f.ph[q+packedLen(q):]
	}
	c, s := unpack(cross, q), unpack(square, q)
	test := func(name string, columns []int) *phTest {
		n := q + len(columns)
		m, u := newMatrix(n), make([]float64, n)
		for i := 0; i < q; i++ {
			copy(m[i], info[i])
			for k, col := range columns {
				m[i][q+k], m[q+k][i] = c[i][col], c[i][col]
			}
		}
		for k, col := range columns {
			u[q+k] = score[col]
			for l, d := range columns {
				m[q+k][q+l] = s[col][d]
			}
		}
		stat, ok := quadratic(u, m)
		if !ok {
			return nil
		}
		return &phTest{Name: name, Chisq: stat, DF: len(columns), P: det.ChiSquareTail(stat, len(columns))}
	}
	out := &phCheck{Transform: g.phCheck, Terms: []phTest{}}
	var all []int
	for j := range g.d.columns {
		all = append(all, j)
	}
	for _, t := range g.d.terms {
		if r := test(t.name, t.columns); r != nil {
			out.Terms = append(out.Terms, *r)
		}
	}
	out.Global = test("GLOBAL", all)
	return out
}

// Sums of the concordance of one risk score with the order of events, over
// pairs within a stratum of one hospital (Therneau and Watson 2015, R's
// concordance): pairs by kind, and sums over rows of the products of each
// row's own counts, for the infinitesimal jackknife.
const (
	concordant = iota
	discordant
	tiedScore
	tiedTime
	tiedBoth
	concordSquare // (concordant - discordant)² by row
	concordCross  // (concordant - discordant) times comparable pairs
	pairsSquare   // comparable pairs²
	concordanceLen
)

// fenwick is a binary indexed tree of counts.
type fenwick []float64

func (t fenwick) add(i int, v float64) {
	for i++; i < len(t); i += i & -i {
		t[i] += v
	}
}

// below sums positions 0 to i-1.
func (t fenwick) below(i int) float64 {
	s := 0.0
	for ; i > 0; i -= i & -i {
		s += t[i]
	}
	return s
}

// concord adds one stratum's pairs. A pair counts where the earlier time is an
// event; rows at risk at that time only.
func concord(sum []total, s *stratum, eta, start, stop, event []float64) {
	rank, n := ranks(s.rows, eta)
	at := make(fenwick, n+2) // rows at risk by rank of their score
	// Range additions, read at one point: what the events seen so far added to
	// a row at risk with that score, for concordance and for pairs.
	diff, pairs := make(fenwick, n+2), make(fenwick, n+2)
	size := 0.0
	net, all := map[int]float64{}, map[int]float64{} // by row
	enter := func(i int) {
		k := rank[i]
		at.add(k, 1)
		size++
		net[i] -= diff.below(k + 1)
		all[i] -= pairs.below(k + 1)
	}
	leave := func(i int) {
		k := rank[i]
		at.add(k, -1)
		size--
		net[i] += diff.below(k + 1)
		all[i] += pairs.below(k + 1)
	}
	out := 0
	var c, d, tx, ty, txy float64
	for a := 0; a < len(s.rows); {
		t := stop[s.rows[a]]
		for ; out < len(s.starts) && start[s.starts[out]] >= t; out++ {
			leave(s.starts[out])
		}
		end := a
		var died []int
		for ; end < len(s.rows) && stop[s.rows[end]] == t; end++ {
			if i := s.rows[end]; event[i] == 1 {
				died = append(died, i)
			} else {
				enter(i)
			}
		}
		for _, i := range died {
			k := rank[i]
			low, same := at.below(k), at.below(k+1)-at.below(k)
			high := size - low - same
			// Whoever is at risk and has the lower score will do better, as it should.
			c, d, tx = c+low, d+high, tx+same
			net[i] += low - high
			all[i] += size
			diff.add(0, 1)
			diff.add(k, -1)
			diff.add(k+1, -1)
			pairs.add(0, 1)
		}
		if m := float64(len(died)); m > 1 {
			byRank := map[int]float64{}
			for _, i := range died {
				byRank[rank[i]]++
			}
			equal := 0.0 // counts of small integers: any order gives the same bits
			for _, v := range byRank {
				equal += float64(0.5 * float64(v*(v-1)))
			}
			txy += equal
			ty += float64(0.5*float64(m*(m-1))) - equal
		}
		for _, i := range died {
			enter(i)
		}
		a = end
	}
	for _, i := range s.starts[min(out, len(s.starts)):] {
		leave(i)
	}
	if s.starts == nil {
		for _, i := range s.rows {
			leave(i)
		}
	}
	for i, v := range []float64{c, d, tx, ty, txy} {
		sum[i].add(v)
	}
	for _, i := range s.rows {
		sum[concordSquare].add(float64(net[i] * net[i]))
		sum[concordCross].add(float64(net[i] * all[i]))
		sum[pairsSquare].add(float64(all[i] * all[i]))
	}
}

// ranks numbers the distinct scores of some rows from 0.
func ranks(rows []int, eta []float64) (map[int]int, int) {
	order := append([]int(nil), rows...)
	sortBy(order, func(i, j int) bool { return eta[i] < eta[j] })
	rank := make(map[int]int, len(rows))
	n := 0
	for k, i := range order {
		if k > 0 && eta[i] != eta[order[k-1]] {
			n++
		}
		rank[i] = n
	}
	return rank, n + 1
}

type concordanceResult struct {
	Concordance *float64 `json:"concordance"`
	SE          *float64 `json:"se"`
	Concordant  float64  `json:"concordant"`
	Discordant  float64  `json:"discordant"`
	TiedScore   float64  `json:"tied_score"`
	TiedTime    float64  `json:"tied_time"`
	TiedBoth    float64  `json:"tied_both"`
}

func renderConcordance(v []float64) *concordanceResult {
	r := &concordanceResult{Concordant: v[concordant], Discordant: v[discordant], TiedScore: v[tiedScore], TiedTime: v[tiedTime], TiedBoth: v[tiedBoth]}
	if n := v[concordant] + v[discordant] + v[tiedScore]; n > 0 {
		d := (v[concordant] - v[discordant]) / n // Somers' d
		r.Concordance = finite(float64((d + 1) / 2))
		variance := v[concordSquare] - float64(float64(2*d)*v[concordCross]) + float64(float64(d*d)*v[pairsSquare])
		r.SE = finite(math.Sqrt(math.Max(0, variance)) / float64(2*n))
	}
	return r
}
