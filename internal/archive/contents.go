package archive

import (
	"encoding/json"
	"runtime/debug"
	"slices"
	"strings"

	"consilium"
	"consilium/internal/canon"
)

// The events hold everything, in the exact bytes that were signed. For those
// who read an archive without our program, the parts that are needed to
// verify and to replay a study also stand in files of their own. They are
// derived: Verify makes them again and compares every byte.

const (
	specFile     = "spec.json"     // the study, as the team submitted it
	charterFile  = "charter.json"  // the enrolled study, as every hospital signed it
	contentsFile = "contents.json" // who signed what, with digests
	softwareFile = "software.json" // which program wrote the archive
)

// index is contents.json.
type index struct {
	APIVersion string             `json:"apiVersion"`
	Kind       string             `json:"kind"` // "ArchiveContents"
	Study      consilium.StudyID  `json:"study"`
	Submission *signedBy          `json:"submission"`
	Policy     consilium.Digest   `json:"policy"` // which policy the board approved
	Approvals  []signedBy         `json:"approvals"`
	Advisory   json.RawMessage    `json:"advisory"` // the coordinators' own decision, which binds nobody
	Charter    consilium.Digest   `json:"charter"`
	Enrolment  []member           `json:"enrolment"`
	Rounds     []roundIndex       `json:"rounds"`
	Releases   []signedBy         `json:"releases"`
	Trails     []consilium.SiteID `json:"trails"` // hospitals whose own record is here
}

// signedBy points to a signed message: an event of the audit log.
type signedBy struct {
	Event uint64           `json:"event"`
	By    string           `json:"by"`
	Of    consilium.Digest `json:"of"` // SHA-256 under the message's domain
}

// member is one hospital's part of the enrolment certificate.
type member struct {
	Site      consilium.SiteID `json:"site"`
	Decision  consilium.Digest `json:"decision"`  // of its own policy, at enrolment
	Signature *uint64          `json:"signature"` // event; null where the hospital never signed
}

type roundIndex struct {
	Round         uint32           `json:"round"`
	Attempt       uint32           `json:"attempt"`
	State         consilium.Digest `json:"state"` // certified before the round; zero in the first
	Contributions []contribution   `json:"contributions"`
	Set           consilium.Digest `json:"set"`      // certified contributors
	Votes         []uint64         `json:"votes"`    // events: the set's certificate
	Openings      []uint64         `json:"openings"` // events
	Next          consilium.Digest `json:"next"`     // the state that was certified
	Agreed        []uint64         `json:"agreed"`   // events: its certificate
}

type contribution struct {
	Site       string           `json:"site"`
	Event      uint64           `json:"event"`
	Cohort     consilium.Digest `json:"cohort"` // salted manifest of the rows
	Decision   consilium.Digest `json:"decision"`
	Ledger     consilium.Digest `json:"ledger"` // salted: the checkpoint that was verified
	Ciphertext consilium.Digest `json:"ciphertext"`
	Size       uint64           `json:"size"`
}

// software is software.json.
type software struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
}

func thisSoftware() software {
	s := software{Name: "consilium", Version: "(devel)"}
	if info, ok := debug.ReadBuildInfo(); ok {
		s.Go = info.GoVersion
		if info.Main.Version != "" {
			s.Version = info.Main.Version
		}
		for _, x := range info.Settings {
			if x.Key == "vcs.revision" {
				s.Commit = x.Value
			}
		}
	}
	return s
}

