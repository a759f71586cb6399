//go:build unix

package main

import (
	"os"
	"slices"
	"syscall"
	"time"

	"consilium/he"
)

// peakMiB is the most memory that a process had, all of its runtime included.
func peakMiB(s *os.ProcessState) float64 {
	return float64(s.SysUsage().(*syscall.Rusage).Maxrss) / 1024
}

// processor is the processor time of this process.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
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
