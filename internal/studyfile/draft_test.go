package studyfile

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func shared(t *testing.T, name string) []byte {
	t.Helper()
	for dir := ".."; len(dir) < 30; dir = filepath.Join(dir, "..") {
		for _, at := range []string{"examples", filepath.Join("shared", "data")} {
			if b, err := os.ReadFile(filepath.Join(dir, at, name)); err == nil {
				return b
			}
		}
	}
	t.Skip("skipped: needs examples/" + name + " or ../shared/data/" + name)
	return nil
}

// The draft of the CGD trial is a study file that could be submitted as it is.
func TestDraftOfTrial(t *testing.T) {
	draft, err := New(shared(t, "cgd/cgd.csv"), Draft{Name: "cgd"})
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := Parse(draft)
	if err != nil {
		t.Fatalf("%v\n%s", err, draft)
	}
	for _, want := range []string{
		"--site-column center", "data: {dataset: cgd, patient: id}", "treat: {levels: [placebo, rIFN-g]}", "# random: left out",
		"steroids: {type: flag}", "age: {type: integer, bounds: [0, 50]}",
		`formula: "Surv(tstart, tstop, status) ~ treat + sex + age + height + weight + inherit + strata(site)"`,
	} {
		if !strings.Contains(string(draft), want) {
			t.Errorf("not in the draft: %s\n%s", want, draft)
		}
	}
	if a := s.Analyses[0]; a.Type != "cox" || len(a.Terms) != 6 || a.Terms[0] != "treat" {
		t.Errorf("%+v", a)
	}
}

func TestDraftGuesses(t *testing.T) {
	const src = "\xef\xbb\xbf,Subject ID,pid,hospital,sex,dose,neg,yes,word,site,code,const,gone,text,hos cat,day,2x,died\n" +
		"1,1,a,A,m,0.25,-3,TRUE,control,s,1,k,,one,q,2020-01-01,1,0\n" +
		"2,2,b,A,f,17,4,false,Drug,s,2,k,NA,two,w,2020-01-02,2,1\n" +
		"3,3,a,B,f,NaN,5,.,Drug,t,2,k,.,three,e,2020-01-03,3,1\n" +
		"4,4,a,B,f,NaN,5,.,Drug,t,2,k,.,four,e,2020-01-03,3,1\n"
	draft, err := New([]byte(src), Draft{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"--site-column hospital", "pid: {type: id}", "sex: {levels: [f, m]}", `dose: {type: number, bounds: [0, 20], missing: ["", NA, NaN]}`,
		"neg: {type: integer, bounds: [-5, 5]}", `"yes": {type: flag, missing: ["", NA, "."]}`, "word: {levels: [control, Drug]}", `code: {levels: ["1", "2"]}`,
		"# const: left out", "# gone: left out", "# text: left out", "# hos cat: left out", "# day: left out", "# 2x: left out", "# site: left out",
		"# Subject ID: left out", "# (no name): left out", "family: binomial", `formula: "died ~ sex + dose + neg + yes + word + code"`,
	} {
		if !strings.Contains(string(draft), want) {
			t.Errorf("not in the draft: %s", want)
		}
	}
	if t.Failed() {
		t.Logf("%s", draft)
	}
	if _, _, err := Parse(draft); err != nil {
		t.Errorf("%v\n%s", err, draft)
	}
	// As spreadsheets write them: names for patients, commas in numbers, local dates.
	draft, err = New([]byte("patient,weight,cost,born,dose,x\nP1,\"61,5\",\"1,200\",31.1.1990,4,1\nP2,70,\"2,300.5\",1.2.1991,5,0\nP3,\"80,25\",900,1.2.1991,6,1\n"), Draft{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"patient: patient}", "patient: {type: id}", "# weight: left out", "# cost: left out", "numbers with a comma inside", "# born: left out", "dates identify patients", "dose: {type: integer",
	} {
		if !strings.Contains(string(draft), want) {
			t.Errorf("not in the draft: %s\n%s", want, draft)
		}
	}
	for _, c := range []struct{ src, site, want string }{
		{"a,b\n", "", "study file: the table has no rows below its header"},
		{"a b,c\n1,2\n", "", "study file: no column of the table can be used; a column needs a name of letters and digits and at least two different values"},
		{"a,b\n1\n", "", "study file: the table is not CSV: record on line 2: wrong number of fields"},
		{"a,b\n1,2\n", "c", "study file: the table has no column c; columns are a, b"},
	} {
		if _, err := New([]byte(c.src), Draft{Site: c.site}); err == nil || err.Error() != c.want {
			t.Errorf("error %v, want %s", err, c.want)
		}
	}
}

func TestRoundUp(t *testing.T) {
	for _, c := range [][2]float64{{0, 0}, {1, 1}, {44, 50}, {0.15, 0.2}, {1000, 1000}, {1001, 2000}, {1.5e308, math.MaxFloat64}, {1.1e-300, 2e-300}} {
		if got := roundUp(c[0]); got != c[1] {
			t.Errorf("roundUp(%v) = %v, want %v", c[0], got, c[1])
		}
	}
}

func FuzzNew(f *testing.F) {
	f.Add("id,site,time,status,x\n1,a,3,1,u\n2,b,4,0,v\n3,b,5,0,v\n")
	f.Fuzz(func(t *testing.T, src string) {
		draft, err := New([]byte(src), Draft{})
		if err != nil {
			return
		}
		if _, err := ParseWith(draft, Options{Simulate: true}); err != nil {
			t.Fatalf("%v\n%s", err, draft)
		}
	})
}
