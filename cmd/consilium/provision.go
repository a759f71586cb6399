package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"consilium"
	"consilium/coordinator"
	"consilium/internal/canon"
	"consilium/internal/durable"
	"consilium/internal/hybrid"
	"consilium/internal/pinned"
	"consilium/internal/seal"
	"consilium/internal/wire"
	"consilium/policy"
	"consilium/provenance"
)

// provisionFlags are what every member of a federation says about itself.
type provisionFlags struct {
	*flag.FlagSet
	dir, federation, id *string
}

func newProvisionFlags(e *env) provisionFlags {
	fs := e.flags()
	return provisionFlags{fs, fs.String("dir", "", "new `directory` of the kit"), fs.String("federation", "", "`name` of the federation, the same for all members"),
		fs.String("id", "", "the member's `id`: a-z, 0-9 and inner hyphens")}
}

// parse reads the flags and refuses a kit that is already there.
func (p provisionFlags) parse(e *env, args []string, needed ...string) error {
	rest, err := e.parse(p.FlagSet, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("unexpected %q", rest[0])
	}
	for _, name := range append([]string{"dir", "federation", "id"}, needed...) {
		if p.Lookup(name).Value.String() == "" {
			return usagef("--%s is needed", name)
		}
	}
	if strings.ContainsFunc(*p.federation, func(r rune) bool { return r <= ' ' || r > '~' || r == '+' }) {
		return usagef("--federation %q: visible ASCII without blanks, for example cgd.example", *p.federation)
	}
	if _, err := consilium.ParseSiteID(*p.id); err != nil {
		return usagef("--id: %v", err)
	}
	if _, err := os.Stat(filepath.Join(*p.dir, kitCard)); err == nil {
		return &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: *p.dir + " holds a kit already", Next: "keys are made once; choose another directory"}
	}
	return nil
}

func (p provisionFlags) keys() string { return filepath.Join(*p.dir, kitKeys) }

// finish writes the card and the config and says what to do next.
func (p provisionFlags) finish(e *env, c *card, config *template.Template, values any, next string) error {
	c.APIVersion, c.Kind, c.Federation = consilium.APIVersion, "Card", *p.federation
	if config != nil {
		var b bytes.Buffer
		if err := config.Execute(&b, values); err != nil {
			return err
		}
		if err := writeNew(filepath.Join(*p.dir, kitConfig), b.Bytes(), 0o600); err != nil {
			return err
		}
	}
	if err := writeCard(*p.dir, c); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"card": c, "fingerprint": c.fingerprint(), "dir": *p.dir})
	}
	fmt.Fprintf(e.stdout, "%s: keys made in %s; they stay there, and %s/ is what to back up\n", c.name(), *p.dir, p.keys())
	fmt.Fprintf(e.stdout, "send the board %s, and read its fingerprint to them:\n  %s\n%s\n", filepath.Join(*p.dir, kitCard), c.fingerprint(), next)
	return nil
}

// writeCard replaces card.json whole.
func writeCard(dir string, c *card) error {
	b, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, kitCard), append(b, '\n'), 0o644)
}

var siteTemplate = template.Must(template.New("site").Parse(`# A hospital's worker. An unknown key is refused; docs/operating.md has more: streams, limits, retention, anchors, witnesses, tracing.
# Paths are relative to this file.
apiVersion: consilium/v1
kind: Worker
site: {{.}}
keys: keys
roster: roster.json
board: board.json
data: data
facts: facts.json        # what this hospital has filed; facts.example.json shows the form
register: register.json  # what its own register says of patients beside the consent
policies: policies       # one directory for each policy that the board has published
witness: ""              # URL of the board's ledger witness
health: 127.0.0.1:9480   # /healthz, /readyz, /metrics; "" for none
log: info
isolation: best          # the vault gets its own empty network where the system can; "required" refuses to run without
privacy: {epsilon: 10, delta: 1e-6} # what all differentially private studies together may learn about one patient; epsilon: 0 for none
datasets: []
# - name: cgd            # as studies call it
#   path: cgd.csv
#   patient: id
#   bind: {treat: arm}   # dictionary column: header of the file, where they differ
#   columns:             # as in a study file; all that studies may ever read
#     id: {type: id}
#     treat: [placebo, rIFN-g]
#     age: {type: number, unit: a, bounds: [0, 120]}
`))

