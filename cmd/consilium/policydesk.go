package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"consilium"
	"consilium/internal/durable"
	"consilium/internal/hybrid"
	"consilium/internal/studyfile"
	"consilium/policy"
)

// The board's desk: a directory with the policy that hospitals install
// (policy/), the questions that its examples start from (questions/) and the
// examples themselves (vectors.csv). Where a command takes a policy, it takes a
// desk or the policy's own directory.

const (
	deskPolicy    = "policy"
	deskQuestions = "questions"
	deskVectors   = "vectors.csv"
	grantFile     = "grant.json"
	bundleFile    = "bundle.json"
)

// policyDir is the policy inside a desk, or dir itself.
func policyDir(dir string) string {
	inner := filepath.Join(dir, deskPolicy)
	if info, err := os.Stat(inner); err == nil && info.IsDir() {
		return inner
	}
	return dir
}

func readPolicy(dir string) (policy.Bundle, error) {
	path := policyDir(dir)
	if info, err := os.Stat(path); err != nil {
		return policy.Bundle{}, err
	} else if !info.IsDir() {
		return policy.Bundle{}, fmt.Errorf("%s is not a directory", path)
	}
	b, err := policy.ReadBundle(os.DirFS(path))
	if err != nil {
		return policy.Bundle{}, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

func runPolicyNew(_ context.Context, e *env, args []string) error {
	flags := e.flags()
	board := flags.String("board", "", "`id` of the board: a-z, 0-9 and inner hyphens")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) != 1 || *board == "" {
		return usagef("name one new directory and --board ID")
	}
	if _, err := consilium.ParseSiteID(*board); err != nil {
		return usagef("--board: %v", err)
	}
	dir := rest[0]
	if _, err := os.Stat(dir); err == nil {
		return usagef("%s exists already", dir)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	id := *board
	files := map[string][]byte{}
	for name, t := range deskTemplates {
		var b bytes.Buffer
		if err := template.Must(template.New(name).Parse(t)).Execute(&b, map[string]string{"Board": id, "Package": packageOf(id), "Code": strings.ToUpper(id)}); err != nil {
			return err
		}
		files[strings.ReplaceAll(name, "BOARD", id)] = b.Bytes()
	}
	for name, q := range policy.ExampleQuestions() {
		files[filepath.Join(deskQuestions, name+".json")] = q
	}
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := durable.WriteFile(path, files[name], 0o644); err != nil {
			return err
		}
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"dir": dir, "files": names})
	}
	fmt.Fprintf(e.stdout, "made %s\n", dir)
	for _, name := range names {
		fmt.Fprintf(e.stdout, "  %s\n", name)
	}
	fmt.Fprintf(e.stdout, "next: consilium policy check %s, then consilium policy test %s\n", dir, dir)
	return nil
}

// packageOf writes a board's id as a package of rules.
func packageOf(id string) string {
	if strings.Contains(id, "-") {
		return fmt.Sprintf("consilium.board[%q]", id)
	}
	return "consilium.board." + id
}

