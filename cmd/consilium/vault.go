package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"consilium"
	"consilium/internal/durable"
	"consilium/internal/hatch"
	"consilium/internal/wire"
	"consilium/policy"
	"consilium/provenance"
	"consilium/provenance/chain"
	"consilium/worker/vault"
)

// The vault is a child process of the gate: the same binary, with an empty
// environment, no identity key, no address of anything and, where the system
// can, no network. Its standard input begins with one frame, its settings; then
// come the calls of internal/hatch, or the steps of an anchoring.

// vaultSettings is everything that a vault is told. The secrets in it travel
// on the pipe and are in no file that the vault's owner could read beside it,
// in no argument and in no environment.
type vaultSettings struct {
	Task      string                         `json:"task"` // serve, anchor, rows, receipt or erase
	Site      consilium.SiteID               `json:"site"`
	Dir       string                         `json:"dir"`
	Datasets  []vault.Dataset                `json:"datasets"`
	Pseudonym []byte                         `json:"pseudonym"`
	KEK       []byte                         `json:"kek"`
	LedgerDir string                         `json:"ledgerDir"`
	Origin    string                         `json:"origin"`  // of the ledger
	Ledger    string                         `json:"ledger"`  // its verifier key
	SiteKey   consilium.PublicKey            `json:"siteKey"` // the hospital's public identity key
	Witnesses provenance.WitnessPolicy       `json:"witnesses"`
	Anchors   *chain.Watch                   `json:"anchors,omitempty"`
	BoardKeys map[string]consilium.PublicKey `json:"boardKeys"`
	Threshold int                            `json:"threshold"`
	Facts     json.RawMessage                `json:"facts"`
	Register  *register                      `json:"register"`
	Policies  string                         `json:"policies"`
	Budget    *vault.Budget                  `json:"budget,omitempty"`
	Log       slog.Level                     `json:"log"`
	Keep      time.Duration                  `json:"keep"`            // of replays, as vault.Config has it
	Study     consilium.StudyID              `json:"study,omitempty"` // task replay
	Streams   []streamSource                 `json:"streams,omitempty"`
	Dataset   string                         `json:"dataset,omitempty"` // task receipt
	Patient   string                         `json:"patient,omitempty"` // tasks receipt and erase
	Remove    bool                           `json:"remove,omitempty"`  // task erase: the rows too
}

// maxSettings bounds the frame: a register with an entry for each of a
// million patients fits.
const maxSettings = 256 << 20

func writeFrame(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxSettings {
		return fmt.Errorf("a frame of %d bytes, at most %d", len(b), maxSettings)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxSettings {
		return fmt.Errorf("a frame of %d bytes, at most %d", n, maxSettings)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return strictJSON(b, v)
}

// greeting is the child's first frame.
type greeting struct {
	Error  string         `json:"error"`
	Code   consilium.Code `json:"code"`
	Locked bool           `json:"locked"` // another vault still holds the directory
}

// greet says that the child is ready, or why not, and returns err.
func greet(e *env, err error) error {
	g := greeting{}
	if err != nil {
		g = greeting{Error: err.Error(), Code: consilium.CodeOf(err), Locked: errors.Is(err, durable.ErrLocked)}
	}
	return errors.Join(writeFrame(e.stdout, g), err)
}

// runVault is the child.
func runVault(ctx context.Context, e *env, args []string) error {
	if len(args) > 0 {
		return usagef("the worker starts its vault itself")
	}
	if err := dropSockets(); err != nil {
		return fmt.Errorf("close inherited sockets: %w", err)
	}
	var s vaultSettings
	if err := readFrame(e.stdin, &s); err != nil {
		return fmt.Errorf("settings: %w; the worker starts its vault itself", err)
	}
	slog.SetDefault(s.logger(e.stderr)) // of the engines, which have none of their own
	switch s.Task {
	case "anchor":
		return s.anchor(context.WithoutCancel(ctx), e)
	case "rows", "receipt", "erase":
		return s.clerical(context.WithoutCancel(ctx), e)
	}
	v, err := s.open(e.stderr)
	if err := greet(e, err); err != nil {
		return err
	}
	defer v.Close()
	if s.Task == "replay" {
		return s.replay(context.WithoutCancel(ctx), e, v)
	}
	// Signals are the gate's business: a terminal sends them to both, and a
	// cancelled call would look like a failed study. The vault ends when its
	// input does.
	return hatch.Serve(context.WithoutCancel(ctx), e.stdin, e.stdout, v)
}

func (s *vaultSettings) open(stderr io.Writer) (*vault.Vault, error) {
	kek, err := provenance.ParseKEK(s.KEK)
	if err != nil {
		return nil, err
	}
	facts, err := policy.ParseSiteFacts(s.Facts)
	if err != nil {
		return nil, err
	}
	policies, err := openShelf(s.Policies)
	if err != nil {
		return nil, err
	}
	if s.Register == nil {
		return nil, errors.New("no register")
	}
	return vault.Open(vault.Config{
		Site: s.Site, Dir: s.Dir, Datasets: s.Datasets, Pseudonym: s.Pseudonym, KEK: kek, LedgerDir: s.LedgerDir,
		Witnesses: s.Witnesses, Anchors: s.Anchors, BoardKeys: s.BoardKeys, Threshold: s.Threshold,
		Keep: s.Keep, Facts: facts, Register: s.Register.of, Policies: policies.find, Learned: learned(), Budget: s.Budget,
		Log: s.logger(stderr),
	})
}

func (s *vaultSettings) logger(stderr io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: s.Log})).With("room", "vault")
}

