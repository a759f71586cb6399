// Package net trains networks across hospitals. It owns gorgonia: nothing else
// in the house names it.
//
// # What a study does
//
// The first round asks every hospital for counts and for the moments of its
// training rows, which give the common standardisation. Then strategy.rounds
// rounds follow. In each one a hospital takes the shared weights, runs
// strategy.localEpochs of minibatch gradient descent on its own training rows,
// and contributes how far the weights moved, clipped and scaled with its share
// of all training rows. The sum over hospitals is the weighted mean; only that
// sum is opened, and every hospital makes the server's step (fedavg, fedprox,
// fedadam, fedyogi, scaffold) for itself, with the same bits. Along with its
// update a hospital contributes how the current model does on its training and
// its holdout rows: sums of losses, and counts of the two classes on a public
// grid of scores, from which a pooled AUC follows. The last round evaluates the
// final model. With strategy.patience training stops where the loss no longer
// falls, and the best model is the final one.
//
// The holdout split is by patient, from the vault's hash. Holdout rows enter
// no gradient and no standardisation.
//
// # Models
//
// A model is data: a list of whitelisted layers (dense, relu, tanh, sigmoid,
// conv1d, conv2d, maxpool, average, gru), a loss (logistic, squared, cox,
// reconstruction) and a type, named by a digest. Every shape is checked before
// gorgonia sees it. Flags and levels enter as -1 and 1, numbers by federated
// mean and standard deviation, of a series or image by channel; a missing
// feature enters as 0, the mean, and is counted. A row without a response is left
// out and counted.
//
// A model is a gorgonia graph whose operations are ours: one function for each
// layer and loss, with its gradient (op.go), which gorgonia differentiates. It is
// compiled once per model, batch size and type, laid out in memory once, and
// run in the caller's goroutine (engine.go): a panic there is an error, where
// gorgonia's own machine would end the process. Losses come from logits in a form
// that never takes the exponential of a positive number. Weights start from the
// study's seed, minibatches from the round's seed (AES-256 in counter mode). A
// repeated round repeats its bits, for any GOMAXPROCS and on every kind of
// processor: matrix products are package gemm's, exponentials package det's, and
// every other product is rounded before it is added.
//
// # Under differential privacy
//
// With privacy.dp a round opens one noisy sum of patients' clipped gradients, and
// nothing is evaluated before the end: private.go says why. Taps in every graph
// give the gradient of single rows after a pass over many.
//
// # What a site remembers
//
// Scaffold's control variate is a site's own state. It is committed by the
// round in which its change was opened, and the vault keeps it on disk.
//
// # What this does not protect
//
// Not poisoning: a dishonest hospital can send any update within the clip. Not
// memorisation: a network can fit single patients of a small cohort, and
// without differential privacy (privacy.dp) its weights may tell about them; the training
// curve beside the holdout curve shows how far that has gone. Not what the sum
// of the updates itself says to the hospitals of the study, who all see it
// in every round.
//
// # Reading
//
// B. McMahan et al., Communication-efficient learning of deep networks from
// decentralized data, AISTATS 2017 (fedavg). T. Li et al., Federated
// optimization in heterogeneous networks, MLSys 2020 (fedprox). S. Reddi et al.,
// Adaptive federated optimization, ICLR 2021 (fedadam, fedyogi). S. Karimireddy
// et al., SCAFFOLD, ICML 2020. X. Glorot and Y. Bengio, AISTATS 2010, and K. He
// et al., ICCV 2015 (first weights). M. Abadi et al., CCS 2016; P. Kairouz, Z. Liu
// and T. Steinke, ICML 2021; N. Agarwal, P. Kairouz and Z. Liu, NeurIPS 2021
// (privacy.dp). J. Hanley and B. McNeil, Radiology 1982
// (AUC). J. Katzman et al., DeepSurv, BMC Medical Research Methodology 2018 (cox).
// K. Cho et al., EMNLP 2014 (gru). F. Harrell et al., JAMA 1982 (C).
package net