var deskTemplates = map[string]string{
	"policy/board/BOARD/board.json": `{
  "apiVersion": "consilium/v1",
  "kind": "BoardPolicy",
  "board": "{{.Board}}",
  "permits": ["km-tail"],
  "minCohort": 11,
  "minSites": 5,
  "residency": null,
  "assessments": [
    {
      "id": "example-1",
      "datasets": ["cgd-patient"],
      "analyses": ["describe", "crosstab", "kaplan-meier", "logrank", "glm", "cox"],
      "columns": ["id", "treat", "age", "inherit", "tstop", "status"],
      "artefacts": ["ciphertext_update", "key_share", "opening_share", "aggregate", "round_state", "sealed_state"],
      "minSites": 5,
      "minCohort": 11,
      "from": "2026-01-01",
      "until": "2036-01-01",
      "reviewedBy": "an example, reviewed by nobody",
      "report": "an example"
    }
  ]
}
`,
	"policy/board/BOARD/rules.rego": `# METADATA
# title: Rules of the board {{.Board}}
package {{.Package}}

import rego.v2

# Refused: a study for profit.
deny contains {
	"code": "BOARD-{{.Code}}-COMMERCIAL",
	"message": "the registry is not open to studies for profit",
	"article": "",
} if {
	input.study.legal.commercial
}

# Left out: the records of the dead.
row_include if input.record.deceased == false

# Asked for: whoever releases a result reports it.
obligations contains "report_result_to_the_board" if input.point == "release"
`,
	"vectors.csv": `id,point,base,changes,expect,codes
a study as it should be,study,us,,allow,
a hospital as it should be,site,us,,allow,
a study for profit,study,us,study.legal.commercial = true,deny,BOARD-{{.Code}}-COMMERCIAL
a patient who consented,rows,us,,allow,
a patient who died,rows,us,record.deceased = true,deny,ROW_BOARD
a patient who withdrew,rows,us,record.withdrawn_at = 2026-01-01,deny,ROW_WITHDRAWN
a result,release,us,,allow,
a result about ten patients,release,us,release.patients = 10,deny,RELEASE_PATIENTS
`,
}

func runPolicyCheck(_ context.Context, e *env, args []string) error {
	flags := e.flags()
	grant := flags.String("grant", "", "`file` with the board's signatures, to be verified too")
	kitDir := flags.String("kit", "", "any kit of the federation, for the board's keys")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) != 1 || (*grant == "") != (*kitDir == "") {
		return usagef("name one directory with a policy; --grant FILE and --kit DIR belong together")
	}
	dir := rest[0]
	b, err := readPolicy(dir)
	var problems []policy.Problem
	if err != nil {
		if !errors.Is(err, consilium.ErrInvalid) {
			return err
		}
		problems = []policy.Problem{{File: policyDir(dir), Rule: "layout", Message: err.Error(), Suggestion: "a policy holds board/ID/board.json, board/ID/NAME.rego and, where the board keeps its own, law/law.json"}}
	} else {
		problems = policy.Check(b)
	}
	if len(problems) > 0 {
		if e.json {
			if err := json.NewEncoder(e.stdout).Encode(map[string]any{"problems": problems}); err != nil {
				return err
			}
		} else {
			for _, p := range problems {
				fmt.Fprintln(e.stdout, p)
			}
		}
		return fmt.Errorf("%s: %d to correct", dir, len(problems))
	}
	engine, err := policy.Compile(b)
	if err != nil {
		return err
	}
	signed := ""
	if *grant != "" {
		if signed, err = verifyGrant(b, *grant, *kitDir); err != nil {
			return err
		}
	}
	asOf, stale := engine.LawDates()
	fresh := time.Now().Before(stale)
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"digest": engine.Digest(), "files": engine.Bundle().Paths(), "rules": len(engine.Rules()), "problems": []policy.Problem{},
			"law_as_of": asOf.Format(time.DateOnly), "law_until": stale.Format(time.DateOnly), "law_fresh": fresh, "signed": signed})
	}
	fmt.Fprintf(e.stdout, "%s compiles: %d files, %d rules\n  digest %s\n  law as of %s", dir, len(engine.Bundle().Paths()), len(engine.Rules()), engine.Digest(), asOf.Format(time.DateOnly))
	if fresh {
		fmt.Fprintf(e.stdout, ", in use until %s\n", stale.Format(time.DateOnly))
	} else {
		fmt.Fprintf(e.stdout, ": too old since %s, every decision denies; read the law again and update law/law.json\n", stale.Format(time.DateOnly))
	}
	if signed != "" {
		fmt.Fprintf(e.stdout, "  %s\n", signed)
	}
	return nil
}

