package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"consilium"
	"consilium/policy"
)

// runPolicyStop writes what one member of the board signs to end the use of
// rows at once. Hospitals put the file into the directory stops beside their vault
// and need no restart.
func runPolicyStop(_ context.Context, e *env, args []string) error {
	flags := e.flags()
	kitDir := flags.String("board", "", "`directory` with the member's kit")
	study := flags.String("study", "", "`id` of the study to stop")
	digest := flags.String("policy", "", "`digest` of the policy to stop, with every study under it")
	all := flags.Bool("all", false, "stop every study")
	reason := flags.String("reason", "", "one `sentence` for the hospitals and their records")
	later := flags.String("from", "", "first `day` on which it holds; without it, at once")
	out := flags.String("out", "", "`file` to write, which ends in .json; hospitals copy it into stops/; default stop- and the stop's digest")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) != 0 || *kitDir == "" || *reason == "" || *study == "" && *digest == "" && !*all {
		return usagef("give --board KIT, --reason SENTENCE and one of --study ID, --policy DIGEST and --all")
	}
	if *out != "" && !strings.HasSuffix(*out, ".json") {
		return usagef("--out %s: hospitals read stops whose names end in .json", *out)
	}
	// A moment of this machine's clock would let a hospital whose clock is behind go
	// on.
	from, err := day("from", *later, 0)
	if err != nil {
		return err
	}
	s := policy.Stop{All: *all, From: from, Reason: *reason}
	if *study != "" {
		id, err := consilium.ParseStudyID(*study)
		if err != nil {
			return err
		}
		s.Studies = append(s.Studies, id)
	}
	if *digest != "" {
		d, err := consilium.ParseDigest(*digest)
		if err != nil {
			return err
		}
		s.Policies = append(s.Policies, d)
	}
	id, key, err := memberKey(*kitDir)
	if err != nil {
		return err
	}
	payload, err := s.Encode()
	if err != nil {
		return err
	}
	sig, err := key.Sign(consilium.DomainStop, payload)
	if err != nil {
		return err
	}
	if *out == "" {
		*out = "stop-" + consilium.DomainStop.Digest(payload).Short() + ".json"
	}
	b, err := json.MarshalIndent(consilium.Signed{Payload: payload, Signatures: []consilium.Countersign{{By: id, Signature: sig}}}, "", " ")
	if err != nil {
		return err
	}
	if err := writeNew(*out, append(b, '\n'), 0o644); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"stop": *out, "member": id, "studies": s.Studies, "policies": s.Policies, "all": s.All})
	}
	fmt.Fprintf(e.stdout, "%s signed a stop in %s; each hospital copies it into the directory stops beside its vault's, and it holds from the next use on\n", id, *out)
	return nil
}
