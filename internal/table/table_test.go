package table

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/google/go-cmp/cmp"

	"consilium"
)

var key = []byte("0123456789abcdef")

func spec(columns ...consilium.Column) *consilium.Spec {
	return &consilium.Spec{Data: consilium.DataRef{Dataset: "d", Patient: "id"},
		Columns: append([]consilium.Column{{Name: "id", Type: consilium.TypeID}}, columns...)}
}

var missing = []string{"", "NA"}

func col(name string, t consilium.ColumnType) consilium.Column {
	return consilium.Column{Name: name, Type: t, Missing: missing}
}

func levels(name string, l ...string) consilium.Column {
	return consilium.Column{Name: name, Type: consilium.TypeLevels, Levels: l, Missing: missing}
}

func everything() *consilium.Spec {
	age := col("age", consilium.TypeNumber)
	age.Bounds, age.Unit = &[2]float64{0, 120}, "a"
	visits := col("visits", consilium.TypeInteger)
	visits.Bounds = &[2]float64{0, 9}
	return spec(age, visits, col("dead", consilium.TypeFlag), levels("sex", "male", "female"), col("seen", consilium.TypeDate), col("family", consilium.TypeID))
}

const everythingCSV = "id,age,visits,dead,sex,seen,family,comment\r\n" +
	"p1,44.5,3,0,male,1989-06-07,f1,hello\r\n" +
	"p2,NA,,TRUE,female,NA,f1,\"two\nlines, and a comma\"\r\n" +
	"\r\n" +
	" p1 , 1e1 ,2.0,false, male ,2020-02-29,NA,\"quote \"\" inside\"\r\n"

func read(t *testing.T, s *consilium.Spec, src string) *Table {
	t.Helper()
	tab, err := Read(strings.NewReader(src), Options{Spec: s, Key: key, File: "d.csv"})
	if err != nil {
		t.Fatal(Local(err))
	}
	return tab
}

func TestRead(t *testing.T) {
	tab := read(t, everything(), everythingCSV)
	rec := tab.Record
	if diff := cmp.Diff([]string{"p1", "p2", "p1"}, tab.IDs); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]int{2, 3, 6}, tab.Lines); diff != "" {
		t.Error(diff)
	}
	if !rec.Schema().Equal(Schema(everything())) {
		t.Errorf("schema %v", rec.Schema())
	}
	var names []string
	for _, f := range rec.Schema().Fields() {
		names = append(names, f.Name+" "+f.Type.String())
	}
	if diff := cmp.Diff([]string{"patient fixed_size_binary[16]", "source fixed_size_binary[32]", "age float64", "visits int64", "dead bool",
		"sex dictionary<values=utf8, indices=int32, ordered=false>", "seen date32", "family fixed_size_binary[16]"}, names); diff != "" {
		t.Error(diff)
	}
	cell := func(c, r int) string { return rec.Column(c).ValueStr(r) }
	for c, want := range map[int][]string{
		2: {"44.5", "(null)", "10"}, 3: {"3", "(null)", "2"}, 4: {"false", "true", "false"}, 5: {"male", "female", "male"},
		6: {"1989-06-07", "(null)", "2020-02-29"},
	} {
		for r := range want {
			if cell(c, r) != want[r] {
				t.Errorf("%s row %d: %s, want %s", names[c], r, cell(c, r), want[r])
			}
		}
	}
	words := rec.Column(5).(*array.Dictionary).Dictionary().(*array.String)
	if words.Len() != 2 || words.Value(0) != "male" || words.Value(1) != "female" {
		t.Errorf("the dictionary is not the declared levels: %v", words)
	}
	p := rec.Column(0).(*array.FixedSizeBinary)
	want := Pseudonym(key, "p1")
	if !bytes.Equal(p.Value(0), want[:]) || !bytes.Equal(p.Value(2), want[:]) || bytes.Equal(p.Value(0), p.Value(1)) {
		t.Error("pseudonyms do not follow patients")
	}
	family := rec.Column(7).(*array.FixedSizeBinary)
	if !bytes.Equal(family.Value(0), family.Value(1)) || !family.IsNull(2) {
		t.Error("pseudonyms do not follow families")
	}
}

