// Package dp accounts for differential privacy and draws its noise: the Skellam
// mechanism on integer sums of which every hospital adds a share.
//
// The privacy unit is one patient, added or removed (all of the patient's
// rows). A patient's contribution is an integer vector of L2 norm at most
// Delta; the sum over hospitals carries Skellam noise of variance at least mu
// after every colluder's own noise is taken away.
//
// Rényi divergence of two Skellam distributions that are shifted by an integer
// vector: N. Agarwal, P. Kairouz and Z. Liu, The Skellam Mechanism for
// Differentially Private Federated Learning (NeurIPS 2021), corollary 3.6.
// From there to (epsilon, delta): B. Balle et al., Hypothesis Testing
// Interpretations and Rényi Differential Privacy (2020), theorem 21. A test
// computes the privacy loss of the one-dimensional mechanism from the
// distribution itself and fails if it exceeds what is claimed.
package dp
