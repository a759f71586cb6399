package federation

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"consilium"
	"consilium/he"
	"consilium/he/party"
)

// lie is one thing that a hostile coordinator tries. What it wants is always
// the same: that hospitals open, or take for true, what they should not.
type lie struct {
	name  string
	tells string
	at    map[string]func(*course) (bool, error)
	// relay may take a statement out of the study's course altogether.
	relay func(*course, *consilium.Message) (bool, error)
	// withhold keeps a statement from the hospitals that counts all the same.
	withhold func(*course, *consilium.Message) bool
	// fetch may give a hospital other bytes than a blob's.
	fetch func(c *course, site consilium.SiteID, digest consilium.Digest, b []byte) []byte
	// opened may tell hospitals of an attempt in the coordinator's place.
	opened  func(*course, consilium.RoundOpened) bool
	play    func(context.Context, *Hostile, lie) (*course, error) // nil: one study of two rounds
	serves  bool                                                  // it gives hospitals the contributions that they ask for
	learned bool                                                  // the study is one that may go on with others
}

// Lie describes one of the lies that RunHostile can tell.
type Lie struct {
	Name  string
	Tells string // one plain sentence
}

// Lies lists what a hostile coordinator tries, in the order of the protocol.
func Lies() []Lie {
	var out []Lie
	for _, l := range allLies() {
		out = append(out, Lie{l.name, l.tells})
	}
	return out
}

// learnedStudy is no lie: a study that may go on with other hospitals.
const learnedStudy = "learned"

func lieNamed(name string) (lie, error) {
	switch name {
	case "":
		return lie{}, nil
	case learnedStudy:
		return lie{learned: true}, nil
	case "epoch-in-flight": // no lie either: round 1 of epoch 1 stops when all have contributed
		return lie{name: name, learned: true, at: map[string]func(*course) (bool, error){
			whenContributed: func(c *course) (bool, error) { return c.prior == nil, nil },
		}}, nil
	}
	for _, l := range append(allLies(), tricks()...) {
		if l.name == name {
			return l, nil
		}
	}
	return lie{}, fmt.Errorf("no lie %q", name)
}

// victim is whose values the coordinator wants, colluder whose keys it has.
func (h *Hostile) victim() consilium.SiteID   { return h.ids[1] }
func (h *Hostile) colluder() consilium.SiteID { return h.ids[len(h.ids)-1] }

func (c *course) place(id consilium.SiteID) consilium.Position {
	p, _ := c.charter.Position(id)
	return p
}

// without are all expected positions but the victim's.
func (c *course) without(id consilium.SiteID) []consilium.Position {
	v := c.place(id)
	return slices.DeleteFunc(slices.Clone(c.expected()), func(p consilium.Position) bool { return p == v })
}

// forbid proposes a set that nobody may open.
func (c *course) forbid(u *consilium.Contributors, to ...consilium.SiteID) {
	c.lieSets[u.Digest()] = true
	c.propose(u, to...)
}

// falseSum announces other bytes as the sum of the certified set.
func (c *course) falseSum(parts []*upload) (bool, error) {
	b, err := sumUploads(len(c.charter.Members), parts)
	if err != nil {
		return true, err
	}
	c.lieSums[[2]uint32{c.round, c.attempt}] = true
	c.sprung = true
	c.announce(b)
	return true, nil
}

func (c *course) parts() []*upload {
	var out []*upload
	for _, m := range c.set.Members {
		out = append(out, c.uploads[m.Position])
	}
	return out
}

// falseDraft shows a draft that nobody may answer.
func (c *course) falseDraft(change func(*consilium.Charter)) (bool, error) {
	d, err := c.makeDraft()
	if err != nil {
		return true, err
	}
	change(d)
	if err := c.present(d); err != nil {
		return true, err
	}
	c.lieDrafts[consilium.CharterDigest(c.drafted)] = true
	c.sprung = true
	return true, nil
}

