package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"consilium"
	"consilium/internal/archive"
	"consilium/internal/client"
	"consilium/internal/federation"
	"consilium/internal/pinned"
	"consilium/internal/studyfile"
	"consilium/internal/table"
	"consilium/models"
	"consilium/policy"
)

func researcher(id string) consilium.ResearcherID { return consilium.ResearcherID(id) }

// answerWithin bounds a command that waits for the coordinators: past it the
// trouble is worth a person's attention.
const answerWithin = 30 * time.Second

func within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, answerWithin)
}

// late turns a deadline into an error that says what to do.
func late(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return consilium.ErrUnavailable.Withf("no answer within %s: %w", answerWithin, err)
	}
	return err
}

// remote is what the commands about one study share.
type remote struct {
	kit  *kit
	card *card
	id   consilium.StudyID
}

// openRemote reads `ID --kit DIR` and more.
func openRemote(e *env, args []string, define func(str func(name, usage string) *string), withStudy bool) (*remote, error) {
	flags := e.flags()
	dir := flags.String("kit", "", "`directory` of the kit that `provision` made")
	study := flags.String("study", "", "the study's `id`; it may also stand without the flag")
	if define != nil {
		define(func(name, usage string) *string { return flags.String(name, "", usage) })
	}
	rest, err := e.parse(flags, args)
	if err != nil {
		return nil, err
	}
	if *study == "" && withStudy && len(rest) > 0 {
		*study, rest = rest[0], rest[1:]
	}
	if len(rest) > 0 {
		return nil, usagef("unexpected %q", rest[0])
	}
	r := &remote{}
	if withStudy {
		if r.id, err = consilium.ParseStudyID(*study); err != nil {
			return nil, usagef("%v; `consilium study list` shows the ids", err)
		}
	}
	r.kit, r.card, err = openMemberKit(*dir)
	return r, err
}

func runStudySubmit(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	file := flags.String("study", "", "study `file`")
	dir := flags.String("kit", "", "`directory` of the team's kit")
	digest := flags.String("policy-digest", "", "`digest` of the policy that the board has published; default the core rules")
	bundle := flags.String("policy", "", "instead, the `directory` of that policy")
	token := flags.String("token", "", "idempotency `token`: the same token and study again is the same study; default random")
	days := flags.Int("days", 90, "`days` for which the submission holds")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 || *file == "" {
		return usagef("--study FILE and --kit DIR are needed, and nothing else")
	}
	src, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	parsed, err := studyfile.ParseWith(src, studyfile.Options{})
	if err != nil {
		return fmt.Errorf("%s: %w", *file, err)
	}
	if err := errors.Join(table.Check(parsed.Spec), models.Check(parsed.Spec, learned())); err != nil {
		return fmt.Errorf("%s: %w", *file, err)
	}
	want := policy.Default().Digest()
	switch {
	case *digest != "" && *bundle != "":
		return usagef("--policy-digest or --policy, not both")
	case *digest != "":
		if want, err = consilium.ParseDigest(*digest); err != nil {
			return usagef("--policy-digest: %v", err)
		}
	case *bundle != "":
		engine, err := compileDir(*bundle)
		if err != nil {
			return err
		}
		want = engine.Digest()
	}
	k, c, err := openMemberKit(*dir)
	if err != nil {
		return err
	}
	team, err := k.team(e, c)
	if err != nil {
		return err
	}
	defer team.Wire.Close()
	if *token == "" {
		var b [16]byte
		if _, err := rand.Read(b[:]); err != nil {
			return err
		}
		*token = hex.EncodeToString(b[:])
	}
	// The same token must give the same bytes on every try, so the end is
	// a day, not a second.
	end := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, *days).Unix()
	ctx, cancel := within(ctx)
	defer cancel()
	id, err := team.Submit(ctx, parsed.Payload, want, *token, min(end, k.roster.NotAfter))
	if err != nil {
		return late(err)
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"study": id, "spec": consilium.SpecDigest(parsed.Payload), "policy": want, "token": *token})
	}
	fmt.Fprintf(e.stdout, "%s\n  %s\n  specification %s, policy %s\n  the board approves it with `consilium study approve %s --board KIT`\n", id, parsed.Spec.Question, consilium.SpecDigest(parsed.Payload).Short(), want.Short(), id)
	return nil
}

// errSeen ends a stream when what was looked for has come.
var errSeen = errors.New("seen")

