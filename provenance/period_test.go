package provenance

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// TestClaimsWhile: within the period that is noted, claims are those of every
// moment in it, over consents that begin, end, overlap and are withdrawn in whole and
// in part; who keeps claims beyond it keeps stale ones.
func TestClaimsWhile(t *testing.T) {
	c := newConsentHouse(t)
	r := rand.New(rand.NewPCG(3, 5))
	t0 := epoch.Unix()
	scopes := []string{"general", "genetic", "hiv"}
	for d := int64(1); d < 90; d += 1 + r.Int64N(9) {
		c.now = time.Unix(t0+d*day, 0)
		switch r.IntN(5) {
		case 0:
			c.add(c.withdraw(c.key, Withdrawal{At: c.now.Unix() + r.Int64N(3) - 1}))
		case 1:
			c.add(c.withdraw(c.key, Withdrawal{At: c.now.Unix(), Scopes: scopes[:1+r.IntN(3)]}))
		default:
			con := consentFor(scopes[:1+r.IntN(3)]...)
			con.Given = t0 + d*day
			con.From = con.Given + r.Int64N(4)*day
			if con.Until = con.From + (1+r.Int64N(30))*day; r.IntN(4) == 0 {
				con.Until = 0
			}
			doc := c.sign(con)
			c.add(doc)
			if r.IntN(3) == 0 {
				c.now = c.now.Add(time.Hour)
				c.add(c.withdraw(c.key, Withdrawal{Consent: doc.Digest(), At: c.now.Unix(), Scopes: scopes[:r.IntN(2)]}))
			}
		}
	}
	claims := func(at int64, p *Period) Claims {
		t.Helper()
		cl, err := c.cs.ClaimsWhile(c.p, time.Unix(at, 0), p)
		if err != nil {
			t.Fatal(err)
		}
		return cl
	}
	periods, stale := 0, 0
	for at := t0 - day; at < t0+140*day; {
		p := Always()
		was := claims(at, &p)
		if !p.Holds(at) {
			t.Fatalf("%v does not hold %d", p, at)
		}
		from, until := max(p.From, t0-day), min(p.Until, t0+140*day)
		for _, x := range []int64{from, until - 1, from + r.Int64N(until-from), from + r.Int64N(until-from)} {
			any := Always()
			if now := claims(x, &any); !reflect.DeepEqual(now, was) {
				t.Errorf("at %d, within %v of %d: %+v, not %+v", x-t0, p, at-t0, now, was)
			}
			if history, err := c.cs.Claims(c.p, time.Unix(x, 0)); err != nil || !reflect.DeepEqual(history, was) {
				t.Errorf("Claims at %d: %+v, %v", x-t0, history, err)
			}
		}
		if p.Until < t0+140*day {
			any := Always()
			if now := claims(p.Until, &any); !reflect.DeepEqual(now, was) {
				stale++
			}
		}
		periods, at = periods+1, until
	}
	t.Logf("%d periods, %d at whose end the claims are others", periods, stale)
	if periods < 10 || stale < 5 {
		t.Error("the test shows little")
	}
}
