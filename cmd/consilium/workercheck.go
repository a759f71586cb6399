package main

import (
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/wire"
	"consilium/policy"
	"consilium/provenance"
	"consilium/worker/vault"
)

// finding is one line of a preflight.
type finding struct {
	Check string `json:"check"`
	OK    bool   `json:"ok"`
	Found string `json:"found"`
	Next  string `json:"next,omitempty"` // what to do, if it is not in order
}

// preflight collects findings; a check that fails stops none of the others.
type preflight struct{ found []finding }

func (p *preflight) good(check, format string, args ...any) {
	p.found = append(p.found, finding{Check: check, OK: true, Found: fmt.Sprintf(format, args...)})
}

func (p *preflight) bad(check string, err error, next string) {
	f := finding{Check: check, Found: err.Error(), Next: next}
	if e := (*consilium.Error)(nil); errors.As(err, &e) && e.Next != "" && next == "" {
		f.Next = e.Next
	}
	p.found = append(p.found, f)
}

const (
	enoughSpace = 1 << 30         // bytes: one encrypted vector of a large model, and the journals
	enoughDays  = 30              // of validity left, for roster and certificate
	maxSkew     = 2 * time.Minute // a consent's or a roster's edge is judged by the own clock
	checkCall   = 10 * time.Second
	checkNode   = 4 * time.Second // a node that does not lead says so again and again
)

// runWorkerCheck looks at everything that a worker needs, without starting one,
// and says for each thing what to do.
func runWorkerCheck(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	path := flags.String("config", "", "config `file`")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("unexpected %q", rest[0])
	}
	p := &preflight{}
	h, err := openHospital(*path, io.Discard)
	if err != nil {
		p.bad("configuration", err, "")
	} else {
		p.good("configuration", "%s, %s", h.site, *path)
		p.all(ctx, h)
	}
	if e.json {
		if err := json.NewEncoder(e.stdout).Encode(map[string]any{"ok": p.failed() == 0, "checks": p.found}); err != nil {
			return err
		}
	} else {
		for _, f := range p.found {
			mark := "ok   "
			if !f.OK {
				mark = "FAILS"
			}
			fmt.Fprintf(e.stdout, "%s  %-14s %s\n", mark, f.Check, f.Found)
			if f.Next != "" {
				fmt.Fprintf(e.stdout, "       %-14s %s\n", "", f.Next)
			}
		}
	}
	if n := p.failed(); n > 0 {
		return fmt.Errorf("%d of %d checks fail", n, len(p.found))
	}
	return nil
}

func (p *preflight) failed() (n int) {
	for _, f := range p.found {
		if !f.OK {
			n++
		}
	}
	return n
}

func (p *preflight) all(ctx context.Context, h *hospital) {
	p.validity("roster", time.Unix(h.kit.roster.NotAfter, 0), "ask the board for the next roster")
	p.validity("certificate", h.kit.cert.Leaf.NotAfter, "run `consilium provision renew` and send the board the new card")
	p.tables(h)
	p.ledger(ctx, h)
	p.space(h)
	p.spans(h)
	p.policies(h)
	p.stops(h)
	p.witness(ctx, h)
	p.coordinators(ctx, h)
}

func (p *preflight) validity(check string, until time.Time, next string) {
	left := time.Until(until)
	switch {
	case left <= 0:
		p.bad(check, fmt.Errorf("ended on %s", until.UTC().Format(time.DateOnly)), next)
	case left < enoughDays*24*time.Hour:
		p.found = append(p.found, finding{Check: check, OK: true, Found: "ends on " + until.UTC().Format(time.DateOnly), Next: next})
	default:
		p.good(check, "valid until %s", until.UTC().Format(time.DateOnly))
	}
}

