//go:build unix

package main

import (
	"os"
	"slices"
	"syscall"

	"consilium/he"
)

// peakMiB is the most memory that a process had, all of its runtime included.
func peakMiB(s *os.ProcessState) float64 {
	return float64(s.SysUsage().(*syscall.Rusage).Maxrss) / 1024
}

func profileOf(parameters, sites int) (he.Profile, error) { return he.Choose(parameters, 16, sites) }

// median of the rounds' times.
func median(laps []lap) float64 {
	var all []float64
	for _, l := range laps {
		all = append(all, l.closed)
	}
	slices.Sort(all)
	return all[len(all)/2]
}
