package archive

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
)

// house is a federation of four hospitals that anybody can make events for.
type house struct {
	*testing.T
	keys    []*hybrid.Key
	roster  *consilium.Roster
	charter []byte
	digest  consilium.Digest
	events  []*consilium.Event
}

const hospitals = 4

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{T: t, roster: &consilium.Roster{}}
	c := consilium.Charter{APIVersion: consilium.APIVersion, Kind: "Charter", Protocol: consilium.ProtocolVersion, Study: study, Epoch: 1,
		Submission: consilium.Digest{1}, Spec: consilium.Digest{2}, Policy: consilium.Digest{3}, Approval: consilium.Digest{4}, Roster: consilium.Digest{5}, Team: "team",
		TeamKey: consilium.SealingKey{1}, KEM: consilium.KEMX25519MLKEM768, Threshold: 4, Faults: 1, MinSites: 3, Confirmation: consilium.Digest{6}}
	for i := range hospitals {
		k, err := hybrid.Generate()
		if err != nil {
			t.Fatal(err)
		}
		h.keys = append(h.keys, k)
		id := consilium.SiteID(fmt.Sprintf("site-%d", i+1))
		h.roster.Sites = append(h.roster.Sites, consilium.Site{ID: id, Operator: string(id), Country: "NL", Key: k.Public()})
		c.Members = append(c.Members, consilium.Member{Site: id, Operator: string(id), Key: k.Public(), Sealing: consilium.SealingKey{byte(i + 1)},
			Nonce: consilium.Digest{1}, Commitment: consilium.Digest{1}, Decision: consilium.Digest{1}})
	}
	var err error
	if h.charter, err = canon.Marshal(&c); err != nil {
		t.Fatal(err)
	}
	h.digest = consilium.CharterDigest(h.charter)
	return h
}

var study = consilium.NewStudyID(consilium.DomainSubmission.Digest([]byte("study")))

func (h *house) emit(kind consilium.EventKind, body []byte) {
	h.events = append(h.events, &consilium.Event{Seq: uint64(len(h.events)), Study: study, Kind: kind, Body: body})
}

// say signs a message of the hospital at a position.
func (h *house) say(p int, kind consilium.MessageKind, body []byte) {
	h.Helper()
	sig, err := h.keys[p-1].Sign(kind.Domain(), body)
	if err != nil {
		h.Fatal(err)
	}
	m := consilium.Message{Kind: kind, Study: study, By: fmt.Sprintf("site-%d", p), Body: body, Signature: sig}
	h.emit(consilium.EventMessage, m.Encode())
}

func (h *house) at(p int) consilium.At {
	return consilium.At{Charter: h.digest, Round: 1, Attempt: 1, Position: consilium.Position(p)}
}

func (h *house) open() {
	h.emit(consilium.EventOpened, (&consilium.RoundOpened{Charter: h.digest, Round: 1, Attempt: 1, Sealing: make([]consilium.Digest, hospitals)}).Encode())
}

// contribute logs a header of each hospital and returns the set of some.
func (h *house) contribute(members ...int) *consilium.Contributors {
	h.Helper()
	u := &consilium.Contributors{Charter: h.digest, Round: 1, Attempt: 1}
	for _, p := range members {
		body := (&consilium.Header{At: h.at(p), State: consilium.Digest{1}, Layout: consilium.Digest{1}, Vector: consilium.Digest{1}, RowSet: consilium.Digest{1},
			Decision: consilium.Digest{1}, Ledger: consilium.Digest{1}, Ciphertext: consilium.Digest{byte(p)}, Size: 64, NextSealing: consilium.SealingKey{1},
			Boxes: make([]consilium.Digest, hospitals), Commitments: make([]consilium.Digest, hospitals), Check: []byte{1}}).Encode()
		if _, err := consilium.ParseHeader(body); err != nil {
			h.Fatal(err)
		}
		h.say(p, consilium.KindHeader, body)
		u.Members = append(u.Members, consilium.Contributor{Position: consilium.Position(p), Header: consilium.HeaderDigest(body)})
	}
	return u
}