// child is a running vault process.
type child struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	ended chan struct{} // closed when the process has ended
	err   error         // how, once ended is closed

}

// lockedWait is how long a new vault waits for an old one to let go of the
// directory: after a kill the kernel takes a moment.
const lockedWait = 20 * time.Second

// greetingWait is how long a vault may take to open what it has on disk. One that
// stands still is ended.
const greetingWait = 10 * time.Minute

// startVault starts a vault and waits for its greeting, or until ctx ends. With
// isolation "required" it fails where the child cannot have its own network;
// otherwise it says so in the log. A child that ended before it said anything is
// an errVaultEnded: somebody killed it, or the system did.
func startVault(ctx context.Context, s *vaultSettings, isolation string, stderr io.Writer, log *slog.Logger) (*child, error) {
	deadline := time.Now().Add(lockedWait)
	netless := true
	for {
		c, err := spawnVault(netless, stderr)
		if err != nil && netless {
			if isolation == "required" {
				return nil, fmt.Errorf("the vault cannot get its own network here: %w; allow user namespaces, or set isolation: best", err)
			}
			log.Warn("the vault runs in the system's network namespace: this system refuses another", "reason", err)
			netless = false
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("the vault does not start: %w", err)
		}
		g, err := c.meet(ctx, s)
		if err != nil {
			return nil, err
		}
		if g.Error == "" {
			return c, nil
		}
		c.kill()
		if !g.Locked || time.Now().After(deadline) {
			return nil, &consilium.Error{Code: g.Code, Msg: g.Error}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// meet gives a child its settings and waits for its greeting. A child that takes
// neither, such as a stopped process, fills the pipe and stays silent: the end of
// ctx ends it, and so what waits for it here.
func (c *child) meet(ctx context.Context, s *vaultSettings) (g greeting, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, greetingWait, fmt.Errorf("%w: it did not greet within %v", errVaultEnded, greetingWait))
	defer cancel()
	defer context.AfterFunc(ctx, c.kill)()
	if err = writeFrame(c.in, s); err == nil {
		err = readFrame(c.out, &g)
	}
	if err == nil {
		return g, nil
	}
	c.kill()
	if ctx.Err() != nil {
		return g, context.Cause(ctx)
	}
	return g, fmt.Errorf("%w before it said why: %w: %w", errVaultEnded, err, c.err)
}

// vaultProgram is what a vault's process runs: this very binary, but in tests.
var vaultProgram = os.Executable

func spawnVault(netless bool, stderr io.Writer) (*child, error) {
	self, err := vaultProgram()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "worker", "vault")
	cmd.Env = []string{} // nil would mean the parent's
	cmd.Dir = "/"
	if d := filepath.VolumeName(self); d != "" {
		cmd.Dir = d + string(filepath.Separator)
	}
	// A writer that is no file: the child gets a pipe, whatever this process's
	// own standard error is.
	cmd.Stderr = struct{ io.Writer }{stderr}
	bind(cmd)
	if netless && !isolate(cmd) {
		return nil, errors.New("no network namespaces on this system")
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, in: in, out: bufio.NewReaderSize(out, 1<<16), ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The child ends with this thread, so the thread waits for the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		state, err := cmd.Process.Wait()
		if err == nil && !state.Success() {
			err = fmt.Errorf("the vault ended: %s", state)
		}
		c.err = err
		close(c.ended)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// kill ends the process at once and waits for it.
func (c *child) kill() {
	c.cmd.Process.Kill()
	<-c.ended
}

// killAfter ends a process that has not ended by itself so long after ctx. Whoever
// writes into the pipe of one that stands still waits until then.
func (c *child) killAfter(ctx context.Context, patience time.Duration) {
	context.AfterFunc(ctx, func() {
		t := time.NewTimer(patience)
		defer t.Stop()
		select {
		case <-c.ended:
		case <-t.C:
			c.kill()
		}
	})
}

// stop lets the process finish what it does: its input ends.
func (c *child) stop(patience time.Duration) error {
	c.in.Close()
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-c.ended:
		return c.err
	case <-t.C:
		c.kill()
		return errors.New("the vault did not end in time and was killed")
	}
}

// vaultCalls carries a gate's calls to the child. A vault that has ended is a
// passing trouble for the gate, never an answer: the gate is about to be
// restarted with a new vault, and neither loses a promise.
type vaultCalls struct {
	pipe *hatch.Pipe
	once sync.Once
	dead chan struct{} // closed when the pipe has ended
}

func newVaultCalls(c *child) *vaultCalls {
	v := &vaultCalls{pipe: hatch.Dial(c.in), dead: make(chan struct{})}
	go func() {
		v.pipe.Run(c.out)
		v.once.Do(func() { close(v.dead) })
	}()
	return v
}

// errVaultGone matches consilium.ErrUnavailable: the call may be repeated.
var errVaultGone = &consilium.Error{Code: consilium.ErrUnavailable.Code, Msg: "the vault is being restarted"}

// outward gives an error that crossed the pipe its sentinel back, by the table
// that the network uses. A gate tells others a sentinel's words and nothing of
// its cause, and the pipe carries both in one text.
func (v *vaultCalls) outward(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	var e *consilium.Error
	switch {
	case !errors.As(err, &e):
		return errVaultGone.With(err)
	case e.Code == consilium.CodeOf(errors.New("")):
		return errors.New(e.Error())
	case e.Code == consilium.ErrUnavailable.Code:
		return e // the call is repeated, and what it waits for is told to nobody but the log
	}
	return wire.FromStatus(wire.Status(err))
}

func carried[R any](ctx context.Context, v *vaultCalls, r R, err error) (R, error) {
	return r, v.outward(ctx, err)
}

func (v *vaultCalls) Admit(ctx context.Context, a hatch.AdmitRequest) (hatch.AdmitReply, error) {
	r, err := v.pipe.Admit(ctx, a)
	return carried(ctx, v, r, err)
}

func (v *vaultCalls) Start(ctx context.Context, a hatch.StartRequest) (hatch.Shape, error) {
	r, err := v.pipe.Start(ctx, a)
	return carried(ctx, v, r, err)
}

func (v *vaultCalls) Local(ctx context.Context, a hatch.LocalRequest) (hatch.LocalReply, error) {
	r, err := v.pipe.Local(ctx, a)
	return carried(ctx, v, r, err)
}

func (v *vaultCalls) Lanes(ctx context.Context, study consilium.StudyID, round uint32, offset, count int) ([]int32, error) {
	r, err := v.pipe.Lanes(ctx, study, round, offset, count)
	return carried(ctx, v, r, err)
}

func (v *vaultCalls) Sums(ctx context.Context, study consilium.StudyID, round uint32, offset int, sums []int64) error {
	return v.outward(ctx, v.pipe.Sums(ctx, study, round, offset, sums))
}

func (v *vaultCalls) State(ctx context.Context, study consilium.StudyID, offset, count int) ([]byte, error) {
	r, err := v.pipe.State(ctx, study, offset, count)
	return carried(ctx, v, r, err)
}

func (v *vaultCalls) Update(ctx context.Context, a hatch.UpdateRequest) (hatch.Shape, error) {
	r, err := v.pipe.Update(ctx, a)
	return carried(ctx, v, r, err)
}

func (v *vaultCalls) Adopt(ctx context.Context, a hatch.AdoptRequest) (hatch.Shape, error) {
	r, err := v.pipe.Adopt(ctx, a)
	return carried(ctx, v, r, err)
}

func (v *vaultCalls) Release(ctx context.Context, a hatch.ReleaseRequest) (hatch.ReleaseReply, error) {
	r, err := v.pipe.Release(ctx, a)
	return carried(ctx, v, r, err)
}

func (v *vaultCalls) Opening(ctx context.Context, study consilium.StudyID, round uint32) error {
	return v.outward(ctx, v.pipe.Opening(ctx, study, round))
}

func (v *vaultCalls) Opened(ctx context.Context, study consilium.StudyID, round uint32) error {
	return v.outward(ctx, v.pipe.Opened(ctx, study, round))
}

func (v *vaultCalls) Forget(ctx context.Context, study consilium.StudyID) error {
	return v.outward(ctx, v.pipe.Forget(ctx, study))
}