var coordinatorTemplate = template.Must(template.New("coordinator").Parse(`# A coordinator node. An unknown key is refused; docs/operating.md has one more: tracing.
# Paths are relative to this file.
apiVersion: consilium/v1
kind: Coordinator
id: {{.}}
keys: keys
roster: roster.json
board: board.json
data: data
policies: policies
listen: ""               # if the roster's address is not one of this machine
listen_raft: ""
health: 127.0.0.1:9490   # /healthz, /readyz, /metrics; "" for none
log: info
timing: {heartbeat: 1s, commit: 50ms, drain: 10s}
`))

var witnessTemplate = template.Must(template.New("witness").Parse(`# The board's ledger witness. Every key stands here; an unknown one is refused.
# Paths are relative to this file.
apiVersion: consilium/v1
kind: Witness
keys: keys
roster: roster.json
board: board.json
data: data
listen: {{.}}
health: ""               # host:port of /healthz, /readyz and /metrics; "" for none
log: info
`))

func runProvisionSite(_ context.Context, e *env, args []string) error {
	p := newProvisionFlags(e)
	name := p.String("name", "", "the hospital's `name`")
	operator := p.String("operator", "", "who runs it: hospitals of one operator count once (default: the id)")
	country := p.String("country", "", "two letters, ISO 3166-1")
	regimes := p.String("regimes", "", "legal regimes, comma separated, for example HIPAA,COMMON_RULE")
	if err := p.parse(e, args, "country", "regimes"); err != nil {
		return err
	}
	known := policy.Default().Regimes()
	list := strings.Split(*regimes, ",")
	for _, r := range list {
		if !slices.Contains(known, r) {
			return usagef("--regimes: unknown regime %q; %s", r, suggestion(r, known))
		}
	}
	if *name == "" {
		*name = *p.id
	}
	if *operator == "" {
		*operator = *p.id
	}
	site := &consilium.Site{ID: consilium.SiteID(*p.id), Name: *name, Operator: *operator, Country: *country, Regimes: list}
	if err := checkCardCountry(*country); err != nil {
		return err
	}
	key, pin, err := makeIdentity(p.keys(), *p.id)
	if err != nil {
		return err
	}
	site.Key, site.TLS = key.Public(), []consilium.Digest{pin}
	ledger, err := provenance.NewLogKey(*p.federation + "/" + *p.id)
	if site.Ledger, err = makeNoteKey(p.keys(), ledgerFile, ledger, err); err != nil {
		return err
	}
	if err := errors.Join(writeSecret(p.keys(), kekFile, provenance.GenerateKEK().Bytes()), randomSecret(p.keys(), pseudonymFile, 32)); err != nil {
		return err
	}
	example, err := policy.DefaultSite(site.ID)
	if err != nil {
		return err
	}
	var facts bytes.Buffer
	if err := json.Indent(&facts, example.JSON(), "", " "); err != nil {
		return err
	}
	facts.WriteByte('\n')
	if err := errors.Join(
		writeNew(filepath.Join(*p.dir, "facts.example.json"), facts.Bytes(), 0o644),
		writeNew(filepath.Join(*p.dir, "register.json"), []byte("{\"default\": {\"adult\": false, \"citizenOrLPR\": false}, \"patients\": {}}\n"), 0o600),
		os.MkdirAll(filepath.Join(*p.dir, "policies"), 0o700),
	); err != nil {
		return err
	}
	return p.finish(e, &card{Site: site}, siteTemplate, *p.id,
		"then write facts.json, fill in config.yaml, install the signed roster and run `consilium ledger anchor --config "+filepath.Join(*p.dir, kitConfig)+"`")
}

func checkCardCountry(c string) error {
	if len(c) != 2 || c[0] < 'A' || c[0] > 'Z' || c[1] < 'A' || c[1] > 'Z' {
		return usagef("--country %q: want two letters A-Z (ISO 3166-1)", c)
	}
	return nil
}

