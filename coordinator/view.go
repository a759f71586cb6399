package coordinator

import (
	"slices"
	"sort"

	"consilium"
)

// StudyInfo says where a study stands.
type StudyInfo struct {
	ID                   consilium.StudyID
	Name                 string
	Team                 consilium.ResearcherID
	Phase                consilium.Phase
	Round, Attempt       uint32
	Members, Contributed int
	Deadline             int64  // Unix milliseconds, or 0
	Reason               string // why it waits or ended
	Submission           consilium.Digest
	Charter              consilium.Digest   // zero until chartered
	Result               consilium.Digest   // blob of the sealed result, or zero
	Sites                []consilium.SiteID // asked to take part; ascending
	FirstSeq, LastSeq    uint64             // range of its events, which may hold others'
	Events               int
	Approvals            int
	Submitted, Ended     int64 // Unix milliseconds; Ended is 0 while it lives
}

// Index is the index of the last accepted command.
func (s *State) Index() uint64 { return s.index }

// Now is the coordinator's clock in Unix milliseconds.
func (s *State) Now() int64 { return s.now }

// NextSeq is the sequence number of the next event, and the size of the audit
// log.
func (s *State) NextSeq() uint64 { return s.seq }

// Roster is the roster in force and its digest; nil before the first.
func (s *State) Roster() (*consilium.Roster, consilium.Digest) { return s.roster, s.rosterDigest }

// RosterPayload is the exact bytes of the roster in force.
func (s *State) RosterPayload() []byte { return s.rosterPayload }

// Edge is the size of the audit log and the right edge of its tree (RFC 6962
// §2.1): the roots of its full subtrees, largest first. The leaves are the
// encoded events.
func (s *State) Edge() (size uint64, right []consilium.Digest) {
	return s.seq, slices.Clone(s.edge)
}

// Root is the root of the audit log's tree (RFC 6962 §2.1).
func (s *State) Root() consilium.Digest {
	if len(s.edge) == 0 {
		// The hash of nothing, as RFC 6962 defines it.
		return consilium.Digest{0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
			0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55}
	}
	root := s.edge[len(s.edge)-1]
	for i := len(s.edge) - 2; i >= 0; i-- {
		root = nodeHash(s.edge[i], root)
	}
	return root
}

// Studies lists all studies, ended ones too, by ascending id.
func (s *State) Studies() []StudyInfo {
	out := make([]StudyInfo, 0, len(s.studies)+len(s.ended))
	for _, st := range s.studies {
		out = append(out, st.info())
	}
	for _, e := range s.ended {
		out = append(out, e.info)
	}
	sort.Slice(out, func(i, k int) bool { return out[i].ID < out[k].ID })
	return out
}

// Study says where one study stands.
func (s *State) Study(id consilium.StudyID) (StudyInfo, bool) {
	if st := s.studies[id]; st != nil {
		return st.info(), true
	}
	if e := s.ended[id]; e != nil {
		return e.info, true
	}
	return StudyInfo{}, false
}

func (st *study) info() StudyInfo {
	i := StudyInfo{
		ID: st.id, Name: st.name, Team: st.team, Phase: st.phase, Round: st.round, Attempt: st.attempt,
		Deadline: st.deadline, Reason: st.reason, Submission: st.submission, Charter: st.charterDigest,
		FirstSeq: st.events[0].Seq, LastSeq: st.events[len(st.events)-1].Seq, Events: len(st.events),
		Approvals: len(st.approvers), Submitted: st.submitted,
	}
	if st.waiting {
		i.Phase = consilium.PhaseWaiting
	}
	for k := range st.asked {
		i.Sites = append(i.Sites, st.asked[k].id)
		if st.charter == nil && st.asked[k].enrol != nil {
			i.Members++
		}
	}
	if st.charter != nil {
		i.Members = len(st.charter.Members)
	}
	for _, k := range st.contributions {
		if k != nil {
			i.Contributed++
		}
	}
	if st.phase == consilium.PhaseReleasing { // the last round's set; its blobs are gone
		i.Contributed = len(st.set)
	}
	return i
}

// Events lists the events of a live study from a sequence number on. Those of
// an ended study are no longer in the state.
func (s *State) Events(id consilium.StudyID, from uint64) []consilium.Event {
	st := s.studies[id]
	if st == nil {
		return nil
	}
	i := sort.Search(len(st.events), func(i int) bool { return st.events[i].Seq >= from })
	return st.events[i:len(st.events):len(st.events)]
}

