package federation

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/he"
	"consilium/he/party"
	"consilium/internal/seal"
)

func hospitals(n int) []consilium.SiteID {
	var out []consilium.SiteID
	for i := range n {
		out = append(out, consilium.SiteID(fmt.Sprintf("hospital-%02d", i+1)))
	}
	return out
}

// hostile makes a federation that ends with the test.
func hostile(t *testing.T, n int) (*Hostile, context.Context) {
	t.Helper()
	h, err := NewHostile(t.TempDir(), hospitals(n))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(func() {
		cancel()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, n := range h.Notes() {
				if n.Err != "" && !n.isSeq {
					t.Logf("%s: %s: %s", n.Site, n.Text, n.Err)
				}
			}
		}
	})
	return h, ctx
}

// tallyOf is what an honest study over some hospitals must give, from plain
// integers.
func tallyOf(n, rounds int, who []int) TallyResult {
	st := tallyState{}
	for r := range rounds {
		sums := make([]int64, n+4)
		for _, i := range who {
			for k, v := range tallyLanes(st, n, consilium.Position(i+1), tallyValues(i)) {
				sums[k] += int64(v)
			}
		}
		st = tallyState{Round: uint32(r + 1), Who: sums[:n], Sums: append(st.Sums, sums[n:])}
	}
	return st
}

func upTo(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func wantResult(t *testing.T, h *Hostile, id consilium.StudyID, want TallyResult) {
	t.Helper()
	b, err := h.Result(id)
	if err != nil {
		t.Fatal(err)
	}
	var got TallyResult
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("result %v, the plain sums are %v", got, want)
	}
}

// TestHostileHonest: a coordinator without a lie completes a study, every
// hospital is in its sums exactly once, and the sums are the plain ones.
func TestHostileHonest(t *testing.T) {
	for _, n := range []int{5, 7} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			h, ctx := hostile(t, n)
			if err := h.StartAll(); err != nil {
				t.Fatal(err)
			}
			id, err := h.Submit("honest", 2, "")
			if err != nil {
				t.Fatal(err)
			}
			if phase, err := h.Wait(ctx, id); err != nil || phase != consilium.PhaseDone {
				t.Fatal(phase, err)
			}
			want := tallyOf(n, 2, upTo(n))
			for _, w := range want.Who {
				if w != 1 {
					t.Fatal("the oracle does not count every hospital once")
				}
			}
			wantResult(t, h, id, want)
		})
	}
}

// reasons says, for every lie, what the hospitals must hold against it and
// where they must say so.
var lieReasons = map[string]struct {
	log, trail string
	silent     bool // nothing to refuse: the votes that it needs never come
}{
	"weak-threshold":       {log: "are not what the study asks for"},
	"foreign-key":          {log: "the draft misstates hospital-02"},
	"uninvited":            {log: "the study does not ask it"},
	"replayed-enrolment":   {log: "hospital-02 is drafted and has not enrolled"},
	"substituted-dealings": {log: "signature", trail: "refused-set: invalid"},
	"alone":                {trail: "refused-set: round.minimum"},
	"too-few":              {trail: "refused-set: round.minimum"},
	"forged-certificate":   {log: "signature"},
	"two-sets":             {silent: true},
	"three-sets":           {silent: true},
	"second-attempt":       {trail: "refused-set: round.locked"},
	"dropped":              {trail: "state: aggregate rejected"},
	"doubled":              {trail: "state: aggregate rejected"},
	"swapped":              {trail: "state: aggregate rejected"},
	"replayed-openings":    {log: "opening for round 1"},
	"smaller-second-round": {trail: "refused-set: study.frozen"},
	"second-study":         {trail: "withdraw: cohort.overlap"},

	"epoch-after-opening":     {log: "members have left epoch 1, 3 must"}, // none or one, as far as the gate has read
	"epoch-of-a-closed-round": {log: "the next epoch begins with round 2, not 1"},
	"epoch-twice":             {silent: true},
	"epoch-with-fewer-faults": {log: "2t must reach n + f + 2"},
}

