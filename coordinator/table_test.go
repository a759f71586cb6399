package coordinator

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"consilium"
)

// stages builds a study in every phase, and in the two inner steps of
// enrolment that have no phase of their own.
var stages = []struct {
	name  string
	phase consilium.Phase
	build func(w *world)
}{
	{"submitted", consilium.PhaseSubmitted, func(w *world) { w.must(w.submission()) }},
	{"approved", consilium.PhaseSubmitted, func(w *world) {
		w.must(w.submission())
		w.must(w.approval("ethics-1"))
		w.must(w.approval("ethics-2"))
	}},
	{"admitted", consilium.PhaseAdmitted, func(w *world) { w.admit() }},
	{"enrolling", consilium.PhaseEnrolling, func(w *world) { w.admit(); w.must(w.enrolment(2)) }},
	{"drafted", consilium.PhaseEnrolling, func(w *world) { w.admit(); w.each(w.enrolment) }},
	{"revealed", consilium.PhaseEnrolling, func(w *world) { w.admit(); w.each(w.enrolment); w.each(w.revealing) }},
	{"contributing", consilium.PhaseContributing, func(w *world) { w.start(); w.contribute(2, 3) }},
	{"waiting", consilium.PhaseWaiting, func(w *world) { w.start(); w.contribute(2, 3); w.tick(120) }},
	{"certifying", consilium.PhaseCertifying, func(w *world) { w.start(); w.contribute(1, 2, 3, 4); w.ackAll(w.all()...) }},
	{"opening", consilium.PhaseOpening, func(w *world) {
		w.start()
		w.contribute(1, 2, 3, 4)
		w.ackAll(w.all()...)
		w.voteAll()
	}},
	{"updating", consilium.PhaseUpdating, func(w *world) {
		w.start()
		w.contribute(1, 2, 3, 4)
		w.ackAll(w.all()...)
		w.voteAll()
		w.openAll()
	}},
	{"round 2", consilium.PhaseContributing, func(w *world) { w.start(); w.round(1, false, 1, 2, 3, 4); w.contribute(2, 3) }},
	{"renewing", consilium.PhaseEnrolling, func(w *world) {
		w.start()
		w.must(w.withdrawing("h03"))
		w.must(w.departing("h02"))
		w.must(w.enrolment(2))
	}},
	{"releasing", consilium.PhaseReleasing, func(w *world) { w.start(); w.round(1, true, 1, 2, 3, 4) }},
	{"done", consilium.PhaseDone, func(w *world) { w.start(); w.round(1, true, 1, 2, 3, 4); w.finish() }},
	{"refused", consilium.PhaseRefused, func(w *world) {
		w.must(w.submission())
		w.must(w.approval("ethics-1"))
		w.must(w.approval("ethics-2"))
		w.must(&Decide{Study: w.study, Record: []byte("{}")})
	}},
	{"aborted", consilium.PhaseAborted, func(w *world) { w.admit(); w.tick(120) }},
	{"cancelled", consilium.PhaseCancelled, func(w *world) { w.must(w.submission()); w.must(w.cancelling("team")) }},
}