func allLies() []lie {
	return []lie{
		{
			name: "weak-threshold", tells: "it drafts a charter in which fewer hospitals can open than the study's rule asks for",
			at: map[string]func(*course) (bool, error){whenEnrolled: func(c *course) (bool, error) {
				if took, err := c.falseDraft(func(d *consilium.Charter) { d.Threshold-- }); err != nil {
					return took, err
				}
				return c.falseDraft(func(d *consilium.Charter) { d.Faults, d.Threshold = d.Faults+1, d.Threshold+1; d.MinSites++ })
			}},
		},
		{
			name: "foreign-key", tells: "it drafts a charter with a sealing key of its own in a hospital's place",
			at: map[string]func(*course) (bool, error){whenEnrolled: func(c *course) (bool, error) {
				return c.falseDraft(func(d *consilium.Charter) {
					p, _ := d.Position(c.h.victim())
					d.Members[p-1].Sealing = c.h.lure.Public()
				})
			}},
		},
		{
			name: "uninvited", tells: "it drafts a charter with a colluding hospital that the study does not ask",
			play: func(ctx context.Context, h *Hostile, l lie) (*course, error) {
				h.mu.Lock()
				c, err := h.submit("uninvited", 2, l, h.ids[:len(h.ids)-1]...)
				h.mu.Unlock()
				return c, err
			},
			at: map[string]func(*course) (bool, error){whenEnrolled: func(c *course) (bool, error) {
				e := &consilium.Enrol{Study: c.id, Submission: consilium.DomainSubmission.Digest(c.payload), Roster: consilium.RosterDigest(c.h.signed.Payload),
					Sealing: c.h.lure.Public(), Nonce: consilium.DomainEnrol.Digest(), Commitment: consilium.DomainCommitment.Digest(), Decision: consilium.DomainDecision.Digest()}
				who := c.h.colluder()
				m, err := c.h.forge(c.h.sites[who].key, who, consilium.KindEnrol, c.id, e.Encode())
				if err != nil {
					return true, err
				}
				c.h.relay(m)
				c.enrols[who] = e
				return c.falseDraft(func(*consilium.Charter) {})
			}},
		},
		{
			name: "replayed-enrolment", tells: "it drafts a charter with a hospital's enrolment from an earlier study",
			play: playReplayedEnrolment,
			relay: func(c *course, m *consilium.Message) (bool, error) {
				old := c.kept["enrolment"]
				if m.Kind != consilium.KindEnrol || old == nil || m.By != string(c.h.victim()) {
					return false, nil
				}
				first, err := consilium.ParseMessage(old)
				if err != nil {
					return true, err
				}
				e, err := consilium.ParseEnrol(first.Body)
				if err != nil {
					return true, err
				}
				first.Study = c.id
				c.h.relay(first)
				c.enrols[c.h.victim()] = e
				return true, c.answered()
			},
			at: map[string]func(*course) (bool, error){whenEnrolled: func(c *course) (bool, error) {
				if c.kept["enrolment"] == nil {
					c.sprung = true // the first study: its enrolments are all it is for
					return true, nil
				}
				return c.falseDraft(func(*consilium.Charter) {})
			}},
		},
		{
			name: "substituted-dealings", tells: "it deals keys of its own in the name of every hospital but one and proposes their sum",
			at: map[string]func(*course) (bool, error){whenContributed: substitute},
			withhold: func(c *course, m *consilium.Message) bool {
				return m.Kind == consilium.KindHeader && m.By != string(c.h.victim())
			},
		},
		{
			name: "alone", tells: "it proposes the contribution of one hospital alone",
			at: map[string]func(*course) (bool, error){whenContributed: func(c *course) (bool, error) {
				c.forbid(c.setOf(c.place(c.h.victim())))
				c.sprung = true
				return true, nil
			}},
		},
		{
			name: "too-few", tells: "it proposes one hospital together with a colluding one, fewer than min_sites",
			at: map[string]func(*course) (bool, error){whenContributed: func(c *course) (bool, error) {
				c.forbid(c.setOf(c.place(c.h.victim()), c.place(c.h.colluder())))
				c.sprung = true
				return true, nil
			}},
		},
		{
			name: "forged-certificate", tells: "it withholds the votes, forges others and claims that the set is certified",
			relay: func(c *course, m *consilium.Message) (bool, error) { return m.Kind == consilium.KindVote, nil },
			at: map[string]func(*course) (bool, error){whenContributed: func(c *course) (bool, error) {
				u := c.setOf(c.without(c.h.victim())...)
				c.forbid(u)
				for i, m := range c.charter.Members {
					v := &consilium.Vote{At: consilium.At{Charter: c.digest, Round: c.round, Attempt: c.attempt, Position: consilium.Position(i + 1)}, Set: u.Digest()}
					key := c.h.rogue
					if m.Site == c.h.colluder() {
						key = c.h.sites[m.Site].key
					}
					f, err := c.h.forge(key, m.Site, consilium.KindVote, c.id, v.Encode())
					if err != nil {
						return true, err
					}
					c.h.relay(f)
				}
				c.sprung = true
				return true, c.certify()
			}},
		},
		{
			name: "two-sets", tells: "it proposes one set to some hospitals and the same without one hospital to the others, and its colluder votes for both",
			relay: func(c *course, m *consilium.Message) (bool, error) {
				return m.Kind == consilium.KindVote && m.By == string(c.h.colluder()), nil
			},
			at: map[string]func(*course) (bool, error){whenContributed: func(c *course) (bool, error) {
				honest := slices.DeleteFunc(slices.Clone(c.h.ids), func(id consilium.SiteID) bool { return id == c.h.colluder() })
				some, others := honest[:len(honest)/2], append(slices.Clone(honest[len(honest)/2:]), c.h.colluder())
				for _, t := range []struct {
					u  *consilium.Contributors
					to []consilium.SiteID
				}{{c.setOf(c.expected()...), some}, {c.setOf(c.without(c.h.victim())...), others}} {
					c.forbid(t.u, t.to...)
					v := &consilium.Vote{At: consilium.At{Charter: c.digest, Round: c.round, Attempt: c.attempt, Position: c.place(c.h.colluder())}, Set: t.u.Digest()}
					f, err := c.h.forge(c.h.sites[c.h.colluder()].key, c.h.colluder(), consilium.KindVote, c.id, v.Encode())
					if err != nil {
						return true, err
					}
					c.h.relay(f, t.to...)
				}
				c.sprung = true
				return true, nil
			}},
		},
		{
			name: "three-sets", tells: "it proposes three overlapping sets, each to a third of the hospitals, and its colluder votes for all",
			relay: func(c *course, m *consilium.Message) (bool, error) {
				return m.Kind == consilium.KindVote && m.By == string(c.h.colluder()), nil
			},
			at: map[string]func(*course) (bool, error){whenContributed: func(c *course) (bool, error) {
				who := c.h.colluder()
				var third [3][]consilium.SiteID
				for i, id := range c.h.others(who) {
					third[i%3] = append(third[i%3], id)
				}
				for i, without := range c.h.ids[:3] {
					to := append(third[i], who)
					u := c.setOf(c.without(without)...)
					c.forbid(u, to...)
					v := &consilium.Vote{At: consilium.At{Charter: c.digest, Round: c.round, Attempt: c.attempt, Position: c.place(who)}, Set: u.Digest()}
					f, err := c.h.forge(c.h.sites[who].key, who, consilium.KindVote, c.id, v.Encode())
					if err != nil {
						return true, err
					}
					c.h.relay(f, to...)
				}
				c.sprung = true
				return true, nil
			}},
		},
		{
			name: "second-attempt", tells: "after a set was opened it repeats the round without one hospital",
			at: map[string]func(*course) (bool, error){
				whenSummed: func(c *course) (bool, error) { return c.round == 1 && c.attempt == 1, nil },
				whenOpened: func(c *course) (bool, error) {
					if c.round != 1 || c.attempt != 1 {
						return false, nil
					}
					c.open(1, 2)
					return true, nil
				},
				whenContributed: func(c *course) (bool, error) {
					if c.attempt == 1 {
						return false, nil
					}
					c.forbid(c.setOf(c.without(c.h.victim())...))
					c.sprung = true
					return true, nil
				},
			},
		},
		{
			name: "dropped", tells: "it leaves a contribution out of the sum",
			at: map[string]func(*course) (bool, error){whenSummed: func(c *course) (bool, error) {
				return c.falseSum(c.parts()[1:])
			}},
		},
		{
			name: "doubled", tells: "it counts a contribution twice",
			at: map[string]func(*course) (bool, error){whenSummed: func(c *course) (bool, error) {
				return c.falseSum(append(c.parts(), c.parts()[0]))
			}},
		},
		{
			name: "swapped", tells: "it sums one contribution in the place of another",
			at: map[string]func(*course) (bool, error){whenSummed: func(c *course) (bool, error) {
				p := c.parts()
				p[0] = p[1]
				return c.falseSum(p)
			}},
		},
		{
			name: "replayed-openings", tells: "it shows the openings and the sum of round 1 again in round 2",
			relay: func(c *course, m *consilium.Message) (bool, error) {
				return m.Kind == consilium.KindOpening && c.round == 2, nil
			},
			at: map[string]func(*course) (bool, error){whenSummed: func(c *course) (bool, error) {
				if c.round == 1 {
					l, err := c.h.steal(c.h.colluder(), c.id)
					if err != nil {
						return true, err
					}
					c.kept["group"] = l.Group
					return false, nil
				}
				for _, m := range c.old {
					c.h.relay(m)
				}
				c.lieSums[[2]uint32{2, 1}] = true
				c.sprung = true
				c.announce(c.h.blobs[c.oldSum.Blob])
				return true, nil
			}},
		},
		{
			name: "smaller-second-round", tells: "it leaves a hospital out of round 2 of an exact study",
			at: map[string]func(*course) (bool, error){whenContributed: func(c *course) (bool, error) {
				if c.round == 1 {
					return false, nil
				}
				c.forbid(c.setOf(c.without(c.h.victim())...))
				c.sprung = true
				return true, nil
			}},
		},
		{
			name: "epoch-after-opening", learned: true, tells: "after a set was opened it claims a new epoch that begins with the same round",
			at: map[string]func(*course) (bool, error){
				whenSummed: func(c *course) (bool, error) { return c.round == 1, nil },
				whenOpened: func(c *course) (bool, error) {
					c.renew(1, c.asked)
					// Its colluder lies about having opened.
					who := c.h.colluder()
					p, _ := c.prior.Position(who)
					v := &consilium.Depart{Charter: c.priorD, Round: 1, Position: p}
					m, err := c.h.forge(c.h.sites[who].key, who, consilium.KindDepart, c.id, v.Encode())
					if err == nil {
						c.h.relay(m)
					}
					return true, err
				},
				whenEnrolled: func(c *course) (bool, error) {
					if c.prior == nil {
						return false, nil
					}
					return c.falseDraft(func(*consilium.Charter) {})
				},
			},
		},
		{
			name: "epoch-of-a-closed-round", learned: true, tells: "it claims a new epoch that begins with a round that has closed",
			at: map[string]func(*course) (bool, error){whenContributed: func(c *course) (bool, error) {
				if c.round == 1 {
					return false, nil
				}
				c.state = consilium.Digest{}
				c.renew(1, c.asked)
				c.sprung = true
				return true, nil
			}},
		},
		{
			name: "epoch-twice", learned: true, tells: "it has a charter signed, keeps it back, and asks for another one after the same epoch",
			at: map[string]func(*course) (bool, error){whenContributed: func(c *course) (bool, error) {
				if c.round == 1 {
					return false, nil
				}
				c.renew(2, c.asked)
				return true, nil
			}},
			relay: func(c *course, m *consilium.Message) (bool, error) {
				if c.prior == nil || m.Kind != consilium.KindCharter {
					return false, nil
				}
				c.charters[consilium.SiteID(m.By)] = m.Body
				if len(c.charters) < len(c.asked) {
					return true, nil
				}
				if c.try == 1 {
					c.renew(2, c.asked)
					c.sprung = true
				}
				return true, nil
			},
		},
		{
			name: "epoch-with-fewer-faults", learned: true, tells: "its new epoch has a lower threshold than its members must ask for",
			at: map[string]func(*course) (bool, error){
				whenContributed: func(c *course) (bool, error) {
					if c.round == 1 {
						return false, nil
					}
					c.renew(2, c.asked)
					return true, nil
				},
				whenEnrolled: func(c *course) (bool, error) {
					if c.prior == nil {
						return false, nil
					}
					if len(c.departs) < c.prior.ReleaseQuorum() {
						return true, nil
					}
					return c.falseDraft(func(d *consilium.Charter) { d.Threshold-- })
				},
			},
		},
		{
			name: "second-study", tells: "it runs the same question again without one hospital",
			play: func(ctx context.Context, h *Hostile, l lie) (*course, error) {
				id, err := h.Submit("question", 2, "")
				if err != nil {
					return nil, err
				}
				if phase, err := h.Wait(ctx, id); err != nil || phase != consilium.PhaseDone {
					return nil, errors.Join(err, fmt.Errorf("the first study: %s", phase))
				}
				h.mu.Lock()
				defer h.mu.Unlock()
				return h.submit("question-again", 2, l, slices.DeleteFunc(h.Sites(), func(id consilium.SiteID) bool { return id == h.victim() })...)
			},
			at: map[string]func(*course) (bool, error){whenEnrolled: func(c *course) (bool, error) {
				return c.falseDraft(func(*consilium.Charter) {})
			}},
		},
	}
}

