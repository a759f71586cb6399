package studyfile

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"math"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"consilium"
)

// Draft says what New cannot see in a table.
type Draft struct {
	Name string // of the study; "" gives my-study
	Site string // the column that tells hospitals apart; "" guesses, and none is fine
}

// What New takes for a missing value, besides an empty cell.
var missingWords = map[string]bool{"": true, "NA": true, "N/A": true, "n/a": true, "NaN": true, "nan": true, "NULL": true, "null": true,
	".": true, "#N/A": true}

// Names that say what a column is, in lower case without marks.
var (
	patientNames = words("id patient patientid pid ptid patno subject subjectid subjid usubjid idnum recordid case caseid")
	siteNames    = words("site center centre hospital clinic inst institution institute")
	startNames   = words("tstart start time1 entry")
	stopNames    = words("tstop stop time2 exit")
	timeNames    = words("time futime survtime days fu followup ostime os dtime rtime t")
	eventNames   = words("status event death dead died event1 infect infected relapse outcome")
	outcomeNames = words("outcome y response event status any infected died dead death success")
	armNames     = words("treat treatment trt arm rx group")
	firstLevels  = []string{"placebo", "control", "none", "no", "untreated", "standard", "usual care"}
)

func words(s string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(s) {
		m[w] = true
	}
	return m
}

// maxDraftLevels is how many different words a column of levels may have.
const maxDraftLevels = 20

// guess is what New makes of one column.
type guess struct {
	header  string
	kind    consilium.ColumnType // "" if the column is left out
	levels  []string
	bounds  [2]float64
	missing []string // beyond the default markers
	nMissed int
	note    string
	text    bool // left out as text: it may still tell patients apart
}

var (
	isoDate      = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}$`)
	otherDate    = regexp.MustCompile(`^(\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|\d{4}[./]\d{1,2}[./]\d{1,2})$`)
	decimalComma = regexp.MustCompile(`^[+-]?(\d+([.,]\d+)?|\d{1,3}([,' ]\d{3})+(\.\d+)?|\d{1,3}(\.\d{3})+(,\d+)?)$`)
)

// New drafts a study file from a CSV table with header: types, levels and
// bounds as the table suggests them, each with what to check. Bounds are
// rounded outwards, so that a draft that is passed on does not tell the
// table's extreme values.
func New(table []byte, d Draft) (draft []byte, err error) {
	defer catch(&err)
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(table, []byte("\xef\xbb\xbf"))))
	rows, err := r.ReadAll()
	if err != nil {
		return nil, errStudy.Withf("the table is not CSV: %w", err)
	}
	if len(rows) < 2 {
		return nil, errStudy.Withf("the table has no rows below its header")
	}
	head := rows[0]
	rows = rows[1:]
	if d.Name == "" {
		d.Name = "my-study"
	}
	if _, err := consilium.ParseSiteID(d.Name); err != nil {
		return nil, errStudy.Withf("the name %q: use a-z, 0-9 and inner hyphens", clip(d.Name))
	}
	if d.Site == "" {
		for _, h := range head {
			if siteNames[fold(h)] {
				d.Site = h
				break
			}
		}
	} else if !contains(head, d.Site) {
		return nil, errStudy.Withf("the table has no column %s; %s", clip(d.Site), suggest(d.Site, head, "column"))
	}

	patient := ""
	var list []guess
	seen := map[string]bool{}
	sites := 0
	for i, h := range head {
		cells := make([]string, len(rows))
		for j := range rows {
			cells[j] = strings.TrimSpace(rows[j][i])
		}
		if h == d.Site {
			sites = len(distinct(cells))
			continue
		}
		g := guessColumn(h, cells)
		if g.kind != "" && (seen[h] || h == "site") {
			g.kind, g.note = "", "the name is taken; rename the header"
		}
		if patient == "" && (g.kind != "" || g.text) && !seen[h] && h != "site" && patientNames[fold(h)] && g.nMissed == 0 {
			patient = h
			g = guess{header: h, kind: consilium.TypeID, note: "tells patients apart; replaced by a keyed pseudonym at each hospital"}
		}
		seen[h] = true
		list = append(list, g)
	}
	usable := 0
	for _, g := range list {
		if g.kind != "" && g.kind != consilium.TypeID {
			usable++
		}
	}
	if usable == 0 {
		return nil, errStudy.Withf("no column of the table can be used; a column needs a name of letters and digits and at least two different values")
	}
	return []byte(render(d, list, patient, len(rows), sites)), nil
}

func distinct(cells []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, c := range cells {
		if !seen[c] {
			seen[c] = true
			out = append(out, c)
		}
	}
	sort.Strings(out)
	return out
}

