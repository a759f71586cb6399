package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/client"
	"consilium/internal/hybrid"
	"consilium/internal/trail"
	"consilium/provenance"
	"consilium/provenance/chain"
)

// Options say what a verifier already trusts.
type Options struct {
	Board     map[string]consilium.PublicKey // the board's keys; nil takes those of the archived roster and says so
	Threshold int
	Now       time.Time

	// Anchors is what the verifier trusts of a chain; nil proves no anchor, and
	// says so.
	Anchors *chain.Trust
}

// Summary is what a verified archive proves.
type Summary struct {
	Study      consilium.StudyID      `json:"study"`
	Name       string                 `json:"name"`
	Question   string                 `json:"question"`
	Team       consilium.ResearcherID `json:"team"`
	Charter    consilium.Digest       `json:"charter"`
	Enrolled   []consilium.SiteID     `json:"enrolled"`
	Threshold  int                    `json:"threshold"`
	Faults     int                    `json:"faults"`
	Declined   []Declined             `json:"declined"`
	Rounds     []Round                `json:"rounds"`
	Released   []consilium.SiteID     `json:"released"` // who allowed the release
	Result     json.RawMessage        `json:"result"`
	Events     int                    `json:"events"`
	Root       consilium.Digest       `json:"root"` // of the coordinators' audit log, at Size
	Size       uint64                 `json:"size"`
	Signatures int                    `json:"signatures"`
	Uses       int                    `json:"uses"` // entries of hospitals' trails about rows used
	Anchors    []AnchoredSite         `json:"anchors"`
	Findings   []Finding              `json:"findings"`            // what hospitals' ledger checks found
	Missing    []consilium.SiteID     `json:"missing"`             // enrolled hospitals whose own trail is not in the archive
	Unvouched  bool                   `json:"unvouched,omitempty"` // the study ended without a charter whose members are the roster's
	By         string                 `json:"by"`
	Notes      []string               `json:"notes"`
	Ended      string                 `json:"ended"`
	Spec       *consilium.Spec        `json:"-"` // as the team submitted it
}

// Declined is a hospital that did not take part, and why.
type Declined struct {
	Site   consilium.SiteID `json:"site"`
	Code   string           `json:"code"`
	Reason string           `json:"reason"`
}

// Round is one closed round.
type Round struct {
	Round        uint32             `json:"round"`
	Attempts     uint32             `json:"attempts"`
	Contributors []consilium.SiteID `json:"contributors"`
	Votes        int                `json:"votes"`
	Openings     int                `json:"openings"`
	Agreed       int                `json:"agreed"` // equal signatures on the next state
}

// AnchoredSite says how far a hospital's ledger stands in a chain.
type AnchoredSite struct {
	Site   consilium.SiteID `json:"site"`
	Epoch  uint64           `json:"epoch"`
	Size   uint64           `json:"size"`   // entries that the anchor fixes
	Trail  bool             `json:"trail"`  // the record of this study is among them
	Proven bool             `json:"proven"` // under the contract and a block that the verifier named
	Time   string           `json:"time"`   // of the block, where it is proven
	Block  string           `json:"block"`  // as the anchor says
}

// Finding is one disagreement between a hospital's rows and its ledger.
type Finding struct {
	Site consilium.SiteID `json:"site"`
	Kind string           `json:"kind"`
	Name consilium.Digest `json:"name"`
}