// playReplayedEnrolment lets a first study collect its enrolments, and stops
// it there; a second one gets the victim's enrolment of the first.
func playReplayedEnrolment(ctx context.Context, h *Hostile, l lie) (*course, error) {
	h.mu.Lock()
	first, err := h.submit("first", 2, l)
	h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := h.await(ctx, "the first study's enrolments", func() bool { return first.sprung }); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	second, err := h.submit("second", 2, l)
	if err != nil {
		return nil, err
	}
	for _, m := range first.accepted {
		if m.Kind == consilium.KindEnrol && m.By == string(h.victim()) {
			second.kept["enrolment"] = m.Encode()
		}
	}
	// The last enrolment of the first study is accepted after it was taken.
	if second.kept["enrolment"] == nil {
		for _, p := range h.posts {
			if p.Site == h.victim() && p.Message.Kind == consilium.KindEnrol && p.Message.Study == first.id {
				second.kept["enrolment"] = p.Message.Encode()
			}
		}
	}
	return second, nil
}

// loot is what a hospital's disk gives a thief while a study runs.
type loot struct {
	Group   []byte            `json:"group"`
	Round   uint32            `json:"round"`
	Sealing map[string][]byte `json:"sealing"`
	Dealt   map[string][]byte `json:"dealt"`
}

