package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"consilium"
	"consilium/internal/archive"
	"consilium/internal/durable"
	"consilium/internal/federation"
	"consilium/internal/table"
	"consilium/worker/vault"
)

// Two may run a study again. A hospital has what the result followed from: its
// own rows and the sums that were opened to it. Whoever holds all the hospitals'
// rows in one table, as after a simulation or a trial of one sponsor, runs the whole
// study in plain sums. Either ends in the bytes that the hospitals signed, or the
// command fails and says where they part.

func runStudyReplay(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	config := flags.String("config", "", "a hospital's worker config `file`: replay from its own records; the worker must be stopped")
	study := flags.String("study", "", "the study's `id`, with --config")
	dir := flags.String("archive", "", "the study's archive, a `directory`: its result is what the replay is held against")
	data := flags.String("data", "", "instead of --config, all hospitals' rows in one CSV `file`")
	column := flags.String("site-column", "", "the `column` of --data that tells hospitals apart")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if *study == "" && len(rest) > 0 {
		*study, rest = rest[0], rest[1:]
	}
	switch {
	case len(rest) > 0:
		return usagef("unexpected %q", rest[0])
	case (*config == "") == (*data == ""):
		return usagef("--config FILE, for a hospital's own records, or --data FILE, for one table of all: exactly one of them")
	case *data != "" && (*dir == "" || *column == ""):
		return usagef("--data needs --archive DIR and --site-column COLUMN")
	}
	var told *archive.Summary
	if *dir != "" {
		if told, err = archive.Verify(*dir, archive.Options{}); err != nil {
			return err
		}
		if told.Result == nil {
			return consilium.ErrStudyEnded.Withf("the archived study ended without a result: %s", told.Ended)
		}
	}
	if *data != "" {
		return replayTable(ctx, e, told, *data, *column)
	}
	id, err := consilium.ParseStudyID(*study)
	if *study == "" && told != nil {
		id, err = told.Study, nil
	}
	if err != nil {
		return usagef("%v; the trail and `consilium worker disclosed` list the ids", err)
	}
	if told != nil && told.Study != id {
		return usagef("%s is the archive of %s", *dir, told.Study)
	}
	h, err := openHospital(*config, e.stderr)
	if err != nil {
		return err
	}
	reply, err := h.clerk(ctx, "replay", func(s *vaultSettings) { s.Study = id }, nil)
	if err != nil {
		return err
	}
	return showReplayed(e, reply.Replayed, told)
}

// replay is the child's end.
func (s *vaultSettings) replay(ctx context.Context, e *env, v *vault.Vault) error {
	r, err := v.Replay(ctx, s.Study)
	reply := clerkReply{Replayed: r}
	if err != nil {
		reply = clerkReply{Error: table.Local(durable.Full(err)), Code: consilium.CodeOf(err)}
	}
	return errors.Join(writeFrame(e.stdout, reply), err)
}

func showReplayed(e *env, r *vault.Replayed, told *archive.Summary) error {
	differs, left := 0, 0
	for _, x := range r.Rounds {
		for _, s := range []string{x.Vector, x.State} {
			switch s {
			case vault.ReplaySame:
			case vault.ReplayDiffers:
				differs++
			default:
				left++
			}
		}
	}
	archived := ""
	if told != nil && r.Result != nil {
		archived = vault.ReplaySame
		if !bytes.Equal(told.Result, r.Result) {
			archived = vault.ReplayDiffers
			differs++
		}
	}
	if e.json {
		if err := json.NewEncoder(e.stdout).Encode(map[string]any{"study": r.Study, "rounds": r.Rounds, "same": r.Same, "why": r.Why, "archived": archived}); err != nil {
			return err
		}
	} else {
		for _, x := range r.Rounds {
			fmt.Fprintf(e.stdout, "round %d: own vector %s; state after the opened sum %s\n", x.Round, x.Vector, x.State)
		}
		if r.Same {
			fmt.Fprintln(e.stdout, "the result is, byte for byte, the one that this hospital decided on")
		}
		if archived != "" {
			fmt.Fprintf(e.stdout, "the archived result, signed by %d hospitals: %s\n", len(told.Released), archived)
		}
	}
	switch {
	case differs > 0 || r.Result != nil && !r.Same:
		return fmt.Errorf("the replay of %s differs; keep data/vault and the archive as they are, and tell the board: the disk, the software or a record has changed", r.Study)
	case !r.Same:
		return fmt.Errorf("the replay of %s is not complete: %s; what was run again is the same", r.Study, r.Why)
	case left > 0:
		fmt.Fprintln(e.stderr, "some steps were not run: the lines above say which, and why")
	}
	return nil
}

// replayTable runs a study over one table of all hospitals.
func replayTable(ctx context.Context, e *env, told *archive.Summary, path, column string) error {
	spec := told.Spec
	all, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	split, err := table.Split(all, column)
	if err != nil {
		return err
	}
	facts := consilium.Facts{Spec: spec, Sites: told.Enrolled, MinCohort: spec.Privacy.MinCohort, Permits: spec.Privacy.Permits}
	var sites []federation.PlainSite
	for _, id := range told.Enrolled {
		i := slices.IndexFunc(split, func(s table.Site) bool { return s.ID == id })
		if i < 0 {
			return consilium.ErrData.Withf("%s has no rows of %s; give the table that the study ran on", path, id)
		}
		sites = append(sites, federation.PlainSite{ID: id, CSV: split[i].CSV})
	}
	for _, r := range told.Rounds {
		if !slices.Equal(r.Contributors, told.Enrolled) {
			return &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: fmt.Sprintf("round %d was summed over %d of %d hospitals", r.Round, len(r.Contributors), len(told.Enrolled)),
				Next: "replay it at a hospital, with --config"}
		}
	}
	plain, err := federation.Plain(ctx, facts, sites, !hasColumn(all, spec.Data.Patient))
	if err != nil {
		return err
	}
	same, where := identical(told.Result, plain.JSON)
	if e.json {
		if err := json.NewEncoder(e.stdout).Encode(map[string]any{"study": told.Study, "same": same, "where": where, "rounds": len(told.Rounds)}); err != nil {
			return err
		}
	}
	if !same {
		return fmt.Errorf("the archived result differs from plain sums over %s at %s; compare the table with the one that the study ran on: rows that policy, consent or the ledger left out are in it too", path, where)
	}
	if !e.json {
		fmt.Fprintf(e.stdout, "%d rounds over %d hospitals in plain sums: the archived result to the last bit\n", len(told.Rounds), len(told.Enrolled))
	}
	return nil
}

// hasColumn reports whether a table's header has a column. Without the study's
// patient column every row is a patient.
func hasColumn(b []byte, name string) bool {
	head, err := csv.NewReader(bytes.NewReader(b)).Read()
	return err == nil && slices.Contains(head, name)
}