// A pseudonym depends on the hospital's key and on the column.
func TestPseudonymsDoNotLink(t *testing.T) {
	if Pseudonym(key, "7") == Pseudonym([]byte("0123456789abcdeX"), "7") {
		t.Error("two hospitals give one person one pseudonym")
	}
	if Pseudonym(key, "7") == pseudonymOf(key, "family", "7") {
		t.Error("family 7 and patient 7 have one pseudonym")
	}
	if _, err := Read(strings.NewReader("id\n1\n"), Options{Spec: spec(), Key: key[:15]}); err == nil {
		t.Error("a short key was accepted")
	}
}

// The source digest names a row by its bytes: moving rows does not change it,
// changing one byte changes that row alone, and equal rows stay distinct.
func TestSource(t *testing.T) {
	s := spec(col("x", consilium.TypeNumber))
	sources := func(src string) []string {
		rec := read(t, s, src).Record
		out := make([]string, rec.NumRows())
		for i := range out {
			out[i] = rec.Column(1).ValueStr(i)
		}
		return out
	}
	base := sources("id,x\n1,5\n2,6\n3,7\n3,7\n")
	if base[2] == base[3] {
		t.Error("two equal rows have one source")
	}
	if got := sources("id,x\n3,7\n1,5\n3,7\n"); got[0] != base[2] || got[1] != base[0] || got[2] != base[3] {
		t.Error("the source depends on the place in the file")
	}
	if got := sources("id,x\r\n1,5\r\n2,600\r\n3,7\r\n3,7\r\n"); got[0] != base[0] || got[1] == base[1] || got[2] != base[2] {
		t.Error("a change in one row shows elsewhere, or not at all")
	}
	if got := sources("id,x\n1,5.0\n2,6\n3,7\n3,7\n"); got[0] == base[0] {
		t.Error("another spelling of the same value has the same source")
	}
}

