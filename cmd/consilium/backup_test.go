package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"consilium"
	"consilium/internal/durable"
	"consilium/internal/span"
	"consilium/provenance"
	"consilium/worker/vault"
)

// TestBackup copies a hospital and a coordinator node that are stopped, loses
// their directories and puts the copies back. While nothing was promised in
// between they go on; once something was, each finds that its directory is an
// older one and takes no part: the hospital by its own ledger and by the log,
// the node by its peers.
func TestBackup(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: -short")
	}
	k := provisionAll(t)
	const hospital, node = "site-1", "c2"
	for _, id := range []string{hospital, "c1", "c2", "c3"} {
		f, err := os.OpenFile(k.config(id), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("\ntracing: {file: spans.json}\n"); errors.Join(err, f.Close()) != nil {
			t.Fatal(err)
		}
	}
	r := bringWith(t, k)
	first := r.submit(t, r.study)
	r.done(first)
	must(t, "ledger", "audit", "--config", r.config(hospital), "--study", first, "--wait", "2m", "--out", filepath.Join(r.dir, "trail.json"))
	backup := func(id, to string) []string {
		return []string{"backup", "--config", r.config(id), "--out", filepath.Join(r.dir, to)}
	}
	restore := func(id, from string) []string {
		return []string{"restore", "--config", r.config(id), "--from", filepath.Join(r.dir, from)}
	}
	refused := func(says string, args ...string) {
		t.Helper()
		if _, stderr, code := try(t.Context(), args...); code == exitDone || !strings.Contains(stderr, says) {
			t.Errorf("consilium %s: %d %s", strings.Join(args, " "), code, stderr)
		}
	}
	refused("is running", backup(hospital, "no")...)
	refused("is running", backup(node, "no")...)
	out := filepath.Join(r.dir, "out")
	r.result(t, first, out)
	refused("is running", "study", "replay", first, "--config", r.config(hospital))
	r.workers[hospital].stop()
	r.nodes[node].stop()
	t.Run("replay", func(t *testing.T) { replays(t, r, first, hospital, filepath.Join(out, "audit")) })
	must(t, backup(hospital, "hospital")...)
	must(t, backup(node, "node")...)
	refused("written once", backup(node, "node")...)
	refused("may be newer", restore(node, "node")...)
	refused("another kit", restore(node, "hospital")...)

	// The directories are lost.
	lose := func(id string) {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(r.kit(id), "data")); err != nil {
			t.Fatal(err)
		}
	}
	lose(hospital)
	lose(node)
	for _, d := range []string{"gate/journal", "vault/cohorts", "ledger/checkpoint"} {
		path := filepath.Join(r.dir, "hospital", "data", d)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := append([]byte{}, b...)
		changed[len(b)/2] ^= 1
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(d+" is not as it was", restore(hospital, "hospital")...)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	must(t, restore(hospital, "hospital")...)
	must(t, restore(node, "node")...)
	r.nodes[node] = r.startNode(t, node)
	r.workers[hospital] = r.startSite(t, hospital)
	second := r.submit(t, r.study)
	r.done(second)
	must(t, "ledger", "audit", "--config", r.config(hospital), "--study", second, "--wait", "2m", "--out", filepath.Join(r.dir, "trail-2.json"))

	// The same copies again: they are older now.
	r.workers[hospital].stop()
	r.nodes[node].stop()
	kept := filepath.Join(r.dir, "kept")
	if err := os.CopyFS(kept, os.DirFS(filepath.Join(r.kit(hospital), "data"))); err != nil {
		t.Fatal(err)
	}
	lose(hospital)
	lose(node)
	must(t, restore(hospital, "hospital")...)
	must(t, restore(node, "node")...)
	old := start(t, "", "coordinator", "--config", r.config(node))
	<-old.done
	if !strings.Contains(old.log.String(), "put back from an older copy") {
		t.Errorf("the older copy of a node ends otherwise: %s", old.log)
	}
	delete(r.nodes, node)
	r.workers[hospital] = r.startSite(t, hospital)
	r.says(r.workers[hospital], "put back from an older copy")
	third := r.submit(t, r.study)
	r.watch(third, func(ev *consilium.Event) error {
		m, err := consilium.ParseMessage(ev.Body)
		if ev.Kind == consilium.EventMessage && err == nil && m.By == hospital {
			if m.Kind != consilium.KindDecline {
				t.Errorf("the older copy says %s", m.Kind)
			}
			return errSeen
		}
		if ev.Kind == consilium.EventDone || ev.Kind == consilium.EventAborted {
			t.Errorf("%s: %s", ev.Kind, ev.Body)
			return errSeen
		}
		return nil
	})
	// The ledger alone tells too, where only the gate is an older one.
	r.workers[hospital].stop()
	data := filepath.Join(r.kit(hospital), "data")
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(data, os.DirFS(kept)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(data, "gate")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(data, "gate"), os.DirFS(filepath.Join(r.dir, "hospital", "data", "gate"))); err != nil {
		t.Fatal(err)
	}
	r.workers[hospital] = r.startSite(t, hospital)
	r.says(r.workers[hospital], "names an entry of the trail")
	r.stopAll()
	traced(t, r, hospital, first)
}

