package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"consilium"
	"consilium/internal/durable"
)

// leastRoom is how much space a file system must have left before a command
// takes it for full, in bytes: less than what one write of a ledger's tile
// and checkpoint takes.
const leastRoom = 64 << 10

// whileRoom ends ctx when the file system of dir is full. Libraries below
// retry a failed write for ever, and a command must end with a reason.
func whileRoom(ctx context.Context, dir string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			if left, err := room(dir); err == nil && left < leastRoom {
				cancel(consilium.ErrDiskFull.Withf("%s has %d bytes left", dir, left))
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

// noRoom finds a full disk behind an error.
func noRoom(ctx context.Context, dir string, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, consilium.ErrDiskFull) {
		return cause
	}
	if left, rerr := room(dir); rerr == nil && left < leastRoom {
		return consilium.ErrDiskFull.Withf("%s has %d bytes left", dir, left)
	}
	return durable.Full(err)
}

// quietLedger keeps the ledger's library from writing to the terminal of a
// command that ends with one error anyway.
func quietLedger() { slog.SetDefault(slog.New(slog.DiscardHandler)) }