// questions reads a desk's base questions by name.
func questions(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(filepath.Join(dir, deskQuestions))
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for _, d := range entries {
		name, ok := strings.CutSuffix(d.Name(), ".json")
		if !ok || d.IsDir() {
			continue
		}
		if out[name], err = readBounded(filepath.Join(dir, deskQuestions, d.Name()), policy.MaxInput); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return b, err
}

// runVectors runs a desk's examples under its policy. It says what fails and
// what no example reaches.
func runVectors(ctx context.Context, e *env, dir, record string) error {
	b, err := readPolicy(dir)
	if err != nil {
		return err
	}
	engine, err := policy.Compile(b)
	if err != nil {
		return fmt.Errorf("%s: %w; `consilium policy check %s` says where", dir, err, dir)
	}
	src, err := readBounded(filepath.Join(dir, deskVectors), 4<<20)
	if err != nil {
		return err
	}
	vectors, err := policy.ParseVectors(bytes.NewReader(src))
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, deskVectors), err)
	}
	bases, err := questions(dir)
	if err != nil {
		return err
	}
	results, coverage, err := engine.RunVectors(ctx, vectors, bases)
	if err != nil {
		return err
	}
	failed := 0
	for _, r := range results {
		if !r.Pass {
			failed++
		}
	}
	if record != "" {
		if err := recordDecisions(record, results); err != nil {
			return err
		}
	}
	if e.json {
		if err := json.NewEncoder(e.stdout).Encode(map[string]any{"digest": engine.Digest(), "passed": len(results) - failed, "failed": failed, "vectors": results, "coverage": coverage, "complete": coverage.Complete()}); err != nil {
			return err
		}
	} else {
		for _, r := range results {
			if !r.Pass {
				fmt.Fprintf(e.stdout, "FAIL line %d: %s: %s\n", r.Vector.Line, r.Vector.ID, r.Problem)
				for _, reason := range r.Decision.Reasons {
					fmt.Fprintf(e.stdout, "    %s\n", reason)
				}
			}
		}
		fmt.Fprintf(e.stdout, "%d of %d examples come out as expected\n", len(results)-failed, len(results))
		for _, f := range coverage.Files {
			fmt.Fprintf(e.stdout, "  %s: %.0f%% reached", f.File, f.Percent)
			if len(f.NotCovered) > 0 {
				fmt.Fprintf(e.stdout, "; no example reaches line %s", strings.Trim(strings.Join(strings.Fields(fmt.Sprint(f.NotCovered)), ", "), "[]"))
			}
			fmt.Fprintln(e.stdout)
		}
		for _, c := range coverage.Codes {
			switch {
			case c.Denied == 0:
				fmt.Fprintf(e.stdout, "  %s: no example is denied by it\n", c.Code)
			case c.Allowed == 0:
				fmt.Fprintf(e.stdout, "  %s: no example passes it\n", c.Code)
			}
		}
	}
	switch {
	case failed > 0:
		return fmt.Errorf("%d of %d examples come out otherwise", failed, len(results))
	case !coverage.Complete():
		return errors.New("some rules are not reached by any example; add examples to vectors.csv")
	}
	return nil
}

// The files of a recorded log.
const (
	decisionsFile = "decisions.jsonl"
	questionsFile = "questions.jsonl"
	logKeyFile    = "log.key"
)

// recordDecisions writes what the examples decided as a decision log, with the
// questions, which a log alone does not hold. Rows are left out: a log never
// holds what they were asked about.
func recordDecisions(dir string, results []policy.VectorResult) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, decisionsFile)); err == nil {
		return usagef("%s holds a log already", dir)
	}
	k, err := hybrid.Generate() // 32 random bytes by the one generator that the program uses for keys
	if err != nil {
		return err
	}
	key := k.Seed()[:32]
	if err := writeNew(filepath.Join(dir, logKeyFile), []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600); err != nil {
		return err
	}
	log, err := policy.OpenAudit(filepath.Join(dir, decisionsFile), key)
	if err != nil {
		return err
	}
	defer log.Close()
	var asked bytes.Buffer
	for _, r := range results {
		if r.Vector.Point == policy.PointRows || len(r.Question) == 0 {
			continue
		}
		point, in, err := policy.ParseQuestion(r.Question)
		if err != nil {
			continue // refused by its form; nothing was decided
		}
		if _, err := log.Append(policy.AuditEntry{Time: in.Now, Node: "desk", Point: point, Input: in, Decision: r.Decision}); err != nil {
			return err
		}
		asked.Write(r.Question)
		asked.WriteByte('\n')
	}
	return writeNew(filepath.Join(dir, questionsFile), asked.Bytes(), 0o600)
}

