package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"consilium"
	"consilium/internal/federation"
	"consilium/internal/pinned"
	"consilium/internal/studyfile"
	"consilium/internal/wire"
	"consilium/policy"
	"consilium/provenance"
	"consilium/provenance/chain"
	"consilium/provenance/chain/chaintest"
	"consilium/worker/vault"
)

// buildBinary builds the program once for all tests.
var buildBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "consilium-bin-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "consilium")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binaryIfBuilt(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

var built bool

func binaryIfBuilt() (string, error) {
	if !built {
		return "", errors.New("not built")
	}
	return buildBinary()
}

func program(t *testing.T) string {
	t.Helper()
	built = true
	path, err := buildBinary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// short makes a directory whose path leaves room for a socket's name.
func short(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "c")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// try runs the command in this process.
func try(ctx context.Context, args ...string) (stdout, stderr string, code int) {
	var o, e bytes.Buffer
	code = run(ctx, args, strings.NewReader(""), &o, &e)
	return o.String(), e.String(), code
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, code := try(t.Context(), args...)
	if code != exitDone {
		t.Fatalf("consilium %s: exit code %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// process is a running node.
type process struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	log  *lines
	done chan struct{}
	err  error
}

// lines collects a process's log and tells when a line holds a text.
type lines struct {
	mu   sync.Mutex
	all  []string
	grew chan struct{}
}

func (l *lines) read(r io.Reader) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		l.mu.Lock()
		l.all = append(l.all, in.Text())
		close(l.grew)
		l.grew = make(chan struct{})
		l.mu.Unlock()
	}
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.all, "\n")
}

// await waits for a line with text, from the beginning.
func (l *lines) await(ctx context.Context, text string, ended <-chan struct{}) (string, error) {
	for at := 0; ; {
		l.mu.Lock()
		for ; at < len(l.all); at++ {
			if strings.Contains(l.all[at], text) {
				defer l.mu.Unlock()
				return l.all[at], nil
			}
		}
		grew := l.grew
		l.mu.Unlock()
		select {
		case <-grew:
		case <-ended:
			return "", fmt.Errorf("the process ended before it said %q", text)
		case <-ctx.Done():
			return "", ctx.Err()
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func start(t *testing.T, ready string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: strings.Join(args, " "), cmd: exec.Command(program(t), args...), log: &lines{grew: make(chan struct{})}, done: make(chan struct{})}
	// Not a pipe of exec's own: Wait would wait for its end, and whoever
	// inherits it may outlive the process by a moment.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		defer r.Close()
		p.log.read(r)
	}()
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		if dir := os.Getenv("CONSILIUM_TEST_LOGS"); t.Failed() && dir != "" {
			// With what every goroutine was doing: a study that stands still says
			// nothing else.
			p.cmd.Process.Signal(syscall.SIGQUIT)
			select {
			case <-p.done:
			case <-time.After(3 * time.Second):
			}
			p.kill()
			time.Sleep(100 * time.Millisecond) // the last of it is being read
			name := strings.NewReplacer("/", "_", " ", "-").Replace(fmt.Sprintf("%s %s %d", t.Name(), p.name, p.cmd.Process.Pid))
			if err := os.WriteFile(filepath.Join(dir, name), []byte(p.log.String()), 0o600); err != nil {
				t.Log(err)
			}
		}
		p.kill()
		if t.Failed() {
			t.Logf("%s:\n%s", p.name, tail(p.log.String(), 4000))
		}
	})
	if ready != "" {
		if _, err := p.log.await(t.Context(), ready, p.done); err != nil {
			t.Fatalf("%s: %v\n%s", p.name, err, p.log)
		}
	}
	return p
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// kill is SIGKILL: no handler runs, nothing is handed over.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// stop is SIGTERM; the process drains and ends with code 0.
func (p *process) stop() {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.done
	if p.err != nil {
		p.t.Errorf("%s did not drain: %v", p.name, p.err)
	}
}

// nextPort starts somewhere below the ports that the system gives to outgoing
// connections: a port of that range can be taken again between the look and the
// use.
var nextPort atomic.Uint32

func init() { nextPort.Store(uint32(10000 + os.Getpid()*64%20000)) }

