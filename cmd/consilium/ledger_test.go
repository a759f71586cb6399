package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"consilium/internal/durable"
	"consilium/internal/hybrid"
	"consilium/provenance"
)

// A hospital's ledger by its commands: tables and streams are anchored, rows
// re-derive, a receipt verifies offline, gaps show, and an erasure leaves a
// ledger that still verifies.
func TestLedgerCommands(t *testing.T) {
	// Processes of their own, as at the desk: the vault is a child of each.
	try := func(_ context.Context, args ...string) (string, string, int) {
		var stdout, stderr bytes.Buffer
		cmd := exec.Command(program(t), args...)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	}
	must := func(t *testing.T, args ...string) string {
		t.Helper()
		stdout, stderr, code := try(t.Context(), args...)
		if code != exitDone {
			t.Fatalf("consilium %s: exit code %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
		}
		return stdout
	}
	k := provisionAll(t)
	start(t, "witness runs", "ledger", "witness", "--config", k.config("board-1"))
	id := site(0)
	config, home := k.config(id), k.kit(id)

	// Two wearables and a trading partner deliver.
	deliveries := filepath.Join(home, "deliveries")
	var devices []string
	batches := map[string][][]byte{}
	for _, patient := range []string{"100", "101"} {
		key, err := hybrid.Generate()
		if err != nil {
			t.Fatal(err)
		}
		device := provenance.NewID()
		pub, err := json.Marshal(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		devices = append(devices, fmt.Sprintf(`{"device": %q, "key": %s, "patient": %q}`, device, pub, patient))
		b := &provenance.DeviceBatch{Device: device, Code: "8867-4", Unit: "/min", Times: []int64{1, 2, 3}, Values: []float64{60, 61, 62}}
		for seq := range uint64(3) {
			b.Seq = seq
			signed, err := provenance.SignDeviceBatch(key, b)
			if err != nil {
				t.Fatal(err)
			}
			batches[patient] = append(batches[patient], signed.Encode())
			b.Prev = signed.Digest()
		}
	}
	deliver := func(patient string, seq int) {
		write(t, filepath.Join(deliveries, fmt.Sprintf("%s-%d", patient, seq)), string(batches[patient][seq]))
	}
	write(t, filepath.Join(home, "devices.json"), `{"devices": [`+strings.Join(devices, ",")+"]}")
	deliver("100", 0)
	deliver("101", 0)
	write(t, filepath.Join(home, "supply", "a.json"), `{"epcisBody":{"eventList":[{"type":"ObjectEvent","eventTime":"2026-01-02T00:00:00Z","epcList":["urn:epc:id:sgtin:4012345.011111.2"],"action":"OBSERVE"}]}}`)
	b, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, config, string(b)+"\nstreams:\n- {name: heart, kind: wearable, path: deliveries, devices: devices.json}\n- {name: drugs, kind: epcis, path: supply}\n")

	out := must(t, "ledger", "anchor", "--config", config)
	for _, want := range []string{"cohort: 21 rows, 21 of them", "heart: 6 rows, 6 of them", "drugs: 1 rows, 1 of them"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	// Batch 1 is held back: what came is anchored, and the gap is an error until
	// it closes.
	deliver("100", 2)
	stdout, stderr, code := try(t.Context(), "ledger", "anchor", "--config", config)
	if code != exitFailed || !strings.Contains(stderr, "batches 1 to 1 have not arrived") || !strings.Contains(stdout, "heart: 9 rows, 3 of them") {
		t.Errorf("%d %s %s", code, stdout, stderr)
	}
	deliver("100", 1)
	if out := must(t, "ledger", "anchor", "--config", config); !strings.Contains(out, "heart: 12 rows, 3 of them") {
		t.Error(out)
	}
	out = must(t, "ledger", "verify", "--config", config, "--rows")
	for _, want := range []string{"entries verify", "cohort: verified 21, erased 0", "heart: verified 12, erased 0, in 3 batches", "drugs: verified 1"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}

	// The patient's receipts verify with nothing but the roster; one changed byte
	// does not.
	dir := filepath.Join(home, "receipts")
	if out := must(t, "ledger", "receipt", "--config", config, "--patient", "100", "--out", dir); !strings.Contains(out, "10 receipts") {
		t.Error(out)
	}
	receipt, roster := filepath.Join(dir, "receipt-1.json"), filepath.Join(dir, "roster.json")
	check := []string{"ledger", "verify", "--receipt", receipt, "--roster", roster, "--board", filepath.Join(home, kitBoard)}
	if out := must(t, check...); !strings.Contains(out, "committed to this row") || !strings.Contains(out, "age: ") {
		t.Error(out)
	}
	doc, err := os.ReadFile(receipt)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(doc, &fields); err != nil {
		t.Fatal(err)
	}
	fields["leaf"] = fields["leaf"].(float64) + 1
	changed, _ := json.Marshal(fields)
	write(t, receipt, string(changed))
	if _, stderr, code := try(t.Context(), check...); code != exitFailed || !strings.Contains(stderr, "receipt") {
		t.Errorf("a changed receipt: %d %s", code, stderr)
	}
	if _, stderr, code := try(t.Context(), "ledger", "receipt", "--config", config, "--patient", "nobody", "--out", dir+"2"); code != exitFailed || !strings.Contains(stderr, "no anchored row") {
		t.Errorf("%d %s", code, stderr)
	}

	// A row that is changed in the table shows, until it is anchored as a
	// correction.
	path := filepath.Join(home, "cohort.csv")
	table, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(table), "\n")
	cells := strings.Split(lines[5], ",")
	cells[2] = "33"
	lines[5] = strings.Join(cells, ",")
	write(t, path, strings.Join(lines, "\n"))
	if stdout, _, code := try(t.Context(), "ledger", "verify", "--config", config, "--rows"); code != exitFailed || !strings.Contains(stdout, "verified 20, erased 0, altered 1") {
		t.Errorf("%d %s", code, stdout)
	}
	if out := must(t, "ledger", "anchor", "--config", config); !strings.Contains(out, "they replace 1 earlier ones") {
		t.Error(out)
	}
	if out := must(t, "ledger", "verify", "--config", config, "--rows"); !strings.Contains(out, "cohort: verified 21, erased 0, in 2 batches") {
		t.Error(out)
	}

	// Three patients' rows are deleted, and one corrected row is to hide it.
	whole := mustRead(t, path)
	lines = strings.Split(whole, "\n")
	cells = strings.Split(lines[5], ",")
	cells[2] = "34"
	lines[5] = strings.Join(cells, ",")
	write(t, path, strings.Join(append(append([]string{}, lines[:8]...), lines[11:]...), "\n"))
	if out := must(t, "ledger", "anchor", "--config", config); !strings.Contains(out, "they replace 1 earlier ones") || !strings.Contains(out, "3 anchored rows are gone") {
		t.Error(out)
	}
	if stdout, _, code := try(t.Context(), "ledger", "verify", "--config", config, "--rows"); code != exitFailed || !strings.Contains(stdout, "cohort: verified 18, erased 0, missing 3") {
		t.Errorf("%d %s", code, stdout)
	}
	write(t, path, strings.Join(lines, "\n"))
	if out := must(t, "ledger", "verify", "--config", config, "--rows"); !strings.Contains(out, "cohort: verified 21, erased 0, in 3 batches") {
		t.Error(out)
	}

	// An erasure that does not begin leaves no mark, after which the next one would
	// sign the record of an erasure that never was.
	size := func() string { return strings.Fields(must(t, "ledger", "verify", "--config", config))[1] }
	entries := size()
	data := filepath.Join(home, "data")
	mark := filepath.Join(data, erasureFile)
	marked := func() bool {
		_, err := os.Stat(mark)
		return err == nil
	}
	spoil := func(path string) func(t *testing.T) func() {
		return func(t *testing.T) func() {
			was := mustRead(t, path)
			write(t, path, "spoilt")
			return func() { write(t, path, was) }
		}
	}
	for name, prevent := range map[string]func(t *testing.T) func(){
		"the worker runs": func(t *testing.T) func() {
			lock, err := durable.Prepare(filepath.Join(data, deskDir), "worker-desk")
			if err != nil {
				t.Fatal(err)
			}
			return func() { lock.Close() }
		},
		"no vault":       spoil(filepath.Join(data, "vault", "VERSION")),
		"no names":       spoil(filepath.Join(data, "streams.json")),
		"no salts":       spoil(filepath.Join(data, "vault", "salts")),
		"a stream fails": spoil(filepath.Join(home, "devices.json")),
	} {
		undo := prevent(t)
		erase := []string{"ledger", "erase", "--config", config, "--patient", "100"}
		if _, stderr, code := try(t.Context(), erase...); code == exitDone || marked() {
			t.Errorf("%s: %d, marked %t %s", name, code, marked(), stderr)
		}
		write(t, mark, "") // of an erasure that was interrupted
		if _, _, code := try(t.Context(), erase...); code == exitDone || !marked() {
			t.Errorf("%s: the mark of an earlier erasure is gone", name)
		}
		if err := os.Remove(mark); err != nil {
			t.Fatal(err)
		}
		undo()
	}

	// A mistyped number puts no signed erasure into the ledger.
	if out := must(t, "ledger", "erase", "--config", config, "--patient", "1000"); !strings.Contains(out, "nothing of this patient") || size() != entries {
		t.Errorf("%s to %s entries: %s", entries, size(), out)
	}

	// Erasure: refused while the rows are there, and then they are not.
	if _, stderr, code := try(t.Context(), "ledger", "erase", "--config", config, "--patient", "100"); code != exitFailed || !strings.Contains(stderr, "cohort, heart still holds") {
		t.Errorf("%d %s", code, stderr)
	}
	if size() != entries {
		t.Error("a refused erasure was recorded")
	}
	if out := must(t, "ledger", "erase", "--config", config, "--patient", "100", "--rows"); !strings.Contains(out, "10 leaves are hashes of nothing now, 1 rows and 3 deliveries") {
		t.Error(out)
	}
	if size() == entries {
		t.Error("an erasure was not recorded")
	}
	out = must(t, "ledger", "verify", "--config", config, "--rows")
	for _, want := range []string{"cohort: verified 20, erased 1", "heart: verified 3, erased 9"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	if left, err := os.ReadFile(path); err != nil || strings.Contains(string(left), "\n100,") || !strings.Contains(string(left), "\n101,") {
		t.Errorf("%v %s", err, left)
	}
	must(t, "ledger", "anchor", "--config", config) // nothing comes back
	if out := must(t, "ledger", "verify", "--config", config, "--rows", "--json"); !strings.Contains(out, `"erased":9`) {
		t.Error(out)
	}
}