// logFlags are what replay and diff need of a recorded log.
type logFlags struct{ dir, log, questions, key *string }

func newLogFlags(def func(name, value, usage string) *string) logFlags {
	return logFlags{def("record", "", "`directory` of a recorded log: "+decisionsFile+", "+questionsFile+" and "+logKeyFile),
		def("log", "", "instead, the decision log's `file`"), def("questions", "", "and the `file` with its questions, one on each line"), def("key", "", "and the `file` with the log's key")}
}

// replay decides a log's questions again.
func (l logFlags) replay(ctx context.Context, engine *policy.Engine) (changed []policy.Changed, n int, err error) {
	log, asked, key := *l.log, *l.questions, *l.key
	if *l.dir != "" {
		log, asked, key = filepath.Join(*l.dir, decisionsFile), filepath.Join(*l.dir, questionsFile), filepath.Join(*l.dir, logKeyFile)
	}
	if log == "" || asked == "" || key == "" {
		return nil, 0, usagef("name --record DIR, or --log, --questions and --key")
	}
	kb, err := os.ReadFile(key)
	if err != nil {
		return nil, 0, err
	}
	secret, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(kb)))
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", key, err)
	}
	qb, err := readBounded(asked, 1<<30)
	if err != nil {
		return nil, 0, err
	}
	known := policy.NewQuestions(secret)
	for i, line := range bytes.Split(qb, []byte{'\n'}) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if err := known.Add(line); err != nil {
			return nil, 0, fmt.Errorf("%s: line %d: %w", asked, i+1, err)
		}
	}
	b, err := readBounded(log, 1<<30)
	if err != nil {
		return nil, 0, err
	}
	if _, _, err := policy.VerifyAudit(bytes.NewReader(b)); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", log, err)
	}
	if n = bytes.Count(b, []byte{'\n'}); n == 0 {
		return nil, 0, fmt.Errorf("%s holds no decision: there is nothing to compare; a log of a hospital that has decided is never empty", log)
	}
	changed, err = engine.Replay(ctx, bytes.NewReader(b), secret, known.Find)
	return changed, n, err
}

func runPolicyReplay(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	l := newLogFlags(flags.String)
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) != 1 {
		return usagef("name the policy under which the log was written")
	}
	engine, err := compileDir(policyDir(rest[0]))
	if err != nil {
		return err
	}
	changed, n, err := l.replay(ctx, engine)
	if err != nil {
		return err
	}
	if e.json {
		if err := json.NewEncoder(e.stdout).Encode(map[string]any{"digest": engine.Digest(), "decisions": n, "differences": changed}); err != nil {
			return err
		}
	} else if len(changed) == 0 {
		fmt.Fprintf(e.stdout, "%d decisions, every one that is not about rows comes out the same, bit for bit\n", n)
	} else {
		c := changed[0]
		fmt.Fprintf(e.stdout, "the first of %d differences is in line %d\n", len(changed), c.Seq)
		showChange(e.stdout, c)
	}
	if len(changed) > 0 {
		return fmt.Errorf("%d of %d decisions do not come out as they were logged; first line %d", len(changed), n, changed[0].Seq)
	}
	return nil
}

