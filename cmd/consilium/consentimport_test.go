package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/internal/table"
	"consilium/policy"
	"consilium/provenance"
	"consilium/provenance/did"
	"consilium/worker/vault"
)

// TestConsentImport brings consents of other systems into a hospital's store and
// asks the row rules what comes of them. The documents are our own, in the forms of
// the standards; HL7's published examples are read by policy/consent's tests.
func TestConsentImport(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: -short")
	}
	k := provisionAll(t)
	start(t, "witness runs", "ledger", "witness", "--config", k.config("board-1"))
	config := k.config(site(0))
	keys := filepath.Join(k.dir, "imported-keys")
	if err := os.MkdirAll(keys, 0o700); err != nil {
		t.Fatal(err)
	}
	seed := ed25519.NewKeyFromSeed([]byte("an issuer of consents, 32 bytes!"))
	key := did.FromEd25519([32]byte(seed.Public().(ed25519.PublicKey)))
	issuer := key.KeyDID()
	sign := func(typ, payload string) string {
		head, err := json.Marshal(map[string]string{"alg": key.Algorithm(), "typ": typ})
		if err != nil {
			t.Fatal(err)
		}
		b64 := base64.RawURLEncoding
		in := b64.EncodeToString(head) + "." + b64.EncodeToString([]byte(payload))
		return in + "." + b64.EncodeToString(ed25519.Sign(seed, []byte(in)))
	}
	research := `"category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/consentcategorycodes","code":"research"}]}]`
	r5 := func(patient, more string) string {
		return `{"resourceType":"Consent","status":"active",` + research + `,"subject":{"reference":"Patient/` + patient + `"},` + more + `}`
	}
	r4 := func(patient, more string) string {
		return `{"resourceType":"Consent","status":"active","scope":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/consentscope","code":"research"}]},"patient":{"reference":"Patient/` + patient + `"},` + more + `}`
	}
	vc := func(by, more, claim string) string {
		return `{"@context":["https://www.w3.org/ns/credentials/v2"],"type":["VerifiableCredential","ConsentCredential"],"issuer":"` + by + `",` + more +
			`"validFrom":"2026-01-01T00:00:00Z","validUntil":"2090-01-01T00:00:00Z","credentialSubject":{"id":"did:key:patient","consent":` + claim + `}}`
	}
	gru := `{"decision":"permit","givenBy":"self","purposes":[{"id":"DUO:0000042"}],"rules":[]}`
	path := func(name, text string) string {
		p := filepath.Join(k.dir, name)
		write(t, p, text)
		return p
	}
	row := letInAt(t, config)
	for _, c := range []struct {
		name, patient, flag, doc string
		args                     []string
		says                     string // of a refusal by the command; "" where it is entered
		in                       bool   // the row is let in afterwards
	}{
		{"FHIR R5", "100", "fhir", r5("100", `"decision":"permit"`), []string{"--on-word", "Dr. Noor"}, "", true},
		{"FHIR R4, signed", "101", "fhir", sign(provenance.TypImported, r4("101", `"policyRule":{"coding":[{"code":"OPTIN"}]}`)), []string{"--issuer", issuer}, "", true},
		{"DUO", "102", "duo", `{"codes":[{"id":"DUO:0000042"}],"givenBy":"self"}`, []string{"--on-word", "Dr. Noor"}, "", true},
		{"DUO, this disease", "103", "duo", `{"codes":[{"id":"DUO:0000007","args":["MONDO:0018305"]}],"givenBy":"self"}`, []string{"--on-word", "Dr. Noor"}, "", true},
		{"DUO, another disease", "104", "duo", `{"codes":[{"id":"DUO:0000007","args":["MONDO:0004992"]}],"givenBy":"self"}`, []string{"--on-word", "Dr. Noor"}, "", false},
		{"DUO, for a place", "105", "duo", `{"codes":[{"id":"DUO:0000042"},{"id":"DUO:0000022","args":["NL"]}],"givenBy":"self"}`, []string{"--on-word", "Dr. Noor"}, "", false},
		{"W3C credential", "106", "credential", sign(provenance.TypImportedVC, vc(issuer, "", gru)), []string{"--issuer", issuer, "--reference", "did:key:patient"}, "", true},
		{"W3C credential that denies", "107", "credential", sign(provenance.TypImportedVC, vc(issuer, "", strings.Replace(gru, "permit", "deny", 1))), []string{"--issuer", issuer, "--reference", "did:key:patient"}, "", false},
		{"FHIR R5 that denies", "108", "fhir", r5("108", `"decision":"deny"`), []string{"--on-word", "Dr. Noor"}, "", false},
		{"FHIR R5, ended by a period inside", "109", "fhir", r5("109", `"decision":"deny","provision":[{"period":{"end":"2025"}}]`), []string{"--on-word", "Dr. Noor"}, "", false},
		// What must not be entered. The rows of patients who were never asked are let in
		// by this hospital's rule, which shows that nothing was.
		{"no signature, nobody's word", "110", "fhir", r5("110", `"decision":"permit"`), nil, "bears no signature", true},
		{"a stranger's signature", "110", "fhir", sign(provenance.TypImported, r5("110", `"decision":"permit"`)), []string{"--issuer", did.FromEd25519([32]byte{1}).KeyDID()}, "signature", true},
		{"no issuer trusted", "110", "fhir", sign(provenance.TypImported, r5("110", `"decision":"permit"`)), []string{"--on-word", "Dr. Noor"}, "no issuer is trusted", true},
		{"another type of token", "110", "fhir", sign("JWT", r5("110", `"decision":"permit"`)), []string{"--issuer", issuer}, "type", true},
		{"another patient", "110", "fhir", r5("111", `"decision":"permit"`), []string{"--on-word", "Dr. Noor"}, "--reference", true},
		{"another issuer named", "110", "credential", sign(provenance.TypImportedVC, vc("did:key:other", "", gru)), []string{"--issuer", issuer, "--reference", "did:key:patient"}, "names the issuer", true},
		{"a status that cannot be looked up", "110", "credential", sign(provenance.TypImportedVC, vc(issuer, `"credentialStatus":{"id":"x"},`, gru)), []string{"--issuer", issuer, "--reference", "did:key:patient"}, "status", true},
		{"a token that has lapsed", "110", "credential", sign(provenance.TypImportedVC, strings.Replace(vc(issuer, `"exp":1577836800,`, gru), `,"validUntil":"2090-01-01T00:00:00Z"`, "", 1)), []string{"--issuer", issuer, "--reference", "did:key:patient"}, "out of its time", true},
		{"an unsigned credential", "110", "credential", vc(issuer, "", gru), []string{"--on-word", "Dr. Noor", "--reference", "did:key:patient"}, "with its signature", true},
		{"what cannot be read", "110", "fhir", r5("110", `"decision":"permit","modifierExtension":[{"url":"x"}]`), []string{"--on-word", "Dr. Noor"}, "cannot be entered", true},
		{"not about research", "110", "fhir", strings.Replace(r5("110", `"decision":"permit"`), research+",", "", 1), []string{"--on-word", "Dr. Noor"}, "is research", true},
		{"given by another", "110", "duo", `{"codes":[{"id":"DUO:0000042"}],"givenBy":"representative"}`, []string{"--on-word", "Dr. Noor"}, "consent mandate", true},
	} {
		file := path("document", c.doc)
		args := append([]string{"consent", "import", "--config", config, "--patient", c.patient, "--" + c.flag, file, "--keys", keys, "--answers", "explicit,informed"}, c.args...)
		out, stderr, code := try(t.Context(), args...)
		switch {
		case c.says == "" && code != exitDone:
			t.Errorf("%s: %d %s", c.name, code, stderr)
		case c.says != "" && (code == exitDone || !strings.Contains(stderr, c.says)):
			t.Errorf("%s: %d %s%s, want %q", c.name, code, out, stderr, c.says)
		}
		if got := row(t.Context(), c.patient); got != c.in {
			t.Errorf("%s: the row is let in %t, want %t\n%s", c.name, got, c.in, out)
		}
	}
	// Until when a credential holds, its token says too.
	until := time.Now().AddDate(1, 0, 0)
	must(t, "consent", "import", "--config", config, "--patient", "112", "--credential", path("dated", sign(provenance.TypImportedVC, vc(issuer, fmt.Sprintf(`"exp":%d,`, until.Unix()), gru))),
		"--issuer", issuer, "--reference", "did:key:patient", "--keys", keys)
	if out := must(t, "consent", "show", "--config", config, "--patient", "112"); !strings.Contains(out, "until "+until.UTC().Format(time.DateOnly)) {
		t.Errorf("the token ends before the credential:\n%s", out)
	}
	// A later document that denies ends what an earlier one permitted, and the desk
	// withdraws an imported consent like any other.
	must(t, "consent", "import", "--config", config, "--patient", "100", "--fhir", path("later", r5("100", `"decision":"deny"`)), "--keys", keys, "--on-word", "Dr. Noor")
	must(t, "consent", "withdraw", "--config", config, "--patient", "101")
	// A refusal is a withdrawal: the rules are asked, and their answer is recorded.
	recorded := func() int {
		_, n, err := policy.VerifyAudit(strings.NewReader(mustRead(t, filepath.Join(dataOf(t, config), withdrawalsDir, decisionsFile))))
		if err != nil {
			t.Fatal(err)
		}
		return int(n)
	}
	before := recorded()
	refusal := []string{"consent", "import", "--config", config, "--patient", "102", "--fhir", path("refusal", r5("102", `"decision":"deny"`)), "--keys", keys, "--on-word", "Dr. Noor"}
	if out := must(t, refusal...); recorded() <= before || !strings.Contains(out, "The rules were asked") || !strings.Contains(out, "exclude_from_next_reading: done") {
		t.Errorf("what a refusal asks for, %d and %d decisions:\n%s", before, recorded(), out)
	}
	var said imported
	if err := json.Unmarshal([]byte(must(t, append(refusal, "--impairment", "impairment-1", "--json")...)), &said); err != nil || said.Duties == nil || said.Duties.Withdrawal != said.Entered || len(said.Duties.Decisions) == 0 {
		t.Errorf("%+v %v", said.Duties, err)
	}
	// What was taken back here, another system's document does not give again: there
	// it may still say active.
	for _, patient := range []string{"100", "101"} {
		_, stderr, code := try(t.Context(), "consent", "import", "--config", config, "--patient", patient, "--fhir", path("again", r5(patient, `"decision":"permit"`)), "--keys", keys, "--on-word", "Dr. Noor")
		if code == exitDone || !strings.Contains(stderr, "took a consent back") {
			t.Errorf("patient %s: %d %s", patient, code, stderr)
		}
	}
	for _, p := range []string{"100", "101"} {
		if row(t.Context(), p) {
			t.Errorf("patient %s is still used", p)
		}
	}
}