// Every refusal: the text that may travel, and what the hospital itself sees.
func TestRefusals(t *testing.T) {
	all := everything()
	const head = "id,age,visits,dead,sex,seen,family\n"
	for _, c := range []struct {
		name, src, want, local string
		spec                   *consilium.Spec
		bind                   map[string]string
	}{
		{name: "empty", src: "", want: "d.csv: the table is empty; the first line names the columns"},
		{name: "not UTF-8", src: "id,age\np1,\xff\n", want: "d.csv:2: the text is not UTF-8 or holds a NUL byte; save the table as UTF-8"},
		{name: "NUL", src: "id\n\x00\n", want: "d.csv:2: the text is not UTF-8 or holds a NUL byte; save the table as UTF-8"},
		{name: "open quote", src: "id,age\np1,\"4\n", want: "d.csv:2: not CSV: extraneous or missing \" in quoted-field; put the cell in double quotes and write a quote inside it twice"},
		{name: "bare quote", src: "id,age\np1,4\"\n", want: "d.csv:2: not CSV: bare \" in non-quoted-field; put the cell in double quotes and write a quote inside it twice"},
		{name: "semicolons", src: "id;age\np1;4\n", want: "d.csv:1: the columns are separated by semicolons; save the table with commas"},
		{name: "old line ends", src: "id,age\rp1,4\r", want: "d.csv:1: the lines end with CR alone; save the table with LF or CRLF line ends"},
		{name: "duplicate header", src: "id,age,age\n", want: "d.csv:1: header 3 stands twice; rename one of the two", local: "d.csv:1: header 3 stands twice (it is age); rename one of the two"},
		{name: "short row", src: head + "p1,4\n", want: "d.csv:2: 2 cells, but the header has 7; put a cell that holds a comma in double quotes"},
		{name: "missing column", src: "id,Age_,visits,dead,sex,seen,family\n", want: "d.csv:1: column age: the table has no such header; bind one of the table's headers to it, or rename the header",
			local: "d.csv:1: column age: the table has no such header (did you mean Age_?); bind one of the table's headers to it, or rename the header"},
		{name: "binding to nothing", src: head, bind: map[string]string{"age": "alter"}, want: "d.csv:1: column age: it is bound to the header alter, which the table does not have; correct the binding",
			local: "d.csv:1: column age: it is bound to the header alter, which the table does not have (there are id, age, visits, dead, sex, seen, family); correct the binding"},
		{name: "binding of nothing", src: head, bind: map[string]string{"agee": "age"}, want: "d.csv: column agee: a header is bound to it, but the study does not declare it; did you mean age?"},
		{name: "no patient", src: head + "p1,4,1,0,male,2020-01-01,f\n ,4,1,0,male,2020-01-01,f\n", want: "d.csv:3: column id: the patient is missing; every row belongs to a patient: fill it in or remove the row"},
		{name: "word for number", src: head + "p1,old,1,0,male,2020-01-01,f\n", want: "d.csv:2: column age: not a number; correct it, or add it to the column's missing values",
			local: `d.csv:2: column age: not a number (the cell is "old"); correct it, or add it to the column's missing values`},
		{name: "decimal comma", src: head + "p1,\"4,5\",1,0,male,2020-01-01,f\n", want: "d.csv:2: column age: not a number; write numbers with a decimal point"},
		{name: "infinity", src: head + "p1,Inf,1,0,male,2020-01-01,f\n", want: "d.csv:2: column age: not a number; correct it, or add it to the column's missing values"},
		{name: "hexadecimal", src: head + "p1,0x1p3,1,0,male,2020-01-01,f\n", want: "d.csv:2: column age: not a number; correct it, or add it to the column's missing values"},
		{name: "huge", src: head + "p1,1e999,1,0,male,2020-01-01,f\n", want: "d.csv:2: column age: a number too large for float64; correct it, or add it to the column's missing values"},
		{name: "above bounds", src: head + "p1,130,1,0,male,2020-01-01,f\n", want: "d.csv:2: column age: outside the bounds [0, 120] a; correct the value or its unit, or ask the team to widen the bounds",
			local: `d.csv:2: column age: outside the bounds [0, 120] a (the cell is "130"); correct the value or its unit, or ask the team to widen the bounds`},
		{name: "below bounds", src: head + "p1,-1,1,0,male,2020-01-01,f\n", want: "d.csv:2: column age: outside the bounds [0, 120] a; correct the value or its unit, or ask the team to widen the bounds"},
		{name: "fraction", src: head + "p1,4,1.5,0,male,2020-01-01,f\n", want: "d.csv:2: column visits: not a whole number below 2^53; declare the column as a number, or correct it"},
		{name: "integer out of bounds", src: head + "p1,4,10,0,male,2020-01-01,f\n", want: "d.csv:2: column visits: outside the bounds [0, 9]; correct the value or its unit, or ask the team to widen the bounds"},
		{name: "word for integer", src: head + "p1,4,few,0,male,2020-01-01,f\n", want: "d.csv:2: column visits: not a whole number; correct it, or add it to the column's missing values"},
		{name: "flag 2", src: head + "p1,4,1,2,male,2020-01-01,f\n", want: "d.csv:2: column dead: a flag is 0, 1, true or false; recode the column, or declare its levels",
			local: `d.csv:2: column dead: a flag is 0, 1, true or false (the cell is "2"); recode the column, or declare its levels`},
		{name: "unknown level", src: head + "p1,4,1,0,femal,2020-01-01,f\n", want: "d.csv:2: column sex: not a declared level (male, female); declare it in the study, correct it, or add it to the column's missing values",
			local: `d.csv:2: column sex: not a declared level (male, female) (the cell is "femal", did you mean female?); declare it in the study, correct it, or add it to the column's missing values`},
		{name: "wrong date", src: head + "p1,4,1,0,male,2021-02-29,f\n", want: "d.csv:2: column seen: not a date; write dates as 2006-01-31 (ISO 8601)"},
		{name: "other date order", src: head + "p1,4,1,0,male,31.01.2021,f\n", want: "d.csv:2: column seen: not a date; write dates as 2006-01-31 (ISO 8601)"},
		{name: "empty cell", spec: spec(consilium.Column{Name: "x", Type: consilium.TypeNumber, Missing: []string{"."}}), src: "id,x\n1,.\n2,\n",
			want: `d.csv:3: column x: the cell is empty; add "" to the column's missing values, or fill it in`},
		{name: "marker not declared", spec: spec(consilium.Column{Name: "x", Type: consilium.TypeNumber}), src: "id,x\n1,\n2,NA\n",
			want: "d.csv:3: column x: not a number; correct it, or add it to the column's missing values"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := c.spec
			if s == nil {
				s = all
			}
			_, err := Read(strings.NewReader(c.src), Options{Spec: s, Bind: c.bind, Key: key, File: "d.csv"})
			if err == nil {
				t.Fatal("accepted")
			}
			if got, want := err.Error(), "the table does not fit the study: "+c.want; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if c.local != "" {
				if got, want := Local(err), "the table does not fit the study: "+c.local; got != want {
					t.Errorf("local\ngot  %s\nwant %s", got, want)
				}
			}
			if !errors.Is(err, consilium.ErrData) {
				t.Errorf("%v is not ErrData", err)
			}
		})
	}
}

