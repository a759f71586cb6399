package policy

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"sync"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/open-policy-agent/opa/v1/ast"

	"consilium"
	"consilium/internal/canon"
)

// Subject holds the control facts of one patient: what the row rules read, and
// nothing else about the patient.
type Subject struct {
	Patient       [16]byte // the hospital's keyed pseudonym; no rule sees it
	Status        string   // of the consent: none, active or withdrawn
	Explicit      bool     // given for this kind of data in so many words
	Evidence      bool     // the signed consent is on file
	Categories    []string // of data that the consent covers: general, genetic, …
	Purposes      []string // DUO codes of the consent
	Area          string   // MONDO id that the consent is limited to, "any", or ""
	ValidFrom     int64    // Unix seconds; 0 = always
	ValidTo       int64    // Unix seconds; Never = without end
	WithdrawnAt   int64    // Unix seconds; Never = not withdrawn
	Objected      bool     // GDPR Art. 21
	GivenBy       string   // none, self, parent or representative
	IsAdultNow    bool
	Deceased      bool
	MNObjected    bool // Minn. Stat. 144.295
	Part2         bool // a substance use disorder record, 42 CFR 2
	Psychotherapy bool // psychotherapy notes, 45 CFR 164.501
	CitizenOrLPR  bool // 5 U.S.C. 552a(a)(2)
	WGBOObjected  bool // BW 7:458(2)(c)
	HRAGeneral    bool // general consent, HRA Art. 32(2), 33(1)
	HRAGenetic    bool // consent that names genetic data
	HRAProject    bool // consent for this project, HRA Art. 32(1)
	HRAInformed   bool // informed, HRA Art. 33(2)
	HRADissent    bool // a documented refusal
	Part2Consent  bool // consent that names substance use disorder records, 42 CFR 2.31
	NHSOptOut     bool // the National Data Opt-Out of England

	OptedOutAt int64 // of the European Health Data Space, Art. 71; Unix seconds, Never = not
}

// Record is a Subject as the rules see it.
type Record struct {
	Status        string   `json:"status"`
	Explicit      bool     `json:"explicit"`
	Evidence      bool     `json:"evidence"`
	Categories    []string `json:"categories"`
	Purposes      []string `json:"purposes"`
	Area          string   `json:"area"`
	ValidFrom     int64    `json:"valid_from"`
	ValidTo       int64    `json:"valid_to"`
	WithdrawnAt   int64    `json:"withdrawn_at"`
	Objected      bool     `json:"objected"`
	GivenBy       string   `json:"given_by"`
	IsAdultNow    bool     `json:"is_adult_now"`
	Deceased      bool     `json:"deceased"`
	MNObjected    bool     `json:"mn_objected"`
	Part2         bool     `json:"part2"`
	Psychotherapy bool     `json:"psychotherapy"`
	CitizenOrLPR  bool     `json:"citizen_or_lpr"`
	WGBOObjected  bool     `json:"wgbo_objected"`
	HRAGeneral    bool     `json:"hra_general"`
	HRAGenetic    bool     `json:"hra_genetic"`
	HRAProject    bool     `json:"hra_project"`
	HRAInformed   bool     `json:"hra_informed"`
	HRADissent    bool     `json:"hra_dissent"`
	Part2Consent  bool     `json:"part2_consent"`
	NHSOptOut     bool     `json:"nhs_opt_out"`
	OptedOutAt    int64    `json:"opted_out_at"`
}

// Categories are the kinds of data that consents and rules tell apart.
func Categories() []string { return slices.Clone(categories) }

var categories = []string{"general", "genetic", "mental", "substance", "hiv", "sexual", "biometric"}

// cell describes one column of the control table and how it becomes a part of
// a Record.
type cell struct {
	name string
	typ  arrow.DataType
	text func(*Subject) *string
	list func(*Subject) *[]string // categories and purposes, joined by blanks
	time func(*Subject) *int64
	flag func(*Subject) *bool
}

// wordType is of columns with few different values: kernels look each value
// up once, not each row.
var wordType arrow.DataType = &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}

var cells = sync.OnceValue(makeCells)