func runStudyApprove(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	study := flags.String("study", "", "the study's `id`; it may also stand without the flag")
	dir := flags.String("board", "", "`directory` of the board member's kit")
	days := flags.Int("days", 90, "`days` for which the approval holds; all members say the same")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if *study == "" && len(rest) == 1 {
		*study, rest = rest[0], nil
	}
	id, err := consilium.ParseStudyID(*study)
	if err != nil || len(rest) > 0 {
		return usagef("name one study: %v", err)
	}
	k, c, err := openMemberKit(*dir)
	if err != nil {
		return err
	}
	if c.Member == nil {
		return usagef("%s is the kit of %s, not of a board member", *dir, c.name())
	}
	m := &client.Member{ID: c.Member.ID, Signer: k.signer, Wire: k.wire(e), Book: k.book}
	defer m.Wire.Close()
	ctx, cancel := within(ctx)
	defer cancel()
	// All members sign the same bytes: the period follows from the day of the
	// submission, not from when each of them signs.
	var sub *consilium.Submission
	var at time.Time
	err = m.Wire.FollowStudy(ctx, id, 0, func(ev *consilium.Event) error {
		proof, err := client.Check(k.roster, id, []*consilium.Event{ev})
		if err != nil {
			return err
		}
		sub, at = proof.Submission, time.UnixMilli(ev.Time).UTC()
		return errSeen
	})
	if !errors.Is(err, errSeen) {
		return late(err)
	}
	if sub == nil {
		return consilium.ErrInvalid.Withf("%s does not begin with its submission; do not approve it", id)
	}
	if d := time.Since(at); d < -time.Hour || d > time.Duration(*days)*24*time.Hour {
		return consilium.ErrStale.Withf("the coordinators say that %s was submitted on %s; ask the team to submit it again", id, at.Format(time.DateOnly))
	}
	spec, err := consilium.ParseSpec(sub.SpecBytes)
	if err != nil {
		return err
	}
	from := at.Truncate(24 * time.Hour)
	payload, err := client.Approval(id, sub, from.Unix(), from.AddDate(0, 0, *days).Unix())
	if err != nil {
		return err
	}
	if !e.json {
		canonical, err := studyfile.Show(spec)
		if err != nil {
			return err
		}
		fmt.Fprintf(e.stdout, "%s\nsubmitted by %s on %s under policy %s; specification %s\n", canonical, sub.Team, at.Format(time.DateOnly), sub.Policy, consilium.SpecDigest(sub.SpecBytes))
	}
	if err := m.Approve(ctx, id, payload); err != nil {
		return late(err)
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"study": id, "member": m.ID, "spec": consilium.SpecDigest(sub.SpecBytes), "policy": sub.Policy})
	}
	fmt.Fprintf(e.stdout, "approved by %s\n", m.ID)
	return nil
}

// statusJSON is a study's state for programs.
type statusJSON struct {
	Study       consilium.StudyID      `json:"study"`
	Name        string                 `json:"name"`
	Team        consilium.ResearcherID `json:"team"`
	Phase       string                 `json:"phase"`
	Round       uint32                 `json:"round"`
	Attempt     uint32                 `json:"attempt"`
	Members     int                    `json:"members"`
	Contributed int                    `json:"contributed"`
	Deadline    string                 `json:"deadline"`
	Reason      string                 `json:"reason"`
}

func runStudyList(ctx context.Context, e *env, args []string) error {
	r, err := openRemote(e, args, nil, false)
	if err != nil {
		return err
	}
	w := r.kit.wire(e)
	defer w.Close()
	ctx, cancel := within(ctx)
	defer cancel()
	list, err := w.List(ctx)
	if err != nil {
		return late(err)
	}
	if e.json {
		out := []statusJSON{}
		for _, s := range list {
			out = append(out, statusJSON{s.Study, s.Name, s.Team, s.Phase.String(), s.Round, s.Attempt, s.Members, s.Contributed, deadline(s.Deadline), s.Reason})
		}
		return json.NewEncoder(e.stdout).Encode(out)
	}
	t := tabwriter.NewWriter(e.stdout, 2, 0, 2, ' ', 0)
	fmt.Fprintln(t, "study\tname\tteam\tphase\tround\thospitals")
	for _, s := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\n", s.Study, s.Name, s.Team, s.Phase, s.Round, s.Members)
	}
	return t.Flush()
}

func deadline(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).UTC().Format(time.RFC3339)
}