// No error that may travel holds a cell or a header, wherever it is wrapped and
// however it is printed.
func TestErrorsKeepValuesHome(t *testing.T) {
	const secret = "Zebulon"
	for _, src := range []string{
		"id,age,visits,dead,sex,seen,family\n" + secret + "," + secret + ",1,0,male,2020-01-01,f\n",
		"id,age,visits,dead,sex,seen,family\np,1,1,0," + secret + ",2020-01-01,f\n",
		"id,age,visits,dead,sex,seen,family\np,1,1," + secret + ",male,2020-01-01,f\n",
		"id,age,visits,dead,sex,seen,family\np,1," + secret + ",1,male,2020-01-01,f\n",
		"id,age,visits,dead,sex,seen,family\np,1,1,1,male," + secret + ",f\n",
		secret + ",44,3,1,male,2020-01-01,f1\n" + secret + ",44,3,1,male,2020-01-01,f1\n", // no header line
		secret + "," + secret + "\n",
		"id,age\n\"" + secret + "\n",
	} {
		_, err := Read(strings.NewReader(src), Options{Spec: everything(), Key: key, File: "d.csv"})
		if err == nil {
			t.Fatalf("accepted: %s", src)
		}
		wrapped := fmt.Errorf("hospital: %w", err)
		for _, s := range []string{err.Error(), wrapped.Error(), fmt.Sprintf("%v %s %q", err, err, err)} {
			if strings.Contains(s, secret) {
				t.Errorf("a value leaves the hospital: %s", s)
			}
		}
	}
	// The naive twin: the standard library's error for the same cell.
	_, err := strconv.ParseFloat(secret, 64)
	if !strings.Contains(err.Error(), secret) {
		t.Error("the twin does not show why this test is needed")
	}
}

func TestBindAndRowPatients(t *testing.T) {
	s := spec(col("age", consilium.TypeNumber))
	tab, err := Read(strings.NewReader("patno,alter\n9,3\n"), Options{Spec: s, Key: key, Bind: map[string]string{"id": "patno", "age": "alter"}})
	if err != nil || tab.IDs[0] != "9" || tab.Record.ColumnName(2) != "age" {
		t.Fatalf("%v %v", tab, err)
	}
	// Row names under an unnamed header, as R writes them.
	tab, err = Read(strings.NewReader("\"\",\"id\",\"age\"\n\"1\",\"9\",3\n"), Options{Spec: s, Key: key})
	if err != nil || tab.IDs[0] != "9" {
		t.Fatalf("%v %v", tab, err)
	}
	tab, err = Read(strings.NewReader("age\n3\n4\n"), Options{Spec: s, Key: key, RowPatients: true})
	if err != nil || len(tab.IDs) != 2 || tab.IDs[0] == tab.IDs[1] {
		t.Fatalf("%v %v", tab, err)
	}
}

func derivedSpec(cohort string, derive ...string) *consilium.Spec {
	s := everything()
	s.Columns = append(s.Columns, col("hos.cat", consilium.TypeNumber), col("weight", consilium.TypeNumber), col("height", consilium.TypeNumber))
	s.Cohort = cohort
	for i, d := range derive {
		s.Derive = append(s.Derive, consilium.Derived{Name: fmt.Sprintf("d%d", i), Expr: d})
	}
	return s
}

