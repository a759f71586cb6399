package coordinator

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"consilium"
	"consilium/internal/blob"
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
	trickPublishes // publishes before its turn, and before t hospitals have allowed it
	tricks
)

// ownResult is what a hostile member publishes.
const ownResult = "not the result"

// overtake posts a hostile member's publication until it is taken or refused
// for good: before its own release counts, and while those of others are missing.
func (c *simClient) overtake(ctx context.Context, release *consilium.Message) {
	lies := c.lie(release)
	if len(lies) == 0 {
		return
	}
	if _, err := c.PutBlob(ctx, strings.NewReader(ownResult), uint64(len(ownResult))); err != nil {
		return
	}
	for range 30 {
		if err := c.post(ctx, lies[0]); err == nil || errors.Is(err, consilium.ErrStudyEnded) || pause(ctx, time.Millisecond) != nil {
			return
		}
	}
}

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
			say(consilium.KindPublish, (&consilium.Publish{At: v.At, Result: v.Result, Blob: blob.Sum([]byte(ownResult))}).Encode())
		}
	default:
		return nil
	}
	if out != nil {
		c.trick = trickNone
	}
	return out
}
