package worker

import (
	"errors"
	"path/filepath"
	"testing"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/durable"
)

// letters is a charter of hospitals a, b, c, … with its bytes.
func letters(t *testing.T, epoch uint32, previous consilium.Digest, sites ...consilium.SiteID) (*consilium.Charter, []byte) {
	t.Helper()
	any := consilium.Digest{1}
	c := &consilium.Charter{APIVersion: consilium.APIVersion, Kind: "Charter", Protocol: consilium.ProtocolVersion, Study: oldStudy, Epoch: epoch, Previous: previous, KEM: consilium.KEMX25519MLKEM768,
		Submission: any, Spec: any, Policy: any, Approval: any, Roster: any, Team: "team", TeamKey: consilium.SealingKey{1}, Confirmation: any,
		Faults: 1, MinSites: 3, Threshold: consilium.Threshold(len(sites), 1)}
	if epoch > 1 {
		c.Handover = &consilium.Handover{Round: 2, State: any}
	}
	for _, s := range sites {
		c.Members = append(c.Members, consilium.Member{Site: s, Operator: string(s), Key: consilium.PublicKey{1}, Sealing: consilium.SealingKey{1}, Nonce: any, Commitment: any, Decision: any})
	}
	b, err := canon.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := consilium.ParseCharter(b); err != nil {
		t.Fatal(err)
	}
	return c, b
}

// TestSameFrozen: a hospital that goes from epoch 1 into epoch 3 reads what it
// froze by the charter of epoch 1, and finds what is another hospital or other rows.
func TestSameFrozen(t *testing.T) {
	first, b1 := letters(t, 1, consilium.Digest{}, "a", "b", "c", "d")
	second, b2 := letters(t, 2, consilium.CharterDigest(b1), "b", "c", "d")
	third, b3 := letters(t, 3, consilium.CharterDigest(b2), "b", "c", "d")
	rows := func(s consilium.SiteID) consilium.Digest { return consilium.DomainRowSet.Digest([]byte(s)) }
	froze := func(c *consilium.Charter, sites ...consilium.SiteID) *frozen {
		f := &frozen{Round: 1}
		for _, s := range sites {
			p, _ := c.Position(s)
			f.Members, f.RowSets = append(f.Members, p), append(f.RowSets, rows(s))
		}
		return f
	}
	shown := froze(third, "b", "c", "d")
	for name, c := range map[string]struct {
		own   *frozen
		epoch uint32
		fixed []consilium.SiteID // whom the log shows
		want  error
	}{
		"nothing frozen":              {nil, 1, []consilium.SiteID{"b", "c", "d"}, nil},
		"in epoch 1":                  {froze(first, "b", "c", "d"), 1, []consilium.SiteID{"b", "c", "d"}, nil},
		"in epoch 2":                  {froze(second, "b", "c", "d"), 2, []consilium.SiteID{"b", "c", "d"}, nil},
		"another hospital":            {froze(first, "a", "b", "c"), 1, []consilium.SiteID{"b", "c", "d"}, consilium.ErrFrozen},
		"one fewer":                   {froze(first, "b", "c"), 1, []consilium.SiteID{"b", "c", "d"}, consilium.ErrFrozen},
		"one that the log leaves out": {froze(first, "b", "c", "d"), 1, []consilium.SiteID{"b", "c"}, consilium.ErrFrozen},
		"no such position":            {&frozen{Round: 1, Members: []consilium.Position{2, 3, 5}, RowSets: make([]consilium.Digest, 3)}, 1, []consilium.SiteID{"b", "c", "d"}, consilium.ErrFrozen},
		"a log without epoch 1":       {froze(first, "b", "c", "d"), 1, nil, consilium.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			j, err := openJournal(durable.OS, filepath.Join(t.TempDir(), "journal"))
			if err != nil {
				t.Fatal(err)
			}
			defer j.close()
			if c.own != nil {
				if err := j.setFrozen(oldStudy, c.own); err != nil {
					t.Fatal(err)
				}
			}
			if c.epoch > 1 {
				if err := j.setEpoch(oldStudy, c.epoch, c.own); err != nil {
					t.Fatal(err)
				}
			}
			r := &replica{charter: third, prior: &epoch{charter: second}, fixed: map[consilium.SiteID]consilium.Digest{}, charters: map[consilium.Digest][]byte{}}
			for _, b := range [][]byte{b1, b2, b3} {
				r.charters[consilium.CharterDigest(b)] = b
			}
			if c.fixed == nil {
				delete(r.charters, second.Previous)
			}
			for _, s := range c.fixed {
				r.fixed[s] = rows(s)
			}
			a := &actor{gate: &Gate{journal: j}, study: oldStudy, rep: r}
			if err := a.sameFrozen(shown); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}