func runProvisionCoordinator(_ context.Context, e *env, args []string) error {
	p := newProvisionFlags(e)
	country := p.String("country", "", "two letters, ISO 3166-1")
	address := p.String("address", "", "`host:port` at which members reach the node")
	raft := p.String("raft", "", "`host:port` at which the other nodes reach it")
	if err := p.parse(e, args, "country", "address", "raft"); err != nil {
		return err
	}
	if err := checkCardCountry(*country); err != nil {
		return err
	}
	key, pin, err := makeIdentity(p.keys(), *p.id)
	if err != nil {
		return err
	}
	c := &consilium.Coordinator{ID: consilium.NodeID(*p.id), Country: *country, Address: *address, Raft: *raft, Key: key.Public(), TLS: []consilium.Digest{pin}}
	// All nodes cosign one audit log, which is named after the federation.
	note, err := provenance.NewLogKey(coordinator.AuditOrigin(&consilium.Roster{Name: *p.federation}))
	if c.Ledger, err = makeNoteKey(p.keys(), ledgerFile, note, err); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(*p.dir, "policies"), 0o700); err != nil {
		return err
	}
	return p.finish(e, &card{Coordinator: c}, coordinatorTemplate, *p.id,
		"then install the signed roster and run `consilium coordinator --config "+filepath.Join(*p.dir, kitConfig)+"`")
}

func runProvisionBoard(_ context.Context, e *env, args []string) error {
	p := newProvisionFlags(e)
	witness := p.String("witness", "", "`host:port` on which this member runs a ledger witness; one member does, or several with a quorum")
	address := p.String("witness-url", "", "`URL` at which hospitals reach it; default http:// and the host and port")
	if err := p.parse(e, args); err != nil {
		return err
	}
	key, pin, err := makeIdentity(p.keys(), *p.id)
	if err != nil {
		return err
	}
	c := &card{Member: &consilium.BoardMember{ID: *p.id, Key: key.Public(), TLS: []consilium.Digest{pin}}}
	config := (*template.Template)(nil)
	if *witness != "" {
		config = witnessTemplate
		if c.WitnessAddress = *address; *address == "" {
			c.WitnessAddress = "http://" + *witness
		}
		note, err := provenance.NewWitnessKey(*p.federation + "/" + *p.id)
		if c.Witness, err = makeNoteKey(p.keys(), witnessFile, note, err); err != nil {
			return err
		}
	}
	return p.finish(e, c, config, *witness, "the members' cards make the roster: `consilium provision roster`")
}

func runProvisionTeam(_ context.Context, e *env, args []string) error {
	p := newProvisionFlags(e)
	name := p.String("name", "", "the team's `name`")
	country := p.String("country", "", "two letters, ISO 3166-1")
	if err := p.parse(e, args, "country"); err != nil {
		return err
	}
	if err := checkCardCountry(*country); err != nil {
		return err
	}
	key, pin, err := makeIdentity(p.keys(), *p.id)
	if err != nil {
		return err
	}
	sealing, err := seal.Generate()
	if err != nil {
		return err
	}
	b, err := sealing.Bytes()
	if err != nil {
		return err
	}
	if err := writeSecret(p.keys(), sealingFile, b); err != nil {
		return err
	}
	if *name == "" {
		*name = *p.id
	}
	return p.finish(e, &card{Researcher: &consilium.Researcher{ID: consilium.ResearcherID(*p.id), Name: *name, Country: *country,
		Key: key.Public(), Sealing: sealing.Public(), TLS: []consilium.Digest{pin}}}, nil, nil, "then install the signed roster and submit a study")
}

