package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"consilium"
	"consilium/internal/archive"
	"consilium/internal/durable"
	"consilium/provenance"
	"consilium/provenance/chain"
)

// runLedgerWitness serves the board's witness: it cosigns a hospital's
// checkpoint only if the ledger extends the one it cosigned last.
func runLedgerWitness(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	path := flags.String("config", "", "the witness's config `file`")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("unexpected %q", rest[0])
	}
	var c witnessConfig
	if err := readConfig(*path, "Witness", &c); err != nil {
		return err
	}
	log, err := logger(*path, c.Log, e.stderr)
	if err != nil {
		return err
	}
	slog.SetDefault(log)
	own, err := parseCard(filepath.Join(filepath.Dir(c.Keys), kitCard))
	if err != nil {
		return err
	}
	k, err := openKit(c.Keys, c.Roster, c.Board, own.name())
	if err != nil {
		return err
	}
	key, err := readNoteKey(c.Keys, witnessFile)
	if err != nil {
		return err
	}
	policy, err := provenance.WitnessesOf(k.roster)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(policy.Witnesses, func(w provenance.WitnessKey) bool { return w.Key == key.Verifier() }) {
		return consilium.ErrUnauthenticated.Withf("the roster names another witness; send the board this kit's card.json")
	}
	lock, err := durable.Prepare(c.Data, "witness", "the last checkpoint that was cosigned of each ledger; never restore it from an older copy")
	if err != nil {
		return err
	}
	defer lock.Close()
	var logs []string
	for _, s := range k.roster.Sites {
		logs = append(logs, s.Ledger)
	}
	w, err := provenance.OpenWitness(provenance.WitnessConfig{Key: key, Dir: lock.Join("seen"), Logs: logs})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s := &http.Server{Handler: w, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 8 << 10}
	defer context.AfterFunc(ctx, func() {
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		s.Shutdown(drain)
	})()
	if c.Health != "" {
		if err := witnessHealth(ctx, c.Health, len(logs)); err != nil {
			return err
		}
	}
	log.Info("witness runs", "listen", l.Addr().String(), "ledgers", len(logs))
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// witnessHealth answers /healthz, /readyz and /metrics until ctx ends. It runs
// from after the state of every ledger was read, so ready is alive.
func witnessHealth(ctx context.Context, address string, ledgers int) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	mux := http.NewServeMux()
	ok := func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "ok\n") }
	mux.HandleFunc("GET /healthz", ok)
	mux.HandleFunc("GET /readyz", ok)
	mux.HandleFunc("GET /metrics", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprintf(rw, "# HELP consilium_witness_ledgers Ledgers that this witness watches.\n# TYPE consilium_witness_ledgers gauge\nconsilium_witness_ledgers %d\n", ledgers)
	})
	s := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 8 << 10}
	context.AfterFunc(ctx, func() { s.Close() })
	go s.Serve(l) // until s is closed
	return nil
}

// runLedgerVerify reads a hospital's whole ledger as a stranger would; with
// --rows it also holds every table against it, and with --receipt it checks
// one receipt, offline.
func runLedgerVerify(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	path := flags.String("config", "", "the worker's config `file`")
	rows := flags.Bool("rows", false, "also re-derive every row of the hospital's tables and streams; the worker must be stopped")
	receipt := flags.String("receipt", "", "instead, check this receipt `file`; needs --roster and no network")
	roster := flags.String("roster", "", "the federation's signed roster `file`, for --receipt")
	board := flags.String("board", "", "a kit's board.json `file`: check the roster against the board that you trust")
	var anchors, blocks files
	contract := flags.String("contract", "", "with --anchor, the `address` of the federation's contract")
	flags.Var(&blocks, "block", "with --anchor, the `hash` of a final block, from a source of your own")
	flags.Var(&anchors, "anchor", "an anchor that consilium-anchor wrote, a `file`: is this the ledger that was anchored?")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("unexpected %q", rest[0])
	}
	trust, err := anchorTrust(*contract, blocks)
	if err != nil {
		return err
	}
	if *receipt != "" {
		return verifyReceipt(e, *receipt, *roster, *board)
	}
	h, err := openHospital(*path, e.stderr)
	if err != nil {
		return err
	}
	site, _ := h.kit.roster.Site(h.site)
	witnesses, err := provenance.WitnessesOf(h.kit.roster)
	if err != nil {
		return err
	}
	g, err := provenance.NewGate(provenance.GateConfig{Ledger: site.Ledger, Site: site.Key, Witnesses: witnesses.AnyAge()})
	if err != nil {
		return err
	}
	cp, err := g.Update(ctx, provenance.DirView(h.config.ledgerDir()))
	if err != nil {
		return err
	}
	var tables []tableReport
	if *rows {
		if tables, err = h.verifyRows(ctx); err != nil {
			return err
		}
	}
	anchored, err := h.verifyAnchors(ctx, cp, anchors, trust)
	if err != nil {
		return err
	}
	var demanded *chain.Report
	if h.anchors != nil {
		if demanded, err = h.anchors.Check(ctx, provenance.DirView(h.config.ledgerDir()), cp, time.Now()); err != nil {
			return err
		}
	}
	if e.json {
		doc := map[string]any{"origin": cp.Origin, "size": cp.Size, "root": cp.Root, "time": cp.Time.UTC().Format(time.RFC3339), "anchors": anchored}
		if *rows {
			doc["tables"] = tables
		}
		if demanded != nil {
			doc["demanded"] = map[string]any{"anchors": demanded.Anchors, "epoch": demanded.Newest.Epoch, "block": demanded.Newest.Block.String(), "time": demanded.Newest.Time.Format(time.RFC3339), "size": demanded.Size}
		}
		if err := json.NewEncoder(e.stdout).Encode(doc); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(e.stdout, "%s: %d entries verify under root %s, cosigned %s\n", cp.Origin, cp.Size, cp.Root.Short(), cp.Time.UTC().Format(time.RFC3339))
		if demanded != nil {
			fmt.Fprintln(e.stdout, anchorReport(demanded, cp))
		}
		showAnchored(e.stdout, anchored)
	}
	return showTables(e, tables)
}