// stops: what the board has stopped is read before every use of rows; what cannot
// be read stops everything.
func (p *preflight) stops(h *hospital) {
	dir := vault.StopDir(h.config.vaultDir())
	if _, err := os.Stat(h.config.vaultDir()); errors.Is(err, fs.ErrNotExist) {
		p.good("stops", "%s is made with the vault, when the worker starts for the first time", dir)
		return
	}
	list, err := policy.ReadStops(dir, h.kit.board.Keys)
	switch {
	case err != nil:
		p.bad("stops", err, "")
	case len(list) == 0:
		p.good("stops", "the board has stopped nothing")
	default:
		p.good("stops", "the board has stopped something in %d files in %s", len(list), dir)
	}
}

// tables: each bound file opens and has the bound columns; the vault itself
// compares every row with the ledger when a study starts.
func (p *preflight) tables(h *hospital) {
	if len(h.datasets) == 0 {
		p.bad("tables", errors.New("no table is bound"), "bind one under datasets: in "+h.path)
		return
	}
	for _, d := range h.datasets {
		check := "table " + d.Name
		f, err := os.Open(d.Path)
		if err != nil {
			p.bad(check, err, "correct path: of dataset "+d.Name)
			continue
		}
		head, err := csv.NewReader(io.LimitReader(f, 1<<20)).Read()
		f.Close()
		if err != nil {
			p.bad(check, fmt.Errorf("%s: %w", d.Path, err), "give it a header line and commas")
			continue
		}
		head[0] = strings.TrimPrefix(head[0], "\ufeff")
		missing := ""
		for _, c := range d.Columns {
			if name := cmp.Or(d.Bind[c.Name], c.Name); !slices.Contains(head, name) {
				missing = name
				break
			}
		}
		if missing != "" {
			p.bad(check, fmt.Errorf("%s has no column %q; it has %s", d.Path, missing, strings.Join(head, ", ")), "correct bind: or columns: of dataset "+d.Name)
			continue
		}
		p.good(check, "%s, %d columns bound", d.Path, len(d.Columns))
	}
}

// ledger reads the hospital's ledger as a stranger would and wants a batch of
// every table in it. The names in streams.json do not say so: they are drawn
// before the first batch is signed.
func (p *preflight) ledger(ctx context.Context, h *hospital) {
	streams, err := h.streams()
	if err != nil {
		p.bad("ledger", err, "")
		return
	}
	next := "run `consilium ledger anchor --config " + h.path + "`"
	site, _ := h.kit.roster.Site(h.site)
	seen, err := os.ReadFile(filepath.Join(h.config.vaultDir(), vault.SeenFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.bad("ledger", err, "")
		return
	}
	witnesses, err := provenance.WitnessesOf(h.kit.roster)
	if err != nil {
		p.bad("ledger", err, "ask the board for a roster whose witnesses can be believed")
		return
	}
	g, err := provenance.NewGate(provenance.GateConfig{Ledger: site.Ledger, Site: site.Key,
		Witnesses: witnesses.AnyAge(), Seen: seen})
	if err != nil {
		p.bad("ledger", err, "restore "+vault.SeenFile+" from its newest backup")
		return
	}
	cp, err := g.Update(ctx, provenance.DirView(h.config.ledgerDir()))
	if errors.Is(err, fs.ErrNotExist) {
		p.bad("ledger", fmt.Errorf("%s holds no ledger yet", h.config.ledgerDir()), next)
		return
	}
	if err != nil {
		p.bad("ledger", err, "")
		return
	}
	for _, d := range h.datasets {
		id, drawn := streams[d.Name]
		if !drawn || g.Batches(id) == 0 {
			p.bad("ledger", fmt.Errorf("no batch of %s stands in the ledger of %d entries", d.Name, cp.Size), next)
			return
		}
	}
	if _, err := h.settings("serve"); err != nil {
		p.bad("ledger", err, "")
		return
	}
	p.good("ledger", "%d entries verify; every table has batches in it; cosigned %s", cp.Size, cp.Time.UTC().Format(time.RFC3339))
	p.anchors(ctx, h, cp)
}

// anchors holds the ledger against the anchors that the vault demands.
func (p *preflight) anchors(ctx context.Context, h *hospital, cp *provenance.Checkpoint) {
	if h.anchors == nil {
		p.good("anchors", "none are demanded: the ledger rests on its witnesses")
		return
	}
	r, err := h.anchors.Check(ctx, provenance.DirView(h.config.ledgerDir()), cp, time.Now())
	if err != nil {
		p.bad("anchors", err, "put the proof of a new epoch into "+h.anchors.Dir+" and its block's hash, from a node of your own choice, into "+h.anchors.Blocks+"; until then no row is used")
		return
	}
	p.good("anchors", "%s", anchorReport(r, cp))
}

func (p *preflight) space(h *hospital) {
	if err := os.MkdirAll(h.config.Data, 0o700); err != nil {
		p.bad("disk", err, "make the directory that data: names, writable for the worker's user")
		return
	}
	probe := filepath.Join(h.config.Data, ".check")
	if err := os.WriteFile(probe, []byte("probe"), 0o600); err != nil {
		p.bad("disk", err, "make "+h.config.Data+" writable for the worker's user")
		return
	}
	os.Remove(probe)
	free, err := room(h.config.Data)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		p.good("disk", "%s is writable; how much is free is not known on this system", h.config.Data)
		return
	case err != nil:
		p.bad("disk", err, "")
		return
	case free < enoughSpace:
		p.bad("disk", fmt.Errorf("%d MiB free in %s, at least %d are needed", free>>20, h.config.Data, enoughSpace>>20), "free space: a full disk stops the worker, and loses nothing")
		return
	}
	p.good("disk", "%d GiB free in %s", free>>30, h.config.Data)
}

