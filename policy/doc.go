// Package policy decides what a hospital may do with its records: whether a
// study is admitted, whether a site takes part, which rows and columns may be
// read, what may leave, and whether a result may be released. It owns Open
// Policy Agent (OPA) and the law as dated data.
//
// # Shape of the rules
//
// Every rule has one line in law/rules.json (code, regime, points, article,
// LAW or POLICY, source and whether the text was read) and one or more bodies
// `ok["CODE"] if …` in rego/. A rule that is in force and whose code is
// not in `ok` denies. So a missing fact, a misspelled field, a value of the
// wrong type and a rule without a body all deny; nothing is allowed because
// something could not be evaluated. Row and column rules have the same form.
//
// What is in force follows from the site's regimes. No regime, an unknown
// regime and a list of law that is older than its max_age_days deny.
//
// # Threat model
//
// Members of the board may be careless or hostile: an overlay can deny, ask
// for obligations, drop rows, raise k and grant the exceptions that the core
// lets a board grant; it cannot allow what the core denies, name another
// package, call a built-in that is not on the list, read the clock or the
// network, or run longer than the limit. Whoever hands over a bundle cannot
// change it: k of n board members sign its digest. Inputs are untrusted: every
// document is checked against a schema with all fields required and no others.
//
// # What it does not protect
//
// The rules see documents, not the world: a hospital that files a waiver that
// no board gave is believed. Time comes from the caller. A decision is not
// legal advice, and rules whose text was not read are marked so in
// docs/law.md. A hostile overlay is held by limits inside the process (limits.go,
// lintsize.go), not by a process of its own; hostile_test.go tries some fifty in
// 2 GiB. A decision about many columns is itself work: the rules about columns
// take time with the square of their number.
//
// # Rows
//
// The row rules are partially evaluated once for each study, with the row and
// the moment unknown, and what is left is compiled to kernels over the columns
// (partial.go, words.go, kernel.go, kernelrun.go): and, or and literals in Kleene's
// logic, dictionaries looked up once, validity bitmaps, offsets. What does not
// compile is asked of OPA once for each distinct tuple of control facts (filter.go),
// and refused with file and line past MaxDistinct. Before a program is used it is
// tried on generated rows beside OPA, when the bundle is loaded and for each study
// again (rowgate.go); one row too many refuses the bundle. docs/policy-engine.md
// says which constructs compile, and the figures.
//
// A question that a study asks in every round may be answered from memory for as
// long as no date that the rules compared with the moment has come (moment.go,
// recall.go).
//
// Every decision is recorded (audit.go) before it is acted upon, and the board's
// stops (stop.go) are read before every use, whatever policy a study began with.
//
// Reading list: Regulation (EU) 2016/679; 45 CFR 46 and 164; 28 CFR 202; 5
// U.S.C. 552a; SR 810.30 (HRA); UAVG; BW 7:458; Databeskyttelsesloven;
// Sundhedsloven; openpolicyagent.org policy reference.
package policy
