package main

import (
	"fmt"
	"time"

	"consilium/policy"
)

// lawClock is the clock of a demonstration or simulation: the real one while
// the dated law is fresh. Later it starts at the day on which the law was read,
// and says so: a simulation is not stopped by the age of tables that a real
// federation would have to renew.
func lawClock(e *policy.Engine) (now func() time.Time, assumption string) {
	asOf, stale := e.LawDates()
	real := time.Now()
	if real.Before(stale.Add(-24*time.Hour)) && real.After(asOf) {
		return time.Now, ""
	}
	start := asOf.Add(12 * time.Hour)
	return func() time.Time { return start.Add(time.Since(real)) },
		fmt.Sprintf("clock: the dated law of this release was read on %s; the simulated hospitals' clocks start on that day", asOf.Format(time.DateOnly))
}