// spans: the worker opens its file of spans when it starts, and does not start
// without it. It is looked at as the worker's user, and not made.
func (p *preflight) spans(h *hospital) {
	c := h.config.spans(h.path)
	if c.File == "" {
		return
	}
	next := "correct file: under tracing:, or make it writable for the worker's user"
	f, err := os.OpenFile(c.File, os.O_WRONLY|os.O_APPEND, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if f, err = os.CreateTemp(filepath.Dir(c.File), ".check"); err == nil {
			err = os.Remove(f.Name())
		}
	}
	if f != nil {
		f.Close()
	}
	if err != nil {
		p.bad("tracing", err, next)
		return
	}
	p.good("tracing", "spans go to %s", c.File)
}

func (p *preflight) policies(h *hospital) {
	s, err := openShelf(h.config.Policies)
	if err != nil {
		p.bad("policies", err, "")
		return
	}
	if len(s.names) == 0 {
		p.bad("policies", fmt.Errorf("none of the board's policies is installed in %s", h.config.Policies), "install the bundle that the board published: without one every study under its policy is declined")
		return
	}
	fresh := 0
	for _, name := range slices.Sorted(maps.Keys(s.names)) {
		engine := s.engines[s.names[name]]
		if _, stale := engine.LawDates(); !time.Now().Before(stale) {
			p.bad("policy "+name, fmt.Errorf("its dated law ran out on %s: every study under it is denied", stale.UTC().Format(time.DateOnly)), "install a newer bundle of the board under "+h.config.Policies+" and remove this one")
			continue
		}
		fresh++
	}
	if fresh > 0 {
		p.good("policies", "%d installed, %d with law in force", len(s.names), fresh)
	}
}

// witness looks for every witness of the roster. One that does not answer is a
// failure where the others do not make the quorum.
func (p *preflight) witness(ctx context.Context, h *hospital) {
	policy, err := h.config.witnesses(h.kit.roster)
	if err != nil {
		p.bad("witness", err, "")
		return
	}
	answers := map[string]bool{}
	wrong := map[string]error{}
	for _, w := range policy.Witnesses {
		if wrong[w.Name] = p.oneWitness(ctx, w.URL); wrong[w.Name] == nil {
			answers[w.Name] = true
		}
	}
	met, err := policy.Met(answers)
	if err != nil {
		p.bad("witness", err, "")
		return
	}
	for _, w := range policy.Witnesses {
		check := "witness"
		if len(policy.Witnesses) > 1 {
			check = "witness " + w.Name
		}
		next := "open the firewall to it, or correct its address or the proxy in between; without it no row can be used"
		switch err := wrong[w.Name]; {
		case err == nil:
			p.good(check, "%s answers", w.URL)
		case met:
			p.found = append(p.found, finding{Check: check, OK: true, Found: err.Error(), Next: "the others make the quorum; open the firewall to it, or tell who runs it"})
		default:
			p.bad(check, err, next)
		}
	}
	if len(policy.Witnesses) > 1 {
		p.cosigned(ctx, h, policy, met)
	}
}