// steal reads a hospital's secrets of a study: of the colluder in a lie, of
// everybody where a test shows what naive hospitals would give away.
func (h *Hostile) steal(site consilium.SiteID, study consilium.StudyID) (*loot, error) {
	b, err := os.ReadFile(filepath.Join(h.Dir(site), "secrets", string(study)+".json"))
	if err != nil {
		return nil, err
	}
	var out loot
	return &out, json.Unmarshal(b, &out)
}

// substitute makes contributions of zeros in the name of every hospital but
// the victim, complete but for one thing: the hospitals' signatures.
func substitute(c *course) (bool, error) {
	l, err := c.h.steal(c.h.colluder(), c.id)
	if err != nil {
		return true, err
	}
	group, err := party.ParseGroupKey(l.Group)
	if err != nil {
		return true, err
	}
	victim := c.place(c.h.victim())
	shape := c.uploads[victim].shape
	p, err := he.Choose(shape.Lanes, shape.Bits, len(c.charter.Members))
	if err != nil {
		return true, err
	}
	var holders []consilium.SealingKey
	for _, m := range c.charter.Members {
		holders = append(holders, m.Sealing)
	}
	zeros := make([]int32, shape.Lanes)
	secret := make([]byte, 32)
	rand.Read(secret)
	for _, dealer := range c.expected() {
		if dealer == victim {
			continue
		}
		at := consilium.At{Charter: c.digest, Round: c.round, Attempt: c.attempt, Position: dealer}
		salt := consilium.DomainVector.Digest([]byte("a salt of the coordinator's"))
		vector := party.VectorDigest(salt, zeros)
		seed, err := party.NewSeed(secret, at, vector)
		if err != nil {
			return true, err
		}
		src := party.Lanes(zeros)
		var buf bytes.Buffer
		d, err := party.Contribute(context.Background(), &party.Encryption{Profile: p, Lanes: shape.Lanes, At: at, Threshold: c.charter.Threshold,
			State: c.state, Salt: salt, Vector: vector, Holders: holders, Group: group, Seed: seed, Source: &src}, &buf)
		if err != nil {
			return true, err
		}
		h := *c.uploads[dealer].header
		h.NextSealing = c.h.lure.Public()
		if err := d.Header(&h); err != nil {
			return true, err
		}
		site := c.charter.Members[dealer-1].Site
		m, err := c.h.forge(c.h.rogue, site, consilium.KindHeader, c.id, h.Encode())
		if err != nil {
			return true, err
		}
		for _, b := range d.Boxes {
			c.h.blobs[consilium.DomainBox.Digest(b)] = b
		}
		c.uploads[dealer] = &upload{message: m, header: &h, digest: consilium.HeaderDigest(m.Body), shape: shape, ciphertext: buf.Bytes()}
		c.h.relay(m)
	}
	c.forbid(c.setOf(c.expected()...))
	c.sprung = true
	return true, nil
}