func runStudyStatus(ctx context.Context, e *env, args []string) error {
	r, err := openRemote(e, args, nil, true)
	if err != nil {
		return err
	}
	w := r.kit.wire(e)
	defer w.Close()
	ctx, cancel := within(ctx)
	defer cancel()
	s, err := w.Status(ctx, r.id)
	if err != nil {
		return late(err)
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(statusJSON{s.Study, s.Name, s.Team, s.Phase.String(), s.Round, s.Attempt, s.Members, s.Contributed, deadline(s.Deadline), s.Reason})
	}
	fmt.Fprintf(e.stdout, "%s  %s\n%s, round %d, attempt %d: %d of %d hospitals have contributed\n", s.Study, s.Name, s.Phase, s.Round, s.Attempt, s.Contributed, s.Members)
	if d := deadline(s.Deadline); d != "" {
		fmt.Fprintf(e.stdout, "this phase ends at %s\n", d)
	}
	if s.Reason != "" {
		fmt.Fprintln(e.stdout, refusalText(s.Reason))
	}
	return nil
}

// wait follows a study to its end. An interruption leaves it running.
func (r *remote) wait(ctx context.Context, e *env, p *progress) (*client.Team, *client.Outcome, error) {
	team, err := r.kit.team(e, r.card)
	if err != nil {
		return nil, nil, err
	}
	out, err := team.Wait(ctx, r.id, p.event)
	if err != nil {
		team.Wire.Close()
		return nil, nil, err
	}
	return team, out, nil
}

func runStudyWatch(ctx context.Context, e *env, args []string) error {
	r, err := openRemote(e, args, nil, true)
	if err != nil {
		return err
	}
	p := newProgress(e)
	team, out, err := r.wait(ctx, e, p)
	if err != nil {
		return err
	}
	defer team.Wire.Close()
	if err := outcomeError(out); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"study": out.Study, "phase": out.Phase.String(), "reason": out.Reason, "events": len(out.Events)})
	}
	p.say("%s is done: `consilium study result %s --kit KIT --out DIR`", out.Study, out.Study)
	return nil
}

func runStudyCancel(ctx context.Context, e *env, args []string) error {
	var reason *string
	r, err := openRemote(e, args, func(str func(name, usage string) *string) { reason = str("reason", "why, for everybody to read") }, true)
	if err != nil {
		return err
	}
	if *reason == "" {
		*reason = "cancelled by the team"
	}
	team, err := r.kit.team(e, r.card)
	if err != nil {
		return err
	}
	defer team.Wire.Close()
	ctx, cancel := within(ctx)
	defer cancel()
	if err := team.Cancel(ctx, r.id, *reason); err != nil {
		return late(err)
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"study": r.id, "cancelled": true})
	}
	fmt.Fprintf(e.stdout, "%s is cancelled\n", r.id)
	return nil
}

