// Package studyfile turns a study file, the YAML that a data-science team
// writes, into the canonical specification that is signed, approved and frozen,
// and back.
//
// Its promise: what a study file says is what the specification says, or the
// file is refused at a line and column with the next step. Unknown keys,
// repeated keys, aliases and tags are refused, never skipped: a misspelt
// `min_cohort` must not silently mean the default.
//
// # Sugar
//
// A study file may be shorter than the specification:
//
//   - `formula: "Surv(tstart, tstop, status) ~ treat + age + strata(site)"` stands
//     for response, terms, strata, cluster and offset. In a formula a^2 is the
//     square of a, a*b is a + b + a:b, and terms are ordered by degree, as in R.
//   - `treat: [placebo, drug]` stands for {levels: [placebo, drug]}, `age: number`
//     for {type: number}.
//   - `t{1..60}_{hr,spo2}` stands for t1_hr, t1_spo2, t2_hr and so on, among
//     columns and features.
//   - `analysis:` stands for a list `analyses:` with one entry.
//   - `privacy: {min_sites: 5}` stands for `sites: {min: 5}`.
//   - Durations are written as 90s, 2m, 1h30m.
//
// Show writes the specification back without any of it, so that a team signs
// what it has read. Parse(Show(s)) has the same bytes as s.
//
// # Not here
//
// Whether an analysis can be computed (a response of the right type, enough
// levels) is for package models; whether it may be is for policy. Cohort and
// derive expressions are compiled by the room that evaluates them.
package studyfile