func makeCells() []cell {
	text := func(name string, f func(*Subject) *string) cell {
		return cell{name: name, typ: wordType, text: f}
	}
	words := func(name string, f func(*Subject) *[]string) cell {
		return cell{name: name, typ: wordType, list: f}
	}
	when := func(name string, f func(*Subject) *int64) cell {
		return cell{name: name, typ: arrow.PrimitiveTypes.Int64, time: f}
	}
	flag := func(name string, f func(*Subject) *bool) cell {
		return cell{name: name, typ: arrow.FixedWidthTypes.Boolean, flag: f}
	}
	return []cell{
		text("status", func(s *Subject) *string { return &s.Status }),
		flag("explicit", func(s *Subject) *bool { return &s.Explicit }),
		flag("evidence", func(s *Subject) *bool { return &s.Evidence }),
		words("categories", func(s *Subject) *[]string { return &s.Categories }),
		words("purposes", func(s *Subject) *[]string { return &s.Purposes }),
		text("area", func(s *Subject) *string { return &s.Area }),
		when("valid_from", func(s *Subject) *int64 { return &s.ValidFrom }),
		when("valid_to", func(s *Subject) *int64 { return &s.ValidTo }),
		when("withdrawn_at", func(s *Subject) *int64 { return &s.WithdrawnAt }),
		flag("objected", func(s *Subject) *bool { return &s.Objected }),
		text("given_by", func(s *Subject) *string { return &s.GivenBy }),
		flag("is_adult_now", func(s *Subject) *bool { return &s.IsAdultNow }),
		flag("deceased", func(s *Subject) *bool { return &s.Deceased }),
		flag("mn_objected", func(s *Subject) *bool { return &s.MNObjected }),
		flag("part2", func(s *Subject) *bool { return &s.Part2 }),
		flag("psychotherapy", func(s *Subject) *bool { return &s.Psychotherapy }),
		flag("citizen_or_lpr", func(s *Subject) *bool { return &s.CitizenOrLPR }),
		flag("wgbo_objected", func(s *Subject) *bool { return &s.WGBOObjected }),
		flag("hra_general", func(s *Subject) *bool { return &s.HRAGeneral }),
		flag("hra_genetic", func(s *Subject) *bool { return &s.HRAGenetic }),
		flag("hra_project", func(s *Subject) *bool { return &s.HRAProject }),
		flag("hra_informed", func(s *Subject) *bool { return &s.HRAInformed }),
		flag("hra_dissent", func(s *Subject) *bool { return &s.HRADissent }),
		flag("part2_consent", func(s *Subject) *bool { return &s.Part2Consent }),
		flag("nhs_opt_out", func(s *Subject) *bool { return &s.NHSOptOut }),
		when("opted_out_at", func(s *Subject) *int64 { return &s.OptedOutAt }),
	}
}

// SubjectSchema is the control table: one row for each patient. Every column
// may hold nulls, and a null denies its row.
func SubjectSchema() *arrow.Schema {
	fields := []arrow.Field{{Name: "patient", Type: &arrow.FixedSizeBinaryType{ByteWidth: 16}, Nullable: true}}
	for _, c := range cells() {
		fields = append(fields, arrow.Field{Name: c.name, Type: c.typ, Nullable: true})
	}
	return arrow.NewSchema(fields, nil)
}

// SubjectRecord writes the control table.
func SubjectRecord(subjects []Subject) arrow.Record {
	b := array.NewRecordBuilder(memory.DefaultAllocator, SubjectSchema())
	defer b.Release()
	cols := cells()
	for i := range subjects {
		s := &subjects[i]
		b.Field(0).(*array.FixedSizeBinaryBuilder).Append(s.Patient[:])
		for j, c := range cols {
			switch f := b.Field(j + 1).(type) {
			case *array.BinaryDictionaryBuilder:
				word := ""
				if c.list != nil {
					word = strings.Join(*c.list(s), " ")
				} else {
					word = *c.text(s)
				}
				if err := f.AppendString(word); err != nil {
					f.AppendNull() // a row with a null is out
				}
			case *array.Int64Builder:
				f.Append(*c.time(s))
			case *array.BooleanBuilder:
				f.Append(*c.flag(s))
			}
		}
	}
	return b.NewRecord()
}

