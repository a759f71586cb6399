// Command wearable writes windows of heart rate and movement from wrist devices
// that do not exist. Everything is GENERATED from a fixed seed; nobody is in it.
//
//	go run ./examples/wearable > windows.csv
//	consilium simulate --study examples/wearable/attacks.yaml --data windows.csv --site-column hospital --out out
//
// README.md says what is in the table and what to expect.
package main

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
)

// steps is how many values of each channel one window has: one every 15
// seconds for eight minutes.
const steps = 32

func main() {
	w := bufio.NewWriter(os.Stdout)
	if err := generate(w); err == nil {
		if err = w.Flush(); err == nil {
			return
		}
	}
	os.Exit(1)
}

// generate draws four windows of each patient: at rest, climbing stairs (the
// heart follows the movement after half a minute), or an attack of tachycardia,
// in which the heart jumps up, and down again, while the arm lies still. Mean
// heart rates tell little: fitness differs more between patients.
func generate(w io.Writer) error {
	r := rand.New(rand.NewPCG(20261121, 2))
	if _, err := fmt.Fprint(w, "id,hospital,attack"); err != nil {
		return err
	}
	for t := range steps {
		if _, err := fmt.Fprintf(w, ",t%d_hr,t%d_move", t+1, t+1); err != nil {
			return err
		}
	}
	id := 0
	for site, n := range []int{70, 55, 40, 35} {
		for range n {
			id++
			rest := 70 + 12*r.NormFloat64()
			for range 4 {
				kind := r.IntN(10) // 0 to 2 attack, 3 to 6 stairs, else rest
				attack := 0
				if kind < 3 {
					attack = 1
				}
				if _, err := fmt.Fprintf(w, "\n%d,hospital-%c,%d", id, 'a'+site, attack); err != nil {
					return err
				}
				from := 4 + r.IntN(10)
				length := 8 + r.IntN(8)
				height := 12 + 25*r.Float64()
				effort := 0.0
				for t := range steps {
					inside := t >= from && t < from+length
					move := math.Abs(0.25 * r.NormFloat64())
					hr := rest + 6*r.NormFloat64()
					switch {
					case kind < 3 && inside:
						hr += height
					case kind >= 3 && kind < 7:
						if inside {
							move += 0.2 + 0.6*r.Float64()
							effort += (1 - effort) * 0.4
						} else {
							effort *= 0.7
						}
						hr += height * effort
					}
					if _, err := fmt.Fprintf(w, ",%.0f,%.2f", hr, move); err != nil {
						return err
					}
				}
			}
		}
	}
	_, err := fmt.Fprintln(w)
	return err
}
