package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"
	_ "time/tzdata" // schedules name zones, and a bare machine has none

	"consilium"
	"consilium/internal/durable"
	"consilium/worker"
)

// A pause is a file in the data directory: it outlives restarts of the worker
// and of the machine, and holds until `worker resume` takes it away.

const pausedFile = "paused"

func (c *workerConfig) pausedPath() string { return filepath.Join(c.Data, pausedFile) }

// isPaused fails towards a pause: a file that cannot be looked for may be there.
func (c *workerConfig) isPaused() bool {
	_, err := os.Stat(c.pausedPath())
	return !errors.Is(err, fs.ErrNotExist)
}

// watchPause tells the gate that runs.
func (w *runningWorker) watchPause(ctx context.Context) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		if g := w.gate.Load(); g != nil {
			g.Pause(w.config.isPaused())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func runWorkerPause(ctx context.Context, e *env, args []string) error {
	_, _, c, err := pauseFlags(e, args, false)
	if err != nil {
		return err
	}
	return c.pause(e)
}

func (c *workerConfig) pause(e *env) error {
	note := fmt.Sprintf("since %s; `consilium worker resume` ends it\n", time.Now().UTC().Format(time.RFC3339))
	if err := durable.WriteFile(c.pausedPath(), []byte(note), 0o600); err != nil {
		return err
	}
	return say(e, map[string]any{"paused": true}, "paused: nothing new begins here; what has begun goes on")
}

func runWorkerResume(_ context.Context, e *env, args []string) error {
	_, _, c, err := pauseFlags(e, args, false)
	if err != nil {
		return err
	}
	if err := os.Remove(c.pausedPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := durable.OS.SyncDir(c.Data); err != nil {
		return err
	}
	return say(e, map[string]any{"paused": false}, "resumed")
}

// runWorkerDrain pauses, and waits until no other hospital waits for this one.
func runWorkerDrain(ctx context.Context, e *env, args []string) error {
	_, wait, c, err := pauseFlags(e, args, true)
	if err != nil {
		return err
	}
	if err := c.pause(&env{stdout: e.stderr}); err != nil {
		return err
	}
	deadline := time.Now().Add(wait)
	for {
		busy, err := c.busy()
		switch {
		case err != nil:
			return err
		case busy == 0:
			return say(e, map[string]any{"busy": 0}, "drained: the worker can be stopped and nobody waits for it; `consilium worker resume` after it is back")
		case time.Now().After(deadline):
			return &consilium.Error{Code: consilium.ErrUnavailable.Code, Msg: fmt.Sprintf("%d open rounds still count on this hospital after %s", busy, wait),
				Next: "wait longer; or stop the worker all the same: nothing is lost, the others wait"}
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func pauseFlags(e *env, args []string, drain bool) (path string, wait time.Duration, c *workerConfig, err error) {
	flags := e.flags()
	config := flags.String("config", "", "the worker's config `file`")
	patience := new(time.Duration)
	if drain {
		patience = flags.Duration("wait", time.Hour, "for how `long` to wait")
	}
	rest, err := e.parse(flags, args)
	if err != nil {
		return "", 0, nil, err
	}
	if len(rest) > 0 {
		return "", 0, nil, usagef("unexpected %q", rest[0])
	}
	c = &workerConfig{}
	return *config, *patience, c, readConfig(*config, "Worker", c)
}

// busy asks the running worker, over its desk, how many open rounds count on it.
// The answer holds a pause: the worker has seen it.
func (c *workerConfig) busy() (int, error) {
	conn, err := net.Dial("unix", c.socket())
	if err != nil {
		return 0, &consilium.Error{Code: consilium.ErrUnavailable.Code, Msg: "no worker is running here", Next: "there is nothing to drain"}
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if err := json.NewEncoder(conn).Encode(deskRequest{Busy: true}); err != nil {
		return 0, err
	}
	in := bufio.NewScanner(conn)
	if !in.Scan() {
		return 0, errors.Join(errors.New("the worker has ended; run the command again"), in.Err())
	}
	var reply deskReply
	if err := strictJSON(in.Bytes(), &reply); err != nil {
		return 0, err
	}
	if reply.Error != "" {
		return 0, errors.New(reply.Error)
	}
	return reply.Busy, nil
}

// busyNow is the worker's end: it looks at the pause itself, so that the count is
// of a gate that begins nothing more.
func (w *runningWorker) busyNow() (int, error) {
	g := w.gate.Load()
	if g == nil || !w.up.Load() {
		return 0, errors.New("the gate is starting; run the command again")
	}
	g.Pause(w.config.isPaused())
	if !w.config.isPaused() {
		return 0, errors.New("the worker is not paused: a count would not hold")
	}
	return g.Busy(), nil
}

// say prints a command's one line or object.
func say(e *env, doc map[string]any, line string) error {
	if e.json {
		return json.NewEncoder(e.stdout).Encode(doc)
	}
	_, err := fmt.Fprintln(e.stdout, line)
	return err
}

// limitsConfig is what studies may take of a hospital's machine.
type limitsConfig struct {
	MemoryMB uint64       `yaml:"memory_mb"` // 2^20 bytes, all studies together; 0 for no limit
	Hours    *hoursConfig `yaml:"hours"`     // when local steps may begin; absent: always
}

type hoursConfig struct {
	From string   `yaml:"from"` // 20:00
	To   string   `yaml:"to"`   // 06:00; before from: of the next day
	Days []string `yaml:"days"` // mon, tue, …; absent: every day
	Zone string   `yaml:"zone"` // Europe/Zurich; absent: the machine's
}

// minuteOf reads a time of day, up to 24:00, in minutes after midnight.
func minuteOf(s string) (int, error) {
	if s == "24:00" {
		return 24 * 60, nil
	}
	t, err := time.Parse("15:04", s)
	if err != nil {
		return 0, fmt.Errorf("%q", s)
	}
	return t.Hour()*60 + t.Minute(), nil
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func (c *limitsConfig) limits(path string) (worker.Limits, error) {
	out := worker.Limits{Memory: c.MemoryMB << 20}
	if c.MemoryMB > 1<<40 {
		return out, configError(path, nil, "give it in MiB", "memory_mb: %d", c.MemoryMB)
	}
	if c.Hours == nil {
		return out, nil
	}
	h := worker.Hours{Zone: time.Local}
	var err error
	if h.From, err = minuteOf(c.Hours.From); err == nil {
		h.To, err = minuteOf(c.Hours.To)
	}
	if err != nil {
		return out, configError(path, nil, "write from: and to: as hours and minutes, 20:00", "hours: %w", err)
	}
	if c.Hours.Zone != "" {
		if h.Zone, err = time.LoadLocation(c.Hours.Zone); err != nil {
			return out, configError(path, nil, "use a name such as Europe/Zurich", "hours: zone: %w", err)
		}
	}
	if c.Hours.Days == nil {
		h.Days = [7]bool{true, true, true, true, true, true, true}
	}
	for _, d := range c.Hours.Days {
		known := false
		for i, name := range weekdays {
			if d == name {
				h.Days[i], known = true, true
			}
		}
		if !known {
			return out, configError(path, nil, "use sun, mon, tue, wed, thu, fri, sat", "hours: day %q", d)
		}
	}
	if err := h.Check(); err != nil {
		return out, configError(path, nil, "correct hours:", "%w", err)
	}
	out.Closed = h.Closed
	return out, nil
}