// traced looks for a round of a study in what the nodes exported: the
// hospital's upload, and a coordinator's part of it below, in one trace.
func traced(t *testing.T, r *running, hospital, id string) {
	t.Helper()
	type spans struct {
		Name        string
		SpanContext struct{ TraceID, SpanID string }
		Parent      struct{ TraceID, SpanID string }
	}
	read := func(id string) (out []spans) {
		b, err := os.ReadFile(filepath.Join(r.kit(id), "spans.json"))
		if err != nil {
			t.Fatal(err)
		}
		for dec := json.NewDecoder(bytes.NewReader(b)); dec.More(); {
			var s spans
			if err := dec.Decode(&s); err != nil {
				t.Fatal(err)
			}
			out = append(out, s)
		}
		return out
	}
	whole := func(round uint32) (missing []string) {
		trace := span.TraceID(consilium.StudyID(id), round)
		mine := map[string]string{} // span -> name
		for _, s := range read(hospital) {
			if s.SpanContext.TraceID == trace {
				mine[s.SpanContext.SpanID] = s.Name
			}
		}
		below, sums := 0, 0
		for _, node := range []string{"c1", "c2", "c3"} {
			for _, s := range read(node) {
				if s.SpanContext.TraceID == trace && mine[s.Parent.SpanID] != "" {
					below++
				}
				if s.SpanContext.TraceID == trace && s.Name == "sum" {
					sums++
				}
			}
		}
		for _, want := range []string{"local", "upload", "vote", "opening"} {
			if !slices.Contains(slices.Collect(maps.Values(mine)), want) {
				missing = append(missing, fmt.Sprintf("round %d: the hospital exported no %s: %v", round, want, mine))
			}
		}
		if below == 0 || sums != 1 {
			missing = append(missing, fmt.Sprintf("round %d: %d spans of coordinators below the hospital's, %d sums", round, below, sums))
		}
		return missing
	}
	// On a busy machine the others may have closed a round without this hospital.
	var missing []string
	for round := uint32(1); round <= 3; round++ {
		m := whole(round)
		if len(m) == 0 {
			return
		}
		missing = append(missing, m...)
	}
	t.Errorf("no round is whole: %q", missing)
}

