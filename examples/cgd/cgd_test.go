package cgd_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strconv"
	"testing"

	"consilium"
	"consilium/internal/fixed"
	"consilium/internal/studyfile"
	"consilium/internal/table"
	"consilium/models"
	"consilium/models/net"
)

// The study files are accepted by the rooms that read them, fit their tables,
// and in plain sums over thirteen hospitals give what R gives on the pooled
// table.
func TestStudies(t *testing.T) {
	for _, c := range []struct {
		study, data, site string
		rows, analyses    int
		check             func(*testing.T, *models.Result)
	}{
		{"interferon-recurrent.yaml", "cgd.csv", "center", 203, 1, checkRecurrent},
		{"interferon-first.yaml", "cgd_patient.csv", "site", 128, 5, checkFirst},
		{"risk-network.yaml", "cgd_patient.csv", "site", 128, 1, checkNetwork},
	} {
		src, err := os.ReadFile(c.study)
		if err != nil {
			t.Fatal(err)
		}
		spec, _, err := studyfile.Parse(src)
		if err != nil {
			t.Errorf("%s: %v", c.study, err)
			continue
		}
		if len(spec.Analyses) != c.analyses {
			t.Errorf("%s: %d analyses, want %d", c.study, len(spec.Analyses), c.analyses)
		}
		csv, err := os.ReadFile(c.data)
		if err != nil {
			t.Fatal(err)
		}
		sites, err := table.Split(csv, c.site)
		if err != nil {
			t.Fatalf("%s: %v", c.data, err)
		}
		if len(sites) != 13 {
			t.Errorf("%s: %d hospitals", c.data, len(sites))
		}
		facts := consilium.Facts{Spec: spec, MinCohort: spec.Privacy.MinCohort, Permits: spec.Privacy.Permits}
		rows := 0
		var all []*models.Rows
		for i, s := range sites {
			facts.Sites = append(facts.Sites, s.ID)
			tab, err := table.Read(bytes.NewReader(s.CSV), table.Options{Spec: spec, Key: []byte(fmt.Sprintf("a key of hospital %02d", i)), File: c.data})
			if err != nil {
				t.Fatalf("%s at %s: %v", c.study, s.ID, err)
			}
			rows += int(tab.Record.NumRows())
			all = append(all, everyRow(tab))
		}
		if rows != c.rows {
			t.Errorf("%s: %d rows, want %d", c.study, rows, c.rows)
		}
		r := run(t, facts, all)
		if r.Problem != nil {
			t.Errorf("%s: %v", c.study, r.Problem)
		}
		c.check(t, r)
	}
}

// everyRow permits all rows; the patients are split by a hash of their number.
func everyRow(tab *table.Table) *models.Rows {
	b := models.Batch{Record: tab.Record}
	ordinals := map[string]int32{}
	for _, id := range tab.IDs {
		p, ok := ordinals[id]
		if !ok {
			p = int32(len(ordinals))
			ordinals[id] = p
		}
		h := consilium.DomainHoldout.Digest([]byte(id))
		b.Selected = append(b.Selected, true)
		b.Patient = append(b.Patient, p)
		b.Holdout = append(b.Holdout, float64(binary.BigEndian.Uint64(h[:])>>11)/(1<<53))
	}
	return &models.Rows{Batches: []models.Batch{b}, Patients: len(ordinals)}
}