// letInAt says of a patient whether the row rules of a hospital that asks for
// consent only where one was given let the rows in now, from what is in the store.
func letInAt(t *testing.T, config string) func(context.Context, string) bool {
	t.Helper()
	b, _, err := (&policy.Vector{Point: policy.PointRows, Changes: []string{"study.columns.3.used = false"}}).Question(policy.ExampleQuestions()["us"])
	if err != nil {
		t.Fatal(err)
	}
	_, in, err := policy.ParseQuestion(b)
	if err != nil {
		t.Fatal(err)
	}
	in.Record = nil
	e, err := policy.Compile(policy.DemoBundle())
	if err != nil {
		t.Fatal(err)
	}
	spec := &consilium.Spec{Name: "interferon", Purpose: consilium.Purpose{Disease: "MONDO:0018305"}}
	h, err := openHospital(config, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, patient string) bool {
		store, alias, err := h.verifiedConsents(ctx)
		if err != nil {
			t.Fatal(err)
		}
		name := provenance.Pseudonym(table.Pseudonym(alias, patient))
		// The question is of November 2026, for which the dated law holds; what the
		// store says now is shown as of then.
		claims, err := store.Claims(name, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		s := vault.Subject(spec, name, &claims, vault.Register{Adult: true, CitizenOrLPR: true})
		s.ValidFrom = min(s.ValidFrom, in.Now)
		if s.WithdrawnAt != policy.Never {
			s.WithdrawnAt = min(s.WithdrawnAt, in.Now)
		}
		rows, err := e.FilterRows(ctx, in, policy.SubjectRecord([]policy.Subject{s}))
		if err != nil {
			t.Fatal(err)
		}
		if err := rows.Decision.Err(); err != nil {
			t.Fatal(err)
		}
		return rows.Allowed[0]
	}
}
