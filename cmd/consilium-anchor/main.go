// Command consilium-anchor puts the heads of the hospitals' ledgers into a
// chain, follows them until they are final, and verifies such anchors offline.
// It is a program of its own so that no hospital links a chain's client: what it
// writes is a file that `consilium ledger verify --anchor` reads.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes, as those of consilium.
const (
	exitDone       = 0
	exitFailed     = 1
	exitUsage      = 2
	exitIncomplete = 4 // not final yet
)

var errIncomplete = errors.New("not final yet; run it again")

type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

const help = `consilium-anchor: the heads of the hospitals' ledgers, once an epoch, in a chain

  deploy   put the contract on a chain; makes the account's key if there is none
  account  the address of the account that pays
  put      anchor an epoch: verified checkpoints of the roster's ledgers
  status   where an epoch stands; sends again what fell out of the chain
  prove    write the anchor with its proof
  verify   check an anchor offline, against a block hash that you trust

"consilium-anchor COMMAND -h" lists a command's flags. Exit codes: 0 done, 1 failed, 2 usage, 4 not final yet.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process: tests call it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	commands := map[string]func(context.Context, *flag.FlagSet, []string, io.Writer) error{
		"deploy": runDeploy, "account": runAccount, "put": runPut, "status": runStatus, "prove": runProve, "verify": runVerify,
	}
	if len(args) == 0 || commands[args[0]] == nil {
		fmt.Fprint(stderr, help)
		if len(args) == 0 || args[0] == "help" || args[0] == "-h" {
			return exitDone
		}
		return exitUsage
	}
	flags := flag.NewFlagSet("consilium-anchor "+args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	err := commands[args[0]](ctx, flags, args[1:], stdout)
	var u *usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitDone
	}
	fmt.Fprintf(stderr, "consilium-anchor %s: %v\n", args[0], err)
	switch {
	case errors.As(err, &u):
		return exitUsage
	case errors.Is(err, errIncomplete):
		return exitIncomplete
	}
	return exitFailed
}