// runProvisionRenew makes the next certificate of a kit. Both are in the card
// until a roster that pins the new one is installed.
func runProvisionRenew(_ context.Context, e *env, args []string) error {
	fs := e.flags()
	dir := fs.String("dir", "", "`directory` of the kit")
	if rest, err := e.parse(fs, args); err != nil || len(rest) > 0 || *dir == "" {
		return errors.Join(err, usagef("--dir KIT is needed, and nothing else"))
	}
	c, err := parseCard(filepath.Join(*dir, kitCard))
	if err != nil {
		return err
	}
	pin, err := makeCertificate(filepath.Join(*dir, kitKeys), c.id(), nextPrefix+tlsCertFile, nextPrefix+tlsKeyFile)
	if err != nil {
		return err
	}
	*c.pins() = append(*c.pins(), pin)
	if err := writeCard(*dir, c); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"card": c, "fingerprint": c.fingerprint()})
	}
	fmt.Fprintf(e.stdout, "send the board %s, fingerprint\n  %s\nThe present certificate stays in use until you install a roster that pins the next one.\n", filepath.Join(*dir, kitCard), c.fingerprint())
	return nil
}

const nextPrefix = "next-"

// runProvisionWitness makes a new witness of a board member whose witness has lost
// its directory, or its key: the old key must cosign nothing more, since it has
// forgotten, or somebody else has it. The member itself stays who it is.
func runProvisionWitness(_ context.Context, e *env, args []string) error {
	flags := e.flags()
	dir := flags.String("dir", "", "`directory` of the kit")
	if rest, err := e.parse(flags, args); err != nil || len(rest) > 0 || *dir == "" {
		return errors.Join(err, usagef("--dir KIT is needed, and nothing else"))
	}
	c, err := parseCard(filepath.Join(*dir, kitCard))
	if err != nil {
		return err
	}
	if c.Member == nil || c.Witness == "" {
		return &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: c.name() + " runs no witness", Next: "provision one with `provision board --witness HOST:PORT`"}
	}
	keys := filepath.Join(*dir, kitKeys)
	if err := os.Remove(filepath.Join(keys, witnessFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// If we crash before the card is written, the next run makes another key.
	note, err := provenance.NewWitnessKey(c.Federation + "/" + c.id())
	if c.Witness, err = makeNoteKey(keys, witnessFile, note, err); err != nil {
		return err
	}
	if err := writeCard(*dir, c); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"card": c, "fingerprint": c.fingerprint()})
	}
	fmt.Fprintf(e.stdout, "send the board %s, fingerprint\n  %s\nThe old key is gone. The witness starts again once a roster that names the new one is installed.\n", filepath.Join(*dir, kitCard), c.fingerprint())
	return nil
}

// witnessing is the roster's policy for the ledgers: nil for one witness, which
// must cosign, else a quorum of the board members' own or what a file says.
func witnessing(own []provenance.WitnessKey, quorum int, file string, within time.Duration) (*consilium.Witnessing, error) {
	var p provenance.WitnessPolicy
	switch {
	case file != "" && quorum != 0:
		return nil, usagef("--quorum and --witnesses say the same thing: give one")
	case file != "":
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if p, err = provenance.ParseWitnessPolicy(b, within); err != nil {
			return nil, consilium.ErrInvalid.Withf("%s: %w", file, err)
		}
	case quorum < 0 || quorum > len(own):
		return nil, usagef("--quorum %d: %d board members run a witness", quorum, len(own))
	case len(own) > 1 && quorum == 0:
		return nil, usagef("%d board members run a ledger witness: --quorum says how many must cosign", len(own))
	case quorum == 0 && within == 0:
		return nil, nil
	default:
		p = provenance.WitnessPolicy{Witnesses: own, Quorum: "board", MaxAge: within, Groups: []provenance.WitnessGroup{{Name: "board", Threshold: max(quorum, 1)}}}
		for _, w := range own {
			p.Groups[0].Members = append(p.Groups[0].Members, w.Name)
		}
	}
	return p.Witnessing(), nil
}

