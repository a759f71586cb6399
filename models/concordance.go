package models

// Pairs of rows of one hospital, by whether the score orders them as their
// events do.
type Pairs struct{ Concordant, Discordant, Tied float64 }

// Concordance counts pairs for Harrell's C: a pair counts where the earlier
// time is an event and the other row is at risk then, and it is concordant where
// the row with the event has the higher score. start is nil, or the times at
// which rows enter.
func Concordance(start, stop, event, score []float64) Pairs {
	rows := make([]int, len(stop))
	for i := range rows {
		rows[i] = i
	}
	c := &coxSpec{start: "start", stop: "stop"}
	data := &frame{n: len(rows), num: map[string][]float64{"stop": stop}}
	if start != nil {
		data.num["start"] = start
	}
	s := c.stratum(data, rows)
	sum := make([]total, concordanceLen)
	concord(sum, &s, score, start, stop, event)
	return Pairs{sum[concordant].value(), sum[discordant].value(), sum[tiedScore].value()}
}
