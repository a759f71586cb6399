package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"consilium/internal/studyfile"
	"consilium/policy"
)

// openPolicy reads and compiles the one policy directory that is named.
func openPolicy(e *env, args []string) (*policy.Engine, string, error) {
	rest, err := e.parse(e.flags(), args)
	if err != nil {
		return nil, "", err
	}
	if len(rest) != 1 {
		return nil, "", usagef("name one directory with a policy")
	}
	engine, err := compileDir(rest[0])
	return engine, rest[0], err
}

func compileDir(dir string) (*policy.Engine, error) {
	if info, err := os.Stat(dir); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", dir)
	}
	b, err := policy.ReadBundle(os.DirFS(dir))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	engine, err := policy.Compile(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return engine, nil
}

func runPolicyCheck(_ context.Context, e *env, args []string) error {
	engine, dir, err := openPolicy(e, args)
	if err != nil {
		return err
	}
	asOf, stale := engine.LawDates()
	fresh := time.Now().Before(stale)
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"digest": engine.Digest(), "files": engine.Bundle().Paths(), "rules": len(engine.Rules()),
			"law_as_of": asOf.Format(time.DateOnly), "law_until": stale.Format(time.DateOnly), "law_fresh": fresh})
	}
	fmt.Fprintf(e.stdout, "%s compiles: %d files, %d rules\n  digest %s\n  law as of %s", dir, len(engine.Bundle().Paths()), len(engine.Rules()), engine.Digest(), asOf.Format(time.DateOnly))
	if fresh {
		fmt.Fprintf(e.stdout, ", in use until %s\n", stale.Format(time.DateOnly))
	} else {
		fmt.Fprintf(e.stdout, ": too old since %s, every decision denies; read the law again and update law/law.json\n", stale.Format(time.DateOnly))
	}
	return nil
}

func runPolicyDigest(_ context.Context, e *env, args []string) error {
	engine, _, err := openPolicy(e, args)
	if err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"digest": engine.Digest()})
	}
	fmt.Fprintln(e.stdout, engine.Digest())
	return nil
}

// runPolicyTest asks a policy the study question about a study file, with the
// federation that a kit's roster describes.
func runPolicyTest(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	study := flags.String("study", "", "study `file`")
	dir := flags.String("kit", "", "any kit of the federation, for its roster")
	team := flags.String("team", "", "`id` of the asking team")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) != 1 || *study == "" || *dir == "" || *team == "" {
		return usagef("name one policy directory, --study FILE, --kit DIR and --team ID")
	}
	engine, err := compileDir(rest[0])
	if err != nil {
		return err
	}
	src, err := os.ReadFile(*study)
	if err != nil {
		return err
	}
	file, err := studyfile.ParseWith(src, studyfile.Options{})
	if err != nil {
		return fmt.Errorf("%s: %w", *study, err)
	}
	k, _, err := openMemberKit(*dir)
	if err != nil {
		return err
	}
	s, err := policy.NewStudy("", file.Payload)
	if err != nil {
		return err
	}
	f, err := policy.NewFederation(k.roster, researcher(*team), file.Spec.Sites.Only)
	if err != nil {
		return err
	}
	d, err := engine.Decide(ctx, policy.PointStudy, policy.Input{Now: time.Now().Unix(), Study: s, Federation: f})
	if err != nil {
		return err
	}
	if e.json {
		if err := json.NewEncoder(e.stdout).Encode(d); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(e.stdout, policy.Explain(d))
	}
	return d.Err()
}