func (h *house) vote(set consilium.Digest, positions ...int) {
	for _, p := range positions {
		h.say(p, consilium.KindVote, (&consilium.Vote{At: h.at(p), Set: set}).Encode())
	}
}

var nextState = consilium.Digest{77}

// close logs openings and votes for the next state by these, and the close.
func (h *house) close(set consilium.Digest, positions ...int) {
	for _, p := range positions {
		h.say(p, consilium.KindOpening, (&consilium.Opening{At: h.at(p), Set: set, Sealed: []byte{1}}).Encode())
		h.say(p, consilium.KindStateVote, (&consilium.StateVote{At: h.at(p), Set: set, Next: nextState}).Encode())
	}
	h.emit(consilium.EventClosed, nextState[:])
}

// round logs the charter and an honest round 1.
func (h *house) round() {
	h.Helper()
	h.emit(consilium.EventChartered, h.charter)
	h.open()
	u := h.contribute(1, 2, 3, 4)
	h.emit(consilium.EventProposed, u.Encode())
	h.vote(u.Digest(), 1, 2, 3, 4)
	h.emit(consilium.EventCertified, nil)
	h.close(u.Digest(), 1, 2, 3, 4)
}

func (h *house) renew(round, try uint32) {
	h.emit(consilium.EventRenewing, (&consilium.Renewal{Charter: h.digest, Round: round, State: nextState, Roster: consilium.Digest{5}, Try: try}).Encode())
}

func (h *house) depart(round uint32, positions ...int) {
	for _, p := range positions {
		h.say(p, consilium.KindDepart, (&consilium.Depart{Charter: h.digest, Round: round, State: nextState, Position: consilium.Position(p)}).Encode())
	}
}

// next logs the charter of the same hospitals' next epoch, from round 2 on.
func (h *house) next(epoch uint32) {
	h.Helper()
	c, err := consilium.ParseCharter(h.charter)
	if err != nil {
		h.Fatal(err)
	}
	c.Epoch, c.Previous, c.Handover = epoch, h.digest, &consilium.Handover{Round: 2, State: nextState}
	if h.charter, err = canon.Marshal(c); err != nil {
		h.Fatal(err)
	}
	h.digest = consilium.CharterDigest(h.charter)
	h.emit(consilium.EventChartered, h.charter)
}

func (h *house) recount() error {
	c := &Contents{Study: study, Events: h.events}
	return (&Summary{}).verifyEvents(c, h.roster)
}