const derivedCSV = "id,age,visits,dead,sex,seen,family,hos.cat,weight,height\n" +
	"1,44,3,0,male,1989-06-07,f,1,62,147\n" +
	"2,NA,0,1,female,1990-01-01,f,2,47.5,159\n" +
	"3,5,1,1,female,NA,f,3,0,0\n" +
	"4,17.5,2,0,male,2000-12-31,f,4,80,NA\n"

func TestCohort(t *testing.T) {
	for _, c := range []struct{ expr, want string }{
		{"", "1111"},
		{"age >= 18", "1000"},
		{"age >= 5 && age < 18.5", "0011"},
		{"sex == \"female\"", "0110"},
		{"sex in [\"male\"]", "1001"},
		{"dead", "0110"},
		{"!dead || visits > 0", "1011"},
		{"visits % 2 == 1", "1010"},
		{"seen >= \"1990-01-01\"", "0101"},
		{"hos.cat > 2", "0011"},
		{"age > 10 || sex == \"female\"", "1011"}, // a row whose age is missing is out, whatever its sex
		{"weight / (height / 100.0) / (height / 100.0) > 25 ? true : visits > 0", "1010"},
		{"sex.startsWith(\"fe\")", "0110"},
		{"true", "1111"},
	} {
		s := derivedSpec(c.expr)
		got, err := Cohort(s, read(t, s, derivedCSV).Record)
		if err != nil {
			t.Errorf("%s: %v", c.expr, err)
			continue
		}
		var b strings.Builder
		for _, v := range got {
			b.WriteByte("01"[map[bool]int{true: 1}[v]])
		}
		if b.String() != c.want {
			t.Errorf("%s: %s, want %s", c.expr, b.String(), c.want)
		}
	}
}

func TestCohortRefusals(t *testing.T) {
	for _, c := range []struct{ expr, want string }{
		{"agee >= 1", "cohort, character 1: undeclared reference to 'agee' (in container ''); did you mean age?"},
		{"age >= 1 &", "cohort, character 10: Syntax error: token recognition error at: '&'; join conditions with && and ||, and put levels in quotes"},
		{"sex == \"femal\"", "cohort, character 8: \"femal\" is not a level of sex; did you mean female?"},
		{"sex in [\"male\", \"m\"]", "cohort, character 17: \"m\" is not a level of sex; there are male, female"},
		{"\"x\" != sex", "cohort, character 1: \"x\" is not a level of sex; there are male, female"},
		{"seen > \"June\"", "cohort, character 8: \"June\" is not a date; write dates as 2006-01-31"},
		{"age + visits", "cohort, character 5: found no matching overload for '_+_' applied to '(double, int)'; write a number column with a decimal point, for example 2.0"},
		{"dead == 1", "cohort, character 6: found no matching overload for '_==_' applied to '(bool, int)'; a flag stands alone: flag, or !flag"},
		{"age", "cohort: the expression is a double, want true or false; compare it with something, for example age >= 18"},
		{"id == \"1\"", "cohort, character 1: undeclared reference to 'id' (in container ''); a cohort cannot be chosen by identifier"},
		{"family == \"1\"", "cohort, character 1: undeclared reference to 'family' (in container ''); a cohort cannot be chosen by identifier"},
		{"d0 > 1", "cohort, character 1: undeclared reference to 'd0' (in container ''); a cohort is over declared columns; write the expression of d0 out"},
		{"[1,2].all(x, x > 0)", "cohort, character 10: undeclared reference to 'all'"},
		{"sex.matches(\"(a+)+\")", "cohort, character 12: undeclared reference to 'matches'"},
		{"timestamp(\"2020-01-01T00:00:00Z\") > timestamp(seen)", "cohort, character 10: undeclared reference to 'timestamp'"},
		{strings.Repeat("(", 100) + "dead" + strings.Repeat(")", 100), "cohort"},
		{"dead" + strings.Repeat(" && dead", 2000), "cohort"},
	} {
		err := Check(derivedSpec(c.expr, "age"))
		if err == nil {
			t.Errorf("%s: accepted", c.expr)
			continue
		}
		if got := strings.TrimPrefix(err.Error(), "the table does not fit the study: "); got != c.want && !(strings.HasPrefix(got, c.want) && !strings.Contains(c.want, ";")) {
			t.Errorf("%s:\n got  %s\n want %s", c.expr, got, c.want)
		}
	}
	s := derivedSpec("10 / visits > 2")
	_, err := Cohort(s, read(t, s, derivedCSV).Record)
	if err == nil || !strings.Contains(err.Error(), "the cohort expression fails on row 2") {
		t.Errorf("division by zero: %v", err)
	}
}