// freePort finds an address to listen on.
func freePort(t *testing.T) string {
	t.Helper()
	for range 2000 {
		address := fmt.Sprintf("127.0.0.1:%d", 10000+nextPort.Add(1)%20000)
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}

// kits is a federation on disk.
type kits struct {
	block   string // that holds the anchor of all ledgers
	dir     string
	health  map[string]string // of coordinators
	policy  string            // digest
	bundle  string
	witness string
	tables  map[string]string // by site
}

const (
	testSites = 5
	testNodes = 3
	testName  = "test.example"
)

const testStudy = `apiVersion: consilium/v1
kind: Study
metadata: {name: response}
spec:
  question: Does the treatment change how often patients respond?
  purpose: {duo: [DUO:0000042]}
  legal:
    start: 2000-01-01
    end: 2100-01-01
    protocol: test
    protocolColumns: [id, treat, age, response]
    commercial: false
    safeguards: {pseudonymised: true, minimised: true, accessLogged: true, noReidentification: true}
    identifiableReason: ""
    retention: [{object: working_copies, deleteBy: 2100-02-01, keepUntil: null}, {object: evidence, deleteBy: null, keepUntil: 2110-01-01}]
    assessment: ""
  data: {dataset: cohort, patient: id}
  sites: {min: 4, faults: 2, missing: wait}
  columns:
    id: {type: id}
    treat: [placebo, active]
    age: {type: number, unit: a, bounds: [0, 89]}
    response: flag
  seed: 7
  analysis: {type: glm, family: binomial, formula: "response ~ treat + age"}
  privacy: {min_cohort: 11}
  rounds: {max: 25, tolerance: 1e-9, deadline: 10m}
`

// makeTable draws one hospital's patients.
func makeTable(site int) string {
	r := mathrand.New(mathrand.NewPCG(1, uint64(site)))
	var b strings.Builder
	b.WriteString("id,arm,age,response\n")
	for i := range 20 + site {
		arm := []string{"placebo", "active"}[i%2]
		age := 20 + math.Floor(500*r.Float64())/10
		p := 1 / (1 + math.Exp(-(-1.2 + 0.9*float64(i%2) + 0.015*(age-45))))
		y := 0
		if r.Float64() < p {
			y = 1
		}
		fmt.Fprintf(&b, "%d,%s,%g,%d\n", 100*site+i, arm, age, y)
	}
	return b.String()
}

// provisionAll makes every kit with its owner's own command and distributes
// nothing but cards and the signed roster.
func provisionAll(t *testing.T) *kits { return provisionWitnessed(t, 1) }

// provisionWitnessed lets some of the three board members run witnesses, all but
// one of whom must cosign.
func provisionWitnessed(t *testing.T, witnesses int) *kits {
	t.Helper()
	k := &kits{dir: short(t), health: map[string]string{}, tables: map[string]string{}}
	cards := filepath.Join(k.dir, "cards")
	if err := os.MkdirAll(cards, 0o700); err != nil {
		t.Fatal(err)
	}
	k.witness = freePort(t)
	var members []string
	provision := func(role, id string, more ...string) {
		must(t, append([]string{"provision", role, "--dir", k.kit(id), "--federation", testName, "--id", id}, more...)...)
		b, err := os.ReadFile(filepath.Join(k.kit(id), kitCard))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(cards, id+".json"), string(b))
		members = append(members, id)
	}
	for i := range testSites {
		provision("site", site(i), "--country", "US", "--regimes", "HIPAA,COMMON_RULE")
	}
	for i := range testNodes {
		id := fmt.Sprintf("c%d", i+1)
		provision("coordinator", id, "--country", "US", "--address", freePort(t), "--raft", freePort(t))
		k.health[id] = freePort(t)
	}
	assemble := []string{}
	for i := range 3 {
		more := []string{}
		if i == 0 {
			more = []string{"--witness", k.witness}
		} else if i < witnesses {
			more = []string{"--witness", freePort(t)}
		}
		provision("board", fmt.Sprintf("board-%d", i+1), more...)
	}
	provision("team", policy.DefaultTeam, "--country", "US")
	roster := filepath.Join(k.dir, "roster.json")
	assemble = append(assemble, "provision", "roster", "--cards", cards, "--name", testName, "--threshold", "2", "--out", roster)
	if witnesses > 1 {
		if _, e, code := try(t.Context(), assemble...); code != exitUsage || !strings.Contains(e, "--quorum") {
			t.Errorf("several witnesses and no quorum: %d %s", code, e)
		}
		assemble = append(assemble, "--quorum", fmt.Sprint(witnesses-1))
	}
	must(t, assemble...)
	must(t, "provision", "sign", "--roster", roster, "--board", k.kit("board-1"))
	if _, stderr, code := try(t.Context(), "provision", "install", "--roster", roster, "--dir", k.kit(site(0))); code != exitFailed || !strings.Contains(stderr, "provision sign") {
		t.Errorf("a roster with one of two signatures was installed: %d %s", code, stderr)
	}
	must(t, "provision", "sign", "--roster", roster, "--board", k.kit("board-3"))
	for _, id := range members {
		must(t, "provision", "install", "--roster", roster, "--dir", k.kit(id))
	}
	k.bundle = filepath.Join(k.dir, "policy")
	k.freshLaw(t)
	k.policy = strings.TrimSpace(must(t, "policy", "digest", k.bundle))
	for i := range testSites {
		k.configure(t, i)
	}
	for id, address := range k.health {
		edit(t, filepath.Join(k.kit(id), kitConfig), "127.0.0.1:9490", address)
		edit(t, filepath.Join(k.kit(id), kitConfig), "timing: {heartbeat: 1s, commit: 50ms, drain: 10s}", "timing: {heartbeat: 500ms, commit: 5ms, drain: 2s}")
		copyTree(t, k.bundle, filepath.Join(k.kit(id), "policies", "board"))
	}
	return k
}

