package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"consilium"
	"consilium/he"
	"consilium/internal/studyfile"
	"consilium/internal/table"
	"consilium/models"
)

func runStudyNew(_ context.Context, e *env, args []string) error {
	fs := e.flags()
	from := fs.String("from", "", "CSV `file` with a header")
	out := fs.String("out", "", "write the draft to `file` instead of the terminal")
	name := fs.String("name", "", "name of the study")
	site := fs.String("site-column", "", "`column` that tells hospitals apart")
	rest, err := e.parse(fs, args)
	if err != nil {
		return err
	}
	if *from == "" || len(rest) > 0 {
		return usagef("--from FILE is needed, and nothing else")
	}
	b, err := os.ReadFile(*from)
	if err != nil {
		return err
	}
	if err := table.CheckCSV(b); err != nil {
		return locate(err, "", *from)
	}
	draft, err := studyfile.New(b, studyfile.Draft{Name: *name, Site: *site})
	if err != nil {
		return fmt.Errorf("%s: %w", *from, err)
	}
	if *out != "" {
		f, err := os.OpenFile(*out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		_, err = f.Write(draft)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	switch {
	case e.json: // the file's text is YAML, and stands in one string
		return json.NewEncoder(e.stdout).Encode(map[string]any{"file": *out, "study": string(draft)})
	case *out == "":
		_, err = e.stdout.Write(draft)
		return err
	}
	return nil
}

// checked is what `study check` says.
type checked struct {
	Name        string        `json:"name"`
	Spec        string        `json:"spec"`
	Assumptions []string      `json:"assumptions"`
	Canonical   string        `json:"canonical"`
	Analyses    []checkedItem `json:"analyses"`
	Sites       int           `json:"sites"`
	Threshold   int           `json:"threshold"`
	Faults      int           `json:"faults"`
}

type checkedItem struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	Rounds  int      `json:"rounds"`
	Values  int      `json:"values"`
	Bytes   uint64   `json:"bytes"` // uploaded by each hospital in its largest round
	Reveals []string `json:"reveals"`
	Columns []string `json:"columns"`
}

func runStudyCheck(_ context.Context, e *env, args []string) error {
	fs := e.flags()
	sites := fs.Int("sites", 13, "hospitals to reckon with")
	simulate := fs.Bool("simulate", false, "fill what `simulate` would assume")
	rest, err := e.parse(fs, args)
	if err != nil {
		return err
	}
	if len(rest) != 1 {
		return usagef("name one study file")
	}
	b, err := os.ReadFile(rest[0])
	if err != nil {
		return err
	}
	var o studyfile.Options
	if *simulate {
		o = simulateOptions()
	}
	file, err := studyfile.ParseWith(b, o)
	if err != nil {
		return fmt.Errorf("%s: %w", rest[0], err)
	}
	spec := file.Spec
	if err := table.Check(spec); err != nil {
		return fmt.Errorf("%s: %w", rest[0], err)
	}
	if err := models.Check(spec, learned()); err != nil {
		return fmt.Errorf("%s: %w", rest[0], err)
	}
	if err := checkPermits(spec); err != nil {
		return fmt.Errorf("%s: %w", rest[0], err)
	}
	if *sites < spec.Sites.Min {
		return usagef("--sites %d is below the study's min of %d", *sites, spec.Sites.Min)
	}
	facts := consilium.Facts{Spec: spec, MinCohort: spec.Privacy.MinCohort, Permits: spec.Privacy.Permits}
	for i := range *sites {
		facts.Sites = append(facts.Sites, consilium.SiteID(fmt.Sprintf("site-%d", i+1)))
	}
	list, err := models.Describe(facts, learned())
	if err != nil {
		return fmt.Errorf("%s: %w", rest[0], err)
	}
	canonical, err := studyfile.Show(spec)
	if err != nil {
		return err
	}
	faults := spec.Sites.Faults
	if faults == 0 {
		faults = consilium.DefaultFaults(*sites, spec.Sites.Min)
	}
	out := checked{Name: spec.Name, Spec: consilium.SpecDigest(file.Payload).String(), Assumptions: file.Assumptions, Canonical: string(canonical),
		Sites: *sites, Faults: faults, Threshold: consilium.Threshold(*sites, faults)}
	for _, d := range list {
		item := checkedItem{Name: d.Name, Type: d.Type, Rounds: d.Rounds, Reveals: append(d.Sends, d.Result), Columns: d.Columns}
		for _, l := range d.Layouts {
			p, err := he.Choose(l.Lanes(), l.Bits(), *sites)
			if err != nil {
				return err
			}
			if n := p.Size(l.Lanes()) + p.BundleSize(*sites); n > item.Bytes {
				item.Bytes, item.Values = n, l.Values()
			}
		}
		out.Analyses = append(out.Analyses, item)
	}
	if e.json {
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(out)
	}
	fmt.Fprintf(e.stdout, "%s\n\n", canonical)
	fmt.Fprintf(e.stdout, "%s is sound. With %d hospitals: any %d of them open a round, up to %d may be dishonest together with the coordinators.\n", spec.Name, out.Sites, out.Threshold, out.Faults)
	for _, a := range out.Assumptions {
		fmt.Fprintf(e.stdout, "assumed: %s\n", a)
	}
	for _, a := range out.Analyses {
		fmt.Fprintf(e.stdout, "\n%s (%s): at most %d rounds; each hospital sends at most %d values, %d bytes encrypted, a round\n", a.Name, a.Type, a.Rounds, a.Values, a.Bytes)
		fmt.Fprintf(e.stdout, "  reads the columns %s\n", strings.Join(a.Columns, ", "))
		for _, r := range a.Reveals {
			fmt.Fprintf(e.stdout, "  %s\n", r)
		}
	}
	return nil
}