// Verify checks the archive in dir, offline. The error is a *Misfit that names
// the first thing that does not fit.
func Verify(dir string, o Options) (*Summary, error) {
	c, m, err := read(dir)
	if err != nil {
		return nil, err
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	s := &Summary{Study: c.Study, By: m.By, Events: len(c.Events), Declined: []Declined{}, Findings: []Finding{}, Anchors: []AnchoredSite{}, Missing: []consilium.SiteID{}, Notes: []string{}}
	roster, err := verifyRoster(c, o, s)
	if err != nil {
		return nil, err
	}
	if maker, ok := roster.Researcher(consilium.ResearcherID(m.By)); !ok || maker.Key != m.Key {
		return nil, misfit(manifestFile, "signature", "not made by a team of the roster")
	}
	if err := s.verifyLog(c, roster); err != nil {
		return nil, err
	}
	if err := s.verifyEvents(c, roster); err != nil {
		return nil, err
	}
	proof, err := client.Check(roster, c.Study, c.Events)
	if err != nil {
		return nil, misfit(eventsFile, "", "%w", err)
	}
	if proof.Submission != nil {
		spec, err := consilium.ParseSpec(proof.Submission.SpecBytes)
		if err != nil {
			return nil, misfit(eventsFile, "submission", "%w", err)
		}
		s.Spec, s.Name, s.Question, s.Team = spec, spec.Name, spec.Question, proof.Submission.Team
	}
	if proof.Charter != nil {
		s.Charter, s.Threshold, s.Faults = proof.Digest, proof.Charter.Threshold, proof.Charter.Faults
		for i := range proof.Charter.Members {
			s.Enrolled = append(s.Enrolled, proof.Charter.Members[i].Site)
		}
		if proof.Charter.Roster != consilium.RosterDigest(c.Roster.Payload) {
			return nil, misfit(rosterFile, "", "the charter was made under another roster")
		}
	}
	if proof.Unvouched != nil {
		s.Unvouched = true
		s.Notes = append(s.Notes, fmt.Sprintf("the last charter was made under keys that this roster does not vouch for (%v): rounds, votes and openings are counted under the keys that the charter itself names, and no hospital's own trail is known to be missing", proof.Unvouched))
	}
	if (proof.Publish == nil) != (c.Envelope == nil) {
		return nil, misfit(resultFile, "", "a result is published and not archived, or archived and not published")
	}
	if proof.Publish != nil {
		if consilium.DomainResult.Digest(c.Salt, c.Envelope) != proof.Publish.Result {
			return nil, misfit(resultFile, "", "not the result that %d hospitals signed", proof.Charter.Threshold)
		}
		env, err := consilium.ParseResultEnvelope(c.Envelope)
		if err != nil {
			return nil, misfit(resultFile, "", "%w", err)
		}
		if err := canon.Check(env.Result); err != nil {
			return nil, misfit(resultFile, "", "%w", err)
		}
		s.Result = env.Result
		for _, p := range proof.Signers {
			s.Released = append(s.Released, proof.Charter.Member(p).Site)
		}
	}
	return s, s.verifySites(c, roster, o)
}

// VerifyAll verifies the archive in dir, or every archive in the directories
// directly below it.
func VerifyAll(dir string, o Options) ([]*Summary, error) {
	if _, err := os.Stat(filepath.Join(dir, manifestFile)); err == nil {
		s, err := Verify(dir, o)
		if err != nil {
			return nil, err
		}
		return []*Summary{s}, nil
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []*Summary
	for _, e := range list {
		if !e.IsDir() {
			return nil, misfit(e.Name(), "", "not an archive, and not part of one")
		}
		s, err := Verify(filepath.Join(dir, e.Name()), o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return nil, misfit(manifestFile, "", "there is no archive in this directory")
	}
	return out, nil
}

// verifyRoster checks the board's signatures.
func verifyRoster(c *Contents, o Options, s *Summary) (*consilium.Roster, error) {
	roster, err := consilium.ParseRoster(c.Roster.Payload)
	if err != nil {
		return nil, misfit(rosterFile, "", "%w", err)
	}
	keys, threshold := o.Board, o.Threshold
	if keys == nil {
		keys, threshold = map[string]consilium.PublicKey{}, roster.Board.Threshold
		for _, m := range roster.Board.Members {
			keys[m.ID] = m.Key
		}
		s.Notes = append(s.Notes, "the board's keys are those of the archived roster: compare them with what the board publishes")
	}
	if err := hybrid.VerifyThreshold(keys, threshold, consilium.DomainRoster, c.Roster); err != nil {
		return nil, misfit(rosterFile, "the board's signatures", "%w", err)
	}
	return roster, nil
}

// verifyLog checks that every event stands in the coordinators' audit log
// under a checkpoint that a node of the roster signed.
func (s *Summary) verifyLog(c *Contents, roster *consilium.Roster) error {
	cp, err := provenance.ParseCheckpoint(c.Checkpoint)
	if err != nil {
		return misfit(checkpointFile, "", "%w", err)
	}
	valid := 0
	var why error
	for _, n := range roster.Coordinators {
		if _, err := provenance.VerifyCheckpoint(c.Checkpoint, provenance.CheckpointPolicy{Origin: cp.Origin, Log: n.Ledger, Unwitnessed: true}, cp.Time); err == nil {
			valid++
		} else {
			why = err
		}
	}
	if valid == 0 {
		return misfit(checkpointFile, "", "no coordinator of the roster signed it: %w", why)
	}
	s.Root, s.Size = cp.Root, cp.Size
	last := int64(-1)
	for i, ev := range c.Events {
		if int64(ev.Seq) <= last {
			return misfit(eventsFile, fmt.Sprintf("event %d", ev.Seq), "out of order")
		}
		last = int64(ev.Seq)
		if ev.Study != c.Study {
			return misfit(eventsFile, fmt.Sprintf("event %d", ev.Seq), "of another study")
		}
		if err := provenance.VerifyInclusion(provenance.LeafHash(ev.Encode()), ev.Seq, cp.Size, c.Inclusion[i], cp.Root); err != nil {
			return misfit(eventsFile, fmt.Sprintf("event %d", ev.Seq), "not in the audit log: %w", err)
		}
	}
	return nil
}

// verifyEvents checks every signature and recounts every vote.
func (s *Summary) verifyEvents(c *Contents, roster *consilium.Roster) error {
	var charter *consilium.Charter
	var digest consilium.Digest
	var round *Round
	var set, state consilium.Digest
	var frozen []consilium.SiteID
	var renewal *consilium.Renewal
	departed := map[consilium.SiteID]bool{}
	votes, openings := map[consilium.Position]bool{}, map[consilium.Position]bool{}
	// Who signed which next state: a hospital whose vote the log holds several
	// times is one hospital.
	next := map[consilium.Digest]map[consilium.Position]bool{}
	headers := map[consilium.Position]consilium.Digest{}
	ahead := charterAhead(c.Events)
	for i, ev := range c.Events {
		where := fmt.Sprintf("event %d (%s)", ev.Seq, ev.Kind)
		switch ev.Kind {
		case consilium.EventProposed, consilium.EventCertified, consilium.EventClosed:
			// The log is its coordinators' word until it has been recounted.
			if charter == nil || round == nil {
				return misfit(eventsFile, where, "before any charter or round")
			}
		}
		switch ev.Kind {
		case consilium.EventChartered:
			var err error
			before := charter
			if charter, err = consilium.ParseCharter(ev.Body); err != nil {
				return misfit(eventsFile, where, "%w", err)
			}
			if before != nil {
				if err := charter.Succeeds(before, digest); err != nil {
					return misfit(eventsFile, where, "%w", err)
				}
				if renewal == nil || charter.Handover.State != state || charter.Handover.Round != renewal.Round {
					return misfit(eventsFile, where, "epoch %d does not go on from the last certified state", charter.Epoch)
				}
				if n := len(departed); n < before.ReleaseQuorum() {
					return misfit(eventsFile, where, "%d hospitals have left epoch %d, %d must", n, before.Epoch, before.ReleaseQuorum())
				}
				renewal = nil
				clear(departed)
			}
			// A round belongs to its charter: what was said under the old one, by its
			// positions, closes nothing under the new one's threshold.
			round, set = nil, consilium.Digest{}
			clear(votes)
			clear(openings)
			clear(next)
			clear(headers)
			digest = consilium.CharterDigest(ev.Body)
		case consilium.EventRenewing:
			r, err := consilium.ParseRenewal(ev.Body)
			if err != nil || charter == nil || r.Charter != digest || r.State != state {
				return misfit(eventsFile, where, "after another charter or state: %v", err)
			}
			if renewal == nil || r.Round != renewal.Round {
				clear(departed) // who left for another epoch or round has not left for this one
			}
			renewal = r
		case consilium.EventOpened:
			o, err := consilium.ParseRoundOpened(ev.Body)
			if err != nil || charter == nil || o.Charter != digest {
				return misfit(eventsFile, where, "a round of another charter: %v", err)
			}
			round = &Round{Round: o.Round, Attempts: o.Attempt}
			set = consilium.Digest{}
			clear(votes)
			clear(openings)
			clear(next)
			clear(headers)
		case consilium.EventProposed:
			u, err := consilium.ParseContributors(ev.Body)
			if err != nil || round == nil || u.Charter != digest || u.Round != round.Round || u.Attempt != round.Attempts {
				return misfit(eventsFile, where, "a set of another round: %v", err)
			}
			round.Contributors = nil
			for _, m := range u.Members {
				if charter.Member(m.Position) == nil || m.Header.IsZero() || headers[m.Position] != m.Header {
					return misfit(eventsFile, where, "position %d contributed no such header", m.Position)
				}
				round.Contributors = append(round.Contributors, charter.Members[m.Position-1].Site)
			}
			if n := charter.Operators(u.Positions()); n < charter.MinSites {
				return misfit(eventsFile, where, "%d operators, min_sites is %d", n, charter.MinSites)
			}
			if frozen != nil && !slices.Equal(frozen, round.Contributors) && exactStudy(c) {
				return misfit(eventsFile, where, "other contributors than in the first round of an exact study")
			}
			// Votes for one set certify no other one.
			if d := u.Digest(); d != set {
				set = d
				clear(votes)
				clear(openings)
				clear(next)
			}
		case consilium.EventCertified:
			if set.IsZero() || len(votes) < charter.Threshold {
				return misfit(eventsFile, where, "%d votes, %d are needed", len(votes), charter.Threshold)
			}
		case consilium.EventClosed:
			var d consilium.Digest
			if len(ev.Body) != len(d) || set.IsZero() {
				return misfit(eventsFile, where, "malformed")
			}
			copy(d[:], ev.Body)
			if len(next[d]) < charter.Threshold {
				return misfit(eventsFile, where, "%d hospitals signed this state, %d are needed", len(next[d]), charter.Threshold)
			}
			if len(openings) < charter.Threshold {
				return misfit(eventsFile, where, "%d openings, %d are needed", len(openings), charter.Threshold)
			}
			round.Votes, round.Openings, round.Agreed = len(votes), len(openings), len(next[d])
			s.Rounds = append(s.Rounds, *round)
			state = d
			if frozen == nil {
				frozen = round.Contributors
			}
		case consilium.EventDone, consilium.EventRefused, consilium.EventAborted, consilium.EventCancelled:
			s.Ended = ev.Kind.String()
			if ev.Kind != consilium.EventDone {
				s.Ended += ": " + string(ev.Body)
			}
		case consilium.EventMessage:
			m, err := consilium.ParseMessage(ev.Body)
			if err != nil {
				return misfit(eventsFile, where, "%w", err)
			}
			where = fmt.Sprintf("event %d (%s by %s)", ev.Seq, m.Kind, m.By)
			switch err := verifyAuthor(roster, m, charter, ahead[i]); {
			case errors.Is(err, errStranger) && (m.Kind == consilium.KindEnrol || m.Kind == consilium.KindDecline || m.Kind == consilium.KindWithdraw):
				s.Notes = append(s.Notes, fmt.Sprintf("%s by %s, who is in no charter and not in this roster: it counts for nothing and is not verified", m.Kind, m.By))
				continue
			case err != nil:
				return misfit(eventsFile, where, "%w", err)
			}
			s.Signatures++
			if m.Kind == consilium.KindDecline {
				if d, err := consilium.ParseDecline(m.Body); err == nil {
					s.Declined = append(s.Declined, Declined{consilium.SiteID(m.By), d.Code, d.Reason})
				}
			}
			if charter == nil {
				continue
			}
			p, ok := charter.Position(consilium.SiteID(m.By))
			if !ok {
				continue
			}
			switch m.Kind {
			case consilium.KindDepart:
				v, err := consilium.ParseDepart(m.Body)
				if err != nil || renewal == nil || v.Position != p || v.Charter != digest || v.Round != renewal.Round || v.State != renewal.State {
					return misfit(eventsFile, where, "of another place: %v", err)
				}
				departed[charter.Members[p-1].Site] = true
			case consilium.KindHeader:
				h, err := consilium.ParseHeader(m.Body)
				if err != nil || h.Position != p || h.Charter != digest {
					return misfit(eventsFile, where, "of another place: %v", err)
				}
				headers[p] = consilium.HeaderDigest(m.Body)
			case consilium.KindVote:
				v, err := consilium.ParseVote(m.Body)
				if err != nil || v.Position != p || v.Charter != digest {
					return misfit(eventsFile, where, "of another place: %v", err)
				}
				if v.Set == set {
					votes[p] = true
				}
			case consilium.KindOpening:
				v, err := consilium.ParseOpening(m.Body)
				if err != nil || v.Position != p || v.Charter != digest {
					return misfit(eventsFile, where, "of another place: %v", err)
				}
				if v.Set == set {
					openings[p] = true
				}
			case consilium.KindStateVote:
				v, err := consilium.ParseStateVote(m.Body)
				if err != nil || v.Position != p || v.Charter != digest {
					return misfit(eventsFile, where, "of another place: %v", err)
				}
				if v.Set == set && !v.Reject {
					if next[v.Next] == nil {
						next[v.Next] = map[consilium.Position]bool{}
					}
					next[v.Next][p] = true
				}
			}
		}
	}
	return nil
}

// exactStudy reports whether the archived study freezes its contributors.
func exactStudy(c *Contents) bool {
	for _, ev := range c.Events {
		if ev.Kind != consilium.EventMessage {
			continue
		}
		m, err := consilium.ParseMessage(ev.Body)
		if err != nil || m.Kind != consilium.KindSubmission {
			continue
		}
		sub, err := consilium.ParseSubmission(m.Body)
		if err != nil {
			return true
		}
		spec, err := consilium.ParseSpec(sub.SpecBytes)
		return err != nil || spec.FixedContributors()
	}
	return true
}

// charterAhead finds, for each event, the charter that the study comes to next:
// who enrols in it speaks with its key there.
func charterAhead(events []*consilium.Event) []*consilium.Charter {
	out := make([]*consilium.Charter, len(events))
	var next *consilium.Charter
	for i := len(events) - 1; i >= 0; i-- {
		if events[i].Kind == consilium.EventChartered {
			next, _ = consilium.ParseCharter(events[i].Body)
		}
		out[i] = next
	}
	return out
}

var errStranger = errors.New("not in the roster")

// verifyAuthor checks a message under its author's key: a hospital's as the
// charter in force has it, or the next, or the roster. Check has verified the
// charters, each of which names the one before.
func verifyAuthor(roster *consilium.Roster, m *consilium.Message, charters ...*consilium.Charter) error {
	var keys []consilium.PublicKey
	for _, c := range charters {
		if c == nil {
			continue
		}
		if p, ok := c.Position(consilium.SiteID(m.By)); ok {
			keys = append(keys, c.Members[p-1].Key)
		}
	}
	if key, ok := keyOf(roster, m); ok {
		keys = append(keys, key)
	}
	err := errStranger
	for _, key := range keys {
		if err = hybrid.Verify(key, m.Kind.Domain(), m.Body, &m.Signature); err == nil {
			return nil
		}
	}
	return err
}

func keyOf(roster *consilium.Roster, m *consilium.Message) (consilium.PublicKey, bool) {
	switch m.Kind {
	case consilium.KindSubmission, consilium.KindCancel:
		r, ok := roster.Researcher(consilium.ResearcherID(m.By))
		if !ok {
			return consilium.PublicKey{}, false
		}
		return r.Key, true
	case consilium.KindApproval:
		for _, b := range roster.Board.Members {
			if m.By == "board/"+b.ID {
				return b.Key, true
			}
		}
		return consilium.PublicKey{}, false
	}
	site, ok := roster.Site(consilium.SiteID(m.By))
	if !ok {
		return consilium.PublicKey{}, false
	}
	return site.Key, true
}

// verifySites checks the hospitals' own trails: chain, signature, anchor in the
// witnessed ledger, and that what they say they sent is what was logged.
func (s *Summary) verifySites(c *Contents, roster *consilium.Roster, o Options) error {
	sent := map[string]map[consilium.Digest]bool{}
	for _, ev := range c.Events {
		if ev.Kind != consilium.EventMessage {
			continue
		}
		if m, err := consilium.ParseMessage(ev.Body); err == nil && m.Kind == consilium.KindHeader {
			if sent[m.By] == nil {
				sent[m.By] = map[consilium.Digest]bool{}
			}
			sent[m.By][consilium.HeaderDigest(m.Body)] = true
		}
	}
	present := map[consilium.SiteID]bool{}
	for i := range c.Sites {
		rec := &c.Sites[i]
		present[rec.Trail.Site] = true
		file := "site-" + string(rec.Trail.Site) + ".json"
		site, ok := roster.Site(rec.Trail.Site)
		if !ok {
			return misfit(file, "", "not in the roster")
		}
		entries, err := rec.Trail.Verify(site.Key, c.Study)
		if err != nil {
			return misfit(file, "trail", "%w", err)
		}
		if err := s.verifyAnchor(rec, site, roster); err != nil {
			return misfit(file, "ledger", "%w", err)
		}
		if err := s.verifyChain(rec, site, o); err != nil {
			return misfit(file, "anchor", "%w", err)
		}
		recorded := map[consilium.Digest]bool{}
		for _, e := range entries {
			switch e.Type {
			case "contribution":
				var b struct{ Header consilium.Digest }
				if err := json.Unmarshal(e.Body, &b); err != nil {
					return misfit(file, fmt.Sprintf("trail entry %d", e.Seq), "%w", err)
				}
				recorded[b.Header] = true
			case "use":
				s.Uses++
			case "integrity":
				var b struct{ Findings []Finding }
				if err := json.Unmarshal(e.Body, &b); err != nil {
					return misfit(file, fmt.Sprintf("trail entry %d", e.Seq), "%w", err)
				}
				for _, f := range b.Findings {
					f.Site = site.ID
					if !slices.Contains(s.Findings, f) {
						s.Findings = append(s.Findings, f)
					}
				}
			}
		}
		for d := range sent[string(site.ID)] {
			if !recorded[d] {
				return misfit(file, "trail", "contribution %s was sent and not recorded", d.Short())
			}
		}
	}
	// What is left out must be said: otherwise a hospital with something to hide
	// would leave its trail out.
	for _, id := range s.Enrolled {
		if !present[id] {
			s.Missing = append(s.Missing, id)
			s.Notes = append(s.Notes, fmt.Sprintf("the own trail of %s is not in this archive: what it recorded itself was not checked", id))
		}
	}
	return nil
}

// verifyChain checks a record's anchors: the ledger at the record's checkpoint,
// which verifyAnchor has verified, continues each, and a chain holds each if the
// verifier brought something to trust.
func (s *Summary) verifyChain(rec *SiteRecord, site *consilium.Site, o Options) error {
	if len(rec.Anchors) == 0 {
		return nil
	}
	cp, err := provenance.ParseCheckpoint(rec.Checkpoint)
	if err != nil {
		return err
	}
	for _, x := range rec.Anchors {
		a, err := provenance.ParseAnchor(x.Anchor)
		if err != nil {
			return err
		}
		head, ok := a.Head(cp.Origin)
		if !ok {
			return fmt.Errorf("epoch %d does not name the ledger %s", a.Epoch, cp.Origin)
		}
		if err := provenance.CheckContinues(head, cp, x.Consistency); err != nil {
			return err
		}
		out := AnchoredSite{Site: site.ID, Epoch: a.Epoch, Size: head.Size, Trail: rec.Index < head.Size, Block: a.Block}
		if o.Anchors != nil {
			f, err := chain.Verify(a, *o.Anchors)
			if err != nil {
				return err
			}
			out.Proven, out.Time = true, f.Time.Format(time.RFC3339)
		}
		s.Anchors = append(s.Anchors, out)
	}
	return nil
}

// verifyAnchor checks that the hospital's ledger holds the trail's head.
func (s *Summary) verifyAnchor(rec *SiteRecord, site *consilium.Site, roster *consilium.Roster) error {
	witness, err := provenance.WitnessesOf(roster)
	if err != nil {
		return err
	}
	cp, err := provenance.VerifyCheckpoint(rec.Checkpoint, provenance.CheckpointPolicy{Log: site.Ledger, Witnesses: witness.AnyAge()}, time.Now())
	if err != nil {
		return err
	}
	if err := provenance.VerifyInclusion(provenance.LeafHash(rec.Entry), rec.Index, cp.Size, rec.Inclusion, cp.Root); err != nil {
		return err
	}
	e, err := provenance.ParseEntry(rec.Entry)
	if err != nil {
		return err
	}
	if err := e.Verify(site.Key); err != nil {
		return err
	}
	r, err := provenance.ParseRecord(e.Payload)
	if err != nil {
		return err
	}
	head, ok := r.Digests["trail"]
	if !ok || !slices.ContainsFunc(rec.Trail.Links, func(l trail.Link) bool { return l.Digest == head }) {
		return fmt.Errorf("the anchored head is not in the trail")
	}
	last := -1
	for i, l := range rec.Trail.Links {
		if l.Entry != nil {
			last = i
		}
	}
	if at := slices.IndexFunc(rec.Trail.Links, func(l trail.Link) bool { return bytes.Equal(l.Digest[:], head[:]) }); at < last {
		return fmt.Errorf("the trail goes on after the anchored head")
	}
	return nil
}
