package coordinator

import (
	"slices"

	"consilium"
)

// The tricks of a hostile member: what it says beside its next honest
// statement, under its own signature. One hospital of a study may be like that,
// or two where the study is made for f = 2.
const (
	trickNone      = iota
	trickVotes     // a vote for a set that nobody proposed
	trickHeaders   // a second contribution to the same attempt
	trickStates    // another next state
	trickRejects   // says that the sum is bad
	trickOpenings  // an opening share of garbage
	trickComplains // complains about everybody
	trickRenounces // renounces what it votes for
	trickPoses     // says it for somebody else
	trickRepeats   // says again what others said
	trickLeaves    // withdraws
	trickReleases  // a release of another result
	trickPublishes // publishes before its turn, what is not the result
	tricks
)

// lie makes what a hostile member says beside m.
func (c *simClient) lie(m *consilium.Message) (out []*consilium.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	say := func(kind consilium.MessageKind, body []byte) {
		sig, err := c.key.Sign(kind.Domain(), body)
		if err == nil {
			out = append(out, &consilium.Message{Kind: kind, Study: m.Study, By: m.By, Body: body, Signature: sig})
			c.n.lies.Store(c.name+string(out[len(out)-1].Encode()), true)
		}
	}
	switch c.trick {
	case trickVotes:
		if v, err := consilium.ParseVote(m.Body); m.Kind == consilium.KindVote && err == nil {
			v.Set = dig("another set")
			say(m.Kind, v.Encode())
		}
	case trickHeaders:
		if h, err := consilium.ParseHeader(m.Body); m.Kind == consilium.KindHeader && err == nil {
			h.Decision = dig("another decision")
			say(m.Kind, h.Encode())
		}
	case trickStates, trickRejects:
		if v, err := consilium.ParseStateVote(m.Body); m.Kind == consilium.KindStateVote && err == nil {
			v.Next, v.Done, v.Reject = dig("another state"), false, false
			if c.trick == trickRejects {
				v.Next, v.Reject = consilium.Digest{}, true
			}
			say(m.Kind, v.Encode())
		}
	case trickOpenings:
		if o, err := consilium.ParseOpening(m.Body); m.Kind == consilium.KindOpening && err == nil {
			o.Sealed = slices.Clone(o.Sealed)
			o.Sealed[len(o.Sealed)-1] ^= 1
			say(m.Kind, o.Encode())
		}
	case trickComplains:
		if v, err := consilium.ParseAck(m.Body); m.Kind == consilium.KindAck && err == nil {
			for _, g := range v.Good {
				if g.Position != v.Position {
					say(consilium.KindComplaint, (&consilium.Complaint{At: v.At, Header: g.Header, Reason: "a lie"}).Encode())
				}
			}
		}
	case trickRenounces:
		if v, err := consilium.ParseVote(m.Body); m.Kind == consilium.KindVote && err == nil {
			say(consilium.KindRenounce, (&consilium.Renounce{At: v.At}).Encode())
		}
	case trickPoses:
		for _, o := range c.seen {
			if o.Study == m.Study && o.Kind == m.Kind && o.By != m.By {
				posed := *m
				posed.By = o.By
				out = append(out, &posed)
				posed.Signature = o.Signature
				out = append(out, &posed)
				break
			}
		}
	case trickRepeats:
		for _, o := range c.seen {
			if o.Study == m.Study && o.Kind != consilium.KindHeader && len(out) < 8 {
				own := *o
				out = append(out, o, &own)
				own.By = m.By
			}
		}
	case trickLeaves:
		if m.Kind == consilium.KindVote || m.Kind == consilium.KindReveal {
			say(consilium.KindWithdraw, (&consilium.Withdraw{Study: m.Study, Reason: "a lie"}).Encode())
		}
	case trickReleases:
		if v, err := consilium.ParseRelease(m.Body); m.Kind == consilium.KindRelease && err == nil {
			v.Result = dig("another result")
			say(m.Kind, v.Encode())
		}
	case trickPublishes:
		if v, err := consilium.ParseRelease(m.Body); m.Kind == consilium.KindRelease && err == nil {
			for _, o := range c.seen {
				if offer, err := consilium.ParseSealedState(o.Body); o.Kind == consilium.KindSealedState && o.Study == m.Study && err == nil {
					say(consilium.KindPublish, (&consilium.Publish{At: v.At, Result: v.Result, Blob: offer.Blob}).Encode())
					break
				}
			}
		}
	default:
		return nil
	}
	if out != nil {
		c.trick = trickNone
	}
	return out
}
