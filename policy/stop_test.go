package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
)

// TestStops: one member's signature stops what it names from its moment on,
// and a file that cannot be believed stops everything.
func TestStops(t *testing.T) {
	keys := map[string]consilium.PublicKey{}
	var members []*hybrid.Key
	for i := range 3 {
		k, err := hybrid.FromSeed([]byte(fmt.Sprintf("%032d", i)))
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, k)
		keys[fmt.Sprintf("m%d", i)] = k.Public()
	}
	stranger, err := hybrid.FromSeed([]byte(fmt.Sprintf("%032d", 99)))
	if err != nil {
		t.Fatal(err)
	}
	sign := func(s Stop, who string, by *hybrid.Key, domain consilium.Domain) []byte {
		payload, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		sig, err := by.Sign(domain, payload)
		if err != nil {
			t.Fatal(err)
		}
		b, err := canon.Marshal(consilium.Signed{Payload: payload, Signatures: []consilium.Countersign{{By: who, Signature: sig}}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	dir := filepath.Join(t.TempDir(), "stops")
	if _, err := ReadStops(dir, keys); err == nil || !strings.Contains(err.Error(), "put them back") {
		t.Fatal("stops that are not there stop nothing:", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	put := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a, b := consilium.StudyID("st-a"), consilium.StudyID("st-b")
	one, two := consilium.Digest{1}, consilium.Digest{2}
	put("one.json", sign(Stop{Studies: []consilium.StudyID{a}, From: testNow, Reason: "a doubt about the codes"}, "m1", members[1], consilium.DomainStop))
	put("two.json", sign(Stop{Policies: []consilium.Digest{two}, From: testNow, Reason: "withdrawn"}, "m2", members[2], consilium.DomainStop))
	put("halt", sign(Stop{All: true, Reason: "emergency"}, "m0", members[0], consilium.DomainStop))
	if _, err := ReadStops(dir, keys); err == nil || !strings.Contains(err.Error(), "halt is no stop") {
		t.Error("a stop under another name is not read, without a word:", err)
	}
	if err := os.Remove(filepath.Join(dir, "halt")); err != nil {
		t.Fatal(err)
	}
	l, err := ReadStops(dir, keys)
	if err != nil || len(l) != 2 {
		t.Fatal(err, l)
	}
	for _, c := range []struct {
		study   consilium.StudyID
		policy  consilium.Digest
		now     int64
		stopped bool
	}{{a, one, testNow, true}, {a, one, testNow - 1, false}, {b, one, testNow, false}, {b, two, testNow, true}, {"", consilium.Digest{}, testNow, false}} {
		d := l.Denial(PointRows, c.study, c.policy, c.now)
		if (d != nil) != c.stopped || d != nil && (d.Allow || d.Code() != CodeStopped || !errors.Is(d.Err(), consilium.ErrPolicy)) {
			t.Errorf("%+v: %v", c, d)
		}
	}
	put("three.json", sign(Stop{All: true, From: 0, Reason: "emergency"}, "m0", members[0], consilium.DomainStop))
	if l, err = ReadStops(dir, keys); err != nil || l.Denial(PointSite, b, one, testNow) == nil {
		t.Error("everything is stopped and goes on", err)
	}
	good := sign(Stop{All: true, From: 0, Reason: "emergency"}, "m0", members[0], consilium.DomainStop)
	for name, bad := range map[string][]byte{
		"a stranger": sign(Stop{All: true, From: 0, Reason: "x"}, "m0", stranger, consilium.DomainStop), "another document": sign(Stop{All: true, From: 0, Reason: "x"}, "m0", members[0], consilium.DomainPolicy),
		"nothing": nil, "cut": good[:len(good)-2], "no list": []byte("{}"),
	} {
		put("three.json", bad)
		if _, err := ReadStops(dir, keys); err == nil {
			t.Errorf("%s: the list is believed", name)
		}
	}
	for name, s := range map[string]Stop{"nothing named": {From: 1, Reason: "x"}, "no reason": {All: true}, "before time": {All: true, From: -1, Reason: "x"}} {
		if _, err := s.Encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}
