package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"consilium"
	"consilium/policy"
	"consilium/worker/vault"
)

// TestDuties: of several policies the strictest answer holds, and a policy that
// gives none makes no duty smaller.
func TestDuties(t *testing.T) {
	allowed := policy.Decision{Point: policy.PointWithdrawal, Allow: true, Obligations: []string{"tell_recipients", "exclude_from_next_reading"}}
	erase := policy.Decision{Point: policy.PointWithdrawal, Reasons: []policy.Reason{{Code: "GDPR-17", Message: "records must be erased", Kind: policy.Law, Article: "GDPR Art. 17", Regime: "GDPR"}},
		Obligations: []string{"exclude_from_next_reading"}}
	stale := policy.Decision{Point: policy.PointWithdrawal, Reasons: []policy.Reason{{Code: policy.CodeLawDataStale, Message: "the dated law has run out", Kind: policy.Policy, Regime: "ENGINE"}}}
	board := policy.Decision{Point: policy.PointWithdrawal, Reasons: []policy.Reason{{Code: "BOARD-CALL", Message: "call the board", Kind: policy.Policy, Regime: "BOARD"}}, Obligations: []string{"call_the_board"}}
	for _, c := range []struct {
		name  string
		list  []policy.Decision
		erase bool
		says  []string
	}{
		{"one that keeps", []policy.Decision{allowed}, false, []string{"need not be erased", "tell the teams"}},
		{"one that erases", []policy.Decision{allowed, erase}, true, []string{"ERASE", "ledger erase --patient 7 --rows", "GDPR Art. 17"}},
		{"law that has run out", []policy.Decision{allowed, stale}, true, []string{"ERASE", "run out"}},
		{"a board's duty", []policy.Decision{board}, false, []string{"call_the_board: asked for by a board", "BOARD-CALL"}},
	} {
		d := &duties{}
		for _, dec := range c.list {
			d.add(dec)
		}
		d.Running = []access{{Study: "st-a", About: vault.About{Name: "exact", Team: "t1", Frozen: true}}, {Study: "st-b", About: vault.About{Name: "learned", Team: "t2"}}, {Study: "st-c"}}
		d.Ended = []access{{Study: "st-d", About: vault.About{Name: "old", Team: "t3"}}}
		var w bytes.Buffer
		d.show(&w, "7")
		if d.Erase != c.erase {
			t.Errorf("%s: erase %t", c.name, d.Erase)
		}
		for _, s := range append(c.says, "exact (st-a), asked by t1: this hospital leaves it", "learned (st-b), asked by t2: goes on without", "st-c, asked by : this hospital leaves it", "ended: old (st-d), asked by t3") {
			if !strings.Contains(w.String(), s) {
				t.Errorf("%s does not say %q:\n%s", c.name, s, w.String())
			}
		}
	}
}

// TestDutiesOfAPart: whom a consent goes on for keeps the records that it covers;
// what the rules say of the rest is told as they say it, whether the withdrawal named
// a part or was of another consent. The naive twins ask the rules and no more, which
// has everything erased, or go by what the withdrawal names, which has something
// erased that may be kept and something kept that must be erased.
func TestDutiesOfAPart(t *testing.T) {
	erase := policy.Decision{Point: policy.PointWithdrawal, Reasons: []policy.Reason{{Code: "GDPR-17", Message: "records must be erased", Kind: policy.Law, Article: "GDPR Art. 17", Regime: "GDPR"}}}
	retain := policy.Decision{Point: policy.PointWithdrawal, Allow: true, Obligations: []string{"retain_and_exclude"}}
	for _, c := range []struct {
		name  string
		rules policy.Decision
		taken []string
		rest  bool
		says  string
	}{
		{"a part, to be erased", erase, []string{"genetic"}, true, "ERASE of them what the tables hold of genetic for"},
		{"a part, kept for a document", retain, []string{"genetic"}, false, "What was withdrawn need not be erased"},
		{"all of an older consent, to be erased", erase, nil, true, "ERASE of them what the tables hold of every category but these"},
		{"all of an older consent, kept", retain, nil, false, "What was withdrawn need not be erased"},
	} {
		d := &duties{}
		d.add(c.rules)
		if d.Erase != c.rest {
			t.Fatalf("%s: the rules ask for %t", c.name, d.Erase)
		}
		d.keep([]string{"general"}, c.taken)
		d.Running = []access{{Study: "st-a", About: vault.About{Name: "exact", Team: "t1", Frozen: true}}, {Study: "st-b", About: vault.About{Name: "learned", Team: "t2"}}}
		var w bytes.Buffer
		d.show(&w, "7")
		for _, s := range []string{"goes on for general", c.says, "st-a), asked by t1: if it asks", "st-b), asked by t2: goes on without the patient's rows, if it asks"} {
			if !strings.Contains(w.String(), s) {
				t.Errorf("%s: it does not say %q:\n%s", c.name, s, w.String())
			}
		}
		if d.Erase || strings.Contains(w.String(), "ledger erase") {
			t.Errorf("%s: all records are erased:\n%s", c.name, w.String())
		}
		var said map[string]any
		if b, err := json.Marshal(d); err != nil || json.Unmarshal(b, &said) != nil || said["eraseRest"] != c.rest || strings.Contains(w.String(), "ERASE") != c.rest {
			t.Errorf("%s: %v\n%s", c.name, said["eraseRest"], w.String())
		}
	}
}

