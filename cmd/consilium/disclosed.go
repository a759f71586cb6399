package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"consilium"
	"consilium/internal/trail"
)

// disclosure is what one study has had from this hospital. The hospital's own
// trail says it: an entry is durable before the action that it announces, so
// nothing was disclosed that is not here.
type disclosure struct {
	Study    consilium.StudyID      `json:"study"`
	Team     consilium.ResearcherID `json:"team,omitempty"` // who asked
	Declined string                 `json:"declined,omitempty"`
	Enrolled *time.Time             `json:"enrolled,omitempty"`
	// Encrypted contributions that left the hospital: one an attempt.
	Contributions []sentContribution `json:"contributions"`
	// Sums that this hospital helped to open, each set of a round by itself: once
	// a lock is released a round may be opened for another one. All members saw
	// each that t of them opened.
	Sums     []openedSum `json:"sums"`
	Released *time.Time  `json:"released,omitempty"` // this hospital let the team have the result
	Refused  string      `json:"refused,omitempty"`  // or did not, and why
	Ended    string      `json:"ended,omitempty"`
}

type sentContribution struct {
	Round   uint32 `json:"round"`
	Attempt uint32 `json:"attempt"`
}

type openedSum struct {
	Round   uint32             `json:"round"`
	Set     consilium.Digest   `json:"set"`
	At      time.Time          `json:"at"`
	Members []consilium.SiteID `json:"members"` // whose contributions it adds up, and who saw it
}

// disclosures reads a trail.
func disclosures(entries []trail.Entry) ([]*disclosure, error) {
	var out []*disclosure
	known := map[consilium.StudyID]*disclosure{}
	for _, e := range entries {
		d := known[e.Study]
		if d == nil {
			d = &disclosure{Study: e.Study, Contributions: []sentContribution{}, Sums: []openedSum{}}
			known[e.Study] = d
			out = append(out, d)
		}
		var body struct {
			Team    consilium.ResearcherID
			Code    string
			Allow   bool
			Attempt uint32
			Set     consilium.Digest
			Members []consilium.SiteID
			Phase   string
		}
		switch e.Type {
		case "enrol", "decline", "contribution", "opening", "release", "ended":
			if err := json.Unmarshal(e.Body, &body); err != nil {
				return nil, fmt.Errorf("trail entry %d: %w", e.Seq, err)
			}
		}
		at := time.UnixMilli(e.Time).UTC()
		switch e.Type {
		case "enrol":
			d.Team, d.Enrolled = body.Team, &at
		case "decline":
			d.Declined = body.Code
		case "contribution":
			if c := (sentContribution{e.Round, body.Attempt}); !slices.Contains(d.Contributions, c) { // twice after a crash before it was sent
				d.Contributions = append(d.Contributions, c)
			}
		case "opening":
			if !slices.ContainsFunc(d.Sums, func(s openedSum) bool { return s.Round == e.Round && s.Set == body.Set }) {
				d.Sums = append(d.Sums, openedSum{e.Round, body.Set, at, body.Members})
			}
		case "release":
			if body.Allow {
				d.Released = &at
			} else {
				d.Refused = body.Code
			}
		case "ended":
			d.Ended = body.Phase
		}
	}
	return out, nil
}

// runWorkerDisclosed lists them.
func runWorkerDisclosed(_ context.Context, e *env, args []string) error {
	flags := e.flags()
	path := flags.String("config", "", "the worker's config `file`")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("unexpected %q", rest[0])
	}
	h, err := openHospital(*path, e.stderr)
	if err != nil {
		return err
	}
	var entries []trail.Entry
	err = h.replayCopy(filepath.Join(h.config.gateDir(), "trail"), func(path string) error {
		t, err := trail.Open(path, h.site, h.kit.signer, time.Now)
		if err != nil {
			return err
		}
		defer t.Close()
		entries, err = t.Entries()
		return err
	})
	if err != nil {
		return err
	}
	list, err := disclosures(entries)
	if err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"site": h.site, "studies": list})
	}
	if len(list) == 0 {
		fmt.Fprintf(e.stdout, "%s has disclosed nothing: no study is in its trail\n", h.site)
	}
	for _, d := range list {
		fmt.Fprintf(e.stdout, "%s", d.Study)
		switch {
		case d.Declined != "":
			fmt.Fprintf(e.stdout, ", declined (%s): nothing left the hospital\n", d.Declined)
			continue
		case d.Enrolled == nil:
			fmt.Fprintf(e.stdout, ": nothing left the hospital\n")
			continue
		}
		fmt.Fprintf(e.stdout, ", asked by %s, enrolled %s\n", d.Team, d.Enrolled.Format(time.DateTime))
		fmt.Fprintf(e.stdout, "  encrypted contributions: %d\n", len(d.Contributions))
		for _, s := range d.Sums {
			fmt.Fprintf(e.stdout, "  round %d: the sum over %d hospitals was opened to them, %s\n", s.Round, len(s.Members), s.At.Format(time.DateTime))
		}
		switch {
		case d.Released != nil:
			fmt.Fprintf(e.stdout, "  result released to %s, %s\n", d.Team, d.Released.Format(time.DateTime))
		case d.Refused != "":
			fmt.Fprintf(e.stdout, "  result not released by this hospital (%s)\n", d.Refused)
		}
		if d.Ended != "" {
			fmt.Fprintf(e.stdout, "  %s\n", d.Ended)
		}
	}
	return nil
}