// cosigned says who has cosigned the ledger as it stands.
func (p *preflight) cosigned(ctx context.Context, h *hospital, policy provenance.WitnessPolicy, met bool) {
	raw, err := provenance.DirView(h.config.ledgerDir()).Checkpoint(ctx)
	if err != nil {
		return // said of the ledger
	}
	list, err := policy.Cosignatures(raw)
	if err != nil {
		p.bad("cosignatures", err, "")
		return
	}
	var said []string
	for _, c := range list {
		if c.At.IsZero() {
			said = append(said, c.Witness+" has not")
		} else {
			said = append(said, c.Witness+" "+c.At.UTC().Format(time.RFC3339))
		}
	}
	text := strings.Join(said, ", ")
	if !met {
		p.bad("quorum", fmt.Errorf("%s is not met by those that answer; of the ledger as it stands: %s", policy.Quorum, text), "without a quorum no row can be used once the cosignatures are too old")
		return
	}
	p.good("quorum", "%s can be met; of the ledger as it stands: %s", policy.Quorum, text)
}

// oneWitness asks for the one resource that a witness has, without giving it
// anything: a witness answers that it takes POST there (c2sp.org/tlog-witness,
// RFC 9110 §15.5.6). A proxy's page, a captive portal or another service does not.
func (p *preflight) oneWitness(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, checkCall)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(url, "/")+"/add-checkpoint", nil)
	if err != nil {
		return err
	}
	sent := time.Now()
	// As the ledger's own client: no proxy, no redirect.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != http.MethodPost {
		return fmt.Errorf("%s is not a witness: it answers %s", url, resp.Status)
	}
	theirs, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return nil // it keeps no clock; nothing to compare with
	}
	if skew := theirs.Sub(sent).Abs(); skew > maxSkew {
		p.bad("clock", fmt.Errorf("this machine says %s, the witness %s", sent.UTC().Format(time.RFC3339), theirs.UTC().Format(time.RFC3339)), "synchronise this machine's clock: consents and rosters are judged by it")
		return nil
	}
	p.good("clock", "agrees with the witness's")
	return nil
}

// coordinators calls every node of the roster by itself, as the worker would.
func (p *preflight) coordinators(ctx context.Context, h *hospital) {
	for _, c := range h.kit.roster.Coordinators {
		check := "coordinator " + string(c.ID)
		// A book that knows this node alone: a client would go on to the next.
		r := *h.kit.roster
		r.Coordinators = []consilium.Coordinator{c}
		payload, err := canon.Marshal(&r)
		if err != nil {
			p.bad(check, err, "")
			continue
		}
		book, err := wire.NewBook(payload)
		if err != nil {
			p.bad(check, err, "")
			continue
		}
		cl := wire.NewClient(wire.ClientOptions{Certificate: h.kit.cert, Book: book})
		call, cancel := context.WithTimeout(ctx, checkNode)
		list, err := cl.List(call)
		cancel()
		cl.Close()
		if errors.Is(err, consilium.ErrNotLeader) {
			p.good(check, "%s answers; another node leads", c.Address) // only the leader lists
			continue
		}
		if err != nil {
			p.bad(check, fmt.Errorf("%s: %w", c.Address, err), "open outgoing TCP to "+c.Address+"; a proxy that opens TLS breaks the connection")
			continue
		}
		p.good(check, "%s answers, %d studies for this hospital", c.Address, len(list))
	}
}