// TestEventGrounds: consent was the only ground unless the hospital filed another
// one for both articles.
func TestEventGrounds(t *testing.T) {
	sites, err := policy.ParseSiteFactsList([]byte(mustRead(t, "../../examples/cgd/sites.json")))
	if err != nil {
		t.Fatal(err)
	}
	engine, err := policy.Compile(policy.DemoBundle())
	if err != nil {
		t.Fatal(err)
	}
	want := map[consilium.SiteID]bool{"amsterdam": false, "copenhagen": false}
	for _, f := range sites {
		e, err := policy.NewEvent(policy.EventWithdrawal, f, 1795262400, "")
		if err != nil {
			t.Fatal(err)
		}
		if sole, ok := want[f.Site]; ok && sole != e.ConsentWasSoleGround {
			t.Errorf("%s: consent was the only ground: %t", f.Site, e.ConsentWasSoleGround)
		}
		e.ConsentWasSoleGround = true
		d, err := engine.Decide(t.Context(), policy.PointWithdrawal, policy.Input{Now: 1795262400, Site: f, Event: e})
		if err != nil {
			t.Fatal(err)
		}
		if erase := d.Has("GDPR-17"); erase != (f.Country == "NL" || f.Country == "DK") || !d.Allow != erase {
			t.Errorf("%s, %s: %s", f.Site, f.Country, policy.Explain(d))
		}
		// Kept, where a document says that the research would be seriously impaired.
		if e, err = policy.NewEvent(policy.EventWithdrawal, f, 1795262400, "impairment-1"); err != nil {
			t.Fatal(err)
		}
		e.ConsentWasSoleGround = true
		if d, err = engine.Decide(t.Context(), policy.PointWithdrawal, policy.Input{Now: 1795262400, Site: f, Event: e}); err != nil || !d.Allow {
			t.Errorf("%s: %v %s", f.Site, err, policy.Explain(d))
		}
		for _, id := range []string{"memo #7", strings.Repeat("x", 201)} {
			if _, err = policy.NewEvent(policy.EventWithdrawal, f, 1795262400, id); !errors.Is(err, consilium.ErrInvalid) {
				t.Errorf("%s: the id %.10q: %v", f.Site, id, err)
			}
		}
	}
}

// Whether consent was the only ground, from what a hospital filed: none beside it
// under one of the laws that hold is enough.
func TestSoleGround(t *testing.T) {
	sites, err := policy.ParseSiteFactsList([]byte(mustRead(t, "../../examples/cgd/sites.json")))
	if err != nil {
		t.Fatal(err)
	}
	facts := func(name, law string) map[string]any {
		t.Helper()
		i := slices.IndexFunc(sites, func(f *policy.SiteFacts) bool { return string(f.Site) == name })
		var doc map[string]any
		if err := json.Unmarshal(sites[i].JSON(), &doc); err != nil || doc[law] == nil {
			t.Fatal(err, name, law)
		}
		return doc
	}
	const patient, public = "6.1.a 9.2.a", "6.1.e 9.2.j"
	for _, x := range []struct {
		eu, uk string // grounds under each law, "" where it does not hold
		sole   bool
	}{
		{patient, "", true},
		{public, "", false},
		{"6.1.a 9.2.j", "", true},
		{patient, public, true},
		{public, patient, true},
		{public, public, false},
		{"", patient, true},
		{"", public, false},
	} {
		doc := facts("amsterdam", "gdpr")
		filed := map[string]map[string]any{"gdpr": doc["gdpr"].(map[string]any), "uk": {"nation": "England", "taskLaw": "", "legitimateInterests": "", "publicAuthority": true, "publicInterest": true,
			"ethicsApproval": "", "noDamage": true, "noIndividualDecision": true, "approvedMedicalResearch": true, "notice": "2026-02-02", "noticeReason": "", "publicNotice": "2026-02-02",
			"confidentiality": "none", "support": "", "supportUntil": "2036-07-01", "record": "", "dpia": "", "highRiskConsulted": false, "processors": []any{}, "transfers": []any{}}}
		regimes := []string{}
		set := func(regime, law, grounds string) {
			if grounds == "" {
				return
			}
			regimes = append(regimes, regime)
			part := maps.Clone(filed[law])
			part["art6"], part["art9"], _ = strings.Cut(grounds, " ")
			doc[law] = part
		}
		set("GDPR", "gdpr", x.eu)
		set("UKGDPR", "uk", x.uk)
		doc["regimes"] = regimes
		b, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		f, err := policy.ParseSiteFacts(b)
		if err != nil {
			t.Fatal(err)
		}
		e, err := policy.NewEvent(policy.EventWithdrawal, f, 1795262400, "")
		if err != nil {
			t.Fatal(err)
		}
		if e.ConsentWasSoleGround != x.sole {
			t.Errorf("EU %q, UK %q: %t", x.eu, x.uk, e.ConsentWasSoleGround)
		}
	}
}
