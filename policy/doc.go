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
// docs/law.md. Peak memory of a hostile overlay is bounded only by the
// restricted built-ins and by size limits, not by a separate process.
//
// Reading list: Regulation (EU) 2016/679; 45 CFR 46 and 164; 28 CFR 202; 5
// U.S.C. 552a; SR 810.30 (HRA); UAVG; BW 7:458; Databeskyttelsesloven;
// Sundhedsloven; openpolicyagent.org policy reference.
package policy
