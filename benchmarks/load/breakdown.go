//go:build unix

package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// kind is one kind of work, and what of a processor profile it took. A sample is
// of the first kind of which a function stands anywhere on its stack, of which
// the profile keeps the innermost 128 calls: deep evaluations of rules are known by
// the engine alone.
type kind struct {
	name  string
	funcs []string
	ms    float64
}

func kinds() []kind {
	return []kind{
		{name: "training: local steps, updates", funcs: []string{"consilium/models", "consilium/internal/gemm", "consilium/internal/fixed", "gorgonia.org", "internal/table.Derive"}},
		{name: "opening boxes and the sum", funcs: []string{"he/party.Open", "he/party.NewOpeningShare", "he/party.UnsealOpening", "worker.(*actor).tryOpen", "he/party.Suspects", "he/party.(*OpeningShare)"}},
		{name: "ledger check", funcs: []string{"vault.(*Vault).verify", "provenance.(*matcher)", "provenance.(*rehasher)", "provenance.parallel", "provenance.pairUp", "transparency-dev"}},
		{name: "policy, consents, cohorts", funcs: []string{"vault.(*Vault).use", "vault.(*Vault).permit", "vault.(*Vault).decide", "consilium/policy", "open-policy-agent", "vault.(*cohortBook)",
			"vault.(*Vault).openedCohort", "vault.(*Vault).keepCohort", "vault.(*Vault).Opening"}},
		{name: "signing and verifying statements", funcs: []string{"consilium/internal/hybrid"}},
		{name: "encrypting, dealing, spooling", funcs: []string{"he/party.Contribute", "worker.digestLanes", "he/party.(*Dealing)", "worker.(*actor).makeContribution"}},
		{name: "raft and its log", funcs: []string{"hashicorp/raft", "bbolt"}},
		{name: "storing and adding up vectors", funcs: []string{"consilium/he.", "coordinator.(*replicator)", "consilium/internal/blob", "coordinator.(*Node).sum"}},
		{name: "transport: gRPC, TLS, sockets", funcs: []string{"google.golang.org/grpc", "crypto/tls", "golang.org/x/net", "consilium/internal/wire"}},
		{name: "journals, trails, states", funcs: []string{"consilium/internal/durable", "consilium/internal/trail", "consilium/worker"}},
		{name: "the rest, runtime and collector", funcs: []string{""}},
	}
}

// breakdown sorts the samples of a processor profile.
func breakdown(ctx context.Context, binary, profile string) ([]kind, error) {
	out, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-traces", "-unit=us", binary, profile).Output()
	if err != nil {
		return nil, fmt.Errorf("go tool pprof: %w", err)
	}
	all := kinds()
	for _, block := range strings.Split(string(out), "-----------+")[1:] {
		first := strings.Fields(block[strings.Index(block, "\n")+1:])
		if len(first) < 2 || !strings.HasSuffix(first[0], "us") {
			continue
		}
		us, err := strconv.ParseFloat(strings.TrimSuffix(first[0], "us"), 64)
		if err != nil {
			return nil, fmt.Errorf("go tool pprof: %q is no time", first[0])
		}
		i := slices.IndexFunc(all, func(k kind) bool {
			return slices.ContainsFunc(k.funcs, func(f string) bool { return strings.Contains(block, f) })
		})
		all[i].ms += us / 1000
	}
	return all, nil
}