// Count says how many rows a rule left out.
type Count struct {
	Code string `json:"code"`
	Rows int    `json:"rows"`
}

// RowDecision is the answer for a control table.
type RowDecision struct {
	Decision Decision // denies only if the question itself failed; then every row is out
	Allowed  []bool   // by row of the control table
	In       int      // rows asked
	Out      int      // rows left out
	Reasons  []Count  // ascending codes; a row counts under every rule that leaves it out
	Distinct int      // distinct tuples that the rules were asked, on the memoised path
	Path     string   // PathVectorised or PathMemoised
	Why      string   // why the rows were not decided by kernels: file, line and reason
}

// Digest names the decision with its counts and its bitmap.
func (r RowDecision) Digest() (consilium.Digest, error) {
	d, err := r.Decision.Encode()
	if err != nil {
		return consilium.Digest{}, err
	}
	b, err := canon.Marshal(struct {
		In      int     `json:"in"`
		Out     int     `json:"out"`
		Reasons []Count `json:"reasons"`
	}{r.In, r.Out, orEmpty(r.Reasons)})
	if err != nil {
		return consilium.Digest{}, err
	}
	return consilium.DomainDecision.Digest([]byte("rows"), d, b, r.bitmap()), nil
}

func (r RowDecision) bitmap() []byte {
	out := make([]byte, (len(r.Allowed)+7)/8)
	for i, ok := range r.Allowed {
		if ok {
			out[i/8] |= 1 << (i % 8)
		}
	}
	return out
}

// Count is the number of allowed rows.
func (r RowDecision) Count() int {
	n := 0
	for _, b := range r.bitmap() {
		n += bits.OnesCount8(b)
	}
	return n
}

// nobody is a record that fits the schema and stands for no patient.
func nobody() *Record {
	return &Record{Status: "none", Categories: []string{}, Purposes: []string{}, GivenBy: "none"}
}

// row asks the rules about one record, without a memory.
func (e *Engine) row(ctx context.Context, p *compiled, base base, r map[string]any) (Decision, error) {
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	case <-ctx.Done():
		return Decision{}, ctx.Err()
	}
	return p.row(ctx, base, r)
}

func (p *compiled) row(ctx context.Context, base base, r map[string]any) (Decision, error) {
	v, err := base.with(r)
	if err != nil {
		return deny(PointRows, CodeError, "%s", firstLine(err)), nil
	}
	return p.ask(ctx, &p.query, PointRows, v)
}

// base is the part of a row question that is equal for all rows, parsed once.
type base struct{ object ast.Object }

func newBase(doc map[string]any) (base, error) {
	rest := make(map[string]any, len(doc))
	for k, v := range doc {
		if k != "record" {
			rest[k] = v
		}
	}
	v, err := ast.InterfaceToValue(rest)
	if err != nil {
		return base{}, err
	}
	o, ok := v.(ast.Object)
	if !ok {
		return base{}, errors.New("the question is not an object")
	}
	return base{o}, nil
}

func (b base) with(r map[string]any) (ast.Value, error) {
	record, err := ast.InterfaceToValue(r)
	if err != nil {
		return nil, err
	}
	pairs := make([][2]*ast.Term, 0, b.object.Len()+1)
	b.object.Foreach(func(k, v *ast.Term) { pairs = append(pairs, [2]*ast.Term{k, v}) })
	pairs = append(pairs, [2]*ast.Term{ast.StringTerm("record"), ast.NewTerm(record)})
	return ast.NewObject(pairs...), nil
}