// HostileReport is what became of one lie.
type HostileReport struct {
	Lie     string
	Tells   string
	Asked   int  // hospitals that were asked
	Refused int  // of these, who neither opened nor believed it
	Opened  bool // whether anything came out of it that should not
	Sites   []HostileSiteReport
}

// HostileSiteReport is one hospital's part.
type HostileSiteReport struct {
	Site    consilium.SiteID
	Refused bool
	Trail   []string // what its signed trail says against it: "refused-set: round.minimum: …"
	Log     []string // events that it ignored as forged, and why
}

// RunHostile lets a coordinator tell one lie of Lies to a federation of gates
// with small vaults, each in its own directory under dir, and reports what the
// hospitals did. The last of the sites colludes: its software is honest, and
// the coordinator has its keys. It takes at least five sites.
func RunHostile(ctx context.Context, dir, name string, sites ...consilium.SiteID) (*HostileReport, error) {
	if name == "" || len(sites) < 5 {
		return nil, fmt.Errorf("lie %q to %d hospitals: name one of Lies and at least five hospitals", name, len(sites))
	}
	h, err := NewHostile(dir, sites)
	if err != nil {
		return nil, err
	}
	report, err := h.run(ctx, name)
	return report, errors.Join(err, h.Close())
}

func (h *Hostile) run(ctx context.Context, name string) (*HostileReport, error) {
	c, err := h.tellLie(ctx, name)
	if err != nil {
		return nil, err
	}
	return h.Report(c.id)
}

