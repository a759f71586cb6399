package coordinator

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"consilium"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the traces under testdata/rounds with what happens now")

// TestTraces plays the stories of testdata/rounds. A story is a list of
// steps: a line that says what people do, a line of four hyphens, and what the
// coordinator records. Lines that start with # are for the reader.
func TestTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/rounds/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no traces", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(b))
			if *rewrite {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(b) {
				want, have := strings.Split(string(b), "\n"), strings.Split(got, "\n")
				for i := range have {
					if i >= len(want) || want[i] != have[i] {
						t.Fatalf("line %d: recorded %q, the story says %q", i+1, have[i], strings.Join(want[i:min(i+1, len(want))], ""))
					}
				}
				t.Fatal("the story goes on after what happens")
			}
		})
	}
}

func play(t *testing.T, story string) string {
	var out strings.Builder
	var w *world
	lines := strings.Split(strings.TrimRight(story, "\n"), "\n")
	for i := 0; i < len(lines); {
		line := lines[i]
		i++
		if line == "" || strings.HasPrefix(line, "#") {
			out.WriteString(line + "\n")
			continue
		}
		out.WriteString(line + "\n----\n")
		for i < len(lines) && lines[i] != "" {
			i++
		}
		words := strings.Fields(line)
		if words[0] == "federation" {
			w = newWorld(t, parseOptions(t, words[1:]))
			continue
		}
		if w == nil {
			t.Fatalf("%q before there is a federation", line)
		}
		out.WriteString(w.step(words))
	}
	w.verify()
	return out.String()
}

func parseOptions(t *testing.T, words []string) options {
	o := options{operators: map[int]string{}}
	for _, word := range words {
		k, v, _ := strings.Cut(word, "=")
		n, _ := strconv.Atoi(v)
		switch k {
		case "sites":
			o.n = n
		case "min":
			o.min = n
		case "faults":
			o.faults = n
		case "missing":
			o.missing = v
		case "rounds":
			o.rounds = n
		case "train":
			o.learned = true
		default:
			t.Fatalf("unknown option %q", word)
		}
	}
	return o
}

// step does what one line says and returns what came of it.
func (w *world) step(words []string) string {
	var out strings.Builder
	flags := map[string]string{}
	var who []string
	var dealers []consilium.Position
	about := false
	for _, word := range words[1:] {
		k, v, isFlag := strings.Cut(word, "=")
		switch {
		case isFlag:
			flags[k] = v
		case word == "of" || word == "about":
			about = true
		case word == "done" || word == "reject" || word == "yes" || word == "no":
			flags[word] = "yes"
		case word == "all" && about:
			dealers = slices.DeleteFunc(w.all(), func(p consilium.Position) bool {
				return w.st().contributions == nil || w.st().contributions[p-1] == nil
			})
		case word == "all":
			if st := w.s.studies[w.study]; st != nil && st.prior != nil && st.draft == nil {
				for i := range st.asked {
					if !st.asked[i].declined {
						who = append(who, string(st.asked[i].id))
					}
				}
				continue
			}
			for _, p := range w.all() {
				who = append(who, w.site(p))
			}
		case about:
			dealers = append(dealers, w.place(word))
		default:
			who = append(who, word)
		}
	}
	report := func(by string, op Op) {
		before := w.info()
		ev, r := w.do(op)
		if r != nil {
			fmt.Fprintf(&out, "%s refused: %s\n", by, r.Err.Code)
			return
		}
		if len(ev) == 0 {
			fmt.Fprintf(&out, "%s: nothing new\n", by)
		}
		for _, e := range ev {
			out.WriteString(w.tell(e))
		}
		if now := w.info(); now.Phase != before.Phase {
			fmt.Fprintf(&out, "  the study is %s\n", now.Phase)
		}
	}
	each := func(f func(p consilium.Position) *Post) {
		for _, name := range who {
			if w.s.studies[w.study] == nil && w.s.ended[w.study] == nil {
				report(name, f(1))
				continue
			}
			report(name, f(w.place(name)))
		}
	}
	byName := func(f func(p consilium.Position) *Post) { // before there is a charter
		for _, name := range who {
			report(name, f(consilium.Position(slices.Index(w.sites, consilium.SiteID(name))+1)))
		}
	}
	salt := flags["salt"]
	switch words[0] {
	case "submit":
		report("team", w.submission())
	case "approve":
		for _, name := range who {
			report(name, w.approval(name))
		}
	case "decide":
		report("leader", &Decide{Study: w.study, Allow: flags["yes"] != "", Record: []byte("{}")})
	case "enrol":
		byName(w.enrolment)
	case "depart":
		for _, name := range who {
			report(name, w.departing(name))
		}
	case "roster":
		list := func(k string) []consilium.SiteID {
			if flags[k] == "" {
				return nil
			}
			var out []consilium.SiteID
			for _, id := range strings.Split(flags[k], ",") {
				out = append(out, consilium.SiteID(id))
			}
			return out
		}
		report("board", w.successor(list("drop"), list("key"), list("add")))
	case "decline":
		byName(w.declination)
	case "reveal":
		each(w.revealing)
	case "sign":
		each(func(p consilium.Position) *Post { return w.signature(p, salt) })
	case "contribute":
		each(func(p consilium.Position) *Post { return w.contribution(p, salt) })
	case "ack":
		each(func(p consilium.Position) *Post { return w.acking(p, dealers...) })
	case "complain":
		each(func(p consilium.Position) *Post { return w.complaining(p, dealers[0]) })
	case "answer":
		each(func(p consilium.Position) *Post { return w.answering(p, dealers[0]) })
	case "suspect":
		each(func(p consilium.Position) *Post { return w.suspecting(p, dealers...) })
	case "show":
		each(w.showing)
	case "vote":
		set := w.set()
		if flags["set"] != "" {
			set = dig(flags["set"])
		}
		each(func(p consilium.Position) *Post { return w.voting(p, set) })
	case "open":
		set := w.set()
		each(func(p consilium.Position) *Post { return w.openingOf(p, set) })
	case "renounce":
		each(w.renouncing)
	case "sum":
		report("leader", w.sum())
	case "state":
		each(func(p consilium.Position) *Post {
			return w.stating(p, flags["next"], flags["done"] != "", flags["reject"] != "")
		})
	case "offer":
		each(w.sealing)
	case "release":
		each(func(p consilium.Position) *Post { return w.releasing(p, flags["result"], flags["code"]) })
	case "publish":
		each(func(p consilium.Position) *Post { return w.publishing(p, flags["result"]) })
	case "withdraw":
		for _, name := range who {
			report(name, w.withdrawing(name))
		}
	case "cancel":
		for _, name := range who {
			report(name, w.cancelling(name))
		}
	case "pass":
		d, err := strconv.ParseInt(strings.TrimSuffix(who[0], "s"), 10, 64)
		if err != nil {
			w.t.Fatal(err)
		}
		w.now += d * secondMs
		report("clock", &Tick{})
	case "crash":
		// A new leader starts from the snapshot.
		s, err := Restore(w.s.Snapshot())
		if err != nil {
			w.t.Fatal(err)
		}
		w.s = s
		fmt.Fprintf(&out, "a new leader owes: %s\n", w.owed())
	case "owed":
		fmt.Fprintf(&out, "%s\n", w.owed())
	case "status":
		i := w.info()
		fmt.Fprintf(&out, "%s, round %d attempt %d, %d members, %d contributed", i.Phase, i.Round, i.Attempt, i.Members, i.Contributed)
		if i.Reason != "" {
			fmt.Fprintf(&out, ": %s", i.Reason)
		}
		out.WriteString("\n")
	default:
		w.t.Fatalf("unknown step %q", words[0])
	}
	return out.String()
}

