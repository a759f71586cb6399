package vault

import (
	"testing"

	"consilium"
	"consilium/policy"
	"consilium/provenance"
)

// TestRefusal: a patient who took everything back is not one who was never asked,
// with or without a consent, until a consent to this study is given afterwards.
func TestRefusal(t *testing.T) {
	st := &study{spec: &consilium.Spec{Name: "this", Data: consilium.DataRef{Patient: "id"},
		Columns:  []consilium.Column{{Name: "id"}, {Name: "inherit", Type: consilium.TypeLevels, Category: "genetic"}},
		Analyses: []consilium.AnalysisSpec{{Type: consilium.AnalysisDescribe, Variables: []string{"inherit"}}}}}
	if !readsAny(st.spec, []string{"genetic"}) || readsAny(st.spec, []string{"mental"}) {
		t.Fatalf("the study reads %v", policy.UsedColumns(st.spec))
	}
	other := func(status provenance.ConsentStatus) provenance.Claims {
		return provenance.Claims{Status: status, Level: provenance.LevelProject, Studies: []string{"other"}}
	}
	for _, c := range []struct {
		name   string
		claims provenance.Claims
		change func(*provenance.Claims)
		want   string
	}{
		{"never asked", provenance.Claims{Status: provenance.ConsentNone}, nil, "none"},
		{"no consent, everything refused", provenance.Claims{Status: provenance.ConsentNone}, func(c *provenance.Claims) { c.Refused = 5 }, "withdrawn"},
		{"no consent, what is read refused", provenance.Claims{Status: provenance.ConsentNone}, func(c *provenance.Claims) { c.RefusedScopes = []string{"genetic"} }, "withdrawn"},
		{"no consent, what is not read refused", provenance.Claims{Status: provenance.ConsentNone}, func(c *provenance.Claims) { c.RefusedScopes = []string{"mental"} }, "none"},
		{"a consent to another study", other(provenance.ConsentActive), nil, "none"},
		{"a consent to another study, everything refused", other(provenance.ConsentWithdrawn), func(c *provenance.Claims) { c.Refused = 5 }, "withdrawn"},
		{"refused, then a consent to another study", other(provenance.ConsentActive), func(c *provenance.Claims) { c.Refused = 5 }, "withdrawn"},
		{"refused, then a consent to all", provenance.Claims{Status: provenance.ConsentActive, Level: provenance.LevelGeneral}, func(c *provenance.Claims) { c.Refused = 5 }, "active"},
		{"refused, then one for this study", provenance.Claims{Status: provenance.ConsentActive, Level: provenance.LevelProject, Studies: []string{"this"}}, func(c *provenance.Claims) { c.Refused = 5 }, "active"},
	} {
		if c.change != nil {
			c.change(&c.claims)
		}
		if s := Subject(st.spec, provenance.Pseudonym{1}, &c.claims, Register{}); s.Status != c.want || s.Status == "withdrawn" && s.WithdrawnAt > 5 {
			t.Errorf("%s: %s, withdrawn at %d, want %s", c.name, s.Status, s.WithdrawnAt, c.want)
		}
	}
}