func TestDerive(t *testing.T) {
	s := derivedSpec("", "weight / (height/100)^2", "2*d0 - -1", "visits + dead", "max(age, 10, visits)", "-age^2", "seen", "abs(-3.5e-1) + sqrt(4)", "min(1,2)*weight^-1")
	rec := read(t, s, derivedCSV).Record
	got, err := Derive(s, rec, []bool{true, true, false, true})
	if err != nil {
		t.Fatal(Local(err))
	}
	if got.NumCols() != rec.NumCols()+8 || got.ColumnName(int(rec.NumCols())) != "d0" {
		t.Fatalf("schema %v", got.Schema())
	}
	bmi := func(w, h float64) float64 { return w / ((h / 100) * (h / 100)) } // in variables: constants would be exact
	null := math.NaN()
	for i, want := range [][]float64{
		{bmi(62, 147), bmi(47.5, 159), null, null},
		{2*bmi(62, 147) + 1, 2*bmi(47.5, 159) + 1, null, null},
		{3, 1, null, 2},
		{44, null, null, 17.5},
		{-44 * 44, null, null, -17.5 * 17.5},
		{7097, 7305, null, 11322},
		{2.35, 2.35, null, 2.35},
		{1 / 62.0, 1 / 47.5, null, 1.0 / 80},
	} {
		a := got.Column(int(rec.NumCols()) + i).(*array.Float64)
		for r, v := range want {
			if math.IsNaN(v) != a.IsNull(r) || !math.IsNaN(v) && a.Value(r) != v {
				t.Errorf("d%d row %d: %s, want %v", i, r, a.ValueStr(r), v)
			}
		}
	}
	if _, err := Derive(s, rec, []bool{true, true, true, true}); err == nil || err.Error() !=
		"the table does not fit the study: column d0: the derived value of row 3 is not finite; exclude such rows in the study's cohort, or bound the columns that it is derived from" {
		t.Errorf("0/0: %v", err)
	}
	if _, err := Derive(s, rec, nil); err == nil {
		t.Error("no marks for the rows were accepted")
	}
}

func TestDeriveRefusals(t *testing.T) {
	for _, c := range []struct{ expr, want string }{
		{"", "derive d0, character 1: the expression ends early"},
		{"age +", "derive d0, character 6: the expression ends early"},
		{"age age", `derive d0, character 5: "a" is not expected here; operators are + - * / ^`},
		{"(age", "derive d0, character 5: a ) is missing; close the bracket"},
		{"agee * 2", "derive d0, character 1: column agee is not declared; did you mean age?"},
		{"sex * 2", "derive d0, character 1: column sex of type levels is not a number; derived columns use numbers, integers, flags and dates"},
		{"id", "derive d0, character 1: column id of type id is not a number; derived columns use numbers, integers, flags and dates"},
		{"d1", "derive d0, character 1: d1 is derived later; put it before this one"},
		{"d0", "derive d0, character 1: d0 is derived later; put it before this one"},
		{"log(age)", "derive d0, character 1: log( ) is not available: its last bits differ between processors; use the term log(column) in the analysis"},
		{"sqr(age)", "derive d0, character 1: unknown function sqr; did you mean sqrt?"},
		{"sqrt(age, 2)", "derive d0, character 1: sqrt takes one value"},
		{"max(age)", "derive d0, character 1: max takes at least two values"},
		{"age^0.5", "derive d0, character 5: a power is a whole number from -9 to 9; for a root write sqrt( )"},
		{"age^visits", "derive d0, character 5: a power is a whole number from -9 to 9; for a root write sqrt( )"},
		{"age^2^2", "derive d0, character 6: a power of a power; use brackets"},
		{"age % 2", `derive d0, character 5: "%" is not expected here; operators are + - * / ^`},
		{"é", `derive d0, character 1: "é" is not expected here; use columns, numbers, brackets, + - * / ^, sqrt, abs, min and max`},
		{"1e999", "derive d0, character 1: not a number"},
		{".", "derive d0, character 1: not a number"},
		{strings.Repeat("(", 200), "derive d0, character 26: nested too deeply"},
	} {
		err := Check(derivedSpec("", c.expr, "age"))
		if err == nil {
			t.Errorf("%s: accepted", c.expr)
			continue
		}
		if got := strings.TrimPrefix(err.Error(), "the table does not fit the study: "); got != c.want {
			t.Errorf("%s:\n got  %s\n want %s", c.expr, got, c.want)
		}
	}
}

