package federation

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"slices"

	"consilium"
	"consilium/he"
	"consilium/he/party"
	"consilium/internal/blob"
	"consilium/internal/seal"
)

// tricks are what a dishonest hospital does, or a coordinator together with it,
// that honest hospitals do not only refuse but find the author of, so that the
// study goes on. The last hospital's gate is honest software; what the trick says
// in its name is signed with its key.
func tricks() []lie {
	return []lie{
		{
			name: "poisoned-state", tells: "a dishonest hospital leaves a damaged sealed state before anybody else leaves a sound one",
			relay: func(c *course, m *consilium.Message) (bool, error) {
				return c.poison(m, bytes.Repeat([]byte("damaged"), 40))
			},
		},
		{
			name: "bloated-state", tells: "a dishonest hospital leaves a sealed state of forty million bytes before anybody else leaves a sound one",
			relay: func(c *course, m *consilium.Message) (bool, error) {
				return c.poison(m, make([]byte, 40_000_000))
			},
		},
		{
			name: "damaged-sum", tells: "the coordinator gives every hospital the sum with one wrong byte, once",
			fetch: func(c *course, site consilium.SiteID, digest consilium.Digest, b []byte) []byte {
				if c.round != 1 || !c.summed || digest != blob.Sum(c.aggregate) || c.kept["damaged "+string(site)] != nil {
					return b
				}
				c.kept["damaged "+string(site)] = []byte{1}
				b = bytes.Clone(b)
				b[len(b)/2] ^= 1
				return b
			},
		},
		{
			name: "false-complaint", tells: "two hospitals complain about a sound dealing, one more than may be dishonest",
			at: map[string]func(*course) (bool, error){whenContributed: func(c *course) (bool, error) {
				if c.round > 1 || c.kept["complained"] != nil {
					return false, nil
				}
				c.kept["complained"] = []byte{1}
				victim := c.place(c.h.victim())
				for _, by := range []consilium.SiteID{c.h.colluder(), c.h.ids[2]} {
					m := &consilium.Complaint{At: consilium.At{Charter: c.digest, Round: c.round, Attempt: c.attempt, Position: c.place(by)}, Header: c.uploads[victim].digest, Reason: "the box does not open"}
					f, err := c.h.forge(c.h.sites[by].key, by, consilium.KindComplaint, c.id, m.Encode())
					if err != nil {
						return true, err
					}
					c.h.relay(f)
				}
				return true, nil // the set is proposed when the answer has come
			}},
			relay: func(c *course, m *consilium.Message) (bool, error) {
				if m.Kind == consilium.KindAnswer && c.set == nil {
					c.h.relay(m)
					c.propose(c.setOf(c.expected()...))
					return true, nil
				}
				return false, nil
			},
		},
		{
			name: "two-key-lists", tells: "it tells one hospital of other sealing keys than the others, so that its sound boxes do not open and it answers the complaints of honest hospitals",
			at: map[string]func(*course) (bool, error){whenContributed: func(c *course) (bool, error) {
				if c.round > 1 {
					return false, nil
				}
				if c.attempt == 1 {
					for p, u := range c.uploads {
						c.kept[fmt.Sprintf("header %d", p)] = u.digest[:]
					}
					c.open(1, 2)
					return true, nil
				}
				c.sprung = true
				return true, nil // the complaints and answers are all it wants
			}},
			opened: func(c *course, o consilium.RoundOpened) bool {
				if c.round != 1 || c.attempt != 2 {
					return false
				}
				// The keys that honest hospitals published in the first attempt are
				// theirs, and valid; only they were told of others.
				c.h.tell(c.id, consilium.EventOpened, o.Encode(), c.h.others(c.h.victim())...)
				o.Sealing = slices.Clone(o.Sealing)
				for _, p := range c.framed() {
					copy(o.Sealing[p-1][:], c.kept[fmt.Sprintf("header %d", p)])
				}
				c.h.tell(c.id, consilium.EventOpened, o.Encode(), c.h.victim())
				return true
			},
		},
		{
			name: "bad-box", tells: "a dishonest hospital deals one hospital a box that does not open and answers its complaint with nonsense",
			at: map[string]func(*course) (bool, error){whenContributed: func(c *course) (bool, error) {
				if c.round > 1 || c.attempt > 1 || c.kept["dealt"] != nil {
					return false, nil
				}
				c.kept["dealt"] = []byte{1}
				return true, c.dealBadly()
			}},
			withhold: func(c *course, m *consilium.Message) bool {
				return m.Kind == consilium.KindHeader && m.By == string(c.h.colluder()) && c.round == 1
			},
			relay: func(c *course, m *consilium.Message) (bool, error) {
				if m.Kind != consilium.KindComplaint {
					return false, nil
				}
				c.h.relay(m)
				if m.By != string(c.h.victim()) || c.kept["answered"] != nil {
					return true, nil
				}
				c.kept["answered"] = []byte{1}
				who := c.h.colluder()
				v := &consilium.Answer{At: consilium.At{Charter: c.digest, Round: c.round, Attempt: c.attempt, Position: c.place(who)},
					Header: c.uploads[c.place(who)].digest, To: c.place(c.h.victim()), Sealed: make([]byte, 512)}
				f, err := c.h.forge(c.h.sites[who].key, who, consilium.KindAnswer, c.id, v.Encode())
				if err != nil {
					return true, err
				}
				c.h.relay(f)
				// The set with it is what nobody votes for.
				c.forbid(c.setOf(c.expected()...))
				c.sprung = true
				return true, nil
			},
		},
		{
			name: "false-opening", tells: "a dishonest hospital sends an opening share that it never had",
			relay: func(c *course, m *consilium.Message) (bool, error) {
				return falseOpening(c, m)
			},
		},
		{
			name: "false-sum-in-the-open", tells: "the coordinator leaves a contribution out of the sum but gives hospitals all of them",
			serves: true,
			at: map[string]func(*course) (bool, error){whenSummed: func(c *course) (bool, error) {
				if c.round > 1 {
					return false, nil
				}
				b, err := sumUploads(len(c.charter.Members), c.parts()[1:])
				if err != nil {
					return true, err
				}
				c.announce(b)
				return true, nil
			}},
		},
		{
			name: "accused", tells: "a false sum and a false opening share together: the sum opens with nobody's shares",
			relay: func(c *course, m *consilium.Message) (bool, error) {
				if c.attempt > 1 {
					return false, nil
				}
				return falseOpening(c, m)
			},
			at: map[string]func(*course) (bool, error){whenSummed: func(c *course) (bool, error) {
				if c.round > 1 || c.attempt > 1 {
					return false, nil
				}
				b, err := sumUploads(len(c.charter.Members), c.parts()[1:])
				if err != nil {
					return true, err
				}
				c.announce(b)
				return true, nil
			}},
		},
		{
			name: "half-rejected", tells: "it tells its victim of the sum and the others, once the victim has taken the next state, of a false one, which they reject",
			at: map[string]func(*course) (bool, error){whenSummed: func(c *course) (bool, error) {
				if c.round > 1 || c.attempt > 1 {
					return false, nil
				}
				c.announce(c.aggregate, c.h.victim())
				return true, nil
			}},
			relay: func(c *course, m *consilium.Message) (bool, error) {
				if m.Kind != consilium.KindStateVote || m.By != string(c.h.victim()) || c.kept["told"] != nil {
					return false, nil
				}
				c.kept["told"] = []byte{1}
				b, err := sumUploads(len(c.charter.Members), c.parts()[1:])
				if err != nil {
					return true, err
				}
				c.announce(b, c.h.others(c.h.victim())...)
				return false, nil
			},
		},
		{
			name: "secret-certificate", tells: "it shows the votes of an attempt to one hospital only, which opens, and begins the round again with the others",
			relay: secretCertificate,
			at: map[string]func(*course) (bool, error){whenContributed: func(c *course) (bool, error) {
				if c.round > 1 || c.attempt == 1 {
					return false, nil
				}
				// The round again, over fewer: what the lock is there against, and
				// what its release allows once nobody can open the first set.
				c.propose(c.setOf(c.without(c.h.colluder())...))
				return true, nil
			}},
		},
		{
			name: "withheld-renouncements", tells: "it shows the votes of an attempt to one hospital only, which opens, and keeps from it that the others renounced",
			relay: func(c *course, m *consilium.Message) (bool, error) {
				if m.Kind == consilium.KindRenounce {
					c.h.relay(m, c.h.others(c.h.victim())...)
					return true, nil
				}
				return secretCertificate(c, m)
			},
			at: map[string]func(*course) (bool, error){whenContributed: func(c *course) (bool, error) {
				if c.attempt == 1 {
					return false, nil
				}
				c.forbid(c.setOf(c.without(c.h.colluder())...))
				c.sprung = true
				return true, nil
			}},
		},
	}
}

