// Package he is the encryption of one round: key-additive RLWE with
// secret-shared round keys. This half holds what needs no secret: the
// parameter sets, the strict codec, the digest of an encrypted vector and the
// sum over contributors. It is all that the coordinator may import; package
// he/party holds everything that touches a key.
//
// # The construction
//
// In every attempt of a round each hospital i draws a fresh Gaussian key s_i
// and encrypts its vector, K lanes to a coefficient, chunk by chunk:
//
//	c_ij = a_j·s_i + e_ij + 2^Delta·m_ij   in Z_q[X]/(X^N+1)
//
// a_j is the same for all hospitals and expanded from public values, so
// ciphertexts add, keys add, and the sum over a set U opens with S = sum of
// s_i alone. Each s_i is Shamir-shared to all N enrolled hospitals; an opening
// share is the sum over U of the shares a hospital holds, and t of them give
// S. No key outlives its round and no key ever decrypts a single contribution.
//
// # Threat model
//
// The coordinator, all of its nodes, and up to f of the N hospitals act
// arbitrarily and together; channels show them everything. At least two honest
// hospitals are in U, 2t >= N + f + 2 and min_sites >= f + 2 (the charter
// refuses anything else). Corruption is static. Then the coalition learns the
// sum over U, and of the honest hospitals' vectors nothing more; the
// coordinator without a hospital learns nothing at all and cannot shift the
// sum unnoticed.
//
// # What it does not protect
//
//   - Hospitals see every sum of their study, small cells included.
//   - A hospital may contribute any vector that fits its lanes: poisoning
//     within the clip is not detected.
//   - Fairness and guaranteed delivery: a colluder may learn a sum and then
//     stall; one false opening share spoils an attempt and nobody is named for
//     it by arithmetic alone (two liars could frame a third).
//   - Adaptive corruption, and hospitals whose journals are rolled back: they
//     count among the f.
//   - That only one set is opened in a round is the hospitals' vote and lock,
//     not this package: two openings with sets that differ by one hospital
//     give that hospital's vector exactly.
//   - Timing: samplers and field arithmetic take no secret-dependent branch or
//     address in the source, but the Go compiler promises nothing about
//     machine code, and memory is wiped as well as a garbage-collected runtime
//     allows.
//
// The security argument is a sketch. No cryptographer outside the project has
// read it.
//
// # Untrusted bytes
//
// A peer's ciphertext is a fixed number of residues of a fixed number of bits;
// Check and Sum accept exactly that many, each below its prime. No byte of a
// peer reaches a decoder of the lattice library, whose decoders trust lengths
// that they read: a truncated or hostile message ends the process.
//
// # Reading
//
//   - Stevens, Skalka, Vincent, Ring, Clark, Near: Efficient differentially
//     private secure aggregation for federated learning via hardness of
//     learning with errors. USENIX Security 2022. (Masks from LWE, the summed
//     key shared.)
//   - Bell, Gascón, Lepoint, Li, Meiklejohn, Raykova, Yun: ACORN. ePrint 2022/1461.
//   - Bell-Clark, Gascón, Li, Raykova, Schoppmann: Willow. ePrint 2024/936.
//   - Kim, Lee, Seo, Song: Toward practical lattice-based proof of knowledge
//     from Hint-MLWE. CRYPTO 2023. (Why Gaussian keys of 3.2·sqrt 2.)
//   - Bossuat et al.: Security guidelines for implementing homomorphic
//     encryption. ePrint 2024/463. (The limits on log2 q.)
//   - So, Ali, Guler, Jiao, Avestimehr: Securing secure aggregation:
//     mitigating multi-round privacy leakage. arXiv 2106.03328.
//   - Shamir: How to share a secret. CACM 22(11), 1979.
//   - RFC 5869 (HKDF), RFC 9180 (HPKE), FIPS 203 (ML-KEM), SP 800-38A (CTR),
//     SP 800-38D (GCM).
package he
