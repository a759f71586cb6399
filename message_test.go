package consilium_test

import (
	"bytes"
	"testing"

	"consilium"
)

type encoder interface{ Encode() []byte }

func digest(b byte) consilium.Digest { return consilium.DomainBlob.Digest([]byte{b}) }

// bodies lists one filled value of every binary message with its parser.
func bodies() map[string]struct {
	value encoder
	parse func([]byte) (encoder, error)
} {
	at := consilium.At{Charter: digest(1), Round: 2, Attempt: 1, Position: 3}
	good := []consilium.Contributor{{Position: 1, Header: digest(9)}, {Position: 4, Header: digest(8)}}
	study := consilium.NewStudyID(digest(2))
	type entry = struct {
		value encoder
		parse func([]byte) (encoder, error)
	}
	return map[string]entry{
		"enrol": {&consilium.Enrol{Study: study, Submission: digest(3), Roster: digest(4), Nonce: digest(5), Commitment: digest(6), Decision: digest(7)},
			func(b []byte) (encoder, error) { return consilium.ParseEnrol(b) }},
		"decline": {&consilium.Decline{Study: study, Submission: digest(3), Decision: digest(7), Code: "GDPR-6", Reason: "no ground"},
			func(b []byte) (encoder, error) { return consilium.ParseDecline(b) }},
		"reveal": {&consilium.Reveal{Draft: digest(3), Boxes: []consilium.SealedBox{{To: 1, Sealed: []byte("a")}, {To: 2, Sealed: []byte("b")}}},
			func(b []byte) (encoder, error) { return consilium.ParseReveal(b) }},
		"header": {&consilium.Header{At: at, State: digest(1), Sealing: digest(8), Layout: digest(2), Vector: digest(3), RowSet: digest(4), Decision: digest(5), Ledger: digest(6),
			Ciphertext: digest(7), Size: 77, Boxes: []consilium.Digest{digest(1), digest(2), digest(3)}, Commitments: []consilium.Digest{digest(4), digest(5), digest(6)}, Check: []byte("v")},
			func(b []byte) (encoder, error) { return consilium.ParseHeader(b) }},
		"contributors": {&consilium.Contributors{Charter: digest(1), Round: 1, Attempt: 1, Members: good},
			func(b []byte) (encoder, error) { return consilium.ParseContributors(b) }},
		"ack":       {&consilium.Ack{At: at, Good: good}, func(b []byte) (encoder, error) { return consilium.ParseAck(b) }},
		"complaint": {&consilium.Complaint{At: at, Header: digest(1), Reason: "bad box"}, func(b []byte) (encoder, error) { return consilium.ParseComplaint(b) }},
		"vote":      {&consilium.Vote{At: at, Set: digest(1)}, func(b []byte) (encoder, error) { return consilium.ParseVote(b) }},
		"opening":   {&consilium.Opening{At: at, Set: digest(1), Sealed: []byte("share")}, func(b []byte) (encoder, error) { return consilium.ParseOpening(b) }},
		"renounce":  {&consilium.Renounce{At: at}, func(b []byte) (encoder, error) { return consilium.ParseRenounce(b) }},
		"state vote": {&consilium.StateVote{At: at, Set: digest(1), Next: digest(2), Done: true},
			func(b []byte) (encoder, error) { return consilium.ParseStateVote(b) }},
		"sealed state": {&consilium.SealedState{At: at, Next: digest(1), Blob: digest(2)}, func(b []byte) (encoder, error) { return consilium.ParseSealedState(b) }},
		"release":      {&consilium.Release{At: at, Result: digest(1), Decision: digest(2), Allow: true}, func(b []byte) (encoder, error) { return consilium.ParseRelease(b) }},
		"publish":      {&consilium.Publish{At: at, Result: digest(1), Blob: digest(2)}, func(b []byte) (encoder, error) { return consilium.ParsePublish(b) }},
		"withdraw":     {&consilium.Withdraw{Study: study, Reason: "r"}, func(b []byte) (encoder, error) { return consilium.ParseWithdraw(b) }},
		"cancel":       {&consilium.Cancel{Study: study, Reason: "r"}, func(b []byte) (encoder, error) { return consilium.ParseCancel(b) }},
		"answer":       {&consilium.Answer{At: at, Header: digest(1), To: 2, Sealed: []byte("share")}, func(b []byte) (encoder, error) { return consilium.ParseAnswer(b) }},
		"suspect":      {&consilium.Suspect{At: at, Set: digest(1), Accused: []consilium.Position{2, 5}}, func(b []byte) (encoder, error) { return consilium.ParseSuspect(b) }},
		"show":         {&consilium.Show{At: at, Set: digest(1), Blob: digest(2)}, func(b []byte) (encoder, error) { return consilium.ParseShow(b) }},
		"depart":       {&consilium.Depart{Charter: digest(1), Round: 3, State: digest(2), Position: 4}, func(b []byte) (encoder, error) { return consilium.ParseDepart(b) }},
		"renewal": {&consilium.Renewal{Charter: digest(1), Round: 3, State: digest(2), Roster: digest(3), Try: 1, Reason: "r"},
			func(b []byte) (encoder, error) { return consilium.ParseRenewal(b) }},
		"message": {&consilium.Message{Kind: consilium.KindVote, Study: study, By: "nih", Body: []byte("body")},
			func(b []byte) (encoder, error) { return consilium.ParseMessage(b) }},
		"event": {&consilium.Event{Seq: 4, Time: 5, Study: study, Kind: consilium.EventSummed, Body: []byte("x")},
			func(b []byte) (encoder, error) { return consilium.ParseEvent(b) }},
		"round opened": {&consilium.RoundOpened{Charter: digest(1), Round: 1, Attempt: 1, Deadline: 9, Sealing: []consilium.Digest{{}, digest(3)}},
			func(b []byte) (encoder, error) { return consilium.ParseRoundOpened(b) }},
		"summed": {&consilium.Summed{Set: digest(1), Blob: digest(2), Size: 3}, func(b []byte) (encoder, error) { return consilium.ParseSummed(b) }},
	}
}

