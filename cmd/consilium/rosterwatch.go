package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"consilium"
	"consilium/internal/pinned"
)

// rosterEvery is how often a running process looks at its roster file.
const rosterEvery = 2 * time.Second

// watchRoster hands each roster that `provision install` puts into the kit to
// take, until ctx ends. take decides whether it is the board's and follows the
// one in force; one that it refuses is reported once and the process goes on
// with what it has.
func watchRoster(ctx context.Context, path string, every time.Duration, log *slog.Logger, take func(*consilium.Signed, *consilium.Roster) error) error {
	// The first look takes what is there: a roster that was installed between
	// the process's own reading of the file and this moment is one to take.
	var last fs.FileInfo
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now, err := os.Stat(path)
		if err != nil || last != nil && os.SameFile(now, last) && now.ModTime().Equal(last.ModTime()) && now.Size() == last.Size() {
			continue // install replaces the file whole; in between there may be none
		}
		last = now
		signed, roster, err := pinned.ParseRoster(path)
		if err == nil {
			err = take(signed, roster)
		}
		switch {
		case errors.Is(err, errSameRoster):
		case errors.Is(err, consilium.ErrUnavailable):
			last = nil // what it waits for may come about
			log.Warn("the roster file is not taken yet: will try again", "file", path, "error", err)
		case err != nil:
			log.Error("the roster file was not taken; the roster in force stays. Install the direct successor, or restart with this one", "file", path, "error", err)
		default:
			log.Info("roster in force", "version", roster.Version)
		}
	}
}

var errSameRoster = errors.New("the roster in force")