// tellLie starts the gates, tells the lie and waits until it has had its
// effect.
func (h *Hostile) tellLie(ctx context.Context, name string) (*course, error) {
	l, err := lieNamed(name)
	if err != nil {
		return nil, err
	}
	if err := h.StartAll(); err != nil {
		return nil, err
	}
	var c *course
	if l.play != nil {
		c, err = l.play(ctx, h, l)
	} else {
		h.mu.Lock()
		c, err = h.submit(name, 2, l)
		h.mu.Unlock()
	}
	if err != nil {
		return nil, err
	}
	return c, h.WaitLie(ctx, c.id)
}

// Report says what the hospitals did about the lie of a study.
func (h *Hostile) Report(study consilium.StudyID) (*HostileReport, error) {
	c := h.course(study)
	if c == nil {
		return nil, consilium.ErrUnknownStudy
	}
	out := &HostileReport{Lie: c.lie.name, Tells: c.lie.tells, Asked: len(c.asked)}
	fell := map[consilium.SiteID]bool{}
	signed := map[string][]byte{} // by hospital and the charter before
	for _, p := range h.Posts() {
		if p.Message.Study != study {
			continue
		}
		switch p.Message.Kind {
		case consilium.KindReveal:
			v, err := consilium.ParseReveal(p.Message.Body)
			if err != nil {
				return nil, err
			}
			fell[p.Site] = fell[p.Site] || c.lieDrafts[v.Draft]
		case consilium.KindCharter:
			v, err := consilium.ParseCharter(p.Message.Body)
			if err != nil {
				return nil, err
			}
			slot := string(p.Site) + v.Previous.String()
			if have, ok := signed[slot]; ok && !bytes.Equal(have, p.Message.Body) {
				fell[p.Site] = true
			}
			signed[slot] = p.Message.Body
		case consilium.KindOpening:
			v, err := consilium.ParseOpening(p.Message.Body)
			if err != nil {
				return nil, err
			}
			if c.lieSets[v.Set] {
				fell[p.Site], out.Opened = true, true
			}
		case consilium.KindStateVote:
			v, err := consilium.ParseStateVote(p.Message.Body)
			if err != nil {
				return nil, err
			}
			if c.lieSums[[2]uint32{v.Round, v.Attempt}] && !v.Reject {
				fell[p.Site], out.Opened = true, true
			}
		}
	}
	notes := h.Notes()
	for _, id := range c.asked {
		s := HostileSiteReport{Site: id, Refused: !fell[id]}
		if s.Refused {
			out.Refused++
		}
		entries, err := h.Trail(id, study)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			var body struct {
				Reason string `json:"reason"`
				Reject bool   `json:"reject"`
			}
			switch e.Type {
			case "refused-set", "withdraw", "decline":
				if err := json.Unmarshal(e.Body, &body); err != nil {
					return nil, err
				}
				s.Trail = append(s.Trail, e.Type+": "+body.Reason)
			case "state":
				if err := json.Unmarshal(e.Body, &body); err != nil {
					return nil, err
				}
				if body.Reject {
					s.Trail = append(s.Trail, "state: "+consilium.ErrAggregateRejected.Msg)
				}
			}
		}
		for _, n := range notes {
			if n.Site == id && n.Study == study && n.Text == "event ignored" && !bytes.HasPrefix([]byte(n.Err), []byte("message: ")) {
				s.Log = append(s.Log, n.Err)
			}
		}
		out.Sites = append(out.Sites, s)
	}
	return out, nil
}
