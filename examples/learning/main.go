// Command learning writes a table of a registry that does not exist: patients
// of six hospitals with an invented rare disease, and whether they had a flare
// within a year. Everything is GENERATED from a fixed seed; nobody is in it.
//
//	go run ./examples/learning > flares.csv
//	consilium simulate --study examples/learning/flares.yaml --data flares.csv --site-column hospital --out out
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
	"strconv"
)

func main() {
	w := bufio.NewWriter(os.Stdout)
	times := 1
	if len(os.Args) > 1 {
		var err error
		if times, err = strconv.Atoi(os.Args[1]); err != nil || times < 1 || times > 1000 {
			fmt.Fprintln(os.Stderr, "want at most one argument, how many times larger the registry is: 1 to 1000")
			os.Exit(2)
		}
	}
	if err := generate(w, times); err == nil {
		if err = w.Flush(); err == nil {
			return
		}
	}
	os.Exit(1)
}

// generate draws the table. Of such patients 18.6% have a flare, of these 900 it
// is 158; the risk rises with very low and very high ferritin, with young age only without the drug, and in
// no straight line with anything.
func generate(w io.Writer, times int) error {
	r := rand.New(rand.NewPCG(20261121, 1))
	if _, err := fmt.Fprintln(w, "id,hospital,age,log_ferritin,log_crp,sex,drug,flare"); err != nil {
		return err
	}
	id := 0
	for site, n := range []int{260, 210, 160, 120, 90, 60} {
		for range n * times {
			id++
			age := math.Round(2 + 60*r.Float64())
			ferritin := 4.5 + 0.15*float64(site) + 1.1*r.NormFloat64() // logarithms
			crp := 1 + 0.9*r.NormFloat64()
			drug := r.IntN(2)
			z := -3.9 + 0.9*(ferritin-4.8)*(ferritin-4.8) + 0.25*crp
			if age < 16 && drug == 0 {
				z += 2.2
			}
			if age >= 16 && drug == 1 {
				z += 0.8
			}
			flare := 0
			if r.Float64() < 1/(1+math.Exp(-z)) {
				flare = 1
			}
			cell := func(v float64, digits int, missing float64) string {
				if r.Float64() < missing {
					return ""
				}
				return strconv.FormatFloat(v, 'f', digits, 64)
			}
			if _, err := fmt.Fprintf(w, "%d,hospital-%c,%s,%s,%s,%s,%d,%d\n", id, 'a'+site, cell(age, 0, 0), cell(ferritin, 2, 0.05),
				cell(crp, 2, 0.12), []string{"female", "male"}[r.IntN(2)], drug, flare); err != nil {
				return err
			}
		}
	}
	return nil
}