func showChange(w io.Writer, c policy.Changed) {
	if c.Unproven != "" {
		fmt.Fprintf(w, "line %d, %s: %s\n", c.Seq, c.Point, c.Unproven)
		return
	}
	fmt.Fprintf(w, "line %d, %s\n  before: %s\n  after:  %s\n", c.Seq, c.Point, verdict(c.Before), verdict(c.After))
}

func verdict(d policy.Decision) string {
	if d.Allow {
		return "allowed"
	}
	var codes []string
	for _, r := range d.Reasons {
		if !slices.Contains(codes, r.Code) {
			codes = append(codes, r.Code)
		}
	}
	return "denied by " + strings.Join(codes, ", ")
}

func runPolicyDiff(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	l := newLogFlags(flags.String)
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) != 1 {
		return usagef("name the new policy; the log says what was decided under the old one")
	}
	engine, err := compileDir(policyDir(rest[0]))
	if err != nil {
		return err
	}
	changed, n, err := l.replay(ctx, engine)
	if err != nil {
		return err
	}
	granted, refused := 0, 0
	for _, c := range changed {
		switch {
		case c.Unproven != "":
		case c.After.Allow && !c.Before.Allow:
			granted++
		case !c.After.Allow && c.Before.Allow:
			refused++
		}
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"digest": engine.Digest(), "decisions": n, "changed": changed, "newly_allowed": granted, "newly_denied": refused})
	}
	for _, c := range changed {
		showChange(e.stdout, c)
	}
	fmt.Fprintf(e.stdout, "%d decisions: %d would come out otherwise, %d newly allowed, %d newly denied\n", n, len(changed), granted, refused)
	return nil
}

// memberKey opens a board member's signing key.
func memberKey(dir string) (string, *hybrid.Key, error) {
	c, err := parseCard(filepath.Join(dir, kitCard))
	if err != nil {
		return "", nil, err
	}
	if c.Member == nil {
		return "", nil, usagef("%s is the kit of %s, not of a board member", dir, c.name())
	}
	seed, err := readSecret(filepath.Join(dir, kitKeys), identityFile)
	if err != nil {
		return "", nil, err
	}
	key, err := hybrid.FromSeed(seed)
	return c.Member.ID, key, err
}

func runPolicySign(_ context.Context, e *env, args []string) error {
	flags := e.flags()
	kitDir := flags.String("board", "", "`directory` of the board member's kit")
	study := flags.String("study", policy.AnyStudy, "`id` of the only study that it is for; * for every study")
	from := flags.String("from", "", "first `day`; default today")
	days := flags.Int("days", 90, "`days` for which the grant holds")
	out := flags.String("out", grantFile, "`file` for the signatures")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) != 1 || *kitDir == "" || *days < 1 {
		return usagef("name one directory with a policy and --board KIT")
	}
	b, err := readPolicy(rest[0])
	if err != nil {
		return err
	}
	if problems := policy.Check(b); len(problems) > 0 {
		return fmt.Errorf("%s does not pass `policy check`: %s", rest[0], problems[0].Message)
	}
	start, err := day("from", *from, time.Now().UTC().Truncate(24*time.Hour).Unix())
	if err != nil {
		return err
	}
	payload, err := policy.NewGrant(b.Digest(), *study, start, time.Unix(start, 0).UTC().AddDate(0, 0, *days).Unix())
	if err != nil {
		return err
	}
	return addSignature(e, *kitDir, *out, &consilium.Signed{Payload: payload}, false)
}

func runPolicyCosign(_ context.Context, e *env, args []string) error {
	flags := e.flags()
	kitDir := flags.String("board", "", "`directory` of the board member's kit")
	grant := flags.String("grant", grantFile, "`file` with the signatures so far")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) != 1 || *kitDir == "" {
		return usagef("name one directory with a policy, --board KIT and --grant FILE")
	}
	b, err := readPolicy(rest[0])
	if err != nil {
		return err
	}
	doc, g, err := readGrant(*grant)
	if err != nil {
		return err
	}
	if g.Policy != b.Digest() {
		return consilium.ErrPolicy.Withf("%s is for policy %s, %s is %s: sign what you have read", *grant, g.Policy.Short(), rest[0], b.Digest().Short())
	}
	return addSignature(e, *kitDir, *grant, doc, true)
}

