package export

import (
	"bytes"
	"encoding/binary"
	"encoding/csv"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/ipc"
)

const sample = `{"analyses": [
 {"analysis": "cox", "name": "infections, all", "terms": [
   {"name": "treat:rIFN-g", "column": "treat", "level": "rIFN-g", "reference": "placebo", "coef": -1.1936604181736143, "se": 0.3, "robust_se": 0.31, "z": -3.8, "p": 1.4e-4, "exp_coef": 0.30310972261727251, "lower": 0.1, "upper": 0.5},
   {"name": "a \"quoted\", term", "coef": 5e-324, "se": 1, "p": null, "lower": null, "upper": null}],
  "vcov": [[0.09, 1e-17], [1e-17, 1]], "robust_vcov": [[0.0961, null], [null, 1]]},
 {"analysis": "kaplan-meier", "name": "km", "groups": [{"name": "a", "curve": {"time": [0, 30], "n_risk": [65, 60], "surv": [1, 0.9], "std_err": [0, null]}}, {"name": "b", "n": null, "curve": {"time": []}}]},
 {"analysis": "gwas", "name": "scan", "variants": [{"name": "rs001", "freq": 0.25, "hwe": null, "p": 0.02}]},
 {"analysis": "glm", "name": "none", "error": {"code": "analysis.events"}}]}`

// TestExport reads every file back and finds the result's own numbers.
func TestExport(t *testing.T) {
	files, err := Files([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"coefficients.csv", "coefficients.arrow", "survival.csv", "survival.arrow", "variants.csv", "variants.arrow", "infections__all-vcov.npy", "infections__all-robust-vcov.npy"} {
		if files[name] == nil {
			t.Errorf("no %s", name)
		}
	}
	if len(files) != 8 {
		t.Errorf("%d files", len(files))
	}
	for _, name := range []string{"coefficients", "survival", "variants"} {
		lines, err := csv.NewReader(bytes.NewReader(files[name+".csv"])).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		r, err := ipc.NewFileReader(bytes.NewReader(files[name+".arrow"]))
		if err != nil {
			t.Fatal(err)
		}
		rec, err := r.Record(0)
		if err != nil {
			t.Fatal(err)
		}
		if int(rec.NumRows()) != len(lines)-1 || int(rec.NumCols()) != len(lines[0]) {
			t.Fatalf("%s: %d by %d, %d by %d", name, rec.NumRows(), rec.NumCols(), len(lines)-1, len(lines[0]))
		}
		for c, head := range lines[0] {
			if rec.ColumnName(c) != head {
				t.Errorf("%s: column %d is %s and %s", name, c, rec.ColumnName(c), head)
			}
			for i, line := range lines[1:] {
				switch a := rec.Column(c).(type) {
				case *array.String:
					if a.Value(i) != line[c] {
						t.Errorf("%s %s: %q and %q", name, head, a.Value(i), line[c])
					}
				case *array.Float64:
					v, err := strconv.ParseFloat(line[c], 64)
					if a.IsNull(i) != (line[c] == "") || !a.IsNull(i) && (err != nil || a.Value(i) != v) {
						t.Errorf("%s %s: %v and %q", name, head, a.Value(i), line[c])
					}
				}
			}
		}
	}
	lines, _ := csv.NewReader(bytes.NewReader(files["coefficients.csv"])).ReadAll()
	if lines[1][6] != "-1.1936604181736143" || lines[1][2] != "treat:rIFN-g" || lines[2][2] != `a "quoted", term` || lines[2][6] != "5e-324" || lines[2][7] != "1" || lines[2][11] != "" {
		t.Errorf("%q", lines)
	}
	if b := files["infections__all-vcov.npy"]; (len(b)-4*8)%64 != 0 || math.Float64frombits(binary.LittleEndian.Uint64(b[len(b)-8:])) != 1 ||
		math.Float64frombits(binary.LittleEndian.Uint64(b[len(b)-32:])) != 0.09 || !strings.Contains(string(b), "'shape': (2, 2)") {
		t.Errorf("%q", b)
	}
	again, err := Files([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range files {
		if !bytes.Equal(b, again[name]) {
			t.Errorf("%s differs from itself", name)
		}
	}
}

func TestExportRefuses(t *testing.T) {
	for _, bad := range []string{``, `[]`, `{"analyses": [3]}`, `{"name": "a", "vcov": [[1, 2]]}`, `{"name": "a", "vcov": [[1, 2], [3]]}`, `{"name": "a", "vcov": [1]}`} {
		if files, err := Files([]byte(bad)); err == nil {
			t.Errorf("%s: %d files", bad, len(files))
		}
	}
	if files, err := Files([]byte(`{"analysis": "crosstab", "name": "t"}`)); err != nil || len(files) != 0 {
		t.Errorf("%v, %v", files, err)
	}
}

// TestOtherReaders: R reads the table, NumPy the array, where they are installed.
func TestOtherReaders(t *testing.T) {
	files, err := Files([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var want struct {
		Analyses []struct{ Terms []struct{ Coef float64 } }
	}
	if err := json.Unmarshal([]byte(sample), &want); err != nil {
		t.Fatal(err)
	}
	tried := 0
	for program, c := range map[string]struct{ check, run []string }{
		"Rscript": {[]string{"-e", "1"}, []string{"-e", `x <- read.csv("coefficients.csv", na.strings = ""); cat(sprintf("%.17g", x$coef[1]), x$term[2], is.na(x$p[2]))`}},
		"python3": {[]string{"-c", "import numpy"}, []string{"-c", `import numpy; m = numpy.load("infections__all-vcov.npy"); print(repr(float(m[0, 0])), m.shape)`}},
	} {
		if exec.Command(program, c.check...).Run() != nil {
			continue
		}
		tried++
		cmd := exec.Command(program, c.run...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		says := map[string]string{"Rscript": strconv.FormatFloat(want.Analyses[0].Terms[0].Coef, 'g', 17, 64) + ` a "quoted", term TRUE`, "python3": "0.09 (2, 2)"}[program]
		if err != nil || strings.TrimSpace(string(out)) != says {
			t.Errorf("%s: %v: %s, want %s", program, err, out, says)
		}
	}
	t.Logf("%d other readers", tried)
}