// What coordinators may write into their own log, and a recount must not take.
func TestRecount(t *testing.T) {
	for name, x := range map[string]struct {
		log  func(h *house)
		want string // "" for an honest log
	}{
		"honest": {func(h *house) {
			h.emit(consilium.EventChartered, h.charter)
			h.open()
			u := h.contribute(1, 2, 3, 4)
			h.emit(consilium.EventProposed, u.Encode())
			h.vote(u.Digest(), 1, 2)
			h.emit(consilium.EventProposed, u.Encode()) // again, after a failover
			h.vote(u.Digest(), 3, 4)
			h.emit(consilium.EventCertified, nil)
			h.close(u.Digest(), 1, 2, 3, 4)
		}, ""},
		"certified before a charter": {func(h *house) { h.emit(consilium.EventCertified, nil) }, "before any charter"},
		"closed before a charter":    {func(h *house) { h.emit(consilium.EventClosed, nextState[:]) }, "before any charter"},
		"proposed before a charter": {func(h *house) {
			h.emit(consilium.EventProposed, (&consilium.Contributors{Round: 1, Attempt: 1, Members: []consilium.Contributor{{Position: 1}}}).Encode())
		}, "before any charter"},
		"opened before a charter": {func(h *house) {
			h.emit(consilium.EventOpened, (&consilium.RoundOpened{Round: 1, Attempt: 1}).Encode())
		}, "another charter"},
		"a second charter": {func(h *house) {
			h.emit(consilium.EventChartered, h.charter)
			h.open()
			h.emit(consilium.EventChartered, h.charter)
		}, "event 2 ("},
		"a contributor who is no member": {func(h *house) {
			h.emit(consilium.EventChartered, h.charter)
			h.open()
			u := h.contribute(1, 2, 3)
			u.Members = append(u.Members, consilium.Contributor{Position: 9})
			h.emit(consilium.EventProposed, u.Encode())
		}, "contributed no such header"},
		"certified without a set": {func(h *house) {
			h.emit(consilium.EventChartered, h.charter)
			h.open()
			h.emit(consilium.EventCertified, nil)
		}, "votes"},
		// One hospital's vote, logged as often as votes are needed.
		"one vote many times": {func(h *house) {
			h.emit(consilium.EventChartered, h.charter)
			h.open()
			u := h.contribute(1, 2, 3, 4)
			h.emit(consilium.EventProposed, u.Encode())
			h.vote(u.Digest(), 1, 2, 3, 4)
			h.emit(consilium.EventCertified, nil)
			for range 4 {
				h.say(1, consilium.KindStateVote, (&consilium.StateVote{At: h.at(1), Set: u.Digest(), Next: nextState}).Encode())
			}
			for p := 1; p <= 4; p++ {
				h.say(p, consilium.KindOpening, (&consilium.Opening{At: h.at(p), Set: u.Digest(), Sealed: []byte{1}}).Encode())
			}
			h.emit(consilium.EventClosed, nextState[:])
		}, "1 hospitals signed this state"},
		// The hospitals vote for one set; another one is put in its place.
		"votes for another set": {func(h *house) {
			h.emit(consilium.EventChartered, h.charter)
			h.open()
			u := h.contribute(1, 2, 3, 4)
			h.emit(consilium.EventProposed, u.Encode())
			h.vote(u.Digest(), 1, 2, 3, 4)
			small := *u
			small.Members = u.Members[:3]
			h.emit(consilium.EventProposed, small.Encode())
			h.emit(consilium.EventCertified, nil)
		}, "0 votes"},
		"votes of an attempt before": {func(h *house) {
			h.emit(consilium.EventChartered, h.charter)
			h.open()
			u := h.contribute(1, 2, 3, 4)
			h.emit(consilium.EventProposed, u.Encode())
			h.vote(u.Digest(), 1, 2, 3, 4)
			h.open()
			h.emit(consilium.EventClosed, nextState[:])
		}, "malformed"},
		"an epoch that enough have left for": {func(h *house) {
			h.round()
			h.renew(2, 1)
			h.depart(2, 1, 2)
			h.next(2)
		}, ""},
		// Who has left one epoch has not left the one after it.
		"departures of the epoch before": {func(h *house) {
			h.round()
			h.renew(2, 1)
			h.depart(2, 1, 2, 3)
			h.next(2)
			h.renew(2, 2)
			h.next(3)
		}, "0 hospitals have left epoch 2"},
		"departures for another round": {func(h *house) {
			h.round()
			h.renew(3, 1)
			h.depart(3, 1, 2, 3)
			h.renew(2, 2)
			h.next(2)
		}, "0 hospitals have left epoch 1"},
		"renewed from a state that nobody certified": {func(h *house) {
			h.round()
			h.emit(consilium.EventRenewing, (&consilium.Renewal{Charter: h.digest, Round: 2, State: consilium.Digest{9}, Roster: consilium.Digest{5}, Try: 1}).Encode())
		}, "another charter or state"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			x.log(h)
			err := h.recount()
			var m *Misfit
			if x.want == "" && err != nil || x.want != "" && (!errors.As(err, &m) || !strings.Contains(err.Error(), x.want)) {
				t.Errorf("%v, want %q", err, x.want)
			}
		})
	}
}

// A trail that is left out is said to be.
func TestMissingTrails(t *testing.T) {
	h := newHouse(t)
	s := &Summary{Enrolled: []consilium.SiteID{"site-1", "site-2"}, Uses: 3}
	if err := s.verifySites(&Contents{Study: study}, h.roster, Options{}); err != nil {
		t.Fatal(err)
	}
	if len(s.Missing) != 2 || len(s.Notes) != 2 || !strings.Contains(s.Notes[0], "site-1") {
		t.Errorf("%+v", s)
	}
}