// TestLies: nobody opens anything that it should not, whatever the
// coordinator tries, and every hospital says why.
func TestLies(t *testing.T) {
	for _, l := range Lies() {
		for _, n := range []int{5, 7} {
			if n == 7 && !slices.Contains([]string{"two-sets", "second-attempt", "dropped", "weak-threshold"}, l.Name) {
				continue
			}
			t.Run(fmt.Sprintf("%s/%d", l.Name, n), func(t *testing.T) {
				t.Parallel()
				want, ok := lieReasons[l.Name]
				if !ok {
					t.Fatal("no reason is expected: a lie without an expectation is not tested")
				}
				h, ctx := hostile(t, n)
				r, err := h.run(ctx, l.Name)
				if err != nil {
					t.Fatal(err)
				}
				if r.Opened || r.Refused != r.Asked {
					t.Errorf("opened %v, refused by %d of %d: %+v", r.Opened, r.Refused, r.Asked, r.Sites)
				}
				said := 0
				for _, s := range r.Sites {
					if slices.ContainsFunc(s.Trail, func(e string) bool { return want.trail != "" && strings.HasPrefix(e, want.trail) }) {
						said++
					}
					if want.log != "" && !strings.Contains(strings.Join(s.Log, "\n"), want.log) {
						t.Errorf("%s does not log %q: %q", s.Site, want.log, s.Log)
					}
				}
				// A false sum is settled when t hospitals rejected it: the others
				// need not look any more.
				need := r.Asked
				if strings.HasPrefix(want.trail, "state") {
					need = consilium.Threshold(n, 1)
				}
				// t hospitals close a round; another may still be catching up when
				// the next one is lied about.
				if l.Name == "smaller-second-round" {
					need = consilium.Threshold(n, 1)
				}
				if want.trail != "" && said < need {
					t.Errorf("%d trails say %q, %d are to: %+v", said, want.trail, need, r.Sites)
				}
			})
		}
	}
	if len(lieReasons) != len(Lies()) {
		t.Errorf("%d lies, %d expectations", len(Lies()), len(lieReasons))
	}
}

// thieves are hospitals without the gate's rules: they hold the secrets of
// every gate and open whatever the coordinator shows them.
type thieves struct {
	h     *Hostile
	c     *course
	group []byte
	keys  []*seal.Key // of round 1, by position
}

func steal(t *testing.T, h *Hostile, c *course) *thieves {
	t.Helper()
	out := &thieves{h: h, c: c}
	for i, m := range c.charter.Members {
		l, err := h.steal(m.Site, c.id)
		if err != nil {
			t.Fatal(err)
		}
		name := "charter"
		if d := c.sealing[i]; !d.IsZero() {
			name = d.String()
		}
		k, err := seal.Parse(l.Sealing[name])
		if err != nil {
			t.Fatalf("%s: %v", m.Site, err)
		}
		out.keys, out.group = append(out.keys, k), l.Group
	}
	return out
}

// open is what naive hospitals do: no signature, no certificate, no lock, no
// freeze, no min_sites. It opens the sum of parts under the name of set.
func (n *thieves) open(t *testing.T, set *consilium.Contributors, parts []*upload) ([]int64, error) {
	t.Helper()
	group, err := party.ParseGroupKey(n.group)
	if err != nil {
		t.Fatal(err)
	}
	c := n.c
	members := len(c.charter.Members)
	p, err := he.Choose(parts[0].shape.Lanes, parts[0].shape.Bits, members)
	if err != nil {
		t.Fatal(err)
	}
	if p.LogN != 11 {
		t.Fatalf("logN %d", p.LogN)
	}
	var openings []*party.OpeningShare
	for i := range c.charter.Threshold {
		holder := consilium.Position(i + 1)
		var shares []*party.KeyShare
		for _, m := range set.Members {
			u := c.uploads[m.Position]
			at := consilium.At{Charter: set.Charter, Round: set.Round, Attempt: set.Attempt, Position: m.Position}
			s, err := party.OpenBox(p, u.shape.Lanes, members, c.charter.Threshold, at, u.message.Body, holder, n.h.blobs[u.header.Boxes[i]], n.keys[i])
			if err != nil {
				t.Fatalf("position %d: %v", holder, err)
			}
			shares = append(shares, s)
		}
		o, err := party.NewOpeningShare(set, holder, shares)
		if err != nil {
			return nil, err
		}
		openings = append(openings, o)
	}
	sum, err := sumUploads(members, parts)
	if err != nil {
		t.Fatal(err)
	}
	var got []int64
	err = party.Open(context.Background(), &party.Decryption{Profile: p, Lanes: parts[0].shape.Lanes, Threshold: c.charter.Threshold, Members: members,
		State: c.state, Set: set, Group: group, Openings: openings}, strings.NewReader(string(sum)),
		party.SinkFunc(func(v []int64) error { got = append(got, v...); return nil }))
	return got, err
}

