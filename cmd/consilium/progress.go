package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"consilium"
)

// progress tells a person what happens while it happens: one line that is
// rewritten on a terminal, plain lines elsewhere, nothing with --json.
type progress struct {
	mu      sync.Mutex
	w       io.Writer
	live    bool // a terminal
	quiet   bool
	open    bool // an unfinished line stands
	started time.Time
	log     *slog.Logger
	round   uint32
	got     int
}

func newProgress(e *env) *progress {
	p := &progress{w: e.stderr, quiet: e.json, started: time.Now(), log: slog.New(slog.DiscardHandler)}
	if f, ok := e.stderr.(*os.File); ok {
		p.live = term.IsTerminal(int(f.Fd()))
	}
	if os.Getenv("CONSILIUM_LOG") != "" {
		level := slog.LevelInfo
		if err := level.UnmarshalText([]byte(os.Getenv("CONSILIUM_LOG"))); err != nil {
			level = slog.LevelInfo
		}
		p.log = slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: level}))
		p.live = false
	}
	return p
}

func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.quiet {
		return
	}
	p.end()
	fmt.Fprintf(p.w, "%6.1fs  %s\n", time.Since(p.started).Seconds(), fmt.Sprintf(format, args...))
}

// step rewrites the current line on a terminal and says nothing elsewhere.
func (p *progress) step(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.quiet || !p.live {
		return
	}
	fmt.Fprintf(p.w, "\r\033[K%6.1fs  %s", time.Since(p.started).Seconds(), fmt.Sprintf(format, args...))
	p.open = true
}

func (p *progress) end() {
	if p.open {
		fmt.Fprintln(p.w)
		p.open = false
	}
}

// event turns the log of a study into sentences.
func (p *progress) event(ev *consilium.Event) {
	switch ev.Kind {
	case consilium.EventMessage:
		m, err := consilium.ParseMessage(ev.Body)
		if err != nil {
			return
		}
		switch m.Kind {
		case consilium.KindDecline:
			if d, err := consilium.ParseDecline(m.Body); err == nil {
				p.say("  %s declines: %s %s", m.By, d.Code, d.Reason)
			}
		case consilium.KindWithdraw:
			if d, err := consilium.ParseWithdraw(m.Body); err == nil {
				p.say("  %s leaves the study: %s", m.By, d.Reason)
			}
		case consilium.KindHeader:
			p.got++
			p.step("  round %d: %d contributions", p.round, p.got)
		case consilium.KindComplaint:
			p.say("  %s complains about a contribution", m.By)
		}
	case consilium.EventAdmitted:
		p.say("  admitted by policy; hospitals enrol")
	case consilium.EventChartered:
		if c, err := consilium.ParseCharter(ev.Body); err == nil {
			if c.Epoch > 1 {
				p.say("  epoch %d begins with round %d", c.Epoch, c.FirstRound())
			}
			p.say("  charter signed by all %d hospitals: any %d open a round, up to %d may be dishonest", len(c.Members), c.Threshold, c.Faults)
		}
	case consilium.EventRenewing:
		if v, err := consilium.ParseRenewal(ev.Body); err == nil {
			p.say("  %s: the hospitals leave the epoch and make the next", v.Reason)
		}
	case consilium.EventOpened:
		if o, err := consilium.ParseRoundOpened(ev.Body); err == nil {
			p.round, p.got = o.Round, 0
			p.step("  round %d", o.Round)
		}
	case consilium.EventProposed:
		if u, err := consilium.ParseContributors(ev.Body); err == nil {
			p.step("  round %d: %d hospitals in the sum, votes come", u.Round, len(u.Members))
		}
	case consilium.EventWaiting:
		p.say("  waiting: %s", ev.Body)
	case consilium.EventResumed:
		p.say("  goes on")
	case consilium.EventReleasing:
		p.say("  %d rounds done; hospitals decide on the release", p.round)
	case consilium.EventAborted, consilium.EventCancelled:
		p.say("  %s: %s", ev.Kind, ev.Body)
	case consilium.EventRefused:
		p.say("  refused by policy")
	}
}

// table prints a small table with a title.
func (p *progress) table(title string, rows func(io.Writer)) {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 2, 0, 2, ' ', tabwriter.AlignRight)
	rows(t)
	t.Flush()
	p.say("  %s", title)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.quiet {
		return
	}
	for line := range bytes.Lines(b.Bytes()) {
		fmt.Fprintf(p.w, "            %s", line)
	}
}