// value is the record as plain JSON values.
func (r Record) value() map[string]any {
	return map[string]any{
		"status": r.Status, "explicit": r.Explicit, "evidence": r.Evidence, "categories": list(r.Categories), "purposes": list(r.Purposes),
		"area": r.Area, "valid_from": r.ValidFrom, "valid_to": r.ValidTo, "withdrawn_at": r.WithdrawnAt, "objected": r.Objected,
		"given_by": r.GivenBy, "is_adult_now": r.IsAdultNow, "deceased": r.Deceased, "mn_objected": r.MNObjected, "part2": r.Part2,
		"psychotherapy": r.Psychotherapy, "citizen_or_lpr": r.CitizenOrLPR, "wgbo_objected": r.WGBOObjected, "hra_general": r.HRAGeneral,
		"hra_genetic": r.HRAGenetic, "hra_project": r.HRAProject, "hra_informed": r.HRAInformed, "hra_dissent": r.HRADissent,
		"part2_consent": r.Part2Consent, "nhs_opt_out": r.NHSOptOut, "opted_out_at": r.OptedOutAt,
	}
}

// key tells different records apart. Fields are separated by a byte that no
// value holds: readRecord lets only known words and codes through.
func (r Record) key() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\x00%s\x00%s\x00%s\x00%s\x00%d %d %d %d ", r.Status, r.GivenBy, r.Area, strings.Join(r.Categories, " "),
		strings.Join(r.Purposes, " "), r.ValidFrom, r.ValidTo, r.WithdrawnAt, r.OptedOutAt)
	for _, f := range []bool{r.Explicit, r.Evidence, r.Objected, r.IsAdultNow, r.Deceased, r.MNObjected, r.Part2, r.Psychotherapy,
		r.CitizenOrLPR, r.WGBOObjected, r.HRAGeneral, r.HRAGenetic, r.HRAProject, r.HRAInformed, r.HRADissent, r.Part2Consent, r.NHSOptOut} {
		if f {
			b.WriteByte('1')
		} else {
			b.WriteByte('0')
		}
	}
	return b.String()
}

// record checks the values, which the schema of the points would refuse too.
func (s *Subject) record() (Record, string) {
	ok := slices.Contains([]string{"none", "active", "withdrawn"}, s.Status) &&
		slices.Contains([]string{"none", "self", "parent", "representative"}, s.GivenBy) &&
		(s.Area == "" || s.Area == "any" || isCode(s.Area, "MONDO:"))
	for _, t := range []int64{s.ValidFrom, s.ValidTo, s.WithdrawnAt, s.OptedOutAt} {
		ok = ok && t >= -Never && t <= Never
	}
	for _, c := range s.Categories {
		ok = ok && slices.Contains(categories, c)
	}
	for _, d := range s.Purposes {
		ok = ok && consentCode(d)
	}
	if !ok {
		return Record{}, CodeRowValue
	}
	r := Record{
		Status: s.Status, Explicit: s.Explicit, Evidence: s.Evidence, Categories: slices.Clone(s.Categories), Purposes: slices.Clone(s.Purposes),
		Area: s.Area, ValidFrom: s.ValidFrom, ValidTo: s.ValidTo, WithdrawnAt: s.WithdrawnAt, Objected: s.Objected, GivenBy: s.GivenBy,
		IsAdultNow: s.IsAdultNow, Deceased: s.Deceased, MNObjected: s.MNObjected, Part2: s.Part2, Psychotherapy: s.Psychotherapy,
		CitizenOrLPR: s.CitizenOrLPR, WGBOObjected: s.WGBOObjected, HRAGeneral: s.HRAGeneral, HRAGenetic: s.HRAGenetic,
		HRAProject: s.HRAProject, HRAInformed: s.HRAInformed, HRADissent: s.HRADissent, Part2Consent: s.Part2Consent,
		NHSOptOut: s.NHSOptOut, OptedOutAt: s.OptedOutAt,
	}
	slices.Sort(r.Categories)
	r.Categories = slices.Compact(r.Categories)
	slices.Sort(r.Purposes)
	r.Purposes = slices.Compact(r.Purposes)
	return r, ""
}

// consentCode reports whether s is a permission or modifier of the Data Use
// Ontology: the same that the schema of a record lets through.
func consentCode(s string) bool {
	all, err := allSchemas()
	if err != nil {
		return false
	}
	return all["record"].Properties["purposes"].Items.pattern.MatchString(s)
}

func isCode(s, prefix string) bool {
	digits, ok := strings.CutPrefix(s, prefix)
	return ok && len(digits) == 7 && strings.Trim(digits, "0123456789") == ""
}