func readGrant(path string) (*consilium.Signed, *policy.Grant, error) {
	b, err := readBounded(path, 1<<20)
	if err != nil {
		return nil, nil, err
	}
	var doc consilium.Signed
	if err := strictJSON(b, &doc); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	var g policy.Grant
	if err := strictJSON(doc.Payload, &g); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return &doc, &g, nil
}

func addSignature(e *env, kitDir, path string, doc *consilium.Signed, exists bool) error {
	id, key, err := memberKey(kitDir)
	if err != nil {
		return err
	}
	for _, s := range doc.Signatures {
		if s.By == id {
			return &consilium.Error{Code: consilium.ErrConflictingMessage.Code, Msg: id + " has signed this policy", Next: "the next member signs"}
		}
	}
	sig, err := key.Sign(consilium.DomainPolicy, doc.Payload)
	if err != nil {
		return err
	}
	doc.Signatures = append(doc.Signatures, consilium.Countersign{By: id, Signature: sig})
	b, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return err
	}
	write := durable.WriteFile
	if !exists {
		write = writeNew
	}
	if err := write(path, append(b, '\n'), 0o644); err != nil {
		return err
	}
	_, g, err := readGrant(path)
	if err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"grant": path, "policy": g.Policy, "study": g.Study, "signatures": len(doc.Signatures), "member": id})
	}
	fmt.Fprintf(e.stdout, "%s signed policy %s for study %s, from %s until %s; %d signatures in %s\n", id, g.Policy, g.Study,
		time.Unix(g.NotBefore, 0).UTC().Format(time.DateOnly), time.Unix(g.NotAfter, 0).UTC().Format(time.DateOnly), len(doc.Signatures), path)
	return nil
}

// verifyGrant checks a policy's signatures with the board's keys that a kit pins.
func verifyGrant(b policy.Bundle, grant, kitDir string) (string, error) {
	doc, g, err := readGrant(grant)
	if err != nil {
		return "", err
	}
	k, _, err := openMemberKit(kitDir)
	if err != nil {
		return "", err
	}
	t := policy.Trust{Keys: k.board.Keys, Threshold: k.board.Threshold, Grant: doc, Now: time.Now().Unix()}
	if g.Study != policy.AnyStudy {
		if t.Study, err = consilium.ParseStudyID(g.Study); err != nil {
			return "", err
		}
	}
	if err := t.Verify(b); err != nil {
		return "", err
	}
	return fmt.Sprintf("signed by %d of the board, %d are needed, for study %s until %s", len(doc.Signatures), t.Threshold, g.Study, time.Unix(g.NotAfter, 0).UTC().Format(time.DateOnly)), nil
}

func runPolicyPublish(_ context.Context, e *env, args []string) error {
	flags := e.flags()
	grant := flags.String("grant", grantFile, "`file` with the board's signatures")
	kitDir := flags.String("kit", "", "any kit of the federation, for the board's keys")
	out := flags.String("out", "", "new `directory` for what hospitals install")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) != 1 || *kitDir == "" || *out == "" {
		return usagef("name one directory with a policy, --kit DIR and --out DIR")
	}
	b, err := readPolicy(rest[0])
	if err != nil {
		return err
	}
	if _, err := policy.Compile(b); err != nil {
		return err
	}
	signed, err := verifyGrant(b, *grant, *kitDir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(*out); err == nil {
		return usagef("%s exists already", *out)
	}
	core := policy.DefaultBundle()
	encoded, err := b.Encode()
	if err != nil {
		return err
	}
	g, err := os.ReadFile(*grant)
	if err != nil {
		return err
	}
	files := map[string][]byte{bundleFile: encoded, grantFile: g}
	for _, name := range b.Paths() {
		own, _ := core.File(name)
		if content, _ := b.File(name); !bytes.Equal(own, content) {
			files[filepath.Join(deskPolicy, name)] = content
		}
	}
	for name, content := range files {
		path := filepath.Join(*out, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := durable.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	// What was written is what was signed.
	again, err := readPolicy(*out)
	if err != nil {
		return err
	}
	if again.Digest() != b.Digest() {
		return fmt.Errorf("%s reads back as another policy", *out)
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"digest": b.Digest(), "dir": *out, "signed": signed})
	}
	fmt.Fprintf(e.stdout, "published in %s\n  digest %s\n  %s\nhospitals and coordinators put %s under policies/ by any name and compare the digest\n", *out, b.Digest(), signed, filepath.Join(*out, deskPolicy))
	return nil
}

