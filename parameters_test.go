package consilium_test

import (
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"consilium"
	"consilium/he"
)

// tableRows are the cells of a page's tables whose first cell fits a pattern.
func tableRows(page []byte, first string) [][]string {
	var out [][]string
	re := regexp.MustCompile(first)
	for line := range strings.SplitSeq(string(page), "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if strings.HasPrefix(line, "|") && re.MatchString(cells[0]) {
			out = append(out, cells)
		}
	}
	return out
}

// TestParameterPage: the tables by which an operator chooses are what the code
// computes.
func TestParameterPage(t *testing.T) {
	page, err := os.ReadFile("docs/parameters.md")
	if err != nil {
		t.Fatal(err)
	}
	quorums := 0
	for _, r := range tableRows(page, `^\d+$`) {
		if len(r) != 8 {
			continue
		}
		quorums++
		num := make([]int, 3)
		for i := range num {
			if num[i], err = strconv.Atoi(r[i]); err != nil {
				t.Fatal(err)
			}
		}
		n, least, f := num[0], num[1], num[2]
		threshold := consilium.Threshold(n, f)
		c := consilium.Charter{Members: make([]consilium.Member, n), Threshold: threshold, Faults: f}
		// Of n shares of a polynomial of degree t - 1 that many false ones are located.
		want := fmt.Sprint([]int{n, least, f, threshold, n - threshold, c.ReleaseQuorum(), threshold - 1 - f, (n - threshold) / 2})
		if got := "[" + strings.Join(r, " ") + "]"; got != want {
			t.Errorf("docs/parameters.md: %s, want %s", got, want)
		}
		if f != consilium.DefaultFaults(n, least) || least < f+2 {
			t.Errorf("docs/parameters.md: %d hospitals, min_sites %d: f %d is not the default %d", n, least, f, consilium.DefaultFaults(n, least))
		}
	}
	chunk := regexp.MustCompile(`^([\d,]+) lanes, (\d+) kB$`)
	for _, r := range tableRows(page, `^1[1-4]( \(default\))?$`) {
		if len(r) != 7 {
			continue
		}
		bits, _, _ := strings.Cut(r[1], " ")
		for i, most := range []int{16, 64, 128} {
			for _, p := range he.Profiles() {
				if fmt.Sprint(p.LogN) != strings.Fields(r[0])[0] || fmt.Sprint(p.Bits) != bits || p.MaxN != most {
					continue
				}
				lanes := p.K << p.LogN
				want := float64(p.ChunkSize()) / float64(lanes)
				if got, err := strconv.ParseFloat(strings.TrimSuffix(r[2+i], " B"), 64); err != nil || math.Abs(got-want) > 0.0051 {
					t.Errorf("docs/parameters.md: logN %d, %d bits, up to %d hospitals: %s a lane, want %.3f", p.LogN, p.Bits, most, r[2+i], want)
				}
				m := chunk.FindStringSubmatch(r[5])
				if most == 16 && (m == nil || strings.ReplaceAll(m[1], ",", "") != fmt.Sprint(lanes) || m[2] != fmt.Sprint((p.ChunkSize()+500)/1000)) {
					t.Errorf("docs/parameters.md: logN %d, %d bits: %s, want %d lanes and %d bytes", p.LogN, p.Bits, r[5], lanes, p.ChunkSize())
				}
				if got, want := r[6], fmt.Sprintf("%.1f kB", float64(p.BoxSize())/1000); got != want {
					t.Errorf("docs/parameters.md: logN %d: a box of %s, want %s", p.LogN, got, want)
				}
			}
		}
		quorums++
	}
	if quorums != 12+8 {
		t.Errorf("docs/parameters.md: %d rows were read, want 20", quorums)
	}
}