// runLedgerAudit writes what this hospital adds to a study's archive: its
// signed trail, and the proof that the trail's head stands in its ledger.
func runLedgerAudit(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	path := flags.String("config", "", "the worker's config `file`")
	study := flags.String("study", "", "the study's `id`")
	out := flags.String("out", "", "`file` to write, for the team")
	wait := flags.Duration("wait", 0, "how long to wait for a study that has just ended")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 || *study == "" || *out == "" {
		return usagef("--config FILE, --study ID and --out FILE are needed, and nothing else")
	}
	id, err := consilium.ParseStudyID(*study)
	if err != nil {
		return usagef("--study: %v", err)
	}
	h, err := openHospital(*path, e.stderr)
	if err != nil {
		return err
	}
	rec, err := h.anchored(ctx, id)
	for deadline := time.Now().Add(*wait); errors.Is(err, consilium.ErrUnknownStudy) && time.Now().Before(deadline); rec, err = h.anchored(ctx, id) {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err != nil {
		return err
	}
	if rec.Trail, err = h.trailOf(id); err != nil {
		return err
	}
	if rec.Anchors, err = h.anchorsFor(ctx, rec); err != nil {
		return err
	}
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(*out, b, 0o644); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"site": h.site, "study": id, "links": len(rec.Trail.Links)})
	}
	fmt.Fprintf(e.stdout, "%s: the trail of %s, anchored as entry %d of the ledger; it names no patient\n", *out, id, rec.Index)
	return nil
}

// anchoredTrail is the head of this hospital's trail that its ledger named last,
// at the end of some study; zero if it named none. The ledger is read from its end.
func (h *hospital) anchoredTrail(ctx context.Context) (consilium.Digest, error) {
	view := provenance.DirView(h.config.ledgerDir())
	raw, err := view.Checkpoint(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return consilium.Digest{}, nil
	}
	if err != nil {
		return consilium.Digest{}, err
	}
	cp, err := provenance.ParseCheckpoint(raw)
	if err != nil {
		return consilium.Digest{}, err
	}
	const step = 256
	for to := cp.Size; to > 0; {
		from := (to - 1) / step * step
		entries, err := view.Entries(ctx, from, to, cp.Size)
		if err != nil {
			return consilium.Digest{}, err
		}
		for _, raw := range slices.Backward(entries) {
			e, err := provenance.ParseEntry(raw)
			if err != nil || e.Domain != consilium.DomainAuditRecord {
				continue
			}
			if r, err := provenance.ParseRecord(e.Payload); err == nil && r.Outcome == "trail" {
				return r.Digests["trail"], nil
			}
		}
		to = from
	}
	return consilium.Digest{}, nil
}

// anchored finds the ledger entry that pins the trail at the study's end.
func (h *hospital) anchored(ctx context.Context, study consilium.StudyID) (*archive.SiteRecord, error) {
	view := provenance.DirView(h.config.ledgerDir())
	raw, err := view.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	cp, err := provenance.ParseCheckpoint(raw)
	if err != nil {
		return nil, err
	}
	entries, err := view.Entries(ctx, 0, cp.Size, cp.Size)
	if err != nil {
		return nil, err
	}
	for i := len(entries) - 1; i >= 0; i-- {
		e, err := provenance.ParseEntry(entries[i])
		if err != nil || e.Domain != consilium.DomainAuditRecord {
			continue
		}
		r, err := provenance.ParseRecord(e.Payload)
		if err != nil || r.Study != study || r.Outcome != "trail" {
			continue
		}
		proof, err := view.Inclusion(ctx, uint64(i), cp.Size)
		if err != nil {
			return nil, err
		}
		return &archive.SiteRecord{Entry: entries[i], Index: uint64(i), Inclusion: proof, Checkpoint: raw}, nil
	}
	return nil, &consilium.Error{Code: consilium.ErrUnknownStudy.Code, Msg: fmt.Sprintf("the ledger of %s does not hold the trail of %s yet", h.site, study),
		Next: "a hospital anchors it a moment after the study's end; check the id and that the worker runs"}
}
