package federation_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/he"
	"consilium/he/party"
	"consilium/internal/canon"
	"consilium/internal/federation"
	"consilium/internal/seal"
	"consilium/internal/studyfile"
	"consilium/internal/table"
	"consilium/policy"
	"consilium/provenance"
	"consilium/worker/vault"
)

// randomStudy is a drawn federation with one analysis.
type randomStudy struct {
	rows   []naiveRow // all of them, missing values as NaN
	file   *studyfile.File
	sites  []table.Site
	facts  consilium.Facts
	kind   string
	terms  []string
	efron  bool
	bySite bool // a term site
	robust bool
}

const (
	randomK    = 11 // least patients
	randomStep = 30.0
	randomEnd  = 360.0
)

// draw makes the study of a seed: 3 to 8 hospitals with 1 to 30 rows each.
func draw(t testing.TB, seed uint64) *randomStudy {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	s := &randomStudy{}
	var csv strings.Builder
	csv.WriteString("hospital,id,start,stop,event,arm,sex,age,y,count,fu\n")
	sites := 3 + r.IntN(6)
	starts := r.IntN(2) == 0
	days := 1 + r.IntN(3)*120 // coarse times have many ties
	most := 30
	if r.IntN(6) == 0 {
		most = 4 // hardly enough rows for anything
	}
	for site := range sites {
		name := fmt.Sprintf("h%d", site+1)
		quiet := r.IntN(6) == 0 // a hospital without an event
		narrow := r.IntN(6) == 0
		last, patient := 0.0, 0
		for n := 1 + r.IntN(most); n > 0; n-- {
			if patient == 0 || r.IntN(3) > 0 {
				patient++
				last = 0
			}
			w := naiveRow{site: name, id: strconv.Itoa(patient), event: !quiet && r.IntN(5) < 2, arm: r.IntN(3), sex: r.IntN(2) == 0,
				age: float64(r.IntN(700))/10 + 10, y: math.Round(r.NormFloat64()*1000) / 100, fu: float64(1+r.IntN(300)) / 100}
			if narrow {
				w.arm = 0
			}
			if starts {
				w.start = last
			}
			w.stop = w.start + float64(1+r.IntN(360/days))*float64(days)
			last = w.stop
			w.y += float64(w.arm)/2 + w.age/30
			w.count = float64(int(r.ExpFloat64() * w.fu * (1 + float64(w.arm))))
			age, y := strconv.FormatFloat(w.age, 'f', -1, 64), strconv.FormatFloat(w.y, 'e', -1, 64)
			switch r.IntN(14) {
			case 0:
				age, w.age = []string{"", "NA", "?"}[r.IntN(3)], math.NaN()
			case 1:
				y, w.y = "NA", math.NaN()
			}
			event := []string{"0", "1"}[b2i(w.event)]
			if r.IntN(2) == 0 {
				event = []string{"false", "TRUE"}[b2i(w.event)]
			}
			fmt.Fprintf(&csv, "%s,\"%s\",%g,%g,%s,\"%s\",%d,%s,%s,%g,%g\n", name, w.id, w.start, w.stop, event, []string{"A, plain", "B", "C"}[w.arm], b2i(w.sex), age, y, w.count, w.fu)
			s.rows = append(s.rows, w)
		}
	}
	text := csv.String()
	if r.IntN(4) == 0 {
		text = "\ufeff" + strings.ReplaceAll(text, "\n", "\r\n")
	}

	all := []string{"arm", "sex", "age"}
	r.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
	s.terms = all[:1+r.IntN(3)]
	if slices.Contains(s.terms, "age") && r.IntN(3) == 0 {
		s.terms = append(slices.Clone(s.terms), "age^2")
	}
	s.efron, s.bySite, s.robust = r.IntN(2) == 0, r.IntN(3) == 0, r.IntN(2) == 0
	right := strings.Join(s.terms, " + ")
	s.kind = []string{"cox", "cox", "cox", "gaussian", "binomial", "poisson", "kaplan-meier", "logrank"}[r.IntN(8)]
	surv := "Surv(stop, event)"
	if starts {
		surv = "Surv(start, stop, event)"
	}
	if s.kind == "kaplan-meier" && starts {
		s.kind = "logrank"
	}
	if s.bySite && !slices.Contains([]string{"cox", "kaplan-meier", "logrank"}, s.kind) {
		right += " + site"
	} else {
		s.bySite = false
	}
	var a string
	switch s.kind {
	case "cox":
		ties := "breslow"
		if s.efron {
			ties = "efron"
		}
		if s.robust {
			right += " + cluster(id)"
		}
		a = fmt.Sprintf("{type: cox, ties: %s, formula: %q}", ties, surv+" ~ "+right+" + strata(site)")
	case "gaussian":
		a = fmt.Sprintf("{type: glm, family: gaussian, formula: %q}", "y ~ "+right)
	case "binomial":
		a = fmt.Sprintf("{type: glm, family: binomial, formula: %q}", "event ~ "+right)
	case "poisson":
		a = fmt.Sprintf("{type: glm, family: poisson, formula: %q}", "count ~ "+right+" + offset(log(fu))")
	case "kaplan-meier":
		a = fmt.Sprintf("{type: kaplan-meier, formula: %q, grid: {step: %g, max: %g}}", surv+" ~ arm", randomStep, randomEnd)
	case "logrank":
		a = fmt.Sprintf("{type: logrank, formula: %q}", surv+" ~ arm + strata(site)")
	}
	study := `apiVersion: consilium/v1
kind: Study
metadata: {name: random-` + strconv.FormatUint(seed, 10) + `}
spec:
  question: What do the pooled rows say?
  columns:
    id: id
    start: {type: number, unit: d, bounds: [0, 1e6]}
    stop: {type: number, unit: d, bounds: [0, 1e6]}
    event: flag
    arm: ["A, plain", B, C]
    sex: flag
    age: {type: number, missing: ["", NA, "?"]}
    y: number
    count: {type: integer, bounds: [0, 1000000]}
    fu: {type: number, bounds: [0.001, 100]}
  privacy: {permits: [km-tail, small-cells]}
  analysis: ` + a + "\n"
	purpose := policy.DefaultPurpose()
	var err error
	if s.file, err = studyfile.ParseWith([]byte(study), studyfile.Options{Simulate: true, Purpose: &purpose}); err != nil {
		t.Fatalf("%v\n%s", err, study)
	}
	s.file.Spec.Legal = policy.DefaultLegal(s.file.Spec)
	if s.file.Payload, err = canon.Marshal(s.file.Spec); err != nil {
		t.Fatal(err)
	}
	if s.sites, err = table.Split([]byte(text), "hospital"); err != nil {
		t.Fatal(err)
	}
	s.facts = consilium.Facts{Spec: s.file.Spec, MinCohort: randomK, Permits: s.file.Spec.Privacy.Permits}
	for _, site := range s.sites {
		s.facts.Sites = append(s.facts.Sites, site.ID)
	}
	return s
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (s *randomStudy) open() []federation.PlainSite {
	var out []federation.PlainSite
	for _, site := range s.sites {
		out = append(out, federation.PlainSite{ID: site.ID, CSV: site.CSV})
	}
	return out
}

// randomResult is what is compared of a result.
type randomResult struct {
	Rows, Patients, Events int
	Excluded               struct{ Missing int } `json:"excluded_rows"`
	Terms                  []struct {
		Name     string
		Coef, SE float64
		RobustSE float64 `json:"robust_se"`
	}
	Loglik   []float64
	Deviance float64
	Chisq    float64
	DF       int
	Groups   []struct {
		Observed, Expected float64
		Curve              struct {
			Time   []float64
			NRisk  []*float64 `json:"n_risk"`
			NEvent []*float64 `json:"n_event"`
			Surv   []float64
		}
	}
	Error *struct{ Code, Message string }
}

// check holds a result against the naive computation. It returns the code of
// the problem that both found, or "".
func (s *randomStudy) check(doc []byte) (string, error) {
	var res randomResult
	if err := json.Unmarshal(doc, &res); err != nil {
		return "", err
	}
	var rows []naiveRow
	people, levels := map[string]bool{}, map[int]map[string]bool{0: {}, 1: {}, 2: {}}
	events := 0
	for _, r := range s.rows {
		model := s.kind != "kaplan-meier" && s.kind != "logrank"
		if model && slices.Contains(s.terms, "age") && math.IsNaN(r.age) || s.kind == "gaussian" && math.IsNaN(r.y) {
			continue
		}
		rows = append(rows, r)
		people[r.patient()] = true
		levels[r.arm][r.patient()] = true
		events += b2i(r.event)
	}
	small := false
	for _, l := range levels {
		small = small || len(l) < 3
	}
	var f fit
	var names []string
	var robust, y []float64
	switch s.kind {
	case "cox":
		x, n := design(rows, s.terms, false)
		names = n
		if len(rows) > 0 {
			f, robust = naiveCox(rows, x, s.efron, s.robust)
		}
	case "gaussian", "binomial", "poisson":
		x, n := design(rows, s.terms, !s.bySite)
		names = n
		offset := make([]float64, len(rows))
		for i := range rows {
			switch s.kind {
			case "gaussian":
				y = append(y, rows[i].y)
			case "binomial":
				y = append(y, float64(b2i(rows[i].event)))
			case "poisson":
				y, offset[i] = append(y, rows[i].count), math.Log(rows[i].fu)
			}
		}
		if s.bySite {
			x, y, offset = withSites(s.kind, rows, x, y, offset)
		}
		if len(x) > 0 {
			f = naiveGLM(s.kind, x, y, offset)
		}
	}
	if res.Error != nil {
		sound := false
		switch res.Error.Code {
		case "analysis.rows":
			sound = len(rows) == 0
		case "analysis.patients":
			sound = len(people) < randomK
		case "analysis.level":
			sound = small
		case "analysis.events":
			total := 0.0
			for _, v := range y {
				total += v
			}
			sound = events == 0 || total == 0 || s.kind == "binomial" && events == len(rows)
		case "analysis.degrees":
			sound = len(rows) <= len(names)+b2i(s.bySite)*len(s.sites)
		case "analysis.estimable", "analysis.separation":
			sound = !f.ok
		case "analysis.compare":
			_, df, _, _ := naiveLogrank(rows)
			sound = df == 0
		}
		if !sound {
			return "", fmt.Errorf("%s (%s), but the naive computation disagrees: %d rows, %d patients, %d events, fit %v %v", res.Error.Code, res.Error.Message, len(rows), len(people), events, f.ok, f.beta)
		}
		return res.Error.Code, nil
	}
	if res.Rows != len(rows) || res.Patients != len(people) || res.Excluded.Missing != len(s.rows)-len(rows) {
		return "", fmt.Errorf("%d rows of %d patients, %d left out; want %d of %d, %d", res.Rows, res.Patients, res.Excluded.Missing, len(rows), len(people), len(s.rows)-len(rows))
	}
	switch s.kind {
	case "logrank":
		chisq, df, observed, expected := naiveLogrank(rows)
		if res.DF != df {
			return "", fmt.Errorf("df is %d, want %d", res.DF, df)
		}
		if err := near("chisq", res.Chisq, chisq); err != nil {
			return "", err
		}
		for g := range res.Groups {
			if err := near("observed", res.Groups[g].Observed, observed[g]); err != nil {
				return "", err
			}
			if err := near("expected", res.Groups[g].Expected, expected[g]); err != nil {
				return "", err
			}
		}
		return "", nil
	case "kaplan-meier":
		for g := range res.Groups {
			want := naiveCurve(rows, g, randomStep, randomEnd)
			c := res.Groups[g].Curve
			for i, at := range c.Time {
				w := want[int(at/randomStep)]
				if err := near("surv", c.Surv[i], w.surv); err != nil {
					return "", err
				}
				if *c.NRisk[i] != w.risk || *c.NEvent[i] != w.events {
					return "", fmt.Errorf("at %v: %v at risk, %v events; want %v, %v", at, *c.NRisk[i], *c.NEvent[i], w.risk, w.events)
				}
			}
		}
		return "", nil
	}
	if !f.ok {
		return "", fmt.Errorf("an estimate where the naive computation finds none: %v", res.Terms)
	}
	for _, term := range res.Terms {
		k := slices.Index(names, term.Name)
		if k < 0 {
			return "", fmt.Errorf("unexpected term %s, want %v", term.Name, names)
		}
		if err := near(term.Name, term.Coef, f.beta[k]); err != nil {
			return "", err
		}
		if err := near("se of "+term.Name, term.SE, math.Sqrt(f.cov[k][k])); err != nil {
			return "", err
		}
		if robust != nil {
			if err := near("robust se of "+term.Name, term.RobustSE, robust[k]); err != nil {
				return "", err
			}
		}
	}
	if len(res.Terms) != len(names) {
		return "", fmt.Errorf("%d terms, want %v", len(res.Terms), names)
	}
	if s.kind == "cox" {
		if err := near("loglik at 0", res.Loglik[0], f.null); err != nil {
			return "", err
		}
		return "", near("loglik", res.Loglik[1], f.atMax)
	}
	if s.kind == "gaussian" {
		return "", near("deviance", res.Deviance, -2*f.atMax)
	}
	return "", nil
}

// sealed adds the vectors as hospitals and coordinators do: a round key each,
// shares dealt in sealed boxes, ciphertexts summed, opened by t shares.
type sealed struct {
	n, t    int
	draft   consilium.Digest
	group   *party.GroupKey
	keys    []*seal.Key
	holders []consilium.SealingKey
}

func newSealed(t testing.TB, sites []consilium.SiteID, keys []*seal.Key) *sealed {
	t.Helper()
	n := len(sites)
	s := &sealed{n: n, t: consilium.Threshold(n, consilium.DefaultFaults(n, 3)), draft: consilium.DomainCharter.Digest([]byte("random")), keys: keys[:n]}
	c := &consilium.Charter{Study: consilium.NewStudyID(s.draft)}
	var parts []*party.Contribution
	for i, id := range sites {
		p, err := party.NewContribution()
		if err != nil {
			t.Fatal(err)
		}
		c.Members = append(c.Members, consilium.Member{Site: id, Commitment: p.Commitment(c.Study, id, consilium.Digest{})})
		parts = append(parts, p)
		s.holders = append(s.holders, keys[i].Public())
	}
	var err error
	if s.group, err = party.Combine(s.draft, c, parts); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *sealed) sum(ctx context.Context, round uint32, layout consilium.Layout, vectors [][]int32) ([]int64, error) {
	if round > s.group.Round() {
		s.group = s.group.Ratchet()
	}
	lanes := layout.Lanes()
	profile, err := he.Choose(lanes, layout.Bits(), s.n)
	if err != nil {
		return nil, err
	}
	at := func(p int) consilium.At {
		return consilium.At{Charter: s.draft, Round: round, Attempt: 1, Position: consilium.Position(p + 1)}
	}
	set := &consilium.Contributors{Charter: s.draft, Round: round, Attempt: 1}
	readers := make([]io.Reader, s.n)
	bodies, boxes := make([][]byte, s.n), make([][][]byte, s.n)
	for p, v := range vectors {
		salt, err := party.VectorSalt(bytes.Repeat([]byte{byte(p + 1)}, 32), "study", round)
		if err != nil {
			return nil, err
		}
		digest := party.VectorDigest(salt, v)
		seed, err := party.NewSeed(bytes.Repeat([]byte{byte(p + 1)}, 32), at(p), digest)
		if err != nil {
			return nil, err
		}
		source := party.Lanes(v)
		var ciphertext bytes.Buffer
		d, err := party.Contribute(ctx, &party.Encryption{Profile: profile, Lanes: lanes, At: at(p), Threshold: s.t, Salt: salt, Vector: digest,
			Holders: s.holders, Group: s.group, Seed: seed, Source: &source}, &ciphertext)
		if err != nil {
			return nil, err
		}
		h := &consilium.Header{Layout: consilium.DomainState.Digest(layout.Append(nil)), NextSealing: s.holders[p]}
		if err := d.Header(h); err != nil {
			return nil, err
		}
		bodies[p] = h.Encode()
		if boxes[p], err = profile.SplitBundle(d.Bundle(), s.n); err != nil {
			return nil, err
		}
		readers[p] = &ciphertext
		set.Members = append(set.Members, consilium.Contributor{Position: consilium.Position(p + 1), Header: consilium.HeaderDigest(bodies[p])})
	}
	var aggregate bytes.Buffer
	if err := he.Sum(profile, lanes, readers, &aggregate); err != nil {
		return nil, err
	}
	var openings []*party.OpeningShare
	for holder := s.n - s.t; holder < s.n; holder++ {
		var shares []*party.KeyShare
		for p := range vectors {
			k, err := party.OpenBox(profile, lanes, s.n, s.t, at(p), bodies[p], consilium.Position(holder+1), boxes[p][holder], s.keys[holder])
			if err != nil {
				return nil, err
			}
			shares = append(shares, k)
		}
		o, err := party.NewOpeningShare(set, consilium.Position(holder+1), shares)
		if err != nil {
			return nil, err
		}
		openings = append(openings, o)
	}
	var sums []int64
	err = party.Open(ctx, &party.Decryption{Profile: profile, Lanes: lanes, Threshold: s.t, Members: s.n, Set: set, Group: s.group, Openings: openings},
		bytes.NewReader(aggregate.Bytes()), party.SinkFunc(func(v []int64) error { sums = append(sums, v...); return nil }))
	return sums, err
}

const (
	randomFederations = 200
	completeRuns      = 6 // complete federations, one of each kind of analysis
)

// TestRandomFederations draws small federations and holds what they answer
// against the naive computation on the pooled rows. The answer in the open and
// the answer through encryption are the same bytes.
func TestRandomFederations(t *testing.T) {
	var keys []*seal.Key
	for range 8 {
		k, err := seal.Generate()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	kinds, problems := map[string]int{}, map[string]int{}
	for seed := range uint64(randomFederations) {
		s := draw(t, seed)
		open, err := federation.Plain(t.Context(), s.facts, s.open(), s.file.RowPatients)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		code, err := s.check(open.JSON)
		if err != nil {
			t.Errorf("seed %d, %s ~ %v, %d rows at %d hospitals: %v", seed, s.kind, s.terms, len(s.rows), len(s.sites), err)
			continue
		}
		if code != "" {
			problems[code]++
		} else {
			kinds[s.kind]++
		}
		under, err := federation.PlainWith(t.Context(), s.facts, s.open(), s.file.RowPatients, newSealed(t, s.facts.Sites, keys).sum)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !bytes.Equal(under.JSON, open.JSON) {
			t.Errorf("seed %d: encrypted sums give another result", seed)
		}
	}
	t.Logf("estimates %v, problems %v", kinds, problems)
	for _, k := range []string{"cox", "gaussian", "binomial", "poisson", "kaplan-meier", "logrank"} {
		if kinds[k] < 5 {
			t.Errorf("only %d estimates by %s: the draw has become too narrow", kinds[k], k)
		}
	}
}

// TestRandomFederationsComplete runs some of them through everything: ledgers,
// consents, policy, gates, coordinator, encryption, release.
func TestRandomFederationsComplete(t *testing.T) {
	seen := map[string]bool{}
	for seed := uint64(1000); len(seen) < completeRuns; seed++ {
		s := draw(t, seed)
		if seen[s.kind] || len(s.sites) > 6 {
			continue
		}
		open, err := federation.Plain(t.Context(), s.facts, s.open(), s.file.RowPatients)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		code, err := s.check(open.JSON)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if code != "" && len(seen) > 0 {
			continue // the first may be a problem, which is an answer too
		}
		seen[s.kind] = true
		t.Run(fmt.Sprintf("%d-%s", seed, s.kind), func(t *testing.T) {
			sameAnswer(t, s.complete(t), open.JSON)
		})
	}
}

// complete is the result of the whole federation.
func (s *randomStudy) complete(t *testing.T) []byte {
	engine, err := policy.Compile(policy.DefaultBoard(s.file.Spec.Privacy.Permits))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	o := federation.Options{Name: "random.example", Dir: t.TempDir(), Coordinators: 1, Volatile: true, Policies: []*policy.Engine{engine},
		Country: policy.DefaultCountry, TeamCountry: policy.DefaultCountry}
	for _, site := range s.sites {
		facts, err := policy.DefaultSite(site.ID)
		if err != nil {
			t.Fatal(err)
		}
		spec := s.file.Spec
		o.Sites = append(o.Sites, federation.SiteOptions{
			ID: site.ID, Name: site.Label, Operator: string(site.ID), Country: policy.DefaultCountry, Facts: facts,
			Datasets: []vault.Dataset{{Name: spec.Data.Dataset, Patient: spec.Data.Patient, Columns: spec.Columns}},
			CSV:      map[string][]byte{spec.Data.Dataset: site.CSV},
			Register: func(string) vault.Register { return vault.Register{Adult: true, CitizenOrLPR: true} },
			Consent: func(site consilium.SiteID, _ string) *provenance.Consent {
				return &provenance.Consent{Site: site, Form: "test", Level: provenance.LevelGeneral, Scopes: []string{"general"}, Purposes: []string{"DUO:0000042"},
					Explicit: true, Informed: true, GivenBy: provenance.GivenBySelf, Given: now.Add(-time.Hour).Unix(), From: now.Add(-time.Hour).Unix()}
			},
		})
	}
	f, err := federation.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, err := f.Run(t.Context(), s.file.Payload, engine.Digest(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if out.Phase != consilium.PhaseDone {
		t.Fatalf("%s: %s", out.Phase, out.Reason)
	}
	return out.Envelope.Result
}

// sameAnswer compares the analysis's own part of a released result, which
// also says who took part, with the answer in the open: canonical bytes.
func sameAnswer(t *testing.T, released, open []byte) {
	t.Helper()
	var full, own map[string]json.RawMessage
	if err := json.Unmarshal(released, &full); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(open, &own); err != nil {
		t.Fatal(err)
	}
	for k, want := range own {
		a, err := canon.Marshal(full[k])
		if err != nil {
			t.Fatal(err)
		}
		b, err := canon.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s: the federation says %.200s, in the open it is %.200s", k, a, b)
		}
	}
}