// poison leaves other bytes, in the colluder's name, as the sealed state of a
// round, before the first sound one.
func (c *course) poison(m *consilium.Message, bytes []byte) (bool, error) {
	if m.Kind != consilium.KindSealedState {
		return false, nil
	}
	s, err := consilium.ParseSealedState(m.Body)
	if err != nil {
		return true, err
	}
	if poison := fmt.Sprintf("poison %d", s.Round); c.kept[poison] == nil {
		at := s.At
		at.Position = c.place(c.h.colluder())
		bad := consilium.SealedState{At: at, Next: s.Next, Blob: c.h.put(bytes)}
		f, err := c.h.forge(c.h.sites[c.h.colluder()].key, c.h.colluder(), consilium.KindSealedState, c.id, bad.Encode())
		if err != nil {
			return true, err
		}
		c.h.relay(f)
		c.kept[poison] = []byte{1}
	}
	return m.By == string(c.h.colluder()), nil
}

// framed are f honest hospitals but the victim: those whose shares are missing
// where the f last ones collude.
func (c *course) framed() []consilium.Position {
	var out []consilium.Position
	for i := range c.charter.Members {
		if p := consilium.Position(i + 1); p != c.place(c.h.victim()) && len(out) < c.charter.Faults {
			out = append(out, p)
		}
	}
	return out
}