func guessColumn(header string, cells []string) guess {
	g := guess{header: header}
	if header == "" {
		g.header, g.note = "(no name)", "row names, or a column to name"
		return g
	}
	var values []string
	marks := map[string]bool{}
	for _, c := range cells {
		if missingWords[c] {
			g.nMissed++
			marks[c] = true
			continue
		}
		values = append(values, c)
	}
	for _, m := range DefaultMissing {
		delete(marks, m)
	}
	for m := range marks {
		g.missing = append(g.missing, m)
	}
	sort.Strings(g.missing)
	kinds := distinct(values)
	if f, err := consilium.ParseTerm(header); err != nil || len(f.Factors) != 1 || f.Factors[0].Func != "" {
		g.note = "not a name that a study can use; rename the header to letters, digits and underscores"
		return g
	}
	all := func(ok func(string) bool) bool {
		for _, v := range kinds {
			if !ok(v) {
				return false
			}
		}
		return true
	}
	lo, hi := math.Inf(1), math.Inf(-1)
	number := func(s string) bool {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsInf(v, 0) || math.IsNaN(v) || strings.ContainsAny(s, "xX_") {
			return false
		}
		lo, hi = min(lo, v), max(hi, v)
		return true
	}
	whole := func(s string) bool {
		v, err := strconv.ParseInt(s, 10, 64)
		return err == nil && v <= 1<<53 && v >= -(1<<53) && number(s)
	}
	date := func(s string) bool {
		_, err := time.Parse("2006-01-02", s)
		return err == nil && isoDate.MatchString(s)
	}
	flag := func(s string) bool {
		s = strings.ToLower(s)
		return s == "0" || s == "1" || s == "true" || s == "false"
	}
	switch {
	case len(kinds) == 0:
		g.note = "every value is missing"
	case all(flag):
		g.kind = consilium.TypeFlag
		if len(kinds) == 1 {
			g.note = "the same in every row of this table"
		}
	case len(kinds) == 1:
		g.note = "the same in every row of this table"
	case len(kinds) == 2 && all(whole):
		g.kind, g.levels = consilium.TypeLevels, kinds
		g.note = "two codes: name them in the data if you can; the first is the reference; an event must be a flag of 0 and 1"
	case all(whole):
		g.kind = consilium.TypeInteger
		g.bounds = outward(lo, hi)
	case all(number):
		g.kind = consilium.TypeNumber
		g.bounds = outward(lo, hi)
	case all(date):
		g.note = "dates identify patients; use days since entry instead, or declare {type: date}"
	case len(kinds) <= maxDraftLevels && !all(decimalComma.MatchString) && !all(otherDate.MatchString) && (len(kinds) < len(values) || len(kinds) <= 3):
		g.kind, g.levels = consilium.TypeLevels, kinds
		for _, first := range firstLevels {
			for i, l := range g.levels {
				if strings.EqualFold(l, first) {
					copy(g.levels[1:i+1], g.levels[:i])
					g.levels[0] = l
				}
			}
		}
		g.note = "the first is the reference"
	case all(decimalComma.MatchString):
		g.note = "numbers with a comma inside: write them with a decimal point and nothing between thousands"
	case all(otherDate.MatchString):
		g.note = "dates identify patients; use days since entry instead"
	default:
		g.note, g.text = fmt.Sprintf("text with %d different values", len(kinds)), true
	}
	return g
}

// outward rounds a range to 0 and the next of 1, 2, 5 times a power of ten.
func outward(lo, hi float64) [2]float64 {
	return [2]float64{0 - roundUp(max(0, -lo)), roundUp(max(0, hi))} // 0 - 0 is not -0
}

func roundUp(v float64) float64 {
	if v == 0 {
		return 0
	}
	for e := int(math.Floor(math.Log10(v))) - 1; e <= 308; e++ {
		for _, m := range []string{"1", "2", "5"} {
			// Parsed, not multiplied, so that 0.2 is the float nearest to 0.2.
			if w, err := strconv.ParseFloat(m+"e"+strconv.Itoa(e), 64); err == nil && w >= v {
				return w
			}
		}
	}
	return math.MaxFloat64
}