func (n *thieves) sum(t *testing.T, positions ...consilium.Position) []int64 {
	t.Helper()
	set := n.c.setOf(positions...)
	var parts []*upload
	for _, m := range set.Members {
		parts = append(parts, n.c.uploads[m.Position])
	}
	got, err := n.open(t, set, parts)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func minus(a, b []int64) []int64 {
	out := make([]int64, len(a))
	for i := range a {
		out[i] = a[i] - b[i]
	}
	return out
}

func wide(v []int32) []int64 {
	out := make([]int64, len(v))
	for i, x := range v {
		out[i] = int64(x)
	}
	return out
}

// TestNaiveTwins: hospitals without one of the rules give the victim's values
// away to the same lies. If a twin stops being broken, its rule is no longer
// shown to be needed, and the test fails.
func TestNaiveTwins(t *testing.T) {
	const n = 5
	secret := func(st tallyState) []int64 { return wide(tallyLanes(st, n, 2, tallyValues(1))) }
	want := func(t *testing.T, what string, got, want []int64) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: the attack gives %v, the victim's vector is %v: the twin is not broken", what, got, want)
		}
	}
	tell := func(t *testing.T, name string) (*Hostile, *course, *thieves, consilium.Position) {
		t.Helper()
		t.Parallel()
		h, ctx := hostile(t, n)
		c, err := h.tellLie(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		return h, c, steal(t, h, c), c.place(h.victim())
	}
	t.Run("min_sites", func(t *testing.T) {
		h, c, naive, victim := tell(t, "too-few")
		two := naive.sum(t, victim, c.place(h.colluder()))
		want(t, "the victim and the colluder", minus(two, wide(tallyLanes(tallyState{}, n, c.place(h.colluder()), tallyValues(n-1)))), secret(tallyState{}))
		// One hospital alone is refused by the arithmetic itself.
		if _, err := naive.open(t, c.setOf(victim), []*upload{c.uploads[victim]}); err == nil {
			t.Error("an opening share of one hospital's key alone")
		}
	})
	t.Run("lock", func(t *testing.T) {
		_, c, naive, _ := tell(t, "second-attempt")
		// The first attempt's openings gave the sum over all, and hospitals
		// without a lock open the second.
		all := make([]int64, n+4)
		for i := range n {
			for k, v := range tallyLanes(tallyState{}, n, consilium.Position(i+1), tallyValues(i)) {
				all[k] += int64(v)
			}
		}
		if len(c.old) != n {
			t.Fatalf("%d openings in the first attempt", len(c.old))
		}
		want(t, "two attempts", minus(all, naive.sum(t, c.without(c.h.victim())...)), secret(tallyState{}))
	})
	t.Run("certificate", func(t *testing.T) {
		h, c, naive, _ := tell(t, "forged-certificate")
		want(t, "two sets of one attempt", minus(naive.sum(t, c.expected()...), naive.sum(t, c.without(h.victim())...)), secret(tallyState{}))
	})
	t.Run("signatures", func(t *testing.T) {
		_, c, naive, _ := tell(t, "substituted-dealings")
		want(t, "dealings by the coordinator", naive.sum(t, c.expected()...), secret(tallyState{}))
	})
	t.Run("binding", func(t *testing.T) {
		_, c, naive, victim := tell(t, "alone")
		// A set that does not bind what is opened: the sum without one hospital
		// passes for the sum over all, and only the one-hot lanes tell.
		got := naive.sum(t, c.without(c.h.victim())...)
		if got[victim-1] != 0 {
			t.Error("the victim is in the sum that it was dropped from")
		}
		// The real check: the key of the set does not open another sum.
		var parts []*upload
		for _, p := range c.without(c.h.victim()) {
			parts = append(parts, c.uploads[p])
		}
		if got, err := naive.open(t, c.setOf(c.expected()...), parts); err != consilium.ErrAggregateRejected || got != nil {
			t.Errorf("a dropped contribution: %v %v", got, err)
		}
	})
	t.Run("freeze", func(t *testing.T) {
		h, c, naive, _ := tell(t, "smaller-second-round")
		st := tallyOf(n, 1, upTo(n))
		// Known to every hospital: the state after round 1.
		less := naive.sum(t, c.without(h.victim())...)
		mean := make([]int64, 4)
		for k := range mean {
			mean[k] = st.Sums[0][k] / n
			got := st.Sums[0][k] - (n-1)*mean[k] - less[n+k]
			if got != int64(tallyValues(1)[k]) {
				t.Errorf("value %d from two rounds: %d, the victim's is %d", k, got, tallyValues(1)[k])
			}
		}
	})
	t.Run("ledger of sums", func(t *testing.T) {
		t.Parallel()
		// Hospitals that do not remember the first study run the second.
		var sums [2][]int64
		for i, asked := range [][]consilium.SiteID{hospitals(n), slices.Delete(hospitals(n), 1, 2)} {
			h, ctx := hostile(t, n)
			if err := h.StartAll(); err != nil {
				t.Fatal(err)
			}
			id, err := h.Submit("question", 1, "", asked...)
			if err != nil {
				t.Fatal(err)
			}
			if phase, err := h.Wait(ctx, id); err != nil || phase != consilium.PhaseDone {
				t.Fatal(phase, err)
			}
			b, err := h.Result(id)
			if err != nil {
				t.Fatal(err)
			}
			var r TallyResult
			if err := json.Unmarshal(b, &r); err != nil {
				t.Fatal(err)
			}
			sums[i] = r.Sums[0]
		}
		want(t, "two studies", minus(sums[0], sums[1]), wide(tallyValues(1)))
	})
	t.Run("rounds", func(t *testing.T) {
		h, c, naive, _ := tell(t, "replayed-openings")
		// Hospitals whose group key stays the same and whose openings are bound
		// to no round take what round 1 gave for the sums of round 2.
		first, err := party.ParseGroupKey(c.kept["group"])
		if err != nil {
			t.Fatal(err)
		}
		second, err := party.ParseGroupKey(naive.group)
		if err != nil {
			t.Fatal(err)
		}
		u := c.uploads[1]
		p, err := he.Choose(u.shape.Lanes, u.shape.Bits, n)
		if err != nil {
			t.Fatal(err)
		}
		var openings []*party.OpeningShare
		for _, m := range c.old {
			o, err := consilium.ParseOpening(m.Body)
			if err != nil {
				t.Fatal(err)
			}
			share, err := party.UnsealOpening(p, first, o.At, o.Set, o.Sealed)
			if err != nil {
				t.Fatal(err)
			}
			openings = append(openings, share)
			at := o.At
			at.Round = 2
			if _, err := party.UnsealOpening(p, second, at, c.set.Digest(), o.Sealed); err == nil {
				t.Error("an opening of round 1 opens in round 2")
			}
		}
		var got []int64
		err = party.Open(t.Context(), &party.Decryption{Profile: p, Lanes: u.shape.Lanes, Threshold: c.charter.Threshold, Members: n, Set: c.oldSet, Group: first, Openings: openings},
			bytes.NewReader(h.blobs[c.oldSum.Blob]), party.SinkFunc(func(v []int64) error { got = append(got, v...); return nil }))
		if err != nil {
			t.Fatal(err)
		}
		old := tallyOf(n, 1, upTo(n))
		want(t, "replayed openings", got, append(slices.Clone(old.Who), old.Sums[0]...))
		if slices.Equal(got, naive.sum(t, c.expected()...)) {
			t.Error("round 2 has the sums of round 1: a replay would change nothing")
		}
	})
}
