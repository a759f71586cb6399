package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/internal/table"
	"consilium/policy"
	"consilium/provenance"
	"consilium/provenance/chain"
	"consilium/provenance/did"
	"consilium/provenance/status"
)

// TestConsentDesk goes through a patient's life with a consent card, in the
// words of the desk: nobody types or names a key.
func TestConsentDesk(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: -short")
	}
	k := provisionAll(t)
	start(t, "witness runs", "ledger", "witness", "--config", k.config("board-1"))
	config, id := k.config(site(0)), site(0)
	folder := func(name string) string { return filepath.Join(k.dir, name) }
	card := folder("card")
	says := func(t *testing.T, out string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("does not say %q:\n%s", w, out)
			}
		}
	}
	answer := func(answers string, args ...string) (string, string, int) {
		var o, e bytes.Buffer
		code := run(t.Context(), args, strings.NewReader(answers), &o, &e)
		return o.String(), e.String(), code
	}

	// A conversation, with a slip of the tongue in it.
	out, asked, code := answer("information sheet 3\n1\n9\n3\n1,2\nnext year\n2099-12-31\nyes\nyes\n", "consent", "issue", "--config", config, "--patient", "100", "--card", card)
	if code != exitDone {
		t.Fatalf("%d %s", code, asked)
	}
	says(t, asked, "Who decides?", "Please answer with a number from 1 to 3.", "Please write the day", "ordinary health records", "genetic data", "until 2099-12-31")
	says(t, out, "consent card")
	says(t, must(t, "consent", "show", "--config", config, "--patient", "100"), "in force (active)", "genetic data", "any medical research", "until 21")
	says(t, must(t, "consent", "show", "--card", card), "in force", "copies on your card")
	says(t, mustRead(t, filepath.Join(card, cardNote)), "consilium consent withdraw --card", id)
	// Saying no, or nothing, signs nothing.
	for answers, want := range map[string]int{"sheet\n1\n3\n1\n\nyes\nno\n": exitUsage, "sheet\n1\n": exitUsage, "": exitUsage, "sheet\n1\n3\n1\n\nno\n": exitUsage} {
		if _, e, code := answer(answers, "consent", "issue", "--config", config, "--patient", "101", "--card", folder("none")); code != want {
			t.Errorf("%q: %d %s", answers, code, e)
		}
	}
	says(t, must(t, "consent", "show", "--config", config, "--patient", "101"), "There is no consent")
	// Somebody else's card at the desk.
	if _, e, code := try(t.Context(), "consent", "issue", "--config", config, "--patient", "102", "--card", card, "--form", "f", "--level", "general", "--scopes", "general", "--purposes", "DUO:0000042", "--given-by", "self"); code == exitDone || !strings.Contains(e, "another patient") {
		t.Errorf("%d %s", code, e)
	}

	// Guardians; then the card is lost, and two of three letters replace it.
	says(t, must(t, "consent", "guardians", "--config", config, "--patient", "100", "--card", card, "--out", folder("letters")), "Any 2 of them")
	one, three := filepath.Join(folder("letters"), "guardian-1.letter"), filepath.Join(folder("letters"), "guardian-3.letter")
	if _, e, code := try(t.Context(), "consent", "recover", "--config", config, "--patient", "100", "--card", folder("new"), "--out", folder("letters2"), "--letter", one); code == exitDone || !strings.Contains(e, "2 are needed") {
		t.Errorf("one letter: %d %s", code, e)
	}
	says(t, must(t, "consent", "recover", "--config", config, "--patient", "100", "--card", folder("new"), "--out", folder("letters2"), "--letter", one, "--letter", three), "the old one opens nothing")
	says(t, must(t, "consent", "show", "--config", config, "--patient", "100"), "in force")
	if _, e, code := try(t.Context(), "consent", "recover", "--config", config, "--patient", "100", "--card", folder("newer"), "--out", folder("letters3"), "--letter", one, "--letter", three); code == exitDone || !strings.Contains(e, "replaced by newer ones") {
		t.Errorf("old letters: %d %s", code, e)
	}
	if _, e, code := try(t.Context(), "consent", "withdraw", "--config", config, "--patient", "100", "--card", card); code == exitDone {
		t.Errorf("the lost card still withdraws: %s", e)
	}

	// At home, with the new card: a letter, which the hospital enters.
	// Taken back in part: the records stay for the rest, and of what was taken back the
	// rules ask what they ask of a whole withdrawal.
	said := must(t, "consent", "withdraw", "--config", config, "--patient", "100", "--card", folder("new"), "--scopes", "genetic")
	says(t, said, "withdrawn in part", "a consent goes on for general", "What was withdrawn need not be erased")
	if strings.Contains(said, "ERASE") {
		t.Errorf("the rules ask for no erasure, the desk is told:\n%s", said)
	}
	letter := folder("withdrawal.txt")
	says(t, must(t, "consent", "withdraw", "--card", folder("new"), "--out", letter), "Send it to "+id)
	if _, e, code := try(t.Context(), "consent", "withdraw", "--config", config, "--patient", "103", "--letter", letter); code == exitDone {
		t.Errorf("a letter about somebody else: %s", e)
	}
	said = must(t, "consent", "withdraw", "--config", config, "--patient", "100", "--letter", letter)
	says(t, said, "withdrawn: ", "The rules were asked", "need not be erased", "exclude_from_next_reading: done", "No study has opened a sum")
	// Where consent was the only ground, the rules ask for more, and the answer is in
	// a log of the hospitals' form that names nobody.
	log := filepath.Join(dataOf(t, config), withdrawalsDir, decisionsFile)
	rec := mustRead(t, log)
	if head, n, err := policy.VerifyAudit(strings.NewReader(rec)); err != nil || n == 0 || !strings.Contains(said, head.Short()) {
		t.Errorf("the log of withdrawals: %d decisions, %v", n, err)
	}
	for _, hidden := range []string{"100", "1970"} {
		if strings.Contains(strings.Split(rec, `"input_sha256"`)[0], `"`+hidden+`"`) {
			t.Errorf("%q stands in the log", hidden)
		}
	}
	says(t, must(t, "consent", "show", "--config", config, "--patient", "100"), "taken back (withdrawn)")

	// A mother decides for her child until the child is of age.
	if _, e, code := try(t.Context(), "consent", "issue", "--config", config, "--patient", "104", "--card", folder("mother"), "--form", "f", "--level", "general", "--scopes", "general", "--purposes", "DUO:0000042", "--given-by", "parent"); code == exitDone || !strings.Contains(e, "enter the mandate first") {
		t.Errorf("%d %s", code, e)
	}
	must(t, "consent", "mandate", "--config", config, "--patient", "104", "--role", "parent", "--holder", folder("mother"), "--until", "2090-01-01")
	must(t, "consent", "issue", "--config", config, "--patient", "104", "--card", folder("mother"), "--form", "f", "--level", "general", "--scopes", "general", "--purposes", "DUO:0000042", "--given-by", "parent")
	says(t, must(t, "consent", "show", "--config", config, "--patient", "104"), "in force", "a parent", "until 2090")
	must(t, "consent", "mandate", "--config", config, "--patient", "104", "--holder", folder("mother"), "--end")
	if _, _, code := try(t.Context(), "consent", "issue", "--config", config, "--patient", "104", "--card", folder("mother"), "--form", "f", "--level", "general", "--scopes", "general", "--purposes", "DUO:0000042", "--given-by", "parent"); code == exitDone {
		t.Error("a parent whose mandate ended decides")
	}

	// A representative sees what the mandate covers, a stranger's card nothing.
	must(t, "consent", "mandate", "--config", config, "--patient", "100", "--card", folder("new"), "--role", "proxy", "--holder", folder("son"), "--powers", "see")
	must(t, "consent", "mandate", "--config", config, "--patient", "100", "--card", folder("new"), "--role", "proxy", "--holder", folder("clerk"), "--powers", "withdraw")
	for holder, may := range map[string]bool{"new": true, "son": true, "clerk": false, "mother": false, "card": false} {
		for _, what := range []string{"show", "accesses"} {
			if _, e, code := try(t.Context(), "consent", what, "--config", config, "--patient", "100", "--card", folder(holder)); may != (code == exitDone) || !may && !strings.Contains(e, "may not see") {
				t.Errorf("%s with the card of %s: %d %s", what, holder, code, e)
			}
		}
	}

	// Two desks at once: both documents are entered, one after the other.
	done := make(chan string)
	for _, patient := range []string{"110", "111", "112"} {
		go func() {
			_, e, code := try(t.Context(), "consent", "issue", "--config", config, "--patient", patient, "--card", folder("card-"+patient), "--form", "f", "--level", "general", "--scopes", "general", "--purposes", "DUO:0000042", "--given-by", "self")
			done <- fmt.Sprint(code, e)
		}()
	}
	for range 3 {
		if s := <-done; s != "0" {
			t.Error(s)
		}
	}
	for _, patient := range []string{"110", "111", "112"} {
		says(t, must(t, "consent", "show", "--config", config, "--patient", patient), "in force")
	}

	again(t, k, config)

	// Erased, and the patient's copy does not count any more.
	says(t, must(t, "consent", "erase", "--config", config, "--patient", "112"), "1 documents are erased")
	says(t, must(t, "consent", "erase", "--config", config, "--patient", "112"), "nothing of this patient")
	says(t, must(t, "consent", "show", "--config", config, "--patient", "112"), "There is no consent")
	says(t, must(t, "consent", "show", "--config", config, "--patient", "111"), "in force")

	// What others may look up.
	must(t, "consent", "status", "--config", config, "--out", folder("status.jwt"))
	h, err := openHospital(config, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := status.Open(mustRead(t, folder("status.jwt")), did.Hybrid(h.kit.signer.Public()), time.Now()); err != nil || l.ID != "urn:consilium:status:"+id {
		t.Errorf("%v", err)
	}
	served := freePort(t)
	start(t, "status list served", "consent", "status", "--config", config, "--out", folder("served.jwt"), "--listen", served)
	if resp, err := http.Get("http://" + served + "/status"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%v %v", resp, err)
	} else if b, err := io.ReadAll(resp.Body); err != nil || string(b) != mustRead(t, folder("served.jwt")) {
		t.Errorf("%d bytes: %v", len(b), err)
	}
	says(t, must(t, "ledger", "verify", "--config", config), "entries verify")

	// The ledger is the one that was anchored; an anchor of another one is not.
	cp, err := provenance.ParseCheckpoint([]byte(mustRead(t, filepath.Join(h.config.ledgerDir(), "checkpoint"))))
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range []consilium.Digest{cp.Root, {1}} {
		a := provenance.Anchor{APIVersion: consilium.APIVersion, Kind: "Anchor", Chain: provenance.ChainEVM, Epoch: 1, Heads: []provenance.Head{{Origin: cp.Origin, Size: cp.Size, Root: root}}, Status: provenance.AnchorFinal, Block: chain.Hash{1}.String(), Height: 7, Contract: chain.Address{1}.String()}
		if a.SuperRoot, err = provenance.SuperRoot(1, a.Heads); err != nil {
			t.Fatal(err)
		}
		b, _ := json.Marshal(a)
		write(t, folder("anchor.json"), string(b))
		out, e, code := try(t.Context(), "ledger", "verify", "--config", config, "--anchor", folder("anchor.json"))
		if root == cp.Root && (code != exitDone || !strings.Contains(out, "was not proven here")) || root != cp.Root && (code != exitFailed || !strings.Contains(e, "another root")) {
			t.Errorf("%d %s %s", code, out, e)
		}
		// A file that anybody can write proves nothing.
		if _, e, code := try(t.Context(), "ledger", "verify", "--config", config, "--anchor", folder("anchor.json"), "--contract", a.Contract, "--block", a.Block); code == exitDone {
			t.Errorf("an anchor without a proof: %s", e)
		}
		if _, _, code := try(t.Context(), "ledger", "verify", "--config", config, "--anchor", folder("anchor.json"), "--block", a.Block); code != exitUsage {
			t.Errorf("a block without a contract: %d", code)
		}
	}
}

