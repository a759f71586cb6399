package report

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
)

func sample(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/result.json")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var sampleExtras = Extras{
	TimeUnit: "days since randomisation",
	Problems: []Problem{
		{"One record was altered", "scripps", "The row no longer agrees with the hospital's ledger; it was left out, and the audit names it."},
		{"The leading coordinator was killed", "c2, in round 3", "Another took over; no contribution was lost and the result has the same bits."},
	},
	Tables: []Table{{Caption: "Cox model", Head: []string{"term", "here", "reference"}, Rows: [][]string{{"treat:rIFN-g", "−1.19", "−1.19"}}}},
	Audit:  []Fact{{"Signed decisions", "41"}},
	Files:  []string{"result.json", "weights.safetensors"},
}

func render(t *testing.T, result []byte, x Extras) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, result, x); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The page has a point, a label and a row for each number of the result. The
// browser test holds the rendered page against result.json; this one needs no
// browser.
func TestPage(t *testing.T) {
	page := render(t, sample(t), sampleExtras)
	var doc struct {
		Result struct {
			Analyses []struct {
				Analysis, Name string
				Terms          []struct{ Name string }
				Groups         []struct {
					Name  string
					Curve struct{ Time []float64 }
				}
				Curves struct {
					TrainingLoss []float64 `json:"training_loss"`
				}
			}
		}
	}
	if err := json.Unmarshal(sample(t), &doc); err != nil {
		t.Fatal(err)
	}
	for _, a := range doc.Result.Analyses {
		section := between(t, page, `data-name="`+a.Name+`"`, `</section>`)
		for _, term := range a.Terms {
			if n := strings.Count(section, `<tr data-term="`+term.Name+`"`); n != 1 {
				t.Errorf("%s: %d rows for %s", a.Name, n, term.Name)
			}
			want := 1
			if term.Name == "(Intercept)" {
				want = 0
			}
			if n := strings.Count(section, `<g class="point" data-term="`+term.Name+`"`); n != want {
				t.Errorf("%s: %d points for %s, want %d", a.Name, n, term.Name, want)
			}
		}
		points := 0
		for _, g := range a.Groups {
			points += len(g.Curve.Time)
		}
		if a.Analysis == "kaplan-meier" {
			if n := strings.Count(section, `<circle class="at"`); n != points {
				t.Errorf("%s: %d points, want %d", a.Name, n, points)
			}
		}
		if a.Analysis == "train" {
			if n := strings.Count(between(t, section, `data-series="training" data-what="loss"`, `</g>`), `<circle`); n != len(a.Curves.TrainingLoss) || n == 0 {
				t.Errorf("%s: %d points of training loss, want %d", a.Name, n, len(a.Curves.TrainingLoss))
			}
		}
	}
	for _, want := range []string{"Does gamma interferon reduce serious infections", "What went wrong", "Who contributed", "weights.safetensors", "number at risk", "χ² = 9.949, p\u00a0=\u00a00.0016; corrected for continuity χ² = 8.794, p\u00a0=\u00a00.0030; odds ratio 0.275",
		"hazard ratio 0.303 (95% confidence interval 0.164 to 0.560), p\u00a0=\u00a00.00014"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

func between(t *testing.T, s, from, to string) string {
	t.Helper()
	i := strings.Index(s, from)
	if i < 0 {
		t.Fatalf("the page has no %s", from)
	}
	j := strings.Index(s[i:], to)
	if j < 0 {
		t.Fatalf("the page has no %s after %s", to, from)
	}
	return s[i : i+j]
}

// A page that asks no server for anything: no script, no address in any
// attribute or style, and a policy that forbids what might slip in.
func TestSelfContained(t *testing.T) {
	page := render(t, sample(t), sampleExtras)
	for _, bad := range []string{"<script", "http:", "https:", "url(", "@import", "<img", "<iframe", "<object", "<embed", "javascript:"} {
		if strings.Contains(strings.ToLower(page), bad) {
			t.Errorf("the page contains %s", bad)
		}
	}
	if !strings.Contains(page, `content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"`) {
		t.Error("the page has no content security policy")
	}
	ids := map[string]bool{}
	for _, m := range regexp.MustCompile(` id="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if ids[m[1]] {
			t.Errorf("id %s stands twice", m[1])
		}
		ids[m[1]] = true
	}
}

// Names from studies and sites stay text.
func TestEscapes(t *testing.T) {
	const evil = `<script>alert(1)</script>"'><img src=x onerror=alert(1)>`
	name, _ := json.Marshal(evil)
	src := `{"apiVersion":"consilium/v1","kind":"Result","result":{"study":` + string(name) + `,"question":` + string(name) + `,"charter":` + string(name) + `,
	 "sites":{"enrolled":3,"contributed":3,"contributors":[` + string(name) + `],"excluded":[]},"assumptions":[` + string(name) + `],
	 "analyses":[{"analysis":"cox","name":` + string(name) + `,"rows":1,"patients":1,"terms":[{"name":` + string(name) + `,"column":` + string(name) + `,"coef":1,"se":1,"p":0.5,"exp_coef":2.7,"lower":1,"upper":3}]},
	 {"analysis":"kaplan-meier","name":"km","grid":{"step":1,"max":2},"groups":[{"name":` + string(name) + `,"n":3,"events":1,"curve":{"time":[0,1],"n_risk":[3,2],"surv":[1,0.5],"lower":[1,null],"upper":[1,null]}}]},
	 {"analysis":` + string(name) + `,"name":"odd","error":{"code":"x","message":` + string(name) + `,"next":""}}]},"run":{}}`
	page := render(t, []byte(src), Extras{Title: evil, TimeUnit: evil, Problems: []Problem{{evil, evil, evil}}, Audit: []Fact{{evil, evil}}, Files: []string{evil},
		Sites: []Contributor{{evil, evil, evil, evil, evil}}, Tables: []Table{{evil, []string{evil}, [][]string{{evil}}}}})
	if strings.Contains(page, "<script") || strings.Contains(page, "<img") {
		t.Error("text became markup")
	}
}

// What results may lack, and what they must not.
func TestOddResults(t *testing.T) {
	for _, src := range []string{
		`{"kind":"Result","result":{"analysis":"cox","name":"a","terms":[{"name":"x","coef":1,"se":null,"p":null,"lower":null,"upper":null}]}}`,
		`{"kind":"Result","result":{"analysis":"cox","name":"a","terms":[{"name":"x","coef":1,"exp_coef":2.7,"lower":1e-300,"upper":1e300}]}}`,
		`{"kind":"Result","result":{"analysis":"glm","family":"gaussian","name":"a","terms":[{"name":"x","coef":0,"se":0,"lower":0,"upper":0}]}}`,
		`{"kind":"Result","result":{"analysis":"kaplan-meier","name":"a","groups":[{"name":"","n":null,"curve":{"time":[]}}]}}`,
		`{"kind":"Result","result":{"analysis":"kaplan-meier","name":"a","groups":[]}}`,
		`{"kind":"Result","result":{"analysis":"train","name":"a","curves":{"training_loss":[null,null]}}}`,
		`{"kind":"Result","result":{"analysis":"train","name":"a"}}`,
		`{"kind":"Result","result":{"analysis":"crosstab","name":"a","table_rows":{"column":"r","levels":["x"]},"table_columns":{"column":"c","levels":["y"]},"counts":[]}}`,
		`{"kind":"Result","result":{"analysis":"describe","name":"a","variables":[{"name":"x","kind":"number","groups":[]}]}}`,
		`{"kind":"Result","result":{"analysis":"train","name":"a","curves":{"training_loss":[1e300,1.0000000000000002e300],"holdout_loss":[-1e308,1e308]}}}`,
		`{"kind":"Result","result":{"analysis":"glm","family":"gaussian","name":"a","terms":[{"name":"x","coef":1e308,"lower":-1.7e308,"upper":1.7e308}]}}`,
		`{"kind":"Result","result":{"analysis":"kaplan-meier","name":"a","groups":[{"name":"","curve":{"time":[1e-320,1e308],"surv":[1e308,-1],"lower":[0,0],"upper":[0,0]}}]}}`,
		`{"kind":"Result","result":{"analysis":"later","name":"a"}}`,
		`{"kind":"Result","result":{"analysis":"cox","name":"a","suppressed":["text",{"item":"i","reason":"r"},7]}}`,
	} {
		page := render(t, []byte(src), Extras{})
		if strings.Contains(page, "NaN") || strings.Contains(page, "%!") || strings.Contains(page, "+Inf") {
			t.Errorf("%s: the page has a number that is none", src)
		}
	}
	for _, c := range []struct{ src, want string }{
		{`{`, "report: result.json: unexpected end of JSON input"},
		{`{"kind":"Study","result":{}}`, `report: result.json has kind "Study", want Result`},
		{`{"kind":"Result","result":{"analyses":[{"terms":3}]}}`, "report: analysis 1: json: cannot unmarshal"},
	} {
		err := Write(&bytes.Buffer{}, []byte(c.src), Extras{})
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.src, err, c.want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		v    float64
		n    int
		want string
	}{
		{0, 3, "0"}, {0.33486, 3, "0.335"}, {-1.19366, 3, "−1.19"}, {12.5, 3, "12.5"}, {120442, 3, "120\u2009442"}, {8.4e-140, 2, "8.4·10⁻¹⁴⁰"},
		{1e12, 3, "1.00·10¹²"}, {0.00014, 2, "0.00014"}, {-167.41502900819353, 8, "−167.41503"},
	} {
		if got := sig(c.v, c.n); got != c.want {
			t.Errorf("sig(%v, %d) = %s, want %s", c.v, c.n, got, c.want)
		}
	}
	for in, want := range map[json.Number]string{"0.2411": "0.24", "0.0033": "0.0033", "0.00001": "< 0.0001", "0.999": "1.00"} {
		if got := pValue(&in); got != want {
			t.Errorf("p %s shown as %s, want %s", in, got, want)
		}
	}
}

func FuzzWrite(f *testing.F) {
	b, err := os.ReadFile("testdata/result.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"kind":"Result","result":{"analysis":"kaplan-meier","name":"a","grid":{"step":1e-9,"max":1},"groups":[{"curve":{"time":[1],"surv":[2]}}]}}`))
	f.Fuzz(func(t *testing.T, src []byte) {
		var out bytes.Buffer
		if err := Write(&out, src, Extras{}); err == nil && (out.Len() == 0 || out.Len() > 100*len(src)+1<<20) {
			t.Fatalf("%d bytes of page for %d of result", out.Len(), len(src))
		}
	})
}

// TestEveryLineIsSeen: a line or path of a drawing has a stroke only if its class
// has one in the style sheet.
func TestEveryLineIsSeen(t *testing.T) {
	style, err := os.ReadFile("style.css")
	if err != nil {
		t.Fatal(err)
	}
	drawn := regexp.MustCompile(`s\.line\("([a-z]+)"|<(?:line|path) class="([a-z]+)"`)
	found := 0
	for _, name := range []string{"plot.go", "exact.go", "section.go"} {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range drawn.FindAllStringSubmatch(string(src), -1) {
			found++
			if class := m[1] + m[2]; !regexp.MustCompile(`\.plot \.` + class + `[,{]`).Match(style) {
				t.Errorf("%s draws a line of class %s, which style.css does not know", name, class)
			}
		}
	}
	if found < 10 {
		t.Errorf("%d lines: the pattern is out of date", found)
	}
}
