// Package models holds every analysis, exact or learned, in one shape: a
// sequence of rounds in which each hospital turns its permitted, verified rows
// into one vector, the sum over hospitals is opened, and a deterministic update
// turns that sum into the next state.
//
// Exact analyses (this package) equal the pooled computation. Learned models
// live in models/net, which owns gorgonia.
//
// # What an opened sum says
//
// Hospitals see every sum of their study, so an analysis asks for sums that
// say little about one patient. Cox models and log-rank tests are stratified by
// hospital: score, information, O-E and V never carry a time. Curves travel on
// a coarse public grid. A fixed effect of the hospital is profiled where it
// arises and never sent. The tests hold the naive twins, in which consecutive
// risk-set sums give away patients one by one.
//
// # What it does not protect
//
// A hospital that lies about its rows moves the result; bounds in the study
// file limit how far. Sums over few patients describe those patients: policy
// decides the least cohort before anything is computed, and this package ends
// an analysis below it without estimates.
//
// # Same bits everywhere
//
// Update and Result use package det, IEEE square roots and products that are
// rounded before they are added, never a map's order; hospitals compare the
// digests of their states.
//
// Reading: T. Therneau and P. Grambsch, Modeling Survival Data (2000), for the
// partial likelihood with Efron ties and score residuals; P. McCullagh and J.
// Nelder, Generalized Linear Models (1989); A. Agresti, Categorical Data
// Analysis (2013) for tables.
package models