func runProvisionRoster(_ context.Context, e *env, args []string) error {
	fs := e.flags()
	cards := fs.String("cards", "", "`directory` with the members' cards, *.json")
	name := fs.String("name", "", "`name` of the federation")
	board := fs.String("board-name", "Ethics board", "`name` of the board")
	threshold := fs.Int("threshold", 0, "how many board members must sign")
	days := fs.Int("days", 365, "`days` of validity")
	previous := fs.String("previous", "", "the roster `file` in force, for its successor")
	fresh := fs.Bool("fresh-cluster", false, "let the coordinators begin again with nothing: the old ones and all that they held are lost")
	out := fs.String("out", "", "`file` to write")
	quorum := fs.Int("quorum", 0, "how many of the board members' witnesses must cosign; needed where more than one member runs one")
	witnesses := fs.String("witnesses", "", "instead, a C2SP tlog-policy `file`: witness, group and quorum lines; the board's own stand in it too")
	cosigned := fs.Duration("cosigned-within", 0, "how old cosignatures may be; default 15m")
	rest, err := e.parse(fs, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 || *cards == "" || *out == "" || *name == "" || *threshold < 1 || *days < 1 {
		return usagef("--cards DIR, --name, --threshold and --out FILE are needed, and nothing else")
	}
	files, err := filepath.Glob(filepath.Join(*cards, "*.json"))
	if err != nil {
		return err
	}
	slices.Sort(files)
	now := time.Now()
	r := &consilium.Roster{APIVersion: consilium.APIVersion, Kind: "Roster", Name: *name, Version: 1,
		NotBefore: now.Add(-time.Hour).Unix(), NotAfter: now.AddDate(0, 0, *days).Unix(), Board: consilium.Board{Name: *board, Threshold: *threshold},
		Sites: []consilium.Site{}, Coordinators: []consilium.Coordinator{}, Researchers: []consilium.Researcher{}, Auditors: []consilium.Auditor{}}
	var old *consilium.Roster
	if *previous != "" {
		var signed *consilium.Signed
		if signed, old, err = pinned.ParseRoster(*previous); err != nil {
			return err
		}
		r.Version, r.Previous, r.Auditors = old.Version+1, consilium.RosterDigest(signed.Payload), old.Auditors
	}
	seen := map[string]string{}
	var own []provenance.WitnessKey
	type line struct{ Name, Fingerprint, File string }
	var list []line
	for _, f := range files {
		c, err := parseCard(f)
		if err != nil {
			return err
		}
		if c.Federation != *name {
			return &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: fmt.Sprintf("%s is a card for the federation %q, not %q", f, c.Federation, *name), Next: "ask its owner to provision for this one"}
		}
		if other, ok := seen[c.name()]; ok {
			return &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: fmt.Sprintf("%s stands twice: in %s and in %s", c.name(), other, f),
				Next: "keep the card whose fingerprint its owner confirms, and give the other member another id"}
		}
		seen[c.name()] = f
		list = append(list, line{c.name(), c.fingerprint(), f})
		switch {
		case c.Site != nil:
			r.Sites = append(r.Sites, *c.Site)
		case c.Coordinator != nil:
			r.Coordinators = append(r.Coordinators, *c.Coordinator)
		case c.Member != nil:
			r.Board.Members = append(r.Board.Members, *c.Member)
		case c.Researcher != nil:
			r.Researchers = append(r.Researchers, *c.Researcher)
		}
		if c.Witness != "" {
			own = append(own, provenance.WitnessKey{Name: c.id(), Key: c.Witness, URL: c.WitnessAddress})
		}
	}
	if len(own) == 0 {
		return &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: "no board member runs the ledger witness", Next: "provision one with `provision board --witness HOST:PORT`"}
	}
	r.Board.Witness = own[0].Key
	if r.Witnessing, err = witnessing(own, *quorum, *witnesses, *cosigned); err != nil {
		return err
	}
	if _, err := provenance.WitnessesOf(r); err != nil {
		return consilium.ErrInvalid.With(err)
	}
	if old != nil && !*fresh {
		if err := r.KeepsCoordinators(old); err != nil {
			return err
		}
	}
	payload, err := canon.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := consilium.ParseRoster(payload); err != nil {
		return consilium.ErrInvalid.With(err)
	}
	if err := writeSigned(*out, &consilium.Signed{Payload: payload, Signatures: []consilium.Countersign{}}); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"roster": consilium.RosterDigest(payload), "version": r.Version, "members": list, "board": groups(pinned.BoardOf(r).Digest())})
	}
	fmt.Fprintf(e.stdout, "roster version %d of %s: %d hospitals, %d coordinators, %d teams, a board of %d of whom %d sign\n", r.Version, r.Name, len(r.Sites), len(r.Coordinators), len(r.Researchers), len(r.Board.Members), r.Board.Threshold)
	fmt.Fprintln(e.stdout, "compare every fingerprint with its owner before anybody signs:")
	for _, l := range list {
		fmt.Fprintf(e.stdout, "  %-28s %s\n", l.Name, l.Fingerprint)
	}
	return nil
}