func (h *Hostile) others(id consilium.SiteID) []consilium.SiteID {
	return slices.DeleteFunc(slices.Clone(h.ids), func(o consilium.SiteID) bool { return o == id })
}

func secretCertificate(c *course, m *consilium.Message) (bool, error) {
	if c.round != 1 || c.attempt != 1 {
		return false, nil
	}
	switch m.Kind {
	case consilium.KindVote:
		c.h.relay(m, c.h.victim())
		return true, nil
	case consilium.KindOpening:
		c.kept["opening"] = m.Encode()
		c.open(1, 2)
		return true, nil
	}
	return false, nil
}

// shareOf is the colluder's share of one dealer's key, opened with the
// colluder's own sealing key.
func (c *course) shareOf(dealer consilium.Position, p he.Profile, key *seal.Key) (*party.KeyShare, error) {
	u, n := c.uploads[dealer], len(c.charter.Members)
	me := c.place(c.h.colluder())
	at := consilium.At{Charter: c.digest, Round: c.round, Attempt: c.attempt, Position: dealer}
	return party.OpenBox(p, u.shape.Lanes, n, c.charter.Threshold, at, u.message.Body, me, c.h.blobs[u.header.Boxes[me-1]], key)
}

// falseOpening replaces the colluder's opening share by one with a changed
// element, rightly sealed and signed.
func falseOpening(c *course, m *consilium.Message) (bool, error) {
	who := c.h.colluder()
	if m.Kind != consilium.KindOpening || m.By != string(who) || c.round > 1 {
		return false, nil
	}
	o, err := consilium.ParseOpening(m.Body)
	if err != nil {
		return true, err
	}
	if c.late(o.At) != nil {
		return false, nil
	}
	l, err := c.h.steal(who, c.id)
	if err != nil {
		return true, err
	}
	group, err := party.ParseGroupKey(l.Group)
	if err != nil {
		return true, err
	}
	key, err := seal.Parse(l.Sealing["charter"])
	if err != nil {
		return true, err
	}
	p, err := he.Choose(c.uploads[1].shape.Lanes, c.uploads[1].shape.Bits, len(c.charter.Members))
	if err != nil {
		return true, err
	}
	var shares []*party.KeyShare
	for i, member := range c.set.Members {
		s, err := c.shareOf(member.Position, p, key)
		if err != nil {
			return true, err
		}
		if i == 0 {
			b := s.Secret()
			b[len(b)-1] ^= 1
			if s, err = party.ParseKeyShare(p, b); err != nil {
				return true, err
			}
		}
		shares = append(shares, s)
	}
	share, err := party.NewOpeningShare(c.set, o.Position, shares)
	if err != nil {
		return true, err
	}
	if o.Sealed, err = share.Seal(group); err != nil {
		return true, err
	}
	f, err := c.h.forge(c.h.sites[who].key, who, consilium.KindOpening, c.id, o.Encode())
	if err != nil {
		return true, err
	}
	c.openings[o.Position] = f
	c.h.relay(f)
	return true, nil
}