// TestEncodings: what is accepted re-encodes to the same bytes; every
// truncation and any byte too many is refused.
func TestEncodings(t *testing.T) {
	for name, body := range bodies() {
		b := body.value.Encode()
		got, err := body.parse(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(got.Encode(), b) {
			t.Errorf("%s: re-encodes differently", name)
		}
		for n := range b {
			if _, err := body.parse(b[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes are accepted", name, n, len(b))
				break
			}
		}
		if _, err := body.parse(append(bytes.Clone(b), 0)); err == nil {
			t.Errorf("%s: a byte too many is accepted", name)
		}
	}
}

// FuzzParse feeds arbitrary bytes to every parser: none may panic, and what
// one accepts must re-encode identically.
func FuzzParse(f *testing.F) {
	for _, body := range bodies() {
		f.Add(body.value.Encode())
	}
	all := bodies()
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, body := range all {
			if got, err := body.parse(b); err == nil && !bytes.Equal(got.Encode(), b) {
				t.Errorf("%s: accepted bytes re-encode differently", name)
			}
		}
	})
}

func TestThreshold(t *testing.T) {
	for n := 3; n <= consilium.MaxSites; n++ {
		for f := 1; f <= n; f++ {
			th := consilium.Threshold(n, f)
			if 2*th < n+f+2 || 2*(th-1) >= n+f+2 {
				t.Fatalf("Threshold(%d, %d) = %d is not the least t with 2t >= n+f+2", n, f, th)
			}
		}
	}
	if f := consilium.DefaultFaults(13, 5); f != 3 || consilium.Threshold(13, f) != 9 {
		t.Errorf("13 hospitals, min_sites 5: f = %d, t = %d, want 3 and 9", f, consilium.Threshold(13, f))
	}
}