func writeSigned(path string, s *consilium.Signed) error {
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(b, '\n'), 0o644)
}

func runProvisionSign(_ context.Context, e *env, args []string) error {
	flags := e.flags()
	file := flags.String("roster", "", "roster `file`")
	dir := flags.String("board", "", "`directory` of a board member's kit")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 || *file == "" || *dir == "" {
		return usagef("--roster FILE and --board KIT are needed, and nothing else")
	}
	signed, roster, err := pinned.ParseRoster(*file)
	if err != nil {
		return err
	}
	c, err := parseCard(filepath.Join(*dir, kitCard))
	if err != nil {
		return err
	}
	if c.Member == nil {
		return usagef("%s is the kit of %s, not of a board member", *dir, c.name())
	}
	seed, err := readSecret(filepath.Join(*dir, kitKeys), identityFile)
	if err != nil {
		return err
	}
	key, err := hybrid.FromSeed(seed)
	if err != nil {
		return err
	}
	// A successor is signed by the board that this member's kit pins, the
	// first roster by its own.
	board := pinned.BoardOf(roster)
	if trusted, err := pinned.ReadBoard(filepath.Join(*dir, kitBoard)); err == nil {
		board = trusted
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if board.Keys[c.Member.ID] != key.Public() {
		return &consilium.Error{Code: consilium.ErrForbidden.Code, Msg: fmt.Sprintf("the board that signs this roster has no member %s with this kit's key", c.Member.ID), Next: "check that the card in the roster is this kit's"}
	}
	for _, s := range signed.Signatures {
		if s.By == c.Member.ID {
			return &consilium.Error{Code: consilium.ErrConflictingMessage.Code, Msg: c.Member.ID + " has signed this roster", Next: "the next member signs"}
		}
	}
	sig, err := key.Sign(consilium.DomainRoster, signed.Payload)
	if err != nil {
		return err
	}
	signed.Signatures = append(signed.Signatures, consilium.Countersign{By: c.Member.ID, Signature: sig})
	if err := writeSigned(*file, signed); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"roster": consilium.RosterDigest(signed.Payload), "signatures": len(signed.Signatures), "threshold": board.Threshold})
	}
	fmt.Fprintf(e.stdout, "%s signed roster version %d: %d of %d signatures\n", c.Member.ID, roster.Version, len(signed.Signatures), board.Threshold)
	return nil
}

