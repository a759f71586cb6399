// Package table reads a hospital's table into the record that a study declares.
//
// Its promise: a row is read exactly as the study's columns say, or the whole
// table is refused with the line, the column, the rule and the next step. A
// value of the wrong type, outside its bounds or not among the declared levels
// is never dropped, coerced or guessed.
//
// The patient's identifier never becomes a column: it is replaced by a keyed
// pseudonym before anything else sees the row, so what a study computes on
// cannot name anyone, and two hospitals' pseudonyms of one person differ.
//
// # Who sees a value
//
// An error's text never holds a cell of the table, because errors travel: into
// logs, to operators, to the team. Local renders the same error with the cell,
// for the hospital's own terminal.
//
// # The cohort and derived columns
//
// The cohort is a CEL expression (https://cel.dev) over the declared columns in
// a restricted environment: comparisons, logic, arithmetic and a few string
// functions; no macros, so no loops; no regular expressions; a bound on size and
// cost. A row in which a column that the expression names is missing is outside
// the cohort. Derived columns are arithmetic (+ - * / ^, sqrt, abs, min, max),
// each operation rounded once, so they have the same bits on every processor.
//
// # Not protected here
//
// Whether a row is the one that the hospital has committed to, and whether it
// may be used, is for the ledger and the policy. Whoever holds the pseudonym key
// can recompute pseudonyms from identifiers.
package table