// derive makes the derived files of an archive.
func derive(c *Contents) (map[string][]byte, error) {
	x := index{APIVersion: consilium.APIVersion, Kind: "ArchiveContents", Study: c.Study, Approvals: []signedBy{}, Enrolment: []member{},
		Rounds: []roundIndex{}, Releases: []signedBy{}, Trails: []consilium.SiteID{}}
	out := map[string][]byte{}
	signed := map[string]uint64{} // enrolment, by site
	set := map[consilium.Digest][]uint64{}
	opened := map[consilium.Digest][]uint64{}
	next := map[consilium.Digest][]uint64{}
	var round *roundIndex
	for _, ev := range c.Events {
		switch ev.Kind {
		case consilium.EventAdmitted:
			if json.Valid(ev.Body) {
				x.Advisory = ev.Body
			}
		case consilium.EventChartered:
			x.Charter = consilium.CharterDigest(ev.Body)
			out[charterFile] = ev.Body
			charter, err := consilium.ParseCharter(ev.Body)
			if err != nil {
				return nil, err
			}
			x.Enrolment = x.Enrolment[:0]
			for i := range charter.Members {
				m := member{Site: charter.Members[i].Site, Decision: charter.Members[i].Decision}
				if at, ok := signed[string(m.Site)]; ok {
					m.Signature = &at
				}
				x.Enrolment = append(x.Enrolment, m)
			}
		case consilium.EventOpened:
			o, err := consilium.ParseRoundOpened(ev.Body)
			if err != nil {
				return nil, err
			}
			round = &roundIndex{Round: o.Round, Attempt: o.Attempt, State: o.State, Contributions: []contribution{}, Votes: []uint64{}, Openings: []uint64{}, Agreed: []uint64{}}
			clear(set)
			clear(opened)
			clear(next)
		case consilium.EventProposed:
			u, err := consilium.ParseContributors(ev.Body)
			if err != nil {
				return nil, err
			}
			if round != nil {
				round.Set = u.Digest()
			}
		case consilium.EventClosed:
			if round == nil || len(ev.Body) != len(round.Next) {
				continue
			}
			copy(round.Next[:], ev.Body)
			round.Votes, round.Openings, round.Agreed = events(set[round.Set]), events(opened[round.Set]), events(next[round.Next])
			x.Rounds = append(x.Rounds, *round)
			round = nil
		case consilium.EventMessage:
			m, err := consilium.ParseMessage(ev.Body)
			if err != nil {
				return nil, err
			}
			at := signedBy{ev.Seq, m.By, m.Kind.Domain().Digest(m.Body)}
			switch m.Kind {
			case consilium.KindSubmission:
				if sub, err := consilium.ParseSubmission(m.Body); err == nil && x.Submission == nil {
					x.Submission, x.Policy = &at, sub.Policy
					out[specFile] = sub.SpecBytes
				}
			case consilium.KindApproval:
				x.Approvals = append(x.Approvals, at)
			case consilium.KindCharter:
				signed[m.By] = ev.Seq
			case consilium.KindRelease:
				x.Releases = append(x.Releases, at)
			case consilium.KindHeader:
				if h, err := consilium.ParseHeader(m.Body); err == nil && round != nil {
					round.Contributions = append(round.Contributions, contribution{m.By, ev.Seq, h.RowSet, h.Decision, h.Ledger, h.Ciphertext, h.Size})
				}
			case consilium.KindVote:
				if v, err := consilium.ParseVote(m.Body); err == nil {
					set[v.Set] = append(set[v.Set], ev.Seq)
				}
			case consilium.KindOpening:
				if v, err := consilium.ParseOpening(m.Body); err == nil {
					opened[v.Set] = append(opened[v.Set], ev.Seq)
				}
			case consilium.KindStateVote:
				if v, err := consilium.ParseStateVote(m.Body); err == nil && !v.Reject {
					next[v.Next] = append(next[v.Next], ev.Seq)
				}
			}
		}
	}
	for i := range c.Sites {
		if c.Sites[i].Trail != nil {
			x.Trails = append(x.Trails, c.Sites[i].Trail.Site)
		}
	}
	slices.Sort(x.Trails)
	var err error
	if out[contentsFile], err = canon.Marshal(&x); err != nil {
		return nil, err
	}
	return out, nil
}

func events(list []uint64) []uint64 {
	if list == nil {
		return []uint64{}
	}
	return list
}

// parseSoftware reads software.json. What it names is the maker's word: it is
// signed, and nothing else can show it.
func parseSoftware(b []byte) (software, error) {
	var s software
	if err := decode(b, &s); err != nil {
		return s, err
	}
	for _, v := range []string{s.Name, s.Version, s.Commit, s.Go} {
		if len(v) > 256 || strings.ContainsAny(v, "\n\r") {
			return software{}, errText
		}
	}
	return s, nil
}
