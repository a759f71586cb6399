package models

import (
	"encoding/json"
	"slices"
	"testing"

	"consilium"
)

// TestKeys: a key that is set is found whatever its type, in the canonical
// form's spelling; the lists by type name none that does not exist.
func TestKeys(t *testing.T) {
	values := map[string]string{"response": `{"stop":"t"}`, "penalty": `{"alpha":1}`, "timeTerms": `[{"term":"x"}]`, "phCheck": `"log"`, "concordance": "true",
		"evaluate": "20", "confType": `"log"`, "restricted": "9.5", "weights": `{"rho":1}`, "quality": `{"maf":0.1}`, "histogram": `{"x":[1,2]}`, "noIntercept": "true",
		"terms": `["x"]`, "strata": `["x"]`, "cluster": `"x"`, "ties": `"x"`, "family": `"x"`, "robust": "true", "offset": `{"column":"x"}`, "ridge": "1", "lasso": "1",
		"baseline": `{"kind":"common"}`, "by": `["x"]`, "grid": `{"step":1}`, "variants": `["x"]`, "variables": `["x"]`, "quantiles": "[0.5]", "rows": `"x"`, "columns": `"x"`}
	for key, value := range values {
		var a consilium.AnalysisSpec
		if err := json.Unmarshal([]byte(`{"name":"n","type":"t","`+key+`":`+value+`}`), &a); err != nil {
			t.Fatal(err)
		}
		if got := Keys(&a); !slices.Equal(got, []string{key}) {
			t.Errorf("%s: found %v", key, got)
		}
	}
	if got := Keys(&consilium.AnalysisSpec{Terms: []string{}, Histogram: map[string][]float64{}}); got != nil {
		t.Errorf("empty lists are set: %v", got)
	}
	for kind, keys := range keysOf {
		for _, k := range keys {
			if values[k] == "" {
				t.Errorf("%s reads %s, which no analysis has", kind, k)
			}
		}
	}
}
