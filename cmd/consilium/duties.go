package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"consilium"
	"consilium/internal/durable"
	"consilium/policy"
	"consilium/provenance"
)

// What a withdrawal asks of the hospital beside leaving the rows out, which the
// vault does by itself at the next use: the rules are asked at the moment it is
// entered, their answer is recorded, and whoever sits at the desk is told.

// withdrawalsDir holds the decisions about withdrawals: a log of the same form as
// the vault's, which has only one writer.
const withdrawalsDir = "withdrawals"

// duties is what came of a withdrawal.
type duties struct {
	Withdrawal  consilium.Digest  `json:"withdrawal"`
	Decisions   []policy.Decision `json:"decisions"`   // one for each of the board's policies that is installed
	Erase       bool              `json:"erase"`       // some policy in force asks for the records to be erased, and no consent goes on
	EraseRest   bool              `json:"eraseRest"`   // it asks for that, and a consent goes on: what that one does not cover is to be erased
	Reasons     []policy.Reason   `json:"reasons"`     // why
	Obligations []string          `json:"obligations"` // of all of them, ascending
	Running     []access          `json:"running"`     // studies that hold a sum with the patient's rows and have not ended
	Ended       []access          `json:"ended"`
	Kept        []string          `json:"kept"`  // categories for which a consent goes on: the records stay for these
	Taken       []string          `json:"taken"` // categories that a withdrawal of a part names; none: everything, of an older consent
	Log         consilium.Digest  `json:"log"`   // head of the log of these decisions, which the ledger holds
}

// erasureCodes are the codes that ask for the records to be erased.
var erasureCodes = []string{"GDPR-17", "UK-17"}

// checkImpairment refuses an id with which the rules could not be asked, before a
// withdrawal is entered.
func (h *hospital) checkImpairment(id string) error {
	if _, err := policy.NewEvent(policy.EventWithdrawal, h.facts, time.Now().Unix(), id); id != "" && err != nil {
		return usagef("--impairment %q: %v; give the document's id, at most 200 letters, digits and .,_/:()-", id, err)
	}
	return nil
}

// keep says that a consent goes on after a withdrawal: of a part of it, or of
// another. What it covers need not be erased; of the rest, where the rules ask for
// it, people decide, for no record says which category a column belongs to.
func (d *duties) keep(kept, taken []string) {
	d.Kept, d.Taken = append([]string{}, kept...), append([]string{}, taken...)
	if len(kept) > 0 {
		d.EraseRest, d.Erase = d.Erase, false
	}
}

// dutiesOf is what a withdrawal that has been entered asks for. It holds, whatever
// comes of this.
func (h *hospital) dutiesOf(ctx context.Context, store *provenance.Consents, doc *provenance.SignedDoc, name provenance.Pseudonym, key []byte, impairment string) (*duties, error) {
	d, err := h.withdrawalDuties(ctx, name, key, impairment)
	if err == nil {
		err = h.verify(ctx, store)
	}
	var now provenance.Claims
	if err == nil {
		now, err = store.Claims(name, time.Now())
	}
	if err != nil {
		return nil, &consilium.Error{Code: consilium.CodeOf(err), Msg: "the withdrawal is entered and holds; what else it asks for could not be decided or recorded",
			Next: "put that right and run the same command again", Err: err}
	}
	if now.Status == provenance.ConsentActive {
		d.keep(now.Scopes, doc.Withdrawal.Scopes)
	}
	d.Withdrawal = doc.Digest()
	return d, nil
}

// withdrawalDuties asks, records and collects. The patient is in no record: a
// decision about a withdrawal reads the hospital's documents alone.
func (h *hospital) withdrawalDuties(ctx context.Context, name provenance.Pseudonym, key []byte, impairment string) (*duties, error) {
	now := time.Now().Unix()
	event, err := policy.NewEvent(policy.EventWithdrawal, h.facts, now, impairment)
	if err != nil {
		return nil, err
	}
	in := policy.Input{Now: now, Site: h.facts, Event: event}
	shelf, err := openShelf(h.config.Policies)
	if err != nil {
		return nil, err
	}
	// Every policy under which this hospital may run studies is asked; the strictest
	// answer holds. Without any, the core's.
	engines := map[consilium.Digest]*policy.Engine{}
	for _, d := range shelf.names {
		engines[d] = shelf.engines[d]
	}
	if len(engines) == 0 {
		core := policy.Default()
		engines[core.Digest()] = core
	}
	out := &duties{Decisions: []policy.Decision{}, Reasons: []policy.Reason{}, Obligations: []string{}, Running: []access{}, Ended: []access{}, Kept: []string{}, Taken: []string{}}
	for _, digest := range slices.SortedFunc(maps.Keys(engines), func(a, b consilium.Digest) int { return strings.Compare(a.String(), b.String()) }) {
		d, err := engines[digest].Decide(ctx, policy.PointWithdrawal, in)
		if err != nil {
			return nil, err
		}
		out.add(d)
	}
	if err := h.recordWithdrawal(ctx, key, in, out); err != nil {
		return nil, err
	}
	list, err := h.accesses(name)
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		signed, err := h.trailOf(a.Study)
		if err != nil {
			return nil, err
		}
		entries, err := signed.Verify(h.kit.signer.Public(), a.Study)
		if err != nil {
			return nil, err
		}
		if err := a.read(entries); err != nil {
			return nil, err
		}
		if a.ended {
			out.Ended = append(out.Ended, a)
		} else {
			out.Running = append(out.Running, a)
		}
	}
	return out, nil
}