func runProvisionInstall(_ context.Context, e *env, args []string) error {
	flags := e.flags()
	file := flags.String("roster", "", "signed roster `file`")
	dir := flags.String("dir", "", "`directory` of the kit")
	want := flags.String("board", "", "the board's `fingerprint` as the board publishes it; pins that board anew")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 || *file == "" || *dir == "" {
		return usagef("--roster FILE and --dir KIT are needed, and nothing else")
	}
	signed, roster, err := pinned.ParseRoster(*file)
	if err != nil {
		return err
	}
	c, err := parseCard(filepath.Join(*dir, kitCard))
	if err != nil {
		return err
	}
	own := pinned.BoardOf(roster)
	print := groups(own.Digest())
	trusted, err := pinned.ReadBoard(filepath.Join(*dir, kitBoard))
	switch {
	case *want != "":
		if strings.ReplaceAll(*want, " ", "") != strings.ReplaceAll(print, " ", "") {
			return consilium.ErrSignature.Withf("the roster's board has the fingerprint %s, not %s; do not install it and ask the board", print, *want)
		}
		trusted = own
	case errors.Is(err, fs.ErrNotExist):
		trusted = own
	case err != nil:
		return err
	case trusted.Digest() != own.Digest():
		return consilium.ErrSignature.Withf("the roster names another board than the one pinned in %s; if the board has changed, compare its fingerprint (%s) with what the old board publishes and install with --board", *dir, print)
	}
	if err := trusted.Check(signed); err != nil {
		return fmt.Errorf("%s: %w; %d board members sign with `consilium provision sign`", *file, err, trusted.Threshold)
	}
	if old, before, err := pinned.ParseRoster(filepath.Join(*dir, kitRoster)); err == nil {
		if roster.Version < before.Version || roster.Version == before.Version && !bytes.Equal(old.Payload, signed.Payload) {
			return consilium.ErrStale.Withf("roster version %d is installed, %s is version %d; ask the board for the newest", before.Version, *file, roster.Version)
		}
		if roster.Version == before.Version+1 && roster.Previous != consilium.RosterDigest(old.Payload) {
			return consilium.ErrStale.Withf("%s follows another roster than the installed version %d; ask the board", *file, before.Version)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := c.known(roster); err != nil {
		return err
	}
	if _, err := provenance.WitnessesOf(roster); err != nil {
		return fmt.Errorf("%s: %w; ask the board for a roster whose witnesses can be believed", *file, err)
	}
	if err := switchCertificate(*dir, roster); err != nil {
		return err
	}
	b, err := json.MarshalIndent(trusted, "", " ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(*dir, kitBoard), append(b, '\n'), 0o644); err != nil {
		return err
	}
	if err := writeSigned(filepath.Join(*dir, kitRoster), signed); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"roster": consilium.RosterDigest(signed.Payload), "version": roster.Version, "board": print})
	}
	fmt.Fprintf(e.stdout, "roster version %d installed for %s; the board's fingerprint is\n  %s\ncompare it with what the board publishes\n", roster.Version, c.name(), print)
	return nil
}

// known checks that the roster lists this kit's own key.
func (c *card) known(r *consilium.Roster) error {
	var have, own consilium.PublicKey
	switch {
	case c.Site != nil:
		own = c.Site.Key
		if s, ok := r.Site(c.Site.ID); ok {
			have = s.Key
		}
	case c.Coordinator != nil:
		own = c.Coordinator.Key
		if n, ok := r.Coordinator(c.Coordinator.ID); ok {
			have = n.Key
		}
	case c.Researcher != nil:
		own = c.Researcher.Key
		if t, ok := r.Researcher(c.Researcher.ID); ok {
			have = t.Key
		}
	case c.Member != nil:
		own = c.Member.Key
		for _, m := range r.Board.Members {
			if m.ID == c.Member.ID {
				have = m.Key
			}
		}
	}
	switch {
	case have.IsZero():
		return consilium.ErrUnauthenticated.Withf("roster version %d has no %s; send the board this kit's card.json", r.Version, c.name())
	case have != own:
		return consilium.ErrUnauthenticated.Withf("roster version %d has another key for %s; send the board this kit's card.json and compare the fingerprint", r.Version, c.name())
	}
	return nil
}

// switchCertificate puts a renewed certificate in use once the roster pins it.
func switchCertificate(dir string, r *consilium.Roster) error {
	keys := filepath.Join(dir, kitKeys)
	next := filepath.Join(keys, nextPrefix+tlsCertFile)
	certPEM, err := os.ReadFile(next)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	keyPEM, err := readPrivate(filepath.Join(keys, nextPrefix+tlsKeyFile))
	if err != nil {
		return err
	}
	cert, err := wire.DecodeCertificate(certPEM, keyPEM)
	if err != nil {
		return err
	}
	pin, err := wire.CertificatePin(cert)
	if err != nil {
		return err
	}
	payload, err := canon.Marshal(r)
	if err != nil {
		return err
	}
	book, err := wire.NewBook(payload)
	if err != nil {
		return err
	}
	if _, err := book.Lookup(pin); err != nil {
		return nil // not yet
	}
	// The old key is replaced first: with a new key and the old certificate the
	// kit says so at the next start, and installing again completes it.
	if err := durable.WriteFile(filepath.Join(keys, tlsKeyFile), keyPEM, 0o600); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(keys, tlsCertFile), certPEM, 0o644); err != nil {
		return err
	}
	return errors.Join(os.Remove(next), os.Remove(filepath.Join(keys, nextPrefix+tlsKeyFile)))
}