// Submission is a live study's submission payload and the board's approvals,
// for the policy decision.
func (s *State) Submission(id consilium.StudyID) (payload []byte, approvals []consilium.Message, ok bool) {
	st := s.studies[id]
	if st == nil {
		return nil, nil, false
	}
	for i := range st.events {
		if st.events[i].Kind != consilium.EventMessage {
			continue
		}
		m, err := consilium.ParseMessage(st.events[i].Body)
		if err != nil {
			continue
		}
		switch m.Kind {
		case consilium.KindSubmission:
			payload = m.Body
		case consilium.KindApproval:
			approvals = append(approvals, *m)
		default:
			return payload, approvals, true // approvals come before everything else
		}
	}
	return payload, approvals, true
}

// Charter is a live study's charter, once every member has signed it.
func (s *State) Charter(id consilium.StudyID) (*consilium.Charter, consilium.Digest, bool) {
	st := s.studies[id]
	if st == nil || st.charterPayload == nil {
		return nil, consilium.Digest{}, false
	}
	return st.charter, st.charterDigest, true
}

// Settled reports whether the log has a statement, or its study is over, and what
// Apply would answer: nil, or that it is over.
func (s *State) Settled(m *consilium.Message) (bool, error) {
	st := s.studies[m.Study]
	if st == nil && s.ended[m.Study] != nil {
		return true, consilium.ErrStudyEnded.Withf("%s", m.Study)
	}
	return st != nil && st.seen[statement(m)], nil
}

// Takes says why a header can no longer be recorded at a place, or nil. It
// permits nothing: Apply decides. A header that is recorded gets the same answer
// again, whenever it comes.
func (s *State) Takes(m *consilium.Message, at consilium.At) error {
	st := s.studies[m.Study]
	switch {
	case st == nil && s.ended[m.Study] != nil:
		return consilium.ErrStudyEnded.Withf("%s", m.Study)
	case st == nil:
		return consilium.ErrUnknownStudy.Withf("%s", m.Study)
	case st.seen[statement(m)]:
		return nil
	case at.Charter != st.charterDigest, at.Round < st.round, at.Round == st.round && at.Attempt < st.attempt,
		at.Round == st.round && at.Attempt == st.attempt && st.phase != consilium.PhaseContributing:
		return consilium.ErrRoundClosed.Withf("round %d attempt %d went on without this contribution", at.Round, at.Attempt)
	}
	return nil
}

// Draft is the payload of a live study's charter draft.
func (s *State) Draft(id consilium.StudyID) ([]byte, bool) {
	st := s.studies[id]
	if st == nil || st.draft == nil {
		return nil, false
	}
	return st.draft, true
}

// Location says where bytes that a message or an event names are stored.
type Location struct {
	Study          consilium.StudyID
	Blob           BlobRef
	Offset, Length uint64
}

// Locate finds an encrypted vector by the digest in its header, one sealed box
// by its digest in the header, or a blob that an event names.
func (s *State) Locate(d consilium.Digest) (Location, bool) {
	if d.IsZero() {
		return Location{}, false
	}
	for _, st := range s.live() {
		whole := func(b BlobRef) (Location, bool) { return Location{st.id, b, 0, b.Size}, true }
		for _, k := range st.contributions {
			if k == nil {
				continue
			}
			if k.ciphertext == d || k.upload.Ciphertext.Digest == d {
				return whole(k.upload.Ciphertext)
			}
			if k.upload.Boxes.Digest == d {
				return whole(k.upload.Boxes)
			}
			if i := slices.Index(k.boxes, d); i >= 0 {
				size := k.upload.Boxes.Size / uint64(len(k.boxes))
				return Location{st.id, k.upload.Boxes, uint64(i) * size, size}, true
			}
		}
		if st.sum != nil && st.sum.Digest == d {
			return whole(*st.sum)
		}
		for _, list := range [][]sealedState{st.sealed, st.shown} {
			for _, b := range list {
				if b.blob.Digest == d {
					return whole(b.blob)
				}
			}
		}
	}
	for _, e := range s.endedList() {
		if e.info.Result == d {
			return Location{e.info.ID, BlobRef{d, e.resultSize}, 0, e.resultSize}, true
		}
	}
	return Location{}, false
}

// LiveBlobs lists every blob that the state refers to once, study by study.
// Each must be on a majority of nodes before membership changes.
func (s *State) LiveBlobs() []BlobRef {
	var out []BlobRef
	for _, st := range s.live() {
		out = append(out, st.blobs()...)
	}
	for _, e := range s.endedList() {
		if !e.info.Result.IsZero() {
			out = append(out, BlobRef{e.info.Result, e.resultSize})
		}
	}
	seen := make(map[consilium.Digest]bool, len(out))
	return slices.DeleteFunc(out, func(b BlobRef) bool {
		again := seen[b.Digest]
		seen[b.Digest] = true
		return again
	})
}

// Collected reports whether a blob was collected lately.
func (s *State) Collected(d consilium.Digest) bool { return slices.Contains(s.collected, d) }