// replays runs a finished study again at a hospital, and finds what was changed
// since.
func replays(t *testing.T, r *running, id, hospital, archived string) {
	again := func(more ...string) (rounds []vault.ReplayedRound, says string, code int) {
		t.Helper()
		// A process of its own: the vault is a child of it.
		cmd := exec.Command(program(t), append([]string{"study", "replay", id, "--config", r.config(hospital), "--json"}, more...)...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		var doc struct{ Rounds []vault.ReplayedRound }
		json.Unmarshal([]byte(strings.SplitN(stdout.String(), "\n", 2)[0]), &doc)
		return doc.Rounds, stdout.String() + stderr.String(), cmd.ProcessState.ExitCode()
	}
	// On a busy machine the others may have closed a round without this hospital:
	// its state is adopted then, and nothing of it runs again.
	same := func(rounds []vault.ReplayedRound) bool {
		n := 0
		for _, x := range rounds {
			switch {
			case x.Vector == vault.ReplaySame && x.State == vault.ReplaySame:
				n++
			case !strings.HasPrefix(x.State, "adopted"):
				return false
			}
		}
		return n > 1
	}
	rounds, says, code := again("--archive", archived)
	if code != exitDone || !same(rounds) || !strings.Contains(says, `"archived":"same"`) {
		t.Fatalf("%d %s", code, says)
	}
	// A sum that somebody made larger by one.
	path := filepath.Join(r.kit(hospital), "data", "vault", "replays", id)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	log, err := durable.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	var records []durable.Record
	changed := false
	if err := log.Replay(func(kind uint8, data []byte) error {
		if kind == 3 && !changed {
			changed = true
			data = bytes.Clone(data)
			for i := 7; i < len(data); i += 4 {
				data[i] ^= 1 // every sum, after the round
			}
		}
		records = append(records, durable.Record{Kind: kind, Data: data})
		return nil
	}); err != nil || !changed {
		t.Fatal(changed, err)
	}
	if err := errors.Join(log.Rewrite(records), log.Close()); err != nil {
		t.Fatal(err)
	}
	if rounds, says, code := again(); code != exitFailed || !strings.Contains(says, "differs") || same(rounds) {
		t.Errorf("a changed sum: %d %s", code, says)
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	// A row that is not what it was: the step is not run on it, and that is said.
	table := filepath.Join(r.kit(hospital), "cohort.csv")
	edit(t, table, ",placebo,", ",active,")
	if rounds, says, code := again(); code != exitDone || same(rounds) || !strings.Contains(says, "not those of then") {
		t.Errorf("a changed row: %d %s", code, says)
	}
	write(t, table, r.tables[hospital])
	if _, says, code := again(); code != exitDone {
		t.Errorf("put right again: %d %s", code, says)
	}
}

// TestBackupIsWhole: a part of the data that lies behind a link is not left out
// without a word, and a backup of nothing is none. The naive twin walks the
// directory, as one does, and finds nothing where the directory is a link.
func TestBackupIsWhole(t *testing.T) {
	dir := short(t)
	kit := filepath.Join(dir, "kit")
	must(t, "provision", "site", "--dir", kit, "--federation", testName, "--id", "site-1", "--country", "US", "--regimes", "HIPAA")
	config, data, volume := filepath.Join(kit, kitConfig), filepath.Join(kit, "data"), filepath.Join(dir, "volume")
	n := 0
	backup := func() (to, stderr string, code int) {
		n++
		to = filepath.Join(dir, "backup", string(rune('a'+n)))
		_, stderr, code = try(t.Context(), "backup", "--config", config, "--out", to)
		return to, stderr, code
	}
	refused := func(what, says string) {
		t.Helper()
		to, stderr, code := backup()
		if code == exitDone || !strings.Contains(stderr, says) {
			t.Errorf("%s: %d %s", what, code, stderr)
		}
		if _, err := os.Stat(filepath.Join(to, backupManifest)); err == nil {
			t.Errorf("%s: there is a backup", what)
		}
	}
	fill := func(root string) {
		t.Helper()
		for _, f := range []string{"gate/journal", "vault/salts/a", "streams.json"} {
			write(t, filepath.Join(root, filepath.FromSlash(f)), f)
		}
	}
	empty := func(paths ...string) {
		t.Helper()
		for _, p := range paths {
			if err := os.RemoveAll(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	same := func(root string) {
		t.Helper()
		for _, f := range []string{"gate/journal", "vault/salts/a", "streams.json"} {
			if got := mustRead(t, filepath.Join(root, filepath.FromSlash(f))); got != f {
				t.Errorf("%s holds %q", f, got)
			}
		}
	}

	// data/ is a link to another volume.
	fill(volume)
	empty(data)
	if err := os.Symlink(volume, data); err != nil {
		t.Fatal(err)
	}
	walked := 0
	if err := filepath.WalkDir(data, func(_ string, d fs.DirEntry, err error) error {
		if d.Type().IsRegular() {
			walked++
		}
		return err
	}); err != nil || walked != 0 {
		t.Errorf("the naive twin noticed: %d files, %v", walked, err)
	}
	whole, stderr, code := backup()
	if code != exitDone {
		t.Fatal(stderr)
	}
	same(filepath.Join(whole, "data"))
	restore := []string{"restore", "--config", config, "--from", whole}
	must(t, "provision", "renew", "--dir", kit) // the same hospital
	empty(volume)
	if _, stderr, code := try(t.Context(), restore...); code == exitDone || !strings.Contains(stderr, "mount its volume") {
		t.Errorf("a link that leads nowhere: %d %s", code, stderr)
	}
	if err := os.Mkdir(volume, 0o700); err != nil {
		t.Fatal(err)
	}
	refused("an empty volume", "nothing to back up")
	must(t, restore...)
	same(volume)
	if info, err := os.Lstat(data); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link to the volume is gone: %v", err)
	}

	// A part is.
	empty(data)
	if err := os.Rename(volume, data); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"gate", "vault/salts", "streams.json"} {
		at, there := filepath.Join(data, part), filepath.Join(dir, "elsewhere")
		if err := errors.Join(os.Rename(at, there), os.Symlink(there, at)); err != nil {
			t.Fatal(err)
		}
		refused(part+" elsewhere", "in its place")
		if err := errors.Join(os.Remove(at), os.Rename(there, at)); err != nil {
			t.Fatal(err)
		}
	}
	// Sockets and what is kept out are no part of it.
	l, err := net.Listen("unix", filepath.Join(data, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Symlink("nowhere", filepath.Join(data, "LOCK")); err != nil {
		t.Fatal(err)
	}
	if again, stderr, code := backup(); code != exitDone {
		t.Error(stderr)
	} else {
		same(filepath.Join(again, "data"))
	}
	// A desk that enters a document.
	desk, err := durable.Prepare(filepath.Join(data, consentDeskDir), "worker-consents")
	if err != nil {
		t.Fatal(err)
	}
	refused("a desk at work", "stop it first")
	if err := desk.Close(); err != nil {
		t.Fatal(err)
	}

	// A manifest that lists nothing verifies nothing.
	var m backupOf
	if err := json.Unmarshal([]byte(mustRead(t, filepath.Join(whole, backupManifest))), &m); err != nil {
		t.Fatal(err)
	}
	m.Files = map[string]backupFile{}
	b, err := json.Marshal(&m)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(whole, backupManifest), string(b))
	empty(data)
	if _, stderr, code := try(t.Context(), restore...); code == exitDone || !strings.Contains(stderr, "lists no file") {
		t.Errorf("a backup of nothing: %d %s", code, stderr)
	}
}

// TestNoBackupOfAWitness: nobody remembers for a witness. The naive twin is a
// witness whose directory was put back: it cosigns a second history.
func TestNoBackupOfAWitness(t *testing.T) {
	key, err := provenance.NewWitnessKey("witness.example")
	if err != nil {
		t.Fatal(err)
	}
	log, err := provenance.NewLogKey("ledger.example")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	asked := func(entry string) int {
		w, err := provenance.OpenWitness(provenance.WitnessConfig{Key: key, Dir: filepath.Join(dir, "seen"), Logs: []string{log.Verifier()}})
		if err != nil {
			t.Fatal(err)
		}
		root := sha256.Sum256([]byte("\x00" + entry)) // RFC 6962 §2.1, of one entry
		signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n1\n%s\n", log.Name(), base64.StdEncoding.EncodeToString(root[:]))}, signerOf(t, log))
		if err != nil {
			t.Fatal(err)
		}
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/add-checkpoint", strings.NewReader("old 0\n\n"+string(signed))))
		return rec.Code
	}
	copied := filepath.Join(dir, "copied")
	if err := os.MkdirAll(filepath.Join(dir, "seen"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(copied, os.DirFS(filepath.Join(dir, "seen"))); err != nil {
		t.Fatal(err)
	}
	if got := asked("one"); got != http.StatusOK {
		t.Fatal(got)
	}
	if got := asked("another"); got != http.StatusConflict {
		t.Errorf("a second history: %d", got)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "seen")), os.CopyFS(filepath.Join(dir, "seen"), os.DirFS(copied))); err != nil {
		t.Fatal(err)
	}
	if got := asked("another"); got != http.StatusOK {
		t.Errorf("the naive twin noticed: %d", got)
	}

	kit := filepath.Join(dir, "kit")
	must(t, "provision", "board", "--dir", kit, "--federation", testName, "--id", "board-1", "--witness", "127.0.0.1:9440")
	write(t, filepath.Join(kit, "data", "seen", "x.checkpoint"), "x")
	to := filepath.Join(dir, "backup")
	for _, args := range [][]string{{"backup", "--out", to}, {"restore", "--from", to}} {
		write(t, filepath.Join(to, backupManifest), "{}")
		if _, stderr, code := try(t.Context(), append(args, "--config", filepath.Join(kit, kitConfig))...); code == exitDone || !strings.Contains(stderr, "a new witness") {
			t.Errorf("%s: %d %s", args[0], code, stderr)
		}
	}

	// The same member with a new witness.
	old, err := parseCard(filepath.Join(kit, kitCard))
	if err != nil {
		t.Fatal(err)
	}
	must(t, "provision", "witness", "--dir", kit)
	now, err := parseCard(filepath.Join(kit, kitCard))
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := readNoteKey(filepath.Join(kit, kitKeys), witnessFile)
	if err != nil || fresh.Verifier() != now.Witness || now.Witness == old.Witness || now.WitnessAddress != old.WitnessAddress || now.Member.Key != old.Member.Key {
		t.Errorf("the new witness: %v, %+v", err, now)
	}
	other := filepath.Join(dir, "other")
	must(t, "provision", "board", "--dir", other, "--federation", testName, "--id", "board-2")
	if _, stderr, code := try(t.Context(), "provision", "witness", "--dir", other); code == exitDone || !strings.Contains(stderr, "runs no witness") {
		t.Errorf("a member without a witness: %d %s", code, stderr)
	}
}

func signerOf(t *testing.T, k *provenance.NoteKey) note.Signer {
	t.Helper()
	s, err := note.NewSigner(k.Secret())
	if err != nil {
		t.Fatal(err)
	}
	return s
}
