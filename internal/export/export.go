// Package export promises that what a result tells can be read by other
// programs without loss: coefficients, curves and scans as CSV and as Arrow IPC
// files, covariances as NumPy arrays. Every number is the result's own, with all
// its digits; what the result withholds is empty, or null.
//
// Formats: RFC 4180; Apache Arrow columnar format, IPC file; NumPy format 1.0.
package export

import (
	"bytes"
	"encoding/binary"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

type object = map[string]any

// sheet is a table in the making: text columns, then numbers, which may be
// missing.
type sheet struct {
	name          string
	text, numbers []string
	rows          []row
}

type row struct {
	text    []string
	numbers []*float64
}

// Files makes the files of a result: coefficients.csv and .arrow of all analyses
// with terms, survival.csv and .arrow of all curves, variants.csv and .arrow of
// all scans, and NAME-vcov.npy of every covariance. It takes the `result` half of
// result.json.
func Files(result []byte) (map[string][]byte, error) {
	var doc object
	if err := json.Unmarshal(result, &doc); err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	list, several := doc["analyses"].([]any)
	if !several {
		list = []any{doc}
	}
	coefficients := &sheet{name: "coefficients", text: []string{"analysis", "type", "term", "column", "level", "reference"},
		numbers: []string{"coef", "se", "robust_se", "z", "t", "p", "exp_coef", "lower", "upper"}}
	survival := &sheet{name: "survival", text: []string{"analysis", "group"},
		numbers: []string{"time", "n_risk", "n_event", "n_censor", "surv", "std_err", "lower", "upper", "cumhaz", "std_chaz"}}
	variants := &sheet{name: "variants", text: []string{"analysis", "variant"},
		numbers: []string{"freq", "call_rate", "hwe", "score", "variance", "beta", "se", "chisq", "p"}}
	out := map[string][]byte{}
	for _, v := range list {
		a, ok := v.(object)
		if !ok {
			return nil, fmt.Errorf("export: an analysis that is no object")
		}
		name, kind := word(a["name"]), word(a["analysis"])
		for _, v := range items(a["terms"]) {
			t, _ := v.(object)
			coefficients.add(t, name, kind, word(t["name"]), word(t["column"]), word(t["level"]), word(t["reference"]))
		}
		for _, v := range items(a["variants"]) {
			t, _ := v.(object)
			variants.add(t, name, word(t["name"]))
		}
		for _, v := range items(a["groups"]) {
			g, _ := v.(object)
			c, _ := g["curve"].(object)
			for i := range items(c["time"]) {
				at := object{}
				for _, k := range survival.numbers {
					if l := items(c[k]); i < len(l) {
						at[k] = l[i]
					}
				}
				survival.add(at, name, word(g["name"]))
			}
		}
		for _, k := range []string{"vcov", "robust_vcov"} {
			if m := items(a[k]); len(m) > 0 {
				b, err := npy(m)
				if err != nil {
					return nil, fmt.Errorf("export: %s of %s: %w", k, name, err)
				}
				out[fileName(name)+"-"+strings.ReplaceAll(k, "_", "-")+".npy"] = b
			}
		}
	}
	for _, s := range []*sheet{coefficients, survival, variants} {
		if len(s.rows) == 0 {
			continue
		}
		var err error
		if out[s.name+".csv"], err = s.csv(); err != nil {
			return nil, err
		}
		if out[s.name+".arrow"], err = s.arrow(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func word(v any) string {
	s, _ := v.(string)
	return s
}

func items(v any) []any {
	l, _ := v.([]any)
	return l
}

// fileName keeps what every file system takes of an analysis's name.
func fileName(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, name)
}

func (s *sheet) add(from object, text ...string) {
	r := row{text: text}
	for _, k := range s.numbers {
		var p *float64
		if v, ok := from[k].(float64); ok {
			p = &v
		}
		r.numbers = append(r.numbers, p)
	}
	s.rows = append(s.rows, r)
}

func (s *sheet) csv() ([]byte, error) {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	w.UseCRLF = true // RFC 4180 §2.1
	if err := w.Write(append(append([]string{}, s.text...), s.numbers...)); err != nil {
		return nil, err
	}
	for _, r := range s.rows {
		line := append([]string{}, r.text...)
		for _, p := range r.numbers {
			cell := ""
			if p != nil {
				cell = strconv.FormatFloat(*p, 'g', -1, 64)
			}
			line = append(line, cell)
		}
		if err := w.Write(line); err != nil {
			return nil, err
		}
	}
	w.Flush()
	return b.Bytes(), w.Error()
}

func (s *sheet) arrow() ([]byte, error) {
	pool := memory.NewGoAllocator()
	var fields []arrow.Field
	var columns []arrow.Array
	for i, name := range s.text {
		c := array.NewStringBuilder(pool)
		for _, r := range s.rows {
			c.Append(r.text[i])
		}
		fields, columns = append(fields, arrow.Field{Name: name, Type: arrow.BinaryTypes.String}), append(columns, c.NewArray())
	}
	for i, name := range s.numbers {
		c := array.NewFloat64Builder(pool)
		for _, r := range s.rows {
			if p := r.numbers[i]; p != nil {
				c.Append(*p)
			} else {
				c.AppendNull()
			}
		}
		fields, columns = append(fields, arrow.Field{Name: name, Type: arrow.PrimitiveTypes.Float64, Nullable: true}), append(columns, c.NewArray())
	}
	schema := arrow.NewSchema(fields, nil)
	b := &place{}
	w, err := ipc.NewFileWriter(b, ipc.WithSchema(schema), ipc.WithAllocator(pool))
	if err != nil {
		return nil, err
	}
	if err := w.Write(array.NewRecord(schema, columns, int64(len(s.rows)))); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.b, nil
}

// place is memory that the Arrow writer asks where it is, and never moves in.
type place struct{ b []byte }

func (p *place) Write(b []byte) (int, error) {
	p.b = append(p.b, b...)
	return len(b), nil
}

func (p *place) Seek(offset int64, whence int) (int64, error) {
	if offset != 0 || whence != io.SeekCurrent {
		return 0, fmt.Errorf("export: a file in memory is written from one end to the other")
	}
	return int64(len(p.b)), nil
}

// npy writes a square matrix by rows in NumPy's format 1.0; what is withheld is
// not a number there.
func npy(m []any) ([]byte, error) {
	header := fmt.Sprintf("{'descr': '<f8', 'fortran_order': False, 'shape': (%d, %d), }", len(m), len(m))
	const preamble = 10 // magic, version, header length
	header += strings.Repeat(" ", 63-(preamble+len(header))%64) + "\n"
	b := append([]byte("\x93NUMPY\x01\x00"), binary.LittleEndian.AppendUint16(nil, uint16(len(header)))...)
	b = append(b, header...)
	for _, v := range m {
		line := items(v)
		if len(line) != len(m) {
			return nil, fmt.Errorf("a line of %d in a matrix of %d", len(line), len(m))
		}
		for _, x := range line {
			f, ok := x.(float64)
			if !ok {
				f = math.NaN()
			}
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(f))
		}
	}
	return b, nil
}
