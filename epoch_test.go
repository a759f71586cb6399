package consilium_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"consilium"
)

// TestEnrolEncodings: an enrolment in the first epoch is encoded as before
// there were others.
func TestEnrolEncodings(t *testing.T) {
	e := &consilium.Enrol{Study: consilium.NewStudyID(digest(2)), Submission: digest(3), Roster: digest(4), Nonce: digest(5), Commitment: digest(6), Decision: digest(7)}
	first := e.Encode()
	e.Previous = digest(8)
	later := e.Encode()
	if len(later) != len(first)+32 || !bytes.Equal(later[:len(first)], first) {
		t.Fatal("the charter before is not appended to what was there")
	}
	for _, b := range [][]byte{first, later} {
		got, err := consilium.ParseEnrol(b)
		if err != nil || !bytes.Equal(got.Encode(), b) {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
	}
	for _, b := range [][]byte{later[:len(later)-1], append(bytes.Clone(later), 0), append(bytes.Clone(first), make([]byte, 32)...)} {
		if _, err := consilium.ParseEnrol(b); err == nil {
			t.Errorf("%d bytes are accepted", len(b))
		}
	}
}

func charterOf(epoch uint32, sites ...string) *consilium.Charter {
	c := &consilium.Charter{APIVersion: consilium.APIVersion, Kind: "Charter", Protocol: consilium.ProtocolVersion, Study: consilium.NewStudyID(digest(2)), Epoch: epoch,
		Submission: digest(1), Spec: digest(2), Policy: digest(3), Approval: digest(4), Roster: digest(5), Team: "team", KEM: consilium.KEMX25519MLKEM768,
		MinSites: 3, Faults: 1, Confirmation: digest(6)}
	c.TeamKey[0] = 1
	if epoch > 1 {
		c.Handover = &consilium.Handover{Round: 2, State: digest(9)}
	}
	for _, s := range sites {
		m := consilium.Member{Site: consilium.SiteID(s), Operator: s, Nonce: digest(7), Commitment: digest(8), Decision: digest(9)}
		copy(m.Key[:], s)
		m.Sealing[0] = 1
		c.Members = append(c.Members, m)
	}
	c.Threshold = consilium.Threshold(len(c.Members), c.Faults)
	return c
}

// TestSucceeds: what a charter may not change, and who must go on from the one
// before. A successor whose members are all new, or have new keys, could be made of
// the dishonest alone: nobody in it would have counted who has left.
func TestSucceeds(t *testing.T) {
	prev := charterOf(1, "a", "b", "c", "d", "e")
	if err := prev.Validate(); err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(prev)
	if err != nil || bytes.Contains(payload, []byte("handover")) {
		t.Fatal("a charter of the first epoch is encoded otherwise than before there were others", err)
	}
	digestOf := consilium.CharterDigest(payload)
	good := func(change func(*consilium.Charter), sites ...string) error {
		c := charterOf(2, sites...)
		c.Previous = digestOf
		if change != nil {
			change(c)
		}
		if err := c.Validate(); err != nil {
			t.Errorf("the test's own charter: %v", err)
		}
		return c.Succeeds(prev, digestOf)
	}
	for _, sites := range [][]string{{"a", "b", "c", "d", "e"}, {"a", "c", "e"}, {"a", "b", "x", "y", "z"}} {
		if err := good(nil, sites...); err != nil {
			t.Errorf("%v: %v", sites, err)
		}
	}
	for name, c := range map[string]struct {
		want   string
		change func(*consilium.Charter)
		sites  []string
	}{
		"one veteran":          {"go on from the epoch before", nil, []string{"a", "x", "y", "z"}},
		"new keys":             {"go on from the epoch before", func(c *consilium.Charter) { c.Members[0].Key[9]++ }, []string{"a", "b", "x", "y"}},
		"one operator":         {"go on from the epoch before", func(c *consilium.Charter) { c.Members[0].Operator, c.Members[1].Operator = "o", "o" }, []string{"a", "b", "x", "y"}},
		"another charter":      {"does not follow", func(c *consilium.Charter) { c.Previous = digest(1) }, []string{"a", "b", "c"}},
		"an epoch too far":     {"does not follow", func(c *consilium.Charter) { c.Epoch = 3 }, []string{"a", "b", "c"}},
		"another study":        {"of another study", func(c *consilium.Charter) { c.Spec = digest(1) }, []string{"a", "b", "c"}},
		"another policy":       {"of another study", func(c *consilium.Charter) { c.Policy = digest(1) }, []string{"a", "b", "c"}},
		"a larger min_sites":   {"min_sites", func(c *consilium.Charter) { c.MinSites = 4 }, []string{"a", "b", "c", "d"}},
		"a round before":       {"begins with round", func(c *consilium.Charter) { c.Handover = &consilium.Handover{Round: 1} }, []string{"a", "b", "c"}},
		"fewer dishonest ones": {"does not become fewer", nil, []string{"a", "b", "c"}},
	} {
		switch name {
		case "a round before":
			prev.Epoch, prev.Handover, prev.Previous = 1, &consilium.Handover{Round: 2, State: digest(9)}, consilium.Digest{}
		case "fewer dishonest ones":
			prev.Faults = 2
		}
		if err := good(c.change, c.sites...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		prev.Handover, prev.Faults = nil, 1
	}
	if f := consilium.SuccessorFaults(&consilium.Charter{Faults: 3, MinSites: 5}, 0, 5); f != 3 {
		t.Errorf("after f = 3 with five hospitals: f %d", f)
	}
	// Why: of thirteen hospitals three may be dishonest; eight leave. With the default
	// for five, t = 4, the three and one honest hospital each certify two sets.
	certified := func(f int) bool { return 2*(consilium.Threshold(5, f)-3) <= 5-3 }
	if certified(3) || !certified(consilium.DefaultFaults(5, 5)) {
		t.Error("f of the epoch before is not what keeps two sets from being certified")
	}
	if f := consilium.SuccessorFaults(&consilium.Charter{Faults: 1, MinSites: 5}, 0, 16); f != 3 {
		t.Errorf("after f = 1 with sixteen hospitals: f %d", f)
	}
	for name, change := range map[string]func(*consilium.Charter){
		"no handover":         func(c *consilium.Charter) { c.Handover = nil },
		"round 0":             func(c *consilium.Charter) { c.Handover.Round = 0 },
		"no state":            func(c *consilium.Charter) { c.Handover.State = consilium.Digest{} },
		"a state for round 1": func(c *consilium.Charter) { c.Handover.Round = 1 },
		"no predecessor":      func(c *consilium.Charter) { c.Previous = consilium.Digest{} },
	} {
		c := charterOf(2, "a", "b", "c")
		c.Previous = digestOf
		change(c)
		if c.Validate() == nil {
			t.Errorf("%s: a valid charter", name)
		}
	}
}

// Only learned models go on with other contributors, and only where the study says
// so; noise does not change that.
func TestFixedContributors(t *testing.T) {
	train, fit := consilium.AnalysisSpec{Type: consilium.AnalysisTrain}, consilium.AnalysisSpec{Type: consilium.AnalysisCox}
	for _, x := range []struct {
		missing  string
		dp       *consilium.DP
		analyses []consilium.AnalysisSpec
		want     bool
	}{
		{"continue", nil, []consilium.AnalysisSpec{train, train}, false},
		{"continue", nil, []consilium.AnalysisSpec{train, fit}, true},
		{"wait", nil, []consilium.AnalysisSpec{train}, true},
		{"wait", &consilium.DP{Epsilon: 1}, []consilium.AnalysisSpec{train}, true},
		{"abort", &consilium.DP{Epsilon: 1}, []consilium.AnalysisSpec{train}, true},
		{"continue", &consilium.DP{Epsilon: 1}, []consilium.AnalysisSpec{fit}, true},
	} {
		s := &consilium.Spec{Analyses: x.analyses}
		s.Sites.Missing, s.Privacy.DP = x.missing, x.dp
		if got := s.FixedContributors(); got != x.want {
			t.Errorf("missing: %s, dp %v: %v", x.missing, x.dp != nil, got)
		}
	}
}

// TestOnceDraft: a draft that was parsed is not taken for its charter afterwards, nor
// the charter for a draft. One memo for both would.
func TestOnceDraft(t *testing.T) {
	c := charterOf(1, "a", "b", "c")
	charter, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	c.Confirmation = consilium.Digest{}
	draft, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := consilium.ParseDraft(draft); err != nil {
			t.Fatal(err)
		}
		if _, err := consilium.ParseCharter(draft); err == nil {
			t.Error("a draft is taken for a charter")
		}
		if _, err := consilium.ParseCharter(charter); err != nil {
			t.Fatal(err)
		}
		if _, err := consilium.ParseDraft(charter); err == nil {
			t.Error("a charter is taken for a draft")
		}
	}
}