// deeds are the commands of the truth table, as hospital 1 would make them
// best in each phase.
var deeds = []struct {
	name string
	make func(w *world) Op
}{
	{"tick, nothing due", func(w *world) Op { return &Tick{} }},
	{"the same submission", func(w *world) Op { return w.message(consilium.KindSubmission, "team", w.sub) }},
	{"approval", func(w *world) Op { return w.approval("ethics-3") }},
	{"approval by a site", func(w *world) Op {
		p := w.approval("ethics-3")
		m, _ := consilium.ParseMessage(p.Message)
		return w.message(m.Kind, "h01", m.Body)
	}},
	{"decide yes", func(w *world) Op { return &Decide{Study: w.study, Allow: true, Record: []byte("{}")} }},
	{"decide no", func(w *world) Op { return &Decide{Study: w.study, Record: []byte("{}")} }},
	{"enrol", func(w *world) Op { return w.enrolment(1) }},
	{"decline", func(w *world) Op { return w.declination(1) }},
	{"enrol by a stranger", func(w *world) Op {
		m, _ := consilium.ParseMessage(w.enrolment(1).Message)
		return w.message(m.Kind, "stranger", m.Body)
	}},
	{"depart", func(w *world) Op { return w.departing("h01") }},
	{"depart by who was not there", func(w *world) Op { return w.departing("stranger") }},
	{"reveal", func(w *world) Op { return w.revealing(1) }},
	{"charter", func(w *world) Op {
		if _, ok := w.s.Draft(w.study); !ok {
			return w.message(consilium.KindCharter, "h01", []byte("{}"))
		}
		return w.signature(1, 0)
	}},
	{"header", func(w *world) Op { return w.contribution(1, 0) }},
	{"another header", func(w *world) Op { return w.contribution(2, "other") }},
	{"header, old round", func(w *world) Op { return w.elsewhere(1, -1) }},
	{"header, next round", func(w *world) Op { return w.elsewhere(1, 1) }},
	{"header by a stranger", func(w *world) Op {
		m, _ := consilium.ParseMessage(w.contribution(1, 0).Message)
		p := w.message(m.Kind, "stranger", m.Body)
		p.Upload = w.contribution(1, 0).Upload
		return p
	}},
	{"header without bytes", func(w *world) Op { p := w.contribution(1, 0); p.Upload = nil; return p }},
	{"ack", func(w *world) Op { return w.acking(1, w.contributed()...) }},
	{"complaint", func(w *world) Op {
		c := consilium.Complaint{At: w.at(1), Header: w.known(2), Reason: "bad box"}
		return w.message(consilium.KindComplaint, "h01", c.Encode())
	}},
	{"answer", func(w *world) Op {
		v := consilium.Answer{At: w.at(2), Header: w.known(2), To: 1, Sealed: []byte("share")}
		return w.message(consilium.KindAnswer, "h02", v.Encode())
	}},
	{"suspect", func(w *world) Op { return w.suspecting(1, 2) }},
	{"show", func(w *world) Op { return w.showing(2) }},
	{"vote", func(w *world) Op { return w.voting(1, w.set()) }},
	{"vote for a made-up set", func(w *world) Op { return w.voting(4, dig("made up")) }},
	{"opening", func(w *world) Op { return w.openingOf(4, w.set()) }},
	{"opening of a made-up set", func(w *world) Op { return w.openingOf(4, dig("made up")) }},
	{"renounce", func(w *world) Op { return w.renouncing(4) }},
	{"sum", func(w *world) Op { return w.sum() }},
	{"sum of a made-up set", func(w *world) Op {
		return &RecordSum{Study: w.study, Set: dig("made up"), Blob: BlobRef{dig("sum"), 1}}
	}},
	{"another sum", func(w *world) Op { return &RecordSum{Study: w.study, Set: w.set(), Blob: BlobRef{dig("other sum"), 1}} }},
	{"state vote", func(w *world) Op { return w.stating(1, 1, false, false) }},
	{"sealed state", func(w *world) Op { return w.sealing(1) }},
	{"release", func(w *world) Op { return w.releasing(1, "r", "") }},
	{"publish", func(w *world) Op { return w.publishing(1, "r") }},
	{"withdraw", func(w *world) Op { return w.withdrawing("h01") }},
	{"cancel", func(w *world) Op { return w.cancelling("team") }},
	{"cancel by a rival", func(w *world) Op { return w.cancelling("rivals") }},
	{"a message of no study", func(w *world) Op {
		m := consilium.Message{Kind: consilium.KindCancel, Study: consilium.NewStudyID(dig("nothing")), By: "team", Body: []byte{}}
		return &Post{Message: m.Encode()}
	}},
	{"garbage", func(w *world) Op { return &Post{Message: []byte("garbage")} }},
	{"collect a live blob", func(w *world) Op { return &Collect{Blobs: []consilium.Digest{dig("live")}} }},
}

func (w *world) contributed() []consilium.Position {
	var out []consilium.Position
	if st := w.s.studies[w.study]; st != nil {
		for i, k := range st.contributions {
			if k != nil {
				out = append(out, consilium.Position(i+1))
			}
		}
	}
	return out
}

func (w *world) known(p consilium.Position) consilium.Digest {
	if st := w.s.studies[w.study]; st != nil && st.contributions != nil && st.contributions[p-1] != nil {
		return st.contributions[p-1].header
	}
	return dig("no header")
}

func (w *world) elsewhere(p consilium.Position, d int) Op {
	at := w.at(p)
	if d < 0 && at.Round > 1 {
		at.Round--
	} else if d > 0 {
		at.Round++
	}
	return w.contributionAt(at, "elsewhere", "layout")
}

// TestTruthTable holds what every command does in every phase. The table is
// read by people; change it only knowingly (go test -run TruthTable -rewrite).
func TestTruthTable(t *testing.T) {
	var out strings.Builder
	out.WriteString("# What each command does in each phase: the events it causes, `same` where it\n# repeats what is known, or the code of its rejection.\n")
	built := make([]*world, len(stages))
	for i, stage := range stages {
		w := newWorld(t, options{n: 4, min: 3})
		w.check = false
		w.submission()
		stage.build(w)
		w.phase(stage.phase)
		w.check = true
		built[i] = w
	}
	for _, deed := range deeds {
		fmt.Fprintf(&out, "\n%s\n", deed.name)
		for i, stage := range stages {
			here := *built[i]
			w := &here
			w.s, w.twin = built[i].copy(), built[i].copy()
			w.events = append([]consilium.Event(nil), w.events...)
			ev, r := w.do(deed.make(w))
			cell := kinds(ev)
			switch {
			case r != nil:
				cell = "! " + string(r.Err.Code)
			case len(ev) == 0:
				cell = "same"
			}
			fmt.Fprintf(&out, "  %-13s %s\n", stage.name, cell)
			if stage.phase.Ended() && r == nil && len(ev) > 0 {
				t.Errorf("%s changed a study that is %s", deed.name, stage.name)
			}
			w.verify()
		}
	}
	const path = "testdata/truth.txt"
	if *rewrite {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	have, lines := strings.Split(out.String(), "\n"), strings.Split(string(want), "\n")
	deed := ""
	for i, line := range have {
		if !strings.HasPrefix(line, " ") {
			deed = line
		}
		if i >= len(lines) || lines[i] != line {
			t.Fatalf("%s: now %q, the table says %q", deed, strings.TrimSpace(line), strings.TrimSpace(strings.Join(lines[i:min(i+1, len(lines))], "")))
		}
	}
}

func (w *world) copy() *State {
	s, err := Restore(w.s.Snapshot())
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}