// run is a federation in plain sums.
func run(t *testing.T, facts consilium.Facts, rows []*models.Rows) *models.Result {
	t.Helper()
	a, err := models.New(facts, map[string]models.Constructor{consilium.AnalysisTrain: net.New})
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Start(facts)
	if err != nil {
		t.Fatal(err)
	}
	memory := make([][]byte, len(rows))
	for round := uint32(1); !s.Done; round++ {
		layout, err := a.Layout(s)
		if err != nil {
			t.Fatal(err)
		}
		sums := make([]int64, layout.Lanes())
		var u []consilium.Position
		for i, r := range rows {
			r.Site = consilium.Position(i + 1)
			r.Seed = net.RoundSeed(facts.Spec.Seed, facts.Sites[i], round)
			w, err := fixed.NewWriter(layout)
			if err != nil {
				t.Fatal(err)
			}
			if memory[i], err = a.Local(context.Background(), s, memory[i], r, w); err != nil {
				t.Fatalf("%s: %v", facts.Sites[i], err)
			}
			lanes, err := w.Lanes()
			if err != nil {
				t.Fatal(err)
			}
			if err := fixed.Add(sums, lanes); err != nil {
				t.Fatal(err)
			}
			u = append(u, r.Site)
		}
		values, err := fixed.Open(layout, sums, len(rows))
		if err != nil {
			t.Fatal(err)
		}
		if s, err = a.Update(s, models.Opened{Round: round, Contributors: u, Values: values}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := a.Result(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// fit is the part of a result that truth.json also has.
type fit struct {
	Name  string
	Terms []struct {
		Coef float64
		SE   float64
	}
	Chisq  float64
	Groups []struct {
		N     float64
		Curve struct{ Time, Surv []float64 }
	}
}

// truth reads one fit of truth.json; R writes a vector of one as a number.
func truth(t *testing.T, name string) (coef, se []float64, chisq float64) {
	t.Helper()
	var all map[string]json.RawMessage
	b, err := os.ReadFile("truth.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	var v struct{ Coef, SE, Chisq any }
	if err := json.Unmarshal(all[name], &v); err != nil {
		t.Fatal(err)
	}
	list := func(v any) (out []float64) {
		switch v := v.(type) {
		case float64:
			out = []float64{v}
		case []any:
			for _, x := range v {
				out = append(out, x.(float64))
			}
		}
		return out
	}
	if c := list(v.Chisq); len(c) == 1 {
		chisq = c[0]
	}
	return list(v.Coef), list(v.SE), chisq
}

// equalsR compares a fit's coefficients and errors with R's on the pooled
// table.
func equalsR(t *testing.T, f fit, name string) {
	t.Helper()
	coef, se, _ := truth(t, name)
	if len(coef) == 0 || len(f.Terms) != len(coef) {
		t.Errorf("%s: %d terms, R has %d", f.Name, len(f.Terms), len(coef))
		return
	}
	for i, term := range f.Terms {
		if math.Abs(term.Coef-coef[i]) > 1e-9*math.Abs(coef[i]) || math.Abs(term.SE-se[i]) > 1e-9*se[i] {
			t.Errorf("%s: term %d has coefficient %v and error %v, R says %v and %v", f.Name, i, term.Coef, term.SE, coef[i], se[i])
		}
	}
}

func checkRecurrent(t *testing.T, r *models.Result) {
	var f fit
	if err := json.Unmarshal(r.JSON, &f); err != nil {
		t.Fatal(err)
	}
	equalsR(t, f, "ag_multi_strat_site_efron")
}

func checkFirst(t *testing.T, r *models.Result) {
	var out struct{ Analyses []fit }
	if err := json.Unmarshal(r.JSON, &out); err != nil {
		t.Fatal(err)
	}
	if len(out.Analyses) != 5 {
		t.Fatalf("%d results", len(out.Analyses))
	}
	equalsR(t, out.Analyses[0], "cox_treat_strat_site_efron")
	equalsR(t, out.Analyses[3], "logistic_multi")
	equalsR(t, out.Analyses[4], "poisson_multi")
	if _, _, chisq := truth(t, "logrank_strat_site"); math.Abs(out.Analyses[2].Chisq-chisq) > 1e-9*chisq {
		t.Errorf("log-rank %v, R says %v", out.Analyses[2].Chisq, chisq)
	}
	groups := out.Analyses[1].Groups
	if len(groups) != 2 {
		t.Fatalf("%d curves", len(groups))
	}
	for i, arm := range []string{"placebo", "rIFN-g"} {
		c := groups[i].Curve
		want := monthly(t, arm)
		if last := len(c.Time) - 1; last < 0 || c.Time[last] != 360 {
			t.Fatalf("%s: the curve does not reach the twelfth month: %v", arm, c.Time)
		}
		for k, time := range c.Time {
			month := int(math.Round(time / 30))
			if math.Abs(c.Surv[k]-want[month]) > 1e-12 {
				t.Errorf("%s: %v in month %d, the pooled table gives %v", arm, c.Surv[k], month, want[month])
			}
		}
	}
}

// monthly is the Kaplan-Meier curve of one arm on the pooled table with times
// rounded up to whole months. A month's censored patients stay at risk to its
// end, so where many are censored (the twelfth month) it lies above the curve on
// exact days.
func monthly(t *testing.T, arm string) []float64 {
	t.Helper()
	f, err := os.Open("cgd_patient.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]int{}
	for i, h := range lines[0] {
		at[h] = i
	}
	curve, s := []float64{1}, 1.0
	for month := 1; month <= 12; month++ {
		var n, d float64
		for _, l := range lines[1:] {
			days, err := strconv.ParseFloat(l[at["tstop"]], 64)
			if err != nil {
				t.Fatal(err)
			}
			if l[at["treat"]] != arm || math.Ceil(days/30) < float64(month) {
				continue
			}
			n++
			if math.Ceil(days/30) == float64(month) && l[at["status"]] == "1" {
				d++
			}
		}
		s *= 1 - d/n
		curve = append(curve, s)
	}
	return curve
}

func checkNetwork(t *testing.T, r *models.Result) {
	o, err := net.ParseOutcome(r.JSON)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Curves.TrainingLoss) < 21 || o.Training.AUC == nil || *o.Training.AUC < 0.75 || len(r.Files["model.onnx"]) == 0 {
		t.Errorf("training %+v", o.Training)
	}
}