func TestSplit(t *testing.T) {
	src := "id,center,x\n1,\"Mt. Sinai\",1\n2,Zürich,2\n3,\"Mt. Sinai\",\"a\nb\"\n4,L'Hôpital St-Jean ,3\n"
	sites, err := Split([]byte("\xef\xbb\xbf"+src), "center")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range sites {
		got = append(got, fmt.Sprintf("%s %q %d %q", s.ID, s.Label, s.Rows, s.CSV))
	}
	if diff := cmp.Diff([]string{
		`lhopital-st-jean "L'Hôpital St-Jean" 1 "id,center,x\n4,L'Hôpital St-Jean ,3\n"`,
		`mt-sinai "Mt. Sinai" 2 "id,center,x\n1,\"Mt. Sinai\",1\n3,\"Mt. Sinai\",\"a\nb\"\n"`,
		`zurich "Zürich" 1 "id,center,x\n2,Zürich,2\n"`,
	}, got); diff != "" {
		t.Error(diff)
	}
	for _, c := range []struct{ src, column, want string }{
		{src, "centre", "line 1: column centre: the table has no such header; name the column that tells the hospitals apart"},
		{"c\nA b\nA-B\n", "c", "line 3: column c: two hospitals would both be called a-b; spell each hospital in one way, or rename one"},
		{"c,d\n,1\n", "c", "line 2: column c: no hospital is named; name the hospital of every row with letters or digits"},
		{"c,d\n", "c", "the table has a header and no rows"},
		{"c\n" + many(129), "c", "line 130: column c: more than 128 hospitals; name the column that tells the hospitals apart"},
	} {
		_, err := Split([]byte(c.src), c.column)
		if err == nil {
			t.Errorf("%s: accepted", c.want)
			continue
		}
		if got := strings.TrimPrefix(err.Error(), "the table does not fit the study: "); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

// Hospitals are named in any script and keep the name that the table gives them.
func TestSplitNames(t *testing.T) {
	sites, err := Split([]byte("center,x\n東京大学,1\nΩμέγα,2\n\"The \"\"Old\"\" Clinic, Bern\",3\n  Zu\u0308rich ,4\n東京 1,5\n大阪 1,6\n東京大学,7\n"+strings.Repeat("長a", 40)+",8\n"), "center")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range sites {
		got[s.Label] = string(s.ID)
	}
	if diff := cmp.Diff(map[string]string{
		"東京大学": "site-8302c97c", "Ωμέγα": "site-59b35e54", `The "Old" Clinic, Bern`: "the-old-clinic-bern", "Zu\u0308rich": "zurich",
		"東京 1": "1-0dde9b72", "大阪 1": "1-cc71923c", strings.Repeat("長a", 40): strings.Repeat("a-", 27) + "81fa7d8a", // the first of each name's SHA-256
	}, got); diff != "" {
		t.Error(diff)
	}
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "s%d\n", i)
	}
	return b.String()
}

// shared finds a file of the trial: in the project, or in the reference data
// beside it.
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

func cgdSpec() *consilium.Spec {
	return spec(levels("treat", "placebo", "rIFN-g"), levels("sex", "male", "female"), levels("inherit", "X-linked", "autosomal"),
		col("random", consilium.TypeDate), col("age", consilium.TypeInteger), col("height", consilium.TypeNumber), col("weight", consilium.TypeNumber),
		col("steroids", consilium.TypeFlag), col("propylac", consilium.TypeFlag),
		col("tstart", consilium.TypeInteger), col("tstop", consilium.TypeInteger), col("status", consilium.TypeFlag))
}

