package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/provenance"
)

// Three board members run witnesses, and two must cosign: a ledger goes on while
// one of them is down, and is not believed on the word of one.
func TestQuorumOfWitnesses(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: -short")
	}
	k := provisionWitnessed(t, 3)
	config := k.config(site(0))
	start(t, "witness runs", "ledger", "witness", "--config", k.config("board-1"))
	second := start(t, "witness runs", "ledger", "witness", "--config", k.config("board-2"))
	// A process of its own, as at the desk: the vault is a child of it.
	if out, err := exec.Command(program(t), "ledger", "anchor", "--config", config).CombinedOutput(); err != nil || !strings.Contains(string(out), "cosigned") {
		t.Fatalf("%v %s", err, out)
	}
	says := func(out string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("does not say %q:\n%s", w, out)
			}
		}
	}
	check, _, _ := try(t.Context(), "worker", "check", "--config", config)
	says(check, "ok     witness board-1", "ok     witness board-2", "the others make the quorum", "board-3 has not", "can be met")
	says(must(t, "ledger", "verify", "--config", config), "entries verify")

	h, err := openHospital(config, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	// One witness's word: the other cosignatures are taken off the checkpoint. The
	// naive twin asks for any witness of the roster.
	file := filepath.Join(h.config.ledgerDir(), "checkpoint")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var one []byte
	policy, err := provenance.WitnessesOf(h.kit.roster)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range bytes.SplitAfter(whole, []byte("\n")) {
		if bytes.HasPrefix(line, []byte("\u2014 ")) && bytes.Contains(line, []byte("/board-2 ")) {
			continue
		}
		one = append(one, line...)
	}
	if len(one) == len(whole) {
		t.Fatalf("no cosignature of board-2 in %s", whole)
	}
	self, _ := h.kit.roster.Site(h.site)
	naive := provenance.CheckpointPolicy{Log: self.Ledger, Witnesses: provenance.SingleWitness(policy.Witnesses[0].Key, "")}
	if _, err := provenance.VerifyCheckpoint(one, naive, time.Now()); err != nil {
		t.Errorf("the naive twin noticed: %v", err)
	}
	if err := os.WriteFile(file, one, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, e, code := try(t.Context(), "ledger", "verify", "--config", config); code == exitDone || !strings.Contains(e, "too few witnesses") {
		t.Errorf("on the word of one: %d %s", code, e)
	}
	if check, _, code := try(t.Context(), "worker", "check", "--config", config); code == exitDone || !strings.Contains(check, "FAILS  ledger") {
		t.Errorf("preflight: %d %s", code, check)
	}
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}

	// The next roster names other witnesses: the running desk asks these.
	d, err := openDesk(t.Context(), h.kit, &h.config)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	publish := func() []byte {
		t.Helper()
		note, err := provenance.SignRecord(h.kit.signer, &provenance.AuditRecord{Type: provenance.RecordAccess, Time: time.Now().UnixMilli(), Actor: string(h.site), Outcome: "published"})
		if err != nil {
			t.Fatal(err)
		}
		at, err := d.ledger().Append(t.Context(), note)
		if err != nil {
			t.Fatal(err)
		}
		cp, err := d.ledger().Await(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		return cp
	}
	publish()
	same := d.ledger()
	if err := d.renew(t.Context(), h.kit.roster, &h.config); err != nil || d.ledger() != same {
		t.Errorf("opened anew without need: %v", err)
	}
	next := *h.kit.roster
	next.Witnessing = nil
	second.stop()
	if err := d.renew(t.Context(), &next, &h.config); err != nil {
		t.Fatal(err)
	}
	list, err := policy.Cosignatures(publish())
	if err != nil || list[0].At.IsZero() || !list[1].At.IsZero() {
		t.Errorf("%+v %v", list, err)
	}
	next.Board.Witness = ""
	if err := d.renew(t.Context(), &next, &h.config); err == nil {
		t.Error("a roster without witnesses")
	}
	// One of three is left of the quorum of two.
	if check, _, code := try(t.Context(), "worker", "check", "--config", config); code == exitDone || !strings.Contains(check, "FAILS  quorum") {
		t.Errorf("preflight without a quorum: %d %s", code, check)
	}
}

// What a roster may say of witnesses, and what it may not.
func TestWitnessing(t *testing.T) {
	key := func(name string) string {
		k, err := provenance.NewWitnessKey(name)
		if err != nil {
			t.Fatal(err)
		}
		return k.Verifier()
	}
	own := []provenance.WitnessKey{{Name: "b1", Key: key("f/b1"), URL: "http://b1:1"}, {Name: "b2", Key: key("f/b2"), URL: "http://b2:1"}}
	dir := t.TempDir()
	file := func(text string) string {
		path := filepath.Join(dir, "policy")
		write(t, path, text)
		return path
	}
	lines := "witness b1 " + own[0].Key + " http://b1:1\nwitness hospital " + key("h/w") + " http://h:1\ngroup both all b1 hospital\nquorum both\n"
	for name, x := range map[string]struct {
		own    []provenance.WitnessKey
		quorum int
		file   string
		want   bool
	}{
		"one": {own[:1], 0, "", true}, "two of two": {own, 2, "", true}, "one of two": {own, 1, "", true}, "three of two": {own, 3, "", false},
		"two and no quorum": {own, 0, "", false}, "less than none": {own, -1, "", false}, "a file": {own, 0, file(lines), true},
		"both": {own, 1, filepath.Join(dir, "policy"), false}, "no file": {own, 0, dir + "/none", false},
	} {
		w, err := witnessing(x.own, x.quorum, x.file, 0)
		if err == nil {
			r := &consilium.Roster{Board: consilium.Board{Witness: own[0].Key}, Witnessing: w}
			_, err = provenance.WitnessesOf(r)
		}
		if (err == nil) != x.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := witnessing(own, 0, file(strings.Replace(lines, "quorum both", "quorum none", 1)), 0); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("a quorum of nobody: %v", err)
	}
}

// TestWitnessReplaced: the federation's one witness loses its directory, and goes on
// as a new one. Under its old key it would cosign a second history of the hospital's
// ledger; under the new one it begins with what the hospital shows it, and the
// ledger is believed again from then on.
func TestWitnessReplaced(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: -short")
	}
	k := provisionAll(t)
	config, board := k.config(site(0)), k.kit("board-1")
	anchor := func() (string, error) {
		// A process of its own, as at the desk: the vault is a child of it.
		out, err := exec.Command(program(t), "ledger", "anchor", "--config", config).CombinedOutput()
		return string(out), err
	}
	w := start(t, "witness runs", "ledger", "witness", "--config", k.config("board-1"))
	if out, err := anchor(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	w.stop()
	if err := os.RemoveAll(filepath.Join(board, "data")); err != nil {
		t.Fatal(err)
	}
	must(t, "provision", "witness", "--dir", board)
	if _, e, code := try(t.Context(), "ledger", "witness", "--config", k.config("board-1")); code == exitDone || !strings.Contains(e, "card.json") {
		t.Errorf("a witness that the roster does not name: %d %s", code, e)
	}
	cards, first, next := filepath.Join(k.dir, "cards"), filepath.Join(k.dir, "roster.json"), filepath.Join(k.dir, "roster-2.json")
	write(t, filepath.Join(cards, "board-1.json"), mustRead(t, filepath.Join(board, kitCard)))
	must(t, "provision", "roster", "--cards", cards, "--name", testName, "--threshold", "2", "--previous", first, "--out", next)
	for _, id := range []string{"board-1", "board-3"} {
		must(t, "provision", "sign", "--roster", next, "--board", k.kit(id))
	}
	for _, id := range []string{"board-1", site(0)} {
		must(t, "provision", "install", "--roster", next, "--dir", k.kit(id)) // the same board
	}
	start(t, "witness runs", "ledger", "witness", "--config", k.config("board-1"))
	if out, err := anchor(); err != nil {
		t.Fatalf("under the new witness: %v %s", err, out)
	}
	if out := must(t, "ledger", "verify", "--config", config); !strings.Contains(out, "entries verify") {
		t.Error(out)
	}
}
