// Command consilium runs every part of a federation: the demonstration, a
// simulation on one's own table, coordinator nodes, hospital workers, and the
// tools of teams, boards and auditors.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"sort"
	"strings"
	"syscall"

	"consilium/internal/wire"
)

// Exit codes.
const (
	exitDone       = 0
	exitFailed     = 1
	exitUsage      = 2
	exitRefused    = 3 // by policy
	exitIncomplete = 4 // and resumable
)

// command is one word or pair of words of the command line.
type command struct {
	name  string // "demo", "study check", …
	args  string // after the flags, for the usage line
	short string
	run   func(ctx context.Context, e *env, args []string) error
}

// env is what commands share: the streams, and whether to speak JSON.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	json           bool
	name           string
	usage          string
}

// usageError ends with exit code 2.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// flags makes a command's flag set with the flags that every command has.
func (e *env) flags() *flag.FlagSet {
	fs := flag.NewFlagSet(e.name, flag.ContinueOnError)
	fs.SetOutput(e.stderr)
	fs.BoolVar(&e.json, "json", false, "print JSON")
	fs.Usage = func() {
		fmt.Fprintf(e.stderr, "usage: consilium %s [flags] %s\n", e.name, e.usage)
		fs.PrintDefaults()
	}
	return fs
}

// parse reads a command's flags; flags may stand behind the arguments too.
func (e *env) parse(fs *flag.FlagSet, args []string) ([]string, error) {
	var rest []string
	for {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, usagef("%v", err)
		}
		if fs.NArg() == 0 {
			return rest, nil
		}
		rest = append(rest, fs.Arg(0))
		args = fs.Args()[1:]
	}
}

func main() {
	// Many short-lived decisions and messages: a larger heap before each
	// collection is worth its memory. GOGC still overrides it.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal ends the work in order and without a word from the
	// libraries whose connections break off; the second one ends the process.
	context.AfterFunc(ctx, func() {
		stop()
		log.SetOutput(io.Discard)
	})
	if os.Getenv("CONSILIUM_LOG") == "" && os.Getenv("GRPC_GO_LOG_SEVERITY_LEVEL") == "" {
		wire.Quiet()
	}
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main without the process: tests call it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	out := &counted{Writer: stdout}
	e := &env{stdin: stdin, stdout: out, stderr: stderr}
	c, rest, err := find(args)
	if err != nil {
		e.json = asksJSON(args)
		describe("", err, false).write(e, out)
		if !e.json {
			help(stderr)
		}
		return exitUsage
	}
	if c == nil {
		help(out)
		return exitDone
	}
	e.name, e.usage = c.name, c.args
	err = c.run(ctx, e, rest)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return exitDone
	}
	e.json = e.json || asksJSON(rest)
	f := describe(c.name, err, ctx.Err() != nil && !c.node())
	f.write(e, out)
	return f.Exit
}

// node reports whether a command runs until it is told to stop. Being told is
// then no interruption, and a failure while it stops is one.
func (c *command) node() bool {
	return slices.Contains([]string{"coordinator", "worker", "worker vault", "ledger witness"}, c.name)
}

// find looks up the longest command that args begin with.
func find(args []string) (*command, []string, error) {
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		return nil, nil, nil
	}
	for n := min(2, len(args)); n > 0; n-- {
		name := strings.Join(args[:n], " ")
		for _, c := range commands() {
			if c.name == name {
				return &c, args[n:], nil
			}
		}
	}
	for _, c := range commands() {
		if strings.HasPrefix(c.name, args[0]+" ") {
			return nil, nil, usagef("%s: which of its commands?", args[0])
		}
	}
	return nil, nil, usagef("no command %q", args[0])
}

func help(w io.Writer) {
	fmt.Fprint(w, "consilium: hospitals answer a question about a rare disease together while nobody sees anybody else's records\n\n")
	list := commands()
	sort.SliceStable(list, func(i, k int) bool { return list[i].name < list[k].name })
	for _, c := range list {
		fmt.Fprintf(w, "  %-18s %s\n", c.name, c.short)
	}
	fmt.Fprint(w, "\n`consilium COMMAND -h` lists a command's flags. Exit codes: 0 done, 1 failed, 2 usage, 3 refused by policy, 4 incomplete and resumable.\n")
}