// again: a withdrawal by letter whose duties could not be decided, or that did not
// reach the ledger, is finished by the same command, and entered once.
func again(t *testing.T, k *kits, config string) {
	t.Helper()
	letter := filepath.Join(k.dir, "letter-110.txt")
	must(t, "consent", "withdraw", "--card", filepath.Join(k.dir, "card-110"), "--out", letter)
	withdraw := []string{"consent", "withdraw", "--config", config, "--patient", "110", "--letter", letter}
	entries := func() (n int, withdrawn bool) {
		h, err := openHospital(config, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		store, alias, err := h.verifiedConsents(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		cl, err := store.Claims(provenance.Pseudonym(table.Pseudonym(alias, "110")), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return store.Len(), cl.Status == provenance.ConsentWithdrawn
	}
	before, _ := entries()
	// What the rules could not be asked with is refused before anything is entered.
	if _, e, code := try(t.Context(), append(withdraw, "--impairment", "memo #7")...); code != exitUsage || !strings.Contains(e, "--impairment") {
		t.Errorf("%d %s", code, e)
	}
	if n, withdrawn := entries(); n != before || withdrawn {
		t.Errorf("%d documents, then %d, withdrawn %t", before, n, withdrawn)
	}
	// A policy that does not load: the withdrawal holds, the rest waits.
	broken := filepath.Join(k.kit(site(0)), "policies", "broken")
	write(t, filepath.Join(broken, "law", "law.json"), "{")
	if _, e, code := try(t.Context(), withdraw...); code == exitDone || !strings.Contains(e, "is entered and holds") || !strings.Contains(e, "same command again") {
		t.Errorf("%d %s", code, e)
	}
	if n, withdrawn := entries(); n != before+1 || !withdrawn {
		t.Errorf("%d documents, then %d, withdrawn %t", before, n, withdrawn)
	}
	if err := os.RemoveAll(broken); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if out := must(t, withdraw...); !strings.Contains(out, "The rules were asked") {
			t.Error(out)
		}
	}
	if n, withdrawn := entries(); n != before+1 || !withdrawn {
		t.Errorf("%d documents, then %d, withdrawn %t", before, n, withdrawn)
	}
	// One that was stored as the ledger failed: the command logs it.
	h, err := openHospital(config, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	store, alias, leave, err := h.consentDesk(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	name := provenance.Pseudonym(table.Pseudonym(alias, "110"))
	doc, err := provenance.SignWithdrawal(h.kit.signer, provenance.Withdrawal{Site: h.site, Scopes: []string{}, At: time.Now().Unix()}, name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Add(t.Context(), failing{}, provenance.ConsentEntry{Patient: name, Doc: doc}); !errors.Is(err, errFailing) {
		t.Fatal(err)
	}
	leave()
	write(t, letter, string(doc.Encode()))
	must(t, withdraw...)
	if store, _, err = h.verifiedConsents(t.Context()); err != nil {
		t.Fatal(err)
	}
	if stored, logged := store.Holds(name, doc.Digest()); !stored || !logged {
		t.Errorf("stored %t, logged %t", stored, logged)
	}
}

// failing is a ledger that takes nothing.
type failing struct{}

var errFailing = errors.New("the ledger takes nothing")

func (failing) AppendAll(context.Context, [][]byte) ([]uint64, error) { return nil, errFailing }

func mustRead(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// dataOf is the data directory of a worker's configuration.
func dataOf(t *testing.T, config string) string {
	t.Helper()
	h, err := openHospital(config, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return h.config.Data
}