// dealBadly shows, in the colluder's name and with its signature, a
// contribution whose box for the victim holds nothing.
func (c *course) dealBadly() error {
	who, victim := c.h.colluder(), c.place(c.h.victim())
	l, err := c.h.steal(who, c.id)
	if err != nil {
		return err
	}
	group, err := party.ParseGroupKey(l.Group)
	if err != nil {
		return err
	}
	u := c.uploads[c.place(who)]
	p, err := he.Choose(u.shape.Lanes, u.shape.Bits, len(c.charter.Members))
	if err != nil {
		return err
	}
	var holders []consilium.SealingKey
	for _, m := range c.charter.Members {
		holders = append(holders, m.Sealing)
	}
	at := consilium.At{Charter: c.digest, Round: c.round, Attempt: c.attempt, Position: c.place(who)}
	zeros := make([]int32, u.shape.Lanes)
	salt := consilium.DomainVector.Digest([]byte("a salt of the coordinator's"))
	vector := party.VectorDigest(salt, zeros)
	secret := make([]byte, 32)
	rand.Read(secret)
	seed, err := party.NewSeed(secret, at, vector)
	if err != nil {
		return err
	}
	src := party.Lanes(zeros)
	var buf bytes.Buffer
	d, err := party.Contribute(context.Background(), &party.Encryption{Profile: p, Lanes: u.shape.Lanes, At: at, Threshold: c.charter.Threshold,
		State: c.state, Salt: salt, Vector: vector, Holders: holders, Group: group, Seed: seed, Source: &src}, &buf)
	if err != nil {
		return err
	}
	d.Boxes[victim-1] = bytes.Repeat([]byte{7}, len(d.Boxes[victim-1]))
	h := *u.header
	if err := d.Header(&h); err != nil {
		return err
	}
	m, err := c.h.forge(c.h.sites[who].key, who, consilium.KindHeader, c.id, h.Encode())
	if err != nil {
		return err
	}
	for _, b := range d.Boxes {
		c.h.blobs[consilium.DomainBox.Digest(b)] = b
	}
	c.uploads[at.Position] = &upload{message: m, header: &h, digest: consilium.HeaderDigest(m.Body), shape: u.shape, ciphertext: buf.Bytes()}
	c.h.relay(m)
	return nil
}

// CutAttempt takes back what a hospital, which must not be running, was shown
// from the opening of an attempt of the first round on, and returns it for Show.
func (h *Hostile) CutAttempt(id consilium.SiteID, study consilium.StudyID, attempt uint32) []*consilium.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	view := h.views[id]
	i := slices.IndexFunc(view, func(ev *consilium.Event) bool {
		o, err := consilium.ParseRoundOpened(ev.Body)
		return ev.Study == study && ev.Kind == consilium.EventOpened && err == nil && o.Round == 1 && o.Attempt == attempt
	})
	if i < 0 {
		return nil
	}
	h.views[id] = slices.Clone(view[:i])
	return slices.Clone(view[i:])
}

// ShowVotes shows a hospital every vote of the first attempt.
func (h *Hostile) ShowVotes(id consilium.SiteID, study consilium.StudyID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.posts {
		v, err := consilium.ParseVote(p.Message.Body)
		if p.Message.Study == study && p.Message.Kind == consilium.KindVote && err == nil && v.Round == 1 && v.Attempt == 1 {
			h.relay(p.Message, id)
		}
	}
}