// The published trial: 203 intervals of 128 patients with 76 infections at 13
// hospitals, 63 patients on gamma interferon.
func TestChronicGranulomatousDisease(t *testing.T) {
	src := shared(t, "cgd/cgd.csv")
	sites, err := Split(src, "center")
	if err != nil {
		t.Fatal(err)
	}
	if len(sites) != 13 {
		t.Errorf("%d hospitals, want 13", len(sites))
	}
	rows, infections := 0, 0
	patients, treated := map[[16]byte]bool{}, map[[16]byte]bool{}
	for _, site := range sites {
		tab, err := Read(bytes.NewReader(site.CSV), Options{Spec: cgdSpec(), Key: key, File: string(site.ID) + ".csv"})
		if err != nil {
			t.Fatal(Local(err))
		}
		rows += int(tab.Record.NumRows())
		status := column[*array.Boolean](t, tab.Record, "status")
		treat := column[*array.Dictionary](t, tab.Record, "treat")
		for i := range int(tab.Record.NumRows()) {
			p := [16]byte(tab.Record.Column(0).(*array.FixedSizeBinary).Value(i))
			patients[p] = true
			if treat.GetValueIndex(i) == 1 {
				treated[p] = true
			}
			if status.Value(i) {
				infections++
			}
		}
	}
	if rows != 203 || infections != 76 || len(patients) != 128 || len(treated) != 63 {
		t.Errorf("%d rows, %d infections, %d patients, %d treated; want 203, 76, 128, 63", rows, infections, len(patients), len(treated))
	}
}

func column[A arrow.Array](t *testing.T, rec arrow.Record, name string) A {
	t.Helper()
	c, err := columnOf(rec, name)
	if err != nil {
		t.Fatal(err)
	}
	return c.(A)
}

// Reading is a function of the bytes.
func TestDeterministic(t *testing.T) {
	a, b := read(t, everything(), everythingCSV), read(t, everything(), everythingCSV)
	if !array.RecordEqual(a.Record, b.Record) {
		t.Error("two readings differ")
	}
}

// Whatever the bytes: an error with the code, or a record whose cells all
// satisfy the study, and rows that encoding/csv counts too.
func FuzzRead(f *testing.F) {
	f.Add(everythingCSV)
	f.Add("id,age,visits,dead,sex,seen,family\np1,130,1,0,male,2020-01-01,f\n")
	f.Add("\xef\xbb\xbfid\r\n\"a\"\"b\"\r\n\n")
	f.Fuzz(func(t *testing.T, src string) {
		s := everything()
		tab, err := Read(strings.NewReader(src), Options{Spec: s, Key: key})
		if err != nil {
			if !errors.Is(err, consilium.ErrData) {
				t.Fatalf("%v", err)
			}
			return
		}
		r := csv.NewReader(strings.NewReader(strings.TrimPrefix(src, "\xef\xbb\xbf")))
		all, err := r.ReadAll()
		if err != nil || len(all)-1 != int(tab.Record.NumRows()) || len(tab.IDs) != len(all)-1 {
			t.Fatalf("%d rows, the file has %d: %v", tab.Record.NumRows(), len(all)-1, err)
		}
		age := column[*array.Float64](t, tab.Record, "age")
		for i := range age.Len() {
			if v := age.Value(i); age.IsValid(i) && !(v >= 0 && v <= 120) {
				t.Fatalf("age %v", v)
			}
		}
	})
}

func FuzzSplit(f *testing.F) {
	f.Add("id,c\n1,a\n2,B b\n\n3,\"a\"\n")
	f.Fuzz(func(t *testing.T, src string) {
		sites, err := Split([]byte(src), "c")
		if err != nil {
			return
		}
		for _, s := range sites {
			again, err := Split(s.CSV, "c")
			if err != nil || len(again) != 1 || again[0].ID != s.ID || again[0].Rows != s.Rows {
				t.Fatalf("site %s does not split to itself: %v %v", s.ID, again, err)
			}
		}
	})
}

func FuzzExpressions(f *testing.F) {
	f.Add("age >= 1 && sex == \"male\"", "weight / (height/100)^2")
	f.Fuzz(func(t *testing.T, where, expr string) {
		s := derivedSpec(where, expr)
		if err := Check(s); err != nil && !errors.Is(err, consilium.ErrData) {
			t.Fatal(err)
		}
	})
}
