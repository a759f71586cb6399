package policy

import "time"

// LawDates says as of which day the dated law of the policy in force was read,
// and from which moment it denies everything as stale.
func (e *Engine) LawDates() (asOf, stale time.Time) {
	p := e.p.Load()
	return time.Unix(p.asOf, 0).UTC(), time.Unix(p.staleAt, 0).UTC()
}
