// Command planted plants bugs into the coordinator and the gate, one at a time,
// and wants the simulation to find each. It is the test of the test: a bug that
// nobody finds is a hole in the oracle or in what the sequences reach.
//
// The bugs are changes of the source, of one expression each. All of them are
// compiled into one test binary, in which an environment variable selects one
// (mutant schemata: Untch, Offutt and Harrold, ISSTA 1993), through the build's
// -overlay: no file of the module changes, and no other build knows of them. A
// bug whose place is gone from the source fails the run, so the list keeps up.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A bug replaces one expression of a file. In its replacement PLANTED stands
// for whether this bug is selected.
type bug struct {
	name, file, old, new string
}

func main() {
	budget := flag.Int("budget", 600, "how many sequences may be played to find one bug")
	shares := flag.Int("shares", 2, "how many processes search at once")
	only := flag.String("only", "", "search for the bugs that match this regular expression")
	flag.Parse()
	if err := run(*budget, *shares, *only); err != nil {
		fmt.Fprintln(os.Stderr, "planted:", err)
		os.Exit(1)
	}
}

// variable selects a bug in the mutated binary.
const variable = "CONSILIUM_PLANTED_BUG"

func run(budget, shares int, only string) error {
	pick, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "planted-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "coordinator.test")
	if err := build(dir, binary); err != nil {
		return err
	}
	// Without a bug nothing is found, or every search finds what is wrong anyway.
	if out, err := play(binary, "", control); err != nil {
		return fmt.Errorf("without any bug the first %d sequences go wrong: %w\n%s", control, err, out[max(0, len(out)-2000):])
	}
	var mu sync.Mutex
	var missed []string
	work := make(chan int)
	var searchers sync.WaitGroup
	for range shares {
		searchers.Go(func() {
			for i := range work {
				started := time.Now()
				how, err := search(binary, i, budget)
				mu.Lock()
				if err != nil {
					missed = append(missed, bugs[i].name)
					fmt.Printf("NOT FOUND  %-58s %3.0f s  %v\n", bugs[i].name, time.Since(started).Seconds(), err)
				} else {
					fmt.Printf("found      %-58s %3.0f s  %s\n", bugs[i].name, time.Since(started).Seconds(), how)
				}
				mu.Unlock()
			}
		})
	}
	n := 0
	for i := range bugs {
		if pick.MatchString(bugs[i].name) {
			work <- i
			n++
		}
	}
	close(work)
	searchers.Wait()
	if n == 0 {
		return fmt.Errorf("no bug matches %q", only)
	}
	if len(missed) > 0 {
		return fmt.Errorf("%d of %d bugs were not found in %d sequences each: %s", len(missed), n, budget, strings.Join(missed, "; "))
	}
	fmt.Printf("%d bugs planted, all found\n", n)
	return nil
}

// build compiles the coordinator's tests with every bug in them.
func build(dir, binary string) error {
	changed := map[string][]byte{}
	packages := map[string]string{}
	for i, b := range bugs {
		path, err := filepath.Abs(b.file)
		if err != nil {
			return err
		}
		if changed[path] == nil {
			if changed[path], err = os.ReadFile(path); err != nil {
				return err
			}
			packages[filepath.Dir(path)] = filepath.Base(filepath.Dir(path))
		}
		if n := bytes.Count(changed[path], []byte(b.old)); n != 1 {
			return fmt.Errorf("%s: %q stands %d times in %s, want once: bring the bug back to where it belongs", b.name, b.old, n, b.file)
		}
		text := strings.ReplaceAll(b.new, "PLANTED", "planted("+strconv.Itoa(i)+")")
		changed[path] = bytes.Replace(changed[path], []byte(b.old), []byte(text), 1)
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	put := func(path string, data []byte) error {
		name := filepath.Join(dir, fmt.Sprintf("%d.go", len(overlay.Replace)))
		overlay.Replace[path] = name
		return os.WriteFile(name, data, 0o600)
	}
	for path, data := range changed {
		if err := put(path, data); err != nil {
			return err
		}
	}
	for path, name := range packages {
		source := fmt.Sprintf(`package %s

import (
	"os"
	"time"
)

// plantedClock is the machine's clock, which no replica shares.
func plantedClock(on bool) int64 {
	if on {
		return time.Now().UnixMilli() %% 1000
	}
	return 0
}

var plantedBug = os.Getenv(%q)

func planted(n int) bool { return plantedBug != "" && plantedBug == plantedNames[n] }

var plantedNames = %#v
`, name, variable, numbers())
		if err := put(filepath.Join(path, "planted_bug.go"), []byte(source)); err != nil {
			return err
		}
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), list, 0o600); err != nil {
		return err
	}
	out, err := exec.Command("go", "test", "-c", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, "./coordinator").CombinedOutput()
	if err != nil {
		return fmt.Errorf("the planted source does not build: %w\n%s", err, out)
	}
	return nil
}

func numbers() []string {
	out := make([]string, len(bugs))
	for i := range out {
		out[i] = strconv.Itoa(i)
	}
	return out
}

var found = regexp.MustCompile(`(?m)^\s*sim_test\.go:\d+: (seed \d+: .*)$`)

// control is how many sequences are played with no bug planted: most bugs are found
// within fewer.
const control = 40

// play plays sequences until one goes wrong, with the bug of this number or none.
func play(binary, bug string, count int) ([]byte, error) {
	cmd := exec.Command(binary, "-test.run", "^TestSimulation$", "-test.timeout", "20m", "-sim.count", strconv.Itoa(count), "-sim.shrink=false")
	cmd.Dir = "coordinator"
	cmd.Env = append(os.Environ(), variable+"="+bug, "GOGC=800", "GOMAXPROCS=1")
	return cmd.CombinedOutput()
}

// search looks for a sequence in which a bug shows.
func search(binary string, i, budget int) (string, error) {
	out, err := play(binary, strconv.Itoa(i), budget)
	if err == nil {
		return "", fmt.Errorf("nobody noticed")
	}
	if m := found.FindSubmatch(out); m != nil {
		how := string(m[1])
		return how[:min(len(how), 150)], nil
	}
	if bytes.Contains(out, []byte("panic: test timed out")) {
		return "", fmt.Errorf("nobody noticed within the time")
	}
	if bytes.Contains(out, []byte("panic:")) {
		return "a panic ended the process", nil
	}
	return "", fmt.Errorf("%w\n%s", err, out[max(0, len(out)-2000):])
}