func runStudyResult(ctx context.Context, e *env, args []string) error {
	var out, trails *string
	r, err := openRemote(e, args, func(str func(name, usage string) *string) {
		out = str("out", "`directory` for result.json, report.html and audit")
		trails = str("trails", "`directory` with the files that hospitals made with `ledger audit`")
	}, true)
	if err != nil {
		return err
	}
	if *out == "" {
		return usagef("--out DIR is needed")
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	p := newProgress(e)
	team, outcome, err := r.wait(ctx, e, p)
	if err != nil {
		return err
	}
	defer team.Wire.Close()
	if err := outcomeError(outcome); err != nil {
		return err
	}
	c, err := r.contents(ctx, team, outcome, *trails)
	if err != nil {
		return err
	}
	first, last := outcome.Events[0].Time, outcome.Events[len(outcome.Events)-1].Time
	fin := newFinished(team, outcome, c, time.Duration(last-first)*time.Millisecond)
	if err := fin.write(ctx, *out); err != nil {
		return err
	}
	p.say("%s", filepath.Join(*out, "report.html"))
	if e.json {
		doc, err := fin.document()
		if err != nil {
			return err
		}
		if _, err := e.stdout.Write(append(doc, '\n')); err != nil {
			return err
		}
	} else if err := fin.show(e.stdout); err != nil {
		return err
	}
	return fin.problem()
}

// contents gathers the archive: what the team can prove itself, and what
// hospitals handed over.
func (r *remote) contents(ctx context.Context, team *client.Team, out *client.Outcome, trails string) (*archive.Contents, error) {
	c := &archive.Contents{Roster: r.kit.signed, Study: out.Study, Events: out.Events, Salt: out.Salt}
	var err error
	if c.Envelope, err = out.Envelope.Encode(); err != nil {
		return nil, err
	}
	proving, cancel := within(ctx)
	defer cancel()
	if c.Checkpoint, c.Inclusion, err = federation.Prove(proving, team, out.Events); err != nil {
		return nil, late(err)
	}
	if trails == "" {
		return c, nil
	}
	files, err := filepath.Glob(filepath.Join(trails, "*.json"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("--trails %s holds no file; hospitals make them with `consilium ledger audit`", trails)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		var rec archive.SiteRecord
		if err := strictJSON(b, &rec); err != nil || rec.Trail == nil {
			return nil, fmt.Errorf("%s: not a hospital's trail: %w; hospitals make them with `consilium ledger audit`", f, errors.Join(err))
		}
		c.Sites = append(c.Sites, rec)
	}
	return c, nil
}

func runStudyAudit(_ context.Context, e *env, args []string) error {
	flags := e.flags()
	board := flags.String("board", "", "a kit's board.json `file`, to check against the board that you trust")
	var blocks files
	contract := flags.String("contract", "", "to prove the archived anchors, the `address` of the federation's contract")
	flags.Var(&blocks, "block", "to prove the archived anchors, the `hash` of a final block from a source of your own; may be given several times")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) != 1 {
		return usagef("name one directory: an audit/ or what `study result` wrote")
	}
	dir := rest[0]
	if info, err := os.Stat(filepath.Join(dir, "audit")); err == nil && info.IsDir() {
		dir = filepath.Join(dir, "audit")
	}
	var o archive.Options
	if *board != "" {
		b, err := pinned.ReadBoard(*board)
		if err != nil {
			return err
		}
		o.Board, o.Threshold = b.Keys, b.Threshold
	}
	if o.Anchors, err = anchorTrust(*contract, blocks); err != nil {
		return err
	}
	list, err := archive.VerifyAll(dir, o)
	if err != nil {
		var m *archive.Misfit
		if errors.As(err, &m) {
			return fmt.Errorf("%s does not verify: %w; ask its maker for an unchanged copy", dir, err)
		}
		return err
	}
	for i, s := range list {
		switch {
		case e.json:
			if err := json.NewEncoder(e.stdout).Encode(s); err != nil {
				return err
			}
		case i > 0:
			fmt.Fprintln(e.stdout)
			fallthrough
		default:
			showAudit(e, s)
		}
	}
	return nil
}

// showAudit tells a board member what was checked.
func showAudit(e *env, s *archive.Summary) {
	names := func(list []consilium.SiteID) string {
		out := make([]string, len(list))
		for i, id := range list {
			out[i] = string(id)
		}
		return strings.Join(out, ", ")
	}
	p := func(format string, args ...any) { fmt.Fprintf(e.stdout, format+"\n", args...) }
	p("%s: %s", s.Name, s.Question)
	p("asked by %s, study %s; %s", s.Team, s.Study, s.Ended)
	p("took part: %s", names(s.Enrolled))
	for _, d := range s.Declined {
		p("did not: %s (%s %s)", d.Site, d.Code, d.Reason)
	}
	if !s.Unvouched {
		p("any %d of %d open a round; up to %d may have been dishonest", s.Threshold, len(s.Enrolled), s.Faults)
	}
	for _, r := range s.Rounds {
		p("  round %d: sum over %d hospitals (%s), %d votes, %d openings, %d agree on what follows", r.Round, len(r.Contributors), names(r.Contributors), r.Votes, r.Openings, r.Agreed)
	}
	p("release allowed by: %s", names(s.Released))
	p("%d events stand in the coordinators' audit log of %d, root %s; %d signatures verify, each Ed25519 and ML-DSA-65", s.Events, s.Size, s.Root.Short(), s.Signatures)
	if n := len(s.Enrolled) - len(s.Missing); n > 0 {
		p("%d of %d hospitals' own trails are here, anchored in their witnessed ledgers; they recorded %d uses of records", n, len(s.Enrolled), s.Uses)
	}
	for _, a := range s.Anchors {
		what := fmt.Sprintf("the first %d entries of its ledger", a.Size)
		if a.Trail {
			what += ", with the record of this study,"
		}
		if a.Proven {
			p("  %s: %s stand in a chain, epoch %d, block of %s", a.Site, what, a.Epoch, a.Time)
		} else {
			p("  %s: %s are what an anchor says, epoch %d, block %s; give --contract and --block to prove it", a.Site, what, a.Epoch, a.Block)
		}
	}
	for _, f := range s.Findings {
		p("  %s left out: %s record %s", f.Site, f.Kind, f.Name.Short())
	}
	for _, n := range s.Notes {
		p("note: %s", n)
	}
	switch {
	case s.Unvouched:
		p("what is here fits together; who took part in it, the roster does not say")
	case len(s.Missing) > 0:
		p("everything that is here fits; %d trails are not here", len(s.Missing))
	default:
		p("everything fits")
	}
}
