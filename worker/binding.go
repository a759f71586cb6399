package worker

import (
	"slices"

	"consilium"
)

// binding is what a hospital has bound itself to in one round: the members
// that it opened for, until which attempt, and up to which attempt it will open
// nothing any more. It is journalled before the statement that it allows is
// sent; every vote and every opening asks it. Its methods are pure, so that a
// test plays every schedule against the very rules that the gate keeps.
//
// Two openings of one round over sets that differ by one hospital give that
// hospital's vector exactly. With 2t >= N + f + 2 any two sets of t openers share
// two honest hospitals; each of them opens for one set of members only, unless
// N - t + f + 1 renouncements show that what it opened for never opens.
//
// This holds for any number of attempts. Suppose t shares of attempt a for A and t
// of attempt b for B are out. At least 2(t-f) - (N-f) >= 2 honest hospitals opened
// both. The first of the two openings of such a one locked it, say in a; for the
// other it took renouncements that reach a. N - t + 1 of them are of honest
// hospitals, which have opened in no attempt when they sign and open none up to a
// later. So at most (N-f) - (N-t+1) < t - f honest ones ever open in a, and t shares
// never come together there.
type binding struct {
	Members   []consilium.Position `json:"members,omitempty"` // of the set that was opened, in any attempt
	Attempt   uint32               `json:"attempt"`           // the last attempt that was opened
	Renounced uint32               `json:"renounced"`         // attempts that are never opened
	Opened    bool                 `json:"opened"`            // in some attempt, whether the lock still holds or was released
}

// locked reports whether this hospital opened in the round and is still bound
// to it.
func (b binding) locked() bool { return b.Members != nil }

// allows says why a vote or an opening in an attempt for these members would
// break the binding, or nil.
func (b binding) allows(attempt uint32, members []consilium.Position) error {
	if attempt <= b.Renounced {
		return consilium.ErrLocked.Withf("attempt %d was left for good: this hospital has renounced the attempts up to %d", attempt, b.Renounced)
	}
	if b.locked() && !slices.Equal(b.Members, members) {
		return consilium.ErrLocked.Withf("the round was opened for positions %v, not %v", b.Members, members)
	}
	return nil
}

// lock is the binding with an opening in an attempt.
func (b binding) lock(attempt uint32, members []consilium.Position) binding {
	return binding{Members: slices.Clone(members), Attempt: max(b.Attempt, attempt), Renounced: b.Renounced, Opened: true}
}

// join is the binding with everything before an attempt left for good.
func (b binding) join(attempt uint32) binding {
	b.Renounced = max(b.Renounced, attempt-1)
	return b
}

// mayRenounce reports whether this hospital may promise that it has not opened
// in the round up to an attempt and never will. Once it has, a released lock
// changes nothing about that.
func (b binding) mayRenounce() bool { return !b.Opened }

// release is the binding with its lock taken off, if renouncements say that no
// attempt that this hospital opened can ever be opened by t. renounced holds
// for each other member the attempt up to which it signed never to have opened
// and never to open; quorum is N - t + f + 1.
func (b binding) release(renounced map[consilium.Position]uint32, quorum int) (binding, bool) {
	if !b.locked() {
		return b, false
	}
	n := 0
	for _, upTo := range renounced {
		if upTo >= b.Attempt {
			n++
		}
	}
	if n < quorum {
		return b, false
	}
	return binding{Renounced: max(b.Renounced, b.Attempt), Opened: true}, true
}