// add joins an answer to the others. A policy that gives none, as under law that
// has run out, does not make a duty smaller: it is told as it is, and the records
// are to be erased unless another ground is found.
func (d *duties) add(dec policy.Decision) {
	d.Decisions = append(d.Decisions, dec)
	for _, r := range dec.Reasons {
		if r.Regime == "ENGINE" || slices.Contains(erasureCodes, r.Code) {
			d.Erase = true
		}
		if !slices.Contains(d.Reasons, r) {
			d.Reasons = append(d.Reasons, r)
		}
	}
	d.Obligations = append(d.Obligations, dec.Obligations...)
	slices.Sort(d.Obligations)
	d.Obligations = slices.Compact(d.Obligations)
}

// recordWithdrawal writes the decisions into their log and its head into the
// hospital's ledger.
func (h *hospital) recordWithdrawal(ctx context.Context, key []byte, in policy.Input, out *duties) (err error) {
	dir, err := durable.Prepare(filepath.Join(h.config.Data, withdrawalsDir), "worker-withdrawals")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	log, err := policy.OpenAudit(dir.Join(decisionsFile), key)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	for _, d := range out.Decisions {
		if _, err := log.Append(policy.AuditEntry{Time: in.Now, Node: string(h.site), Point: policy.PointWithdrawal, Input: in, Decision: d}); err != nil {
			return err
		}
	}
	out.Log, _ = log.Head()
	ctx, cancel := context.WithTimeout(ctx, publishWithin)
	defer cancel()
	ledger, done, err := writer(ctx, h.kit, &h.config)
	if err != nil {
		return err
	}
	note, err := provenance.SignRecord(h.kit.signer, &provenance.AuditRecord{Type: provenance.RecordAccess, Time: time.Now().UnixMilli(), Actor: string(h.site),
		Outcome: "withdrawal-decided", Digests: map[string]consilium.Digest{"decision": out.Log}})
	if err == nil {
		var at uint64
		if at, err = ledger.Append(ctx, note); err == nil {
			_, err = ledger.Await(ctx, at)
		}
	}
	return errors.Join(err, done())
}

// dutyWords says what an obligation asks of people; what the software does itself
// is said so.
var dutyWords = map[string]string{
	"exclude_from_next_reading":  "done: every later use leaves the rows out, in every study",
	"delete_caches":              "done: no copy of the rows rests outside of the tables; what a vault holds of a running study in memory ends with it",
	"tell_recipients":            "tell the teams below that the consent was withdrawn (GDPR Art. 19), unless it is impossible or asks for too much; the person may ask whom",
	"anonymise_after_evaluation": "when the evaluation has ended, the patient's data and samples are made anonymous (HRO Art. 10)",
	"retain_and_exclude":         "the records are kept and used for nothing (GDPR Art. 17(3)(d)); keep the document that says why",
}

// show tells the desk.
func (d *duties) show(w io.Writer, patient string) {
	fmt.Fprintf(w, "The rules were asked, and the answer is recorded (%s):\n", d.Log.Short())
	switch {
	case len(d.Kept) > 0:
		fmt.Fprintf(w, "  The patient's records stay: a consent goes on for %s.\n", strings.Join(d.Kept, ", "))
		if d.EraseRest {
			what := cmp.Or(strings.Join(d.Taken, ", "), "every category but these")
			fmt.Fprintf(w, "  ERASE of them what the tables hold of %s for research, unless another ground covers it: ask the data protection officer\n", what)
		} else {
			fmt.Fprintln(w, "  What was withdrawn need not be erased.")
		}
	case d.Erase:
		fmt.Fprintln(w, "  ERASE the patient's records for research: consilium ledger erase --patient "+patient+" --rows")
	default:
		fmt.Fprintln(w, "  The records need not be erased.")
	}
	for _, r := range d.Reasons {
		fmt.Fprintf(w, "    %s\n", r)
	}
	for _, o := range d.Obligations {
		words, ok := dutyWords[o]
		if !ok {
			words = "asked for by a board: do it"
		}
		fmt.Fprintf(w, "  %s: %s\n", o, words)
	}
	for _, a := range d.Running {
		what := "goes on without the patient's rows"
		if len(d.Kept) > 0 {
			what += ", if it asks for what was withdrawn"
		}
		if a.About.Frozen || a.About.Name == "" {
			what = "this hospital leaves it at its next use of rows, as a whole: from the difference of two exact sums one could read the patient's numbers"
			if len(d.Kept) > 0 {
				what = "if it asks for what was withdrawn, " + what
			}
		}
		fmt.Fprintf(w, "  running: %s, asked by %s: %s\n", a.name(), a.About.Team, what)
	}
	for _, a := range d.Ended {
		fmt.Fprintf(w, "  ended: %s, asked by %s: its sums were lawful when they were made and stay (GDPR Art. 7(3))\n", a.name(), a.About.Team)
	}
	if len(d.Running)+len(d.Ended) == 0 {
		fmt.Fprintln(w, "  No study has opened a sum with the patient's rows.")
	}
}

// name is what a study is called, or its id where an older book does not say.
func (a *access) name() string {
	if a.About.Name == "" {
		return string(a.Study)
	}
	return a.About.Name + " (" + string(a.Study) + ")"
}