func runPolicyExplain(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	file := flags.String("question", "", "`file` with a question: a desk's questions/NAME.json, or one that a hospital kept")
	point := flags.String("point", "study", "`point` at which it is asked: study, site, rows, transfer, release")
	change := flags.String("change", "", "changes to it, as in vectors.csv: \"study.legal.commercial = true; …\"")
	where := flags.String("may-change", "", "what the remedy may change, by the beginnings of paths: \"study.legal.,site.\"; default the study's legal block, purpose, permits and bounds")
	study := flags.String("study", "", "instead, a study `file`")
	kitDir := flags.String("kit", "", "and any kit of the federation, for its roster")
	team := flags.String("team", "", "and the `id` of the asking team")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) != 1 || (*file == "") == (*study == "") {
		return usagef("name one directory with a policy, and --question FILE or --study FILE")
	}
	engine, err := compileDir(policyDir(rest[0]))
	if err != nil {
		return err
	}
	var q []byte
	if *file != "" {
		base, err := readBounded(*file, policy.MaxInput)
		if err != nil {
			return err
		}
		v := policy.Vector{Point: policy.Point(*point)}
		for _, c := range strings.Split(*change, ";") {
			if c = strings.TrimSpace(c); c != "" {
				v.Changes = append(v.Changes, c)
			}
		}
		if q, _, err = v.Question(base); err != nil {
			return err
		}
	} else {
		if *kitDir == "" || *team == "" || *change != "" {
			return usagef("--study needs --kit DIR and --team ID, and takes no --change")
		}
		in, err := studyQuestion(*study, *kitDir, *team)
		if err != nil {
			return err
		}
		if q, err = in.Encode(policy.PointStudy); err != nil {
			return err
		}
	}
	var may []string
	if *where != "" {
		may = split(*where)
	}
	r, err := engine.Remedy(ctx, q, may...)
	if err != nil {
		return err
	}
	if e.json {
		if err := json.NewEncoder(e.stdout).Encode(r); err != nil {
			return err
		}
	} else {
		fmt.Fprint(e.stdout, r)
	}
	return r.Decision.Err()
}

// studyQuestion is the study question about a study file, with the federation
// that a kit's roster describes.
func studyQuestion(file, kitDir, team string) (policy.Input, error) {
	src, err := os.ReadFile(file)
	if err != nil {
		return policy.Input{}, err
	}
	parsed, err := studyfile.ParseWith(src, studyfile.Options{})
	if err != nil {
		return policy.Input{}, fmt.Errorf("%s: %w", file, err)
	}
	k, _, err := openMemberKit(kitDir)
	if err != nil {
		return policy.Input{}, err
	}
	s, err := policy.NewStudy("", parsed.Payload)
	if err != nil {
		return policy.Input{}, err
	}
	f, err := policy.NewFederation(k.roster, researcher(team), parsed.Spec.Sites.Only)
	if err != nil {
		return policy.Input{}, err
	}
	return policy.Input{Now: time.Now().Unix(), Study: s, Federation: f}, nil
}
