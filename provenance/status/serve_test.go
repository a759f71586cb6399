package status

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"consilium"
	"consilium/internal/hybrid"
	"consilium/provenance/did"
)

func TestServeAndFetch(t *testing.T) {
	key, err := hybrid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := hybrid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	issuer := did.Hybrid(key.Public())
	start := time.Unix(1_800_000_000, 0)
	now := start
	l, _ := NewList(0)
	l.Set(5, true)
	publish := func(by *hybrid.Key, id string, valid time.Duration) string {
		token, err := Sign(by, Published{ID: id, Purpose: Revocation, From: start, Until: start.Add(valid), List: l})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	token := publish(key, "urn:list", 30*24*time.Hour)
	s := httptest.NewTLSServer(Handler(func() (string, error) {
		if token == "" {
			return "", errors.New("gone")
		}
		return token, nil
	}, issuer, func() time.Time { return now }))
	defer s.Close()
	week := 7 * 24 * time.Hour
	fetch := func() (*Published, error) {
		return Fetch(t.Context(), s.Client(), s.URL+"/status", "urn:list", issuer, week, now)
	}
	p, err := fetch()
	if err != nil {
		t.Fatal(err)
	}
	if set, err := p.Set(NewEntry("urn:list", 5)); err != nil || !set {
		t.Errorf("%v %v", set, err)
	}
	// In force by its own words, and too old for who asks: the naive twin, which
	// believes the words, would not see a revocation for a month.
	now = start.Add(8 * 24 * time.Hour)
	if _, err := Open(token, issuer, now); err != nil {
		t.Errorf("the naive twin noticed: %v", err)
	}
	if _, err := fetch(); !errors.Is(err, consilium.ErrStale) {
		t.Errorf("an old list: %v", err)
	}
	now = start
	if _, err := Fetch(t.Context(), s.Client(), s.URL, "urn:list", issuer, 0, now); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("any age: %v", err)
	}
	if _, err := Fetch(t.Context(), s.Client(), s.URL, "urn:other", issuer, week, now); !errors.Is(err, consilium.ErrSignature) {
		t.Errorf("another list: %v", err)
	}
	if _, err := Fetch(t.Context(), s.Client(), s.URL, "urn:list", did.Hybrid(stranger.Public()), week, now); err == nil {
		t.Error("of another issuer")
	}
	// What the server does not hand out.
	for name, x := range map[string]string{"nothing": "", "noise": "x", "a stranger's": publish(stranger, "urn:list", week), "one that has run out": publish(key, "urn:list", time.Second)} {
		token = x
		now = start.Add(time.Minute)
		resp, err := s.Client().Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
	token = publish(key, "urn:list", week)
	if resp, err := s.Client().Post(s.URL, "text/plain", nil); err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("%v %v", resp, err)
	}
	if resp, err := s.Client().Head(s.URL); err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != MediaType {
		t.Errorf("%v %v", resp, err)
	}
}