func (w *world) owed() string {
	var list []string
	for _, k := range w.s.Pending() {
		switch k.Kind {
		case WorkTick:
			list = append(list, fmt.Sprintf("a tick in %d s", (k.Due-w.s.Now())/secondMs))
		case WorkSum:
			list = append(list, fmt.Sprintf("the sum of %d contributions", len(k.Parts)))
		case WorkCollect:
			list = append(list, fmt.Sprintf("the collection of %d blobs", len(k.Blobs)))
		default:
			list = append(list, k.Kind.String())
		}
	}
	if list == nil {
		return "nothing"
	}
	return strings.Join(list, ", ")
}

// place finds a hospital's position, in the charter once there is one.
func (w *world) place(name string) consilium.Position {
	if st := w.s.studies[w.study]; st != nil && st.charter != nil {
		if p, ok := st.charter.Position(consilium.SiteID(name)); ok {
			return p
		}
	}
	i := slices.Index(w.sites, consilium.SiteID(name))
	if i < 0 {
		w.t.Fatalf("nobody is called %s", name)
	}
	return consilium.Position(i + 1)
}

// tell puts an event into words.
func (w *world) tell(e consilium.Event) string {
	names := func(ps []consilium.Position) string {
		var out []string
		for _, p := range ps {
			out = append(out, w.site(p))
		}
		return strings.Join(out, " ")
	}
	switch e.Kind {
	case consilium.EventMessage:
		m, _ := consilium.ParseMessage(e.Body)
		return fmt.Sprintf("%s: %s\n", m.By, m.Kind)
	case consilium.EventDrafted:
		c, _ := consilium.ParseDraft(e.Body)
		var sites []string
		for _, m := range c.Members {
			sites = append(sites, string(m.Site))
		}
		epoch := ""
		if c.Epoch > 1 {
			epoch = fmt.Sprintf(" epoch %d from round %d", c.Epoch, c.FirstRound())
		}
		return fmt.Sprintf("  drafted%s for %s; f %d, t %d, min_sites %d\n", epoch, strings.Join(sites, " "), c.Faults, c.Threshold, c.MinSites)
	case consilium.EventRenewing:
		v, _ := consilium.ParseRenewal(e.Body)
		return fmt.Sprintf("  renewing from round %d, try %d: %s\n", v.Round, v.Try, v.Reason)
	case consilium.EventOpened:
		o, _ := consilium.ParseRoundOpened(e.Body)
		fresh := 0
		for _, d := range o.Sealing {
			if !d.IsZero() {
				fresh++
			}
		}
		return fmt.Sprintf("  opened round %d attempt %d; %d new sealing keys\n", o.Round, o.Attempt, fresh)
	case consilium.EventProposed:
		u, _ := consilium.ParseContributors(e.Body)
		return fmt.Sprintf("  proposed %s\n", names(u.Positions()))
	case consilium.EventWaiting, consilium.EventAborted, consilium.EventCancelled:
		return fmt.Sprintf("  %s: %s\n", e.Kind, e.Body)
	}
	return fmt.Sprintf("  %s\n", e.Kind)
}
