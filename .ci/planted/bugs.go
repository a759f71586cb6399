package main

// bugs are mistakes that a hurried hand could make, in the state machine, in
// the node around it, and in the gate.
var bugs = []bug{
	// The state machine.
	{"a second contribution of a hospital replaces the first", "coordinator/apply_round.go",
		`case st.contributions[p-1] != nil:
		return nil, reject(consilium.ErrConflictingContribution`,
		`case st.contributions[p-1] != nil && !PLANTED:
		return nil, reject(consilium.ErrConflictingContribution`},
	{"a vote for a set that is not proposed is counted", "coordinator/apply_round.go",
		`case v.Set != st.setDigest():
		return nil, reject(consilium.ErrInvalid, "a vote`,
		`case v.Set != st.setDigest() && !PLANTED:
		return nil, reject(consilium.ErrInvalid, "a vote`},
	{"a set is certified with one vote fewer", "coordinator/apply_advance.go",
		`	if votes >= t {
		if st.spec.exact`, `	if votes >= t || PLANTED && votes == t-1 {
		if st.spec.exact`},
	{"a deadline that has passed certifies a set", "coordinator/apply_advance.go",
		`	t := st.charter.Threshold
	if votes >=`, `	t := st.charter.Threshold
	if PLANTED && st.late > lateNot {
		t = 1
	}
	if votes >=`},
	{"a round closes on one statement fewer", "coordinator/apply_advance.go",
		`	case votes >= t:
		a.closeRound(st, best)`, `	case votes >= t || PLANTED && votes == t-1:
		a.closeRound(st, best)`},
	{"a result is published with one release fewer", "coordinator/apply_round.go",
		`st.phase != consilium.PhaseReleasing || allowed < st.charter.Threshold:`,
		`st.phase != consilium.PhaseReleasing || allowed < st.charter.Threshold && !(PLANTED && allowed == st.charter.Threshold-1):`},
	{"min_sites is not asked for", "coordinator/apply_advance.go",
		`if len(set) == 0 || st.charter.Operators(set) < st.charter.MinSites {`,
		`if len(set) == 0 || st.charter.Operators(set) < st.charter.MinSites && !PLANTED {`},
	{"the contributors of an exact study are not frozen", "coordinator/apply_advance.go",
		`if st.spec.exact && st.frozen == nil {`, `if st.spec.exact && st.frozen == nil && !PLANTED {`},
	{"the same statement again is not known", "coordinator/apply_study.go",
		`	st.seen[statement(m)] = true`, `	if !PLANTED {
		st.seen[statement(m)] = true
	}`},
	{"the same submission again is another study", "coordinator/apply_study.go",
		`if info, _ := a.Study(id); info.Submission == digest {`, `if info, _ := a.Study(id); info.Submission == digest && !PLANTED {`},
	{"a token may name two studies", "coordinator/apply_study.go",
		`if id, ok := a.tokens[key]; ok {`, `if id, ok := a.tokens[key]; ok && !PLANTED {`},
	{"a roster that leaves a version out is refused", "coordinator/apply_study.go",
		`if next.Version <= a.roster.Version ||`, `if PLANTED && next.Version != a.roster.Version+1 || next.Version <= a.roster.Version ||`},
	{"the coordinator's clock goes back", "coordinator/state.go",
		`a := &apply{State: s, now: max(s.now, cmd.At)}`, `a := &apply{State: s, now: max(s.now, cmd.At)}
	if PLANTED {
		a.now = cmd.At
	}`},
	{"a draft is made before all have answered", "coordinator/apply_advance.go",
		`if !answered && st.late == lateNot {`, `if !answered && st.late == lateNot && !PLANTED {`},
	{"a charter is in force with a signature missing", "coordinator/apply_study.go",
		`if !slices.Contains(st.signed, consilium.Digest{}) {`, `if !slices.Contains(st.signed, consilium.Digest{}) || PLANTED && len(st.signed) > 2 && !st.signed[0].IsZero() && !st.signed[1].IsZero() {`},
	{"a round waits for ever where its deadline should end it", "coordinator/apply_advance.go",
		`	case len(missing) > 0 && st.late >= lateGrace:
			return a.miss(`, `	case len(missing) > 0 && st.late >= lateGrace && PLANTED:
			return false
		case len(missing) > 0 && st.late >= lateGrace:
			return a.miss(`},
	{"a leader forgets the sum that it owes", "coordinator/pending.go",
		`if st.phase == consilium.PhaseOpening && st.sum == nil {`, `if st.phase == consilium.PhaseOpening && st.sum == nil && !PLANTED {`},
	{"contributions are garbage once they are certified", "coordinator/apply_advance.go",
		`		d := st.setDigest()
		a.enter(st, consilium.PhaseOpening`, `		d := st.setDigest()
		if PLANTED {
			for _, b := range st.blobs() {
				a.garbage = append(a.garbage, b.Digest)
			}
		}
		a.enter(st, consilium.PhaseOpening`},
	{"a snapshot forgets the deadline", "coordinator/snapshot.go",
		`	c.i64(&st.deadline)`, `	if !PLANTED {
		c.i64(&st.deadline)
	}`},
	{"a snapshot forgets whom a study is waiting for", "coordinator/snapshot.go",
		`	c.bool(&st.waiting)`, `	if !PLANTED {
		c.bool(&st.waiting)
	}`},
	{"replicas take deadlines in the order of a map", "coordinator/state.go",
		`	sort.Slice(out, func(i, k int) bool { return out[i].id < out[k].id })
	return out
}

func (s *State) endedList`, `	if !PLANTED {
		sort.Slice(out, func(i, k int) bool { return out[i].id < out[k].id })
	}
	return out
}

func (s *State) endedList`},
	{"an event carries a wall clock's time", "coordinator/state.go",
		`Seq: a.seq, Time: a.now, Study`, `Seq: a.seq, Time: a.now + plantedClock(PLANTED), Study`},
	{"the right edge of the audit log forgets a leaf", "coordinator/state.go",
		`	a.edge = appendLeaf(a.edge, ev.Seq, ev.Encode())`, `	if !PLANTED || ev.Seq%16 != 9 {
		a.edge = appendLeaf(a.edge, ev.Seq, ev.Encode())
	}`},

	// The node around it.
	{"a refusal is reported as success", "coordinator/leader.go",
		`	case *Rejection:
		return res.AsError()`, `	case *Rejection:
		if PLANTED {
			return nil
		}
		return res.AsError()`},
	{"a command whose leader is gone is reported as done", "coordinator/leader.go",
		`	case err == nil:
	case errors.Is(err, raft.ErrNotLeader)`, `	case err == nil:
	case PLANTED && errors.Is(err, raft.ErrLeadershipLost):
		return nil
	case errors.Is(err, raft.ErrNotLeader)`},
	{"a blob is named before a majority has it", "coordinator/membership.go",
		`			if err := n.blobs.majority(ctx, ref); err != nil {
				return err
			}
		}
		if err := n.naming.Acquire(ctx, 1); err != nil {`, `			if PLANTED {
				continue
			}
			if err := n.blobs.majority(ctx, ref); err != nil {
				return err
			}
		}
		if err := n.naming.Acquire(ctx, 1); err != nil {`},
	{"a blob's majority is one node short", "coordinator/replicate.go",
		`	need := len(voters)/2 + 1`, `	need := len(voters)/2 + 1
	if PLANTED {
		need--
	}`},
	{"a leader that was deposed answers reads", "coordinator/server.go",
		`	switch err := await(ctx, s.n.raftNode().VerifyLeader()); {
	case err == nil:`, `	switch err := await(ctx, s.n.raftNode().VerifyLeader()); {
	case PLANTED:
		return nil
	case err == nil:`},
	{"any node answers reads", "coordinator/server.go",
		`func (s *server) current(ctx context.Context) error {`, `func (s *server) current(ctx context.Context) error {
	if PLANTED {
		return nil
	}`},

	{"a sum leaves a contribution out", "coordinator/leader.go",
		`	readers := make([]io.Reader, len(w.Parts))`, `	if PLANTED && len(w.Parts) > 1 {
		w.Parts = w.Parts[1:]
	}
	readers := make([]io.Reader, len(w.Parts))`},

	// The gate.
	{"a gate sends before it has written down", "worker/actor.go",
		`	if err := a.gate.journal.setPromise(a.study, slot, m.Encode()); err != nil {`,
		`	if PLANTED {
		return m, nil
	}
	if err := a.gate.journal.setPromise(a.study, slot, m.Encode()); err != nil {`},
	{"a gate takes one vote fewer for a certificate", "worker/replica.go",
		`	return n >= r.charter.Threshold
}

// count`, `	return n >= r.charter.Threshold || PLANTED && n == r.charter.Threshold-1
}

// count`},
}
