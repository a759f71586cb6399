package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

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
	engine, err := compileDir(policyDir(rest[0]))
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

// runPolicyTest runs a desk's examples; or, with a study file, asks a policy the
// study question about it, with the federation that a kit's roster describes.
func runPolicyTest(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	study := flags.String("study", "", "instead of the examples, a study `file`")
	dir := flags.String("kit", "", "any kit of the federation, for its roster")
	team := flags.String("team", "", "`id` of the asking team")
	record := flags.String("record", "", "new `directory` in which the examples' decisions are recorded, for diff and replay")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) == 1 && *study == "" && *dir == "" && *team == "" {
		return runVectors(ctx, e, rest[0], *record)
	}
	if len(rest) != 1 || *study == "" || *dir == "" || *team == "" || *record != "" {
		return usagef("name one desk; or one policy directory, --study FILE, --kit DIR and --team ID")
	}
	engine, err := compileDir(policyDir(rest[0]))
	if err != nil {
		return err
	}
	in, err := studyQuestion(*study, *dir, *team)
	if err != nil {
		return err
	}
	d, err := engine.Decide(ctx, policy.PointStudy, in)
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
