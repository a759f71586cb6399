// Package benchmarks measures the encryption beside the textbook threshold
// protocol, CKKS as deployed, plain float32 and the machine's limits;
// docs/performance.md has its figures and says how they were taken. Directory
// full runs a hundred million parameters, directory load rounds through real
// coordinators (docs/performance-service.md), directory peers the same work in
// other programs.
package benchmarks