func site(i int) string { return fmt.Sprintf("site-%d", i+1) }

func (k *kits) kit(id string) string { return filepath.Join(k.dir, "kits", id) }

func (k *kits) config(id string) string { return filepath.Join(k.kit(id), kitConfig) }

// freshLaw writes the release's law as if it had been read today, so that the
// test does not fail by the calendar.
func (k *kits) freshLaw(t *testing.T) {
	t.Helper()
	b, ok := policy.DefaultBundle().File("law/law.json")
	if !ok {
		t.Fatal("the default policy has no law")
	}
	write(t, filepath.Join(k.bundle, "law", "law.json"),
		regexp.MustCompile(`"asOf": *"[^"]*"`).ReplaceAllString(string(b), `"asOf": "`+time.Now().UTC().Format(time.DateOnly)+`"`))
}

// configure does what a hospital's IT does after `provision site`.
func (k *kits) configure(t *testing.T, i int) {
	t.Helper()
	id := site(i)
	k.tables[id] = makeTable(i + 1)
	write(t, filepath.Join(k.kit(id), "cohort.csv"), k.tables[id])
	facts, err := policy.DefaultSite(consilium.SiteID(id))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(k.kit(id), "facts.json"), string(facts.JSON()))
	write(t, filepath.Join(k.kit(id), "register.json"), `{"default": {"adult": true, "citizenOrLPR": true}, "patients": {}}`)
	copyTree(t, k.bundle, filepath.Join(k.kit(id), "policies", "board"))
	path := k.config(id)
	edit(t, path, `witness: ""`, "witness: http://"+k.witness)
	edit(t, path, "health: 127.0.0.1:9480", `health: ""`)
	edit(t, path, "datasets: []", `datasets:
- name: cohort
  path: cohort.csv
  patient: id
  bind: {treat: arm}
  columns:
    id: {type: id}
    treat: [placebo, active]
    age: {type: number, unit: a, bounds: [0, 120]}
    response: flag`)
	var numbers strings.Builder
	for _, line := range strings.Split(k.tables[id], "\n")[1:] {
		if n, _, ok := strings.Cut(line, ","); ok {
			numbers.WriteString(n + "\n")
		}
	}
	write(t, filepath.Join(k.kit(id), "patients.txt"), numbers.String())
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func edit(t *testing.T, path, old, new string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		t.Fatalf("%s has no %q", path, old)
	}
	write(t, path, strings.Replace(string(b), old, new, 1))
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// leader asks the nodes' metrics.
func (k *kits) leader(ctx context.Context) (string, error) {
	for {
		for id, address := range k.health {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
			if err != nil {
				return "", err
			}
			resp, err := (&http.Client{Timeout: time.Second}).Do(req)
			if err != nil {
				continue // that node is down, or stands still
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil && strings.Contains(string(b), "\nconsilium_leader 1\n") {
				return id, nil
			}
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (k *kits) startNode(t *testing.T, id string) *process {
	t.Helper()
	return start(t, "coordinator runs", "coordinator", "--config", k.config(id))
}

func (k *kits) startSite(t *testing.T, id string) *process {
	t.Helper()
	return start(t, "worker runs", "worker", "--config", k.config(id))
}

// submit hands in the study and lets two of three members approve it.
func (k *kits) submit(t *testing.T, study string) string {
	t.Helper()
	var doc struct{ Study string }
	if err := json.Unmarshal([]byte(must(t, "study", "submit", "--study", study, "--kit", k.kit(policy.DefaultTeam), "--policy-digest", k.policy, "--json")), &doc); err != nil {
		t.Fatal(err)
	}
	must(t, "study", "approve", doc.Study, "--board", k.kit("board-1"))
	must(t, "study", "approve", doc.Study, "--board", k.kit("board-2"))
	return doc.Study
}

// result fetches a result and returns the bytes of its `result` half.
func (k *kits) result(t *testing.T, id, out string, more ...string) []byte {
	t.Helper()
	stdout := must(t, append([]string{"study", "result", id, "--kit", k.kit(policy.DefaultTeam), "--out", out, "--json"}, more...)...)
	var doc struct{ Result json.RawMessage }
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Result
}

// TestProcesses starts a federation from generated kits as separate processes,
// kills the leading coordinator and a worker in mid-round, and gets the same
// bytes as an undisturbed run and as plain sums.
func TestProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: -short")
	}
	r := bring(t)
	k, nodes, workers := r.kits, r.nodes, r.workers
	checkVaults(t, workers)
	study := filepath.Join(k.dir, "study.yaml")
	write(t, study, testStudy)
	board, _, err := openMemberKit(k.kit("board-3"))
	if err != nil {
		t.Fatal(err)
	}
	watch := board.wire(&env{stderr: io.Discard})
	defer watch.Close()

	// The disturbed run. The kills are triggered by events, so they fall in
	// mid-round on any machine.
	id := k.submit(t, study)
	const victim = "site-2"
	var leader string
	headers := map[uint32]int{}
	round := uint32(0)
	worker := 0
	// A study that does not go on is a failure with every log, not the test
	// binary's own time-out.
	hang, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	err = watch.FollowStudy(hang, consilium.StudyID(id), 0, func(ev *consilium.Event) error {
		switch ev.Kind {
		case consilium.EventOpened:
			o, err := consilium.ParseRoundOpened(ev.Body)
			if err != nil {
				return err
			}
			round = o.Round
		case consilium.EventMessage:
			m, err := consilium.ParseMessage(ev.Body)
			if err != nil {
				return err
			}
			if m.Kind == consilium.KindDecline || m.Kind == consilium.KindWithdraw {
				t.Errorf("%s: %s %q", m.By, m.Kind, m.Body)
			}
			if m.Kind != consilium.KindHeader {
				return nil
			}
			headers[round]++
			if round == 1 && m.By == victim && worker == 0 {
				worker++
				workers[victim].kill()
				workers[victim] = k.startSite(t, victim)
			}
			if round == 2 && leader == "" {
				if leader, err = k.leader(t.Context()); err != nil {
					return err
				}
				nodes[leader].kill()
			}
		case consilium.EventDone, consilium.EventAborted, consilium.EventRefused, consilium.EventCancelled:
			if ev.Kind != consilium.EventDone {
				t.Errorf("%s: %s", ev.Kind, ev.Body)
			}
			return errSeen
		}
		return nil
	})
	if !errors.Is(err, errSeen) || t.Failed() {
		t.Fatalf("the study did not complete: %v", err)
	}
	if leader == "" || worker != 1 || headers[2] < testSites {
		t.Fatalf("leader %q killed, worker restarted %d times, contributions %v", leader, worker, headers)
	}
	nodes[leader] = k.startNode(t, leader)
	trails := filepath.Join(k.dir, "trails")
	if err := os.MkdirAll(trails, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range testSites {
		must(t, "ledger", "audit", "--config", k.config(site(i)), "--study", id, "--wait", "2m", "--out", filepath.Join(trails, site(i)+".json"))
	}
	out := filepath.Join(k.dir, "out")
	disturbed := k.result(t, id, out, "--trails", trails)

	undisturbed := k.result(t, k.submit(t, study), filepath.Join(k.dir, "out2"))
	if !bytes.Equal(disturbed, undisturbed) {
		t.Errorf("the disturbed run's result differs:\n%s\n%s", disturbed, undisturbed)
	}
	file, err := studyfile.ParseWith([]byte(testStudy), studyfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	facts := consilium.Facts{Spec: file.Spec, MinCohort: file.Spec.Privacy.MinCohort, Permits: file.Spec.Privacy.Permits}
	var open []federation.PlainSite
	for i := range testSites {
		facts.Sites = append(facts.Sites, consilium.SiteID(site(i)))
		csv := strings.Replace(k.tables[site(i)], "id,arm,", "id,treat,", 1)
		open = append(open, federation.PlainSite{ID: consilium.SiteID(site(i)), CSV: []byte(csv)})
	}
	plain, err := federation.Plain(t.Context(), facts, open, false)
	if err != nil {
		t.Fatal(err)
	}
	if ok, where := identical(disturbed, plain.JSON); !ok {
		t.Errorf("the result differs from plain sums at %s:\n%s\n%s", where, disturbed, plain.JSON)
	}
	if !bytes.Contains(plain.JSON, []byte("treat:active")) {
		t.Errorf("the reference is empty: %s", plain.JSON)
	}

	again := func(id string) *process { return k.startSite(t, id) } // outlives a subtest
	t.Run("audit", func(t *testing.T) { audit(t, k, out) })
	t.Run("desk", func(t *testing.T) { atTheDesk(t, k, id) })
	t.Run("new rows", func(t *testing.T) { newRows(t, k, workers, again) })
	t.Run("vault restarts", func(t *testing.T) { vaultRestarts(t, workers[site(0)]) })
	t.Run("bad peer", func(t *testing.T) { badPeer(t, k) })
	node := func(id string) *process { return k.startNode(t, id) } // outlives a subtest
	t.Run("next roster", func(t *testing.T) { nextRoster(t, k, study, nodes, workers, node) })
	for _, p := range workers {
		p.stop()
	}
	for _, p := range nodes {
		p.stop()
	}
}

// checkVaults looks at what the system says of each vault.
func checkVaults(t *testing.T, workers map[string]*process) {
	t.Helper()
	for id, p := range workers {
		pid := vaultPid(t, p, "worker runs")
		if env, err := os.ReadFile("/proc/" + pid + "/environ"); err == nil && len(env) > 0 {
			t.Errorf("%s: the vault has an environment: %q", id, env)
		}
		if cmdline, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && strings.Contains(string(cmdline), "--") {
			t.Errorf("%s: the vault has arguments: %q", id, cmdline)
		}
		// Either the vault has a network of its own, or the gate has said that the
		// system refuses one.
		if own, err := os.Readlink("/proc/" + pid + "/ns/net"); err == nil {
			gates, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.cmd.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			if own == gates && !strings.Contains(p.log.String(), "this system refuses another") {
				t.Errorf("%s: the vault shares the gate's network and nobody was told", id)
			}
		}
		fds, err := os.ReadDir("/proc/" + pid + "/fd")
		if err != nil {
			t.Logf("the system shows no open files of a process: %v", err)
			continue
		}
		for _, fd := range fds {
			if target, err := os.Readlink("/proc/" + pid + "/fd/" + fd.Name()); err == nil && strings.HasPrefix(target, "socket:") {
				t.Errorf("%s: the vault holds a socket: file %s, %s", id, fd.Name(), target)
			}
		}
	}
}

var vaultPattern = regexp.MustCompile(`vault=(\d+)`)

func vaultPid(t *testing.T, p *process, text string) string {
	t.Helper()
	line, err := p.log.await(t.Context(), text, p.done)
	if err != nil {
		t.Fatal(err)
	}
	m := vaultPattern.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("no vault in %q", line)
	}
	return m[1]
}

// vaultRestarts kills a vault and finds a new one under the same gate.
func vaultRestarts(t *testing.T, p *process) {
	old := vaultPid(t, p, "worker runs")
	var pid int
	fmt.Sscan(old, &pid)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := p.log.await(t.Context(), "starting it again", p.done); err != nil {
		t.Fatal(err)
	}
	for at := 0; ; {
		p.log.mu.Lock()
		grew, text := p.log.grew, strings.Join(p.log.all[at:], "\n")
		p.log.mu.Unlock()
		if strings.Count(text, "worker runs") == 2 {
			return
		}
		select {
		case <-grew:
		case <-p.done:
			t.Fatalf("the worker ended: %v", p.err)
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

var anchorContract = chain.Address{0xc0, 0x11}

// inChain anchors the heads of all hospitals' ledgers and makes every worker
// demand it.
func (k *kits) inChain(t *testing.T) {
	t.Helper()
	roster, err := pinned.OpenRoster(filepath.Join(k.kit(site(0)), kitRoster), filepath.Join(k.kit(site(0)), kitBoard))
	if err != nil {
		t.Fatal(err)
	}
	var checkpoints [][]byte
	for i := range testSites {
		checkpoints = append(checkpoints, []byte(mustRead(t, filepath.Join(k.kit(site(i)), "data", "ledger", "checkpoint"))))
	}
	heads, err := provenance.Heads(roster.Roster, checkpoints, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a, block, err := chaintest.Anchor(anchorContract, 1, heads, 700, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	k.block = block.String()
	for i := range testSites {
		home := k.kit(site(i))
		if err := os.MkdirAll(filepath.Join(home, "anchors"), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(home, "anchors", "epoch-1.json"), string(b))
		write(t, filepath.Join(home, "blocks"), k.block+"\n")
		write(t, k.config(site(i)), mustRead(t, k.config(site(i)))+"\nanchors: {path: anchors, contract: "+anchorContract.String()+", blocks: blocks, max_age: 24h}\n")
	}
}

// audit verifies the archive and changes one byte of each of its files.
func audit(t *testing.T, k *kits, out string) {
	if s := must(t, "study", "audit", out); !strings.Contains(s, "give --contract and --block to prove it") {
		t.Errorf("anchors that were not proven:\n%s", s)
	}
	if s := must(t, "study", "audit", out, "--contract", anchorContract.String(), "--block", k.block); strings.Count(s, "stand in a chain, epoch 1") != testSites {
		t.Errorf("anchors that were proven:\n%s", s)
	}
	if _, e, code := try(t.Context(), "study", "audit", out, "--contract", chain.Address{1}.String(), "--block", k.block); code != exitFailed || !strings.Contains(e, "anchor") {
		t.Errorf("anchors in another contract: %d %s", code, e)
	}
	if !strings.Contains(mustRead(t, filepath.Join(out, "audit", "site-"+site(0)+".json")), "epoch") {
		t.Error("the trail does not say under which anchor rows were used")
	}
	stdout := must(t, "study", "audit", out, "--board", filepath.Join(k.kit(policy.DefaultTeam), kitBoard))
	for _, want := range []string{"took part: site-1, site-2, site-3, site-4, site-5", "release allowed by", "everything fits", "uses of records"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the audit does not say %q:\n%s", want, stdout)
		}
	}
	dir := filepath.Join(out, "audit")
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 11+testSites {
		t.Errorf("%d files in the archive", len(list))
	}
	for _, f := range list {
		path := filepath.Join(dir, f.Name())
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{0, len(b) / 2, len(b) - 1} {
			changed := bytes.Clone(b)
			changed[at] ^= 1
			if err := os.WriteFile(path, changed, 0o644); err != nil {
				t.Fatal(err)
			}
			_, stderr, code := try(t.Context(), "study", "audit", out)
			if code != exitFailed || !strings.Contains(stderr, f.Name()) {
				t.Errorf("%s with byte %d changed: exit code %d, %s", f.Name(), at, code, stderr)
			}
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	must(t, "study", "audit", dir)
}

// atTheDesk withdraws a consent while the worker runs.
func atTheDesk(t *testing.T, k *kits, study string) {
	config := k.config(site(0))
	if s := must(t, "consent", "accesses", "--config", config, "--patient", "100"); !strings.Contains(s, study) || !strings.Contains(s, "released") {
		t.Errorf("the patient is not told of %s:\n%s", study, s)
	}
	// With proofs that the patient checks at home, and that bind the hospital.
	proof := filepath.Join(k.dir, "accesses.json")
	must(t, "consent", "accesses", "--config", config, "--patient", "100", "--proof", proof)
	roster := filepath.Join(k.kit(site(0)), kitRoster)
	board := filepath.Join(k.kit(site(0)), kitBoard)
	genuine := must(t, "consent", "accesses", "--check", proof, "--roster", roster, "--board", board)
	if s := must(t, "consent", "accesses", "--check", proof, "--roster", roster); strings.Contains(s, "Genuine") || !strings.Contains(s, "compare them") {
		t.Errorf("under a roster that nobody checked: %s", s)
	}
	if s, err := pinned.OpenRoster(roster, board); err != nil {
		t.Error(err)
	} else if err := writeSigned(roster+".unsigned", &consilium.Signed{Payload: s.Signed.Payload}); err != nil {
		t.Error(err)
	}
	if _, e, code := try(t.Context(), "consent", "accesses", "--check", proof, "--roster", roster+".unsigned"); code == exitDone || !strings.Contains(e, "has not signed") {
		t.Errorf("under an unsigned roster: %d %s", code, e)
	}
	write(t, proof+".bad", `{"statement":{},"signature":"","records":[null]}`)
	if _, _, code := try(t.Context(), "consent", "accesses", "--check", proof+".bad", "--roster", roster); code == exitDone {
		t.Error("a list without proofs")
	}
	if !strings.Contains(genuine, "Genuine") || !strings.Contains(genuine, study) || !strings.Contains(genuine, "ordinary health records") {
		t.Error(genuine)
	}
	b, err := os.ReadFile(proof)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(b); i += len(b)/40 + 1 {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		write(t, proof+".bad", string(bad))
		if s, _, code := try(t.Context(), "consent", "accesses", "--check", proof+".bad", "--roster", roster, "--board", board); code == exitDone && s != genuine {
			// The trail's links to other studies are bare digests, and say nothing here.
			t.Errorf("byte %d of %d may change what is believed: %s", i, len(b), s)
		}
	}
	if s := must(t, "consent", "accesses", "--config", config, "--patient", "999"); strings.Contains(s, study) {
		t.Errorf("a stranger is told of %s:\n%s", study, s)
	}
	if s := must(t, "consent", "show", "--config", config, "--patient", "100"); !strings.Contains(s, "active") {
		t.Error(s)
	}
	if s := must(t, "consent", "withdraw", "--config", config, "--patient", "100", "--keys", filepath.Join(k.kit(site(0)), "patients")); !strings.Contains(s, "  ended: ") || !strings.Contains(s, study) || strings.Contains(s, "  running: ") {
		t.Errorf("what a withdrawal asks for:\n%s", s)
	}
	if s := must(t, "consent", "show", "--config", config, "--patient", "100"); !strings.Contains(s, "withdrawn") {
		t.Error(s)
	}
	if _, stderr, code := try(t.Context(), "ledger", "anchor", "--config", config); code == exitDone || !strings.Contains(stderr, "stop it") {
		t.Errorf("anchoring beside a running worker: %d %s", code, stderr)
	}
	if s := must(t, "ledger", "verify", "--config", config); !strings.Contains(s, "entries verify") {
		t.Error(s)
	}
	if s := must(t, "worker", "disclosed", "--config", config); !strings.Contains(s, study+", asked by "+policy.DefaultTeam) || !strings.Contains(s, "over 5 hospitals") || !strings.Contains(s, "result released") {
		t.Errorf("what was disclosed:\n%s", s)
	}
	if s := must(t, "worker", "check", "--config", config); strings.Contains(s, "FAILS") || strings.Count(s, "coordinator c") != testNodes || !strings.Contains(s, "1 anchors are proven; epoch 1, in block 700") || !strings.Contains(s, "agrees with the witness") {
		t.Errorf("preflight of a hospital in order:\n%s", s)
	}
	broken := filepath.Join(k.kit(site(0)), "broken.yaml")
	b, err = os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, broken, strings.Replace(strings.Replace(string(b), "path: cohort.csv", "path: gone.csv", 1), "http://"+k.witness, "http://127.0.0.1:1", 1))
	elsewhere := filepath.Join(k.kit(site(0)), "elsewhere.yaml")
	write(t, elsewhere, strings.Replace(string(b), anchorContract.String(), chain.Address{2}.String(), 1))
	if s, _, code := try(t.Context(), "worker", "check", "--config", elsewhere); code != exitFailed || !strings.Contains(s, "FAILS  anchors") {
		t.Errorf("anchors of another contract: %d %s", code, s)
	}
	write(t, elsewhere, strings.Replace(string(b), ", blocks: blocks", "", 1))
	if s, _, code := try(t.Context(), "worker", "check", "--config", elsewhere); code != exitFailed || !strings.Contains(s, "needed together") {
		t.Errorf("half a demand: %d %s", code, s)
	}
	var doc struct {
		OK     bool
		Checks []finding
	}
	out, _, code := try(t.Context(), "worker", "check", "--config", broken, "--json")
	first, _, _ := strings.Cut(out, "\n") // a failed command says so in a second document
	if err := json.Unmarshal([]byte(first), &doc); err != nil || code != exitFailed || doc.OK {
		t.Fatalf("preflight of a broken hospital: %d %v %s", code, err, out)
	}
	failed := map[string]string{}
	for _, f := range doc.Checks {
		if !f.OK {
			failed[f.Check] = f.Next
		}
	}
	if len(failed) != 2 || failed["table cohort"] == "" || failed["witness"] == "" {
		t.Errorf("the preflight found %v", failed)
	}
	unanchored(t, k)
}

// unanchored: a name drawn for a table is not a batch of it in the ledger, and a
// ledger shorter than the vault has seen is not the ledger.
func unanchored(t *testing.T, k *kits) {
	t.Helper()
	kit := k.kit(site(0))
	other := filepath.Join(k.dir, "other")
	b, err := os.ReadFile(k.config(site(0)))
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(kit, "other.yaml")
	write(t, config, regexp.MustCompile(`(?m)^data: .*$`).ReplaceAllString(string(b), "data: "+other))
	copyTree(t, filepath.Join(kit, "data", "ledger"), filepath.Join(other, "ledger"))
	check := func(says string) {
		t.Helper()
		out, _, code := try(t.Context(), "worker", "check", "--config", config)
		if code != exitFailed || strings.Count(out, "FAILS") != 1 || !strings.Contains(out, "FAILS  ledger") || !strings.Contains(out, says) {
			t.Errorf("%d, want %q:\n%s", code, says, out)
		}
	}
	check("no batch of cohort")
	write(t, filepath.Join(other, "streams.json"), fmt.Sprintf(`{"cohort": %q}`, provenance.NewID()))
	check("no batch of cohort")
	copyTree(t, filepath.Join(kit, "data", "vault"), filepath.Join(other, "vault"))
	if err := os.MkdirAll(vault.StopDir(filepath.Join(other, "vault")), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(other, "ledger", "checkpoint"), "")
	check("ledger")
}

// newRows anchors again after a table has grown and one row was corrected: what
// was anchored keeps its place.
func newRows(t *testing.T, k *kits, workers map[string]*process, again func(id string) *process) {
	const id = "site-3"
	workers[id].stop()
	path := filepath.Join(k.kit(id), "cohort.csv")
	anchor := func() []step {
		out, err := exec.Command(program(t), "ledger", "anchor", "--config", k.config(id), "--json").Output()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var doc struct{ Datasets []step }
		if err := json.Unmarshal(out, &doc); err != nil {
			t.Fatal(err)
		}
		return doc.Datasets
	}
	rows := strings.Count(k.tables[id], "\n") - 1
	if s := anchor(); len(s) != 1 || s[0].Rows != rows || s[0].New != 0 || s[0].Gone != 0 {
		t.Errorf("an unchanged table: %+v", s)
	}
	first := strings.SplitN(k.tables[id], "\n", 3)[1]
	write(t, path, strings.Replace(k.tables[id], first, strings.Replace(first, ",placebo,", ",active,", 1), 1)+"398,active,51,1\n399,placebo,52,0\n")
	if s := anchor(); len(s) != 1 || s[0].Rows != rows+2 || s[0].New != 3 || s[0].Changed != 1 || s[0].Gone != 0 {
		t.Errorf("two new rows and a corrected one: %+v", s)
	}
	if s := anchor(); len(s) != 1 || s[0].Rows != rows+2 || s[0].New != 0 || s[0].Gone != 0 {
		t.Errorf("the same again: %+v", s)
	}
	workers[id] = again(id)
}

// nextRoster replaces a coordinator node while everything runs: the board signs a
// roster with a new one and without an old one, everybody installs it, and no
// process is restarted.
func nextRoster(t *testing.T, k *kits, study string, nodes, workers map[string]*process, again func(id string) *process) {
	const leaves, comes = "c1", "c4"
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	k.health[comes] = freePort(t)
	must(t, "provision", "coordinator", "--dir", k.kit(comes), "--federation", testName, "--id", comes, "--country", "US", "--address", freePort(t), "--raft", freePort(t))
	cards := filepath.Join(k.dir, "cards")
	b, err := os.ReadFile(filepath.Join(k.kit(comes), kitCard))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(cards, comes+".json"), string(b))
	if err := os.Remove(filepath.Join(cards, leaves+".json")); err != nil {
		t.Fatal(err)
	}
	first, next := filepath.Join(k.dir, "roster.json"), filepath.Join(k.dir, "roster-2.json")
	must(t, "provision", "roster", "--cards", cards, "--name", testName, "--threshold", "2", "--previous", first, "--out", next)
	must(t, "provision", "sign", "--roster", next, "--board", k.kit("board-1"))
	must(t, "provision", "sign", "--roster", next, "--board", k.kit("board-3"))
	members := []string{"c2", "c3", comes, "board-1", "board-2", "board-3", policy.DefaultTeam}
	for i := range testSites {
		members = append(members, site(i))
	}
	for _, id := range members {
		must(t, "provision", "install", "--roster", next, "--dir", k.kit(id))
	}
	edit(t, k.config(comes), "127.0.0.1:9490", k.health[comes])
	edit(t, k.config(comes), "timing: {heartbeat: 1s, commit: 50ms, drain: 10s}", "timing: {heartbeat: 500ms, commit: 5ms, drain: 2s}")
	copyTree(t, k.bundle, filepath.Join(k.kit(comes), "policies", "board"))
	nodes[comes] = again(comes)
	if _, err := nodes[comes].log.await(ctx, "added to the cluster", nodes[comes].done); err != nil {
		t.Fatal(err)
	}
	for id, p := range workers {
		if _, err := p.log.await(ctx, "roster in force", p.done); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	// The node that left can stop; so can one more, since the new one votes.
	nodes[leaves].stop()
	delete(nodes, leaves)
	delete(k.health, leaves)
	removed := make(chan string, 3)
	for id, p := range nodes {
		go func() {
			if _, err := p.log.await(ctx, `msg="node removed"`, p.done); err == nil {
				removed <- id
			}
		}()
	}
	select {
	case <-removed:
	case <-ctx.Done():
		t.Fatal("no leader took the old node out")
	}
	nodes["c2"].stop()
	delete(nodes, "c2")
	delete(k.health, "c2")
	id := k.submit(t, study) // two of three nodes acknowledge it, the new one among them
	if s := must(t, "study", "status", id, "--kit", k.kit(policy.DefaultTeam)); !strings.Contains(s, id) {
		t.Error(s)
	}
}

// badPeer sends garbage and a forged certificate to every port of a node and
// finds the federation as it was.
func badPeer(t *testing.T, k *kits) {
	r, _, err := openMemberKit(k.kit("board-3"))
	if err != nil {
		t.Fatal(err)
	}
	garbage := make([]byte, 1<<16)
	if _, err := rand.Read(garbage); err != nil {
		t.Fatal(err)
	}
	for _, c := range r.roster.Coordinators {
		for _, address := range []string{c.Address, c.Raft} {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			// The node may close before all is sent: that is its answer.
			conn.Write(garbage)
			conn.(*net.TCPConn).CloseWrite()
			if b, _ := io.ReadAll(io.LimitReader(conn, 1<<10)); len(b) > 64 {
				t.Errorf("%s answered garbage with %d bytes", address, len(b))
			}
			conn.Close()
		}
	}
	forged, err := wire.NewCertificate("board-3", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	w := wire.NewClient(wire.ClientOptions{Certificate: forged, Book: r.book})
	defer w.Close()
	if _, err := w.List(t.Context()); !errors.Is(err, consilium.ErrUnauthenticated) || !strings.Contains(err.Error(), "current roster") {
		t.Errorf("a forged certificate: %v", err)
	}
	if s := must(t, "study", "list", "--kit", k.kit("board-3")); strings.Count(s, "done") != 2 {
		t.Errorf("the federation has lost a study:\n%s", s)
	}
}