func render(d Draft, list []guess, patient string, rows, sites int) string {
	var b strings.Builder
	line := func(indent int, s, note string) {
		s = strings.Repeat("  ", indent) + s
		if note != "" {
			s = fmt.Sprintf("%-72s # %s", s, note)
		}
		b.WriteString(s + "\n")
	}
	fmt.Fprintf(&b, "# A draft: types, levels and bounds were guessed from one table of %d rows. Check every line.\n", rows)
	if d.Site != "" {
		fmt.Fprintf(&b, "# To try it: consilium simulate --study THIS.yaml --data DATA.csv --site-column %s --out DIR\n", plainWord(d.Site))
	}
	line(0, "apiVersion: "+consilium.APIVersion, "")
	line(0, "kind: Study", "")
	line(0, "metadata: {name: "+d.Name+"}", "")
	line(0, "spec:", "")
	line(1, "question: What do we want to know?", "one plain sentence that boards and patients read")
	line(1, "purpose: {duo: [DUO:0000006]}", "biomedical research; add disease: MONDO:…")
	if patient != "" {
		line(1, "data: {dataset: "+d.Name+", patient: "+quoted(patient)+"}", "each hospital binds the dataset to its own table")
	} else {
		line(1, "# data: {dataset: "+d.Name+", patient: …}", "no column looks like a patient's id: in a simulation every row is a patient")
	}
	line(1, fmt.Sprintf("sites: {min: %d}", max(3, min(5, sites))), "fewer hospitals than this are never summed")
	line(1, "columns:", "")
	for _, g := range list {
		note := g.note
		if g.kind == "" {
			line(2, "# "+plainWord(g.header)+": left out", note)
			continue
		}
		var parts []string
		if g.kind == consilium.TypeLevels {
			items := make([]string, len(g.levels))
			for i, l := range g.levels {
				items[i] = quoted(l)
			}
			parts = append(parts, "levels: ["+strings.Join(items, ", ")+"]")
		} else {
			parts = append(parts, "type: "+string(g.kind))
		}
		if g.kind == consilium.TypeNumber || g.kind == consilium.TypeInteger {
			parts = append(parts, fmt.Sprintf("bounds: [%s, %s]", plainNumber(g.bounds[0]), plainNumber(g.bounds[1])))
			note = "widen the bounds to what may be measured; add unit:"
		}
		if len(g.missing) > 0 {
			items := []string{`""`, "NA"}
			for _, m := range g.missing {
				items = append(items, quoted(m))
			}
			parts = append(parts, "missing: ["+strings.Join(items, ", ")+"]")
		}
		line(2, quoted(g.header)+": {"+strings.Join(parts, ", ")+"}", note)
	}
	for _, l := range analysisGuess(list) {
		line(1, l[0], l[1])
	}
	line(1, fmt.Sprintf("privacy: {min_cohort: %d}", DefaultMinCohort), "least patients in a published cell or risk set")
	line(1, "rounds: {max: 25, tolerance: 1e-9, deadline: 2m}", "")
	return b.String()
}

// analysisGuess picks the analysis that the columns' names suggest.
func analysisGuess(list []guess) [][2]string {
	find := func(names map[string]bool, kinds ...consilium.ColumnType) string {
		for _, g := range list {
			for _, k := range kinds {
				if g.kind == k && names[fold(g.header)] {
					return g.header
				}
			}
		}
		return ""
	}
	const n, i, f = consilium.TypeNumber, consilium.TypeInteger, consilium.TypeFlag
	start, stop := find(startNames, n, i), find(stopNames, n, i)
	at, event := find(timeNames, n, i), find(eventNames, f)
	outcome := find(outcomeNames, f)

	var response, kind string
	used := map[string]bool{}
	use := func(names ...string) {
		for _, s := range names {
			used[s] = true
		}
	}
	switch {
	case start != "" && stop != "" && event != "":
		kind, response = consilium.AnalysisCox, "Surv("+start+", "+stop+", "+event+")"
		use(start, stop, event)
	case at != "" && event != "":
		kind, response = consilium.AnalysisCox, "Surv("+at+", "+event+")"
		use(at, event)
	case outcome != "":
		kind, response = consilium.AnalysisGLM, outcome
		use(outcome)
	}
	var arms, others []string
	for _, g := range list {
		if used[g.header] || g.kind == "" || g.kind == consilium.TypeID {
			continue
		}
		if l := fold(g.header); startNames[l] || stopNames[l] || timeNames[l] || eventNames[l] || l == "enum" {
			continue
		}
		if armNames[fold(g.header)] {
			arms = append(arms, g.header)
		} else {
			others = append(others, g.header)
		}
	}
	terms := append(arms, others...)
	if len(terms) > 6 {
		terms = terms[:6]
	}
	if kind == "" || len(terms) == 0 {
		var names []string
		for _, g := range list {
			if g.kind != "" && g.kind != consilium.TypeID && len(names) < 8 {
				names = append(names, quoted(g.header))
			}
		}
		return [][2]string{{"analysis: {type: describe, variables: [" + strings.Join(names, ", ") + "]}", "name a response to fit a model"}}
	}
	out := [][2]string{{"analysis:", ""}, {"  type: " + kind, ""}}
	formula := response + " ~ " + strings.Join(terms, " + ")
	if kind == consilium.AnalysisGLM {
		out = append(out, [2]string{"  family: binomial", ""})
	} else {
		formula += " + strata(site)"
	}
	return append(out, [2]string{"  formula: " + strconv.Quote(formula), "keep the terms that the question needs"})
}

// quoted writes s so that YAML reads exactly s.
func quoted(s string) string {
	plain := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`).MatchString(s)
	switch strings.ToLower(s) {
	case "true", "false", "yes", "no", "on", "off", "null", "y", "n":
		plain = false
	}
	if plain {
		return s
	}
	return strconv.Quote(s)
}

// plainWord is s for a comment, on one line.
func plainWord(s string) string {
	return clip(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s))
}

func plainNumber(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
