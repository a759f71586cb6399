package worker

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"consilium"
)

// refusing is a client whose nodes refused the hospital once; one is down since.
type refusing struct {
	Coordinator
	asked int
}

func (r *refusing) Follow(ctx context.Context, _ uint64, _ func(*consilium.Event) error) error {
	if r.asked++; r.asked == 1 {
		return consilium.ErrUnauthenticated.Withf("the certificate ran out")
	}
	<-ctx.Done() // the client asks the others, again and again
	return ctx.Err()
}

// TestBarred: a hospital that was refused is barred until a coordinator lets it in,
// however long nobody answers.
func TestBarred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		g := &Gate{cfg: Config{Coordinator: &refusing{}}, log: slog.New(slog.DiscardHandler), actors: map[consilium.StudyID]*actor{}}
		ended := make(chan error, 1)
		go func() { ended <- g.Run(ctx) }()
		for range 3 {
			time.Sleep(time.Hour)
			if g.Barred() == nil {
				t.Fatal("a hospital that nobody has let in passes for one that is in")
			}
		}
		g.Accepted()
		if err := g.Barred(); err != nil {
			t.Errorf("let in, and still barred: %v", err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
