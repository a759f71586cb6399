package main

import (
	"encoding/json"
	"testing"

	"consilium/worker/vault"
)

// TestPrivacyBudget: what a hospital writes under privacy: is what its vault is
// told, and zero stays zero on the way.
func TestPrivacyBudget(t *testing.T) {
	zero, ten, delta := 0.0, 10.0, 1e-6
	for _, tt := range []struct {
		set  privacyConfig
		want *vault.Budget
	}{
		{privacyConfig{}, nil},
		{privacyConfig{&zero, &delta}, &vault.Budget{Epsilon: 0, Delta: 1e-6}},
		{privacyConfig{&ten, &delta}, &vault.Budget{Epsilon: 10, Delta: 1e-6}},
	} {
		b, err := tt.set.budget("config.yaml")
		if err != nil {
			t.Fatal(err)
		}
		frame, err := json.Marshal(&vaultSettings{Budget: b})
		if err != nil {
			t.Fatal(err)
		}
		var told vaultSettings
		if err := strictJSON(frame, &told); err != nil {
			t.Fatal(err)
		}
		if (told.Budget == nil) != (tt.want == nil) || tt.want != nil && *told.Budget != *tt.want {
			t.Errorf("the vault is told %+v, want %+v", told.Budget, tt.want)
		}
	}
}
