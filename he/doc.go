// Package he is the encryption of one round: key-additive RLWE with
// secret-shared round keys. This half holds what needs no secret: the
// parameter sets, the strict codec, the digest of an encrypted vector and the
// sum over contributors. It is all that the coordinator may import; package
// he/party holds everything that touches a key. This page is for a reader who
// knows lattices and secret sharing and wants to attack the whole.
//
// The security argument below is a sketch. No cryptographer outside the
// project has read it.
//
// # Notation
//
// N hospitals at positions 1 to N; up to f of them dishonest, together with the
// whole coordinator; t the threshold. R_q = Z_q[X]/(X^n+1), n = 2^logN, q a
// product of primes. D is the discrete Gaussian over the integers with standard
// deviation sigma = 3.2·sqrt(2), the same for keys and errors. F is the field of
// p = 2^61-1 elements. E is the charter, signed by all N; H(E) its digest. U is the
// set of contributors of an attempt, m_i hospital i's vector, one for each round.
// K_r is the group's key of round r, which the coordinator does not have:
// HKDF(contributions of all N, committed before revealed), ratcheted by HKDF and
// destroyed when its round closes.
//
// # Messages of an attempt
//
// Each is signed with Ed25519 and ML-DSA-65 and binds H(E), round, attempt and
// position. "Journalled" means durable before it is sent, and only these bytes
// ever.
//
//  1. HEADER. i draws s_i from D^n, fresh in every attempt, and encrypts chunk j,
//     K lanes to a coefficient:
//
//     c_ij = a_j·s_i + e_ij + 2^Delta·packed(m_ij)   in R_q
//
//     a_j is expanded from (H(E), round, attempt, state, profile, j), so it is the
//     same for all. After the lanes come two linear tags of m_i over F under a key
//     from K_r. s_i, six coefficients to an element of F, and three random mask
//     elements are Shamir-shared to all N with degree t-1. The header lists the
//     digest of every box (HPKE to the holder's key of this round), a salted
//     commitment to every share, the digest of c_i, digests of m_i and of the rows
//     under the hospital's own salt, and three check polynomials v_k = R_k + sum_e r_ke·P_e, with r from the
//     header without them (Fiat-Shamir). It names the list of sealing keys that the
//     dealer was told. Journalled with seed and masks, which stay until the round
//     has closed.
//
//  2. COMPLAINT, ANSWER. A holder whose box, commitment or share does not check
//     complains, if the header names the list of sealing keys that the holder was
//     told; the list is the coordinator's word, and a box under another is nobody's
//     fault and in no U that the holder votes for. The dealer publishes that one
//     share, sealed under K_r, at most f in an attempt; everybody checks it as if it
//     were its own. A dealer that does not answer by the deadline leaves U.
//
//  3. VOTE, for one U in an attempt, by hospitals that checked every member
//     themselves; t votes are the certificate. Journalled.
//
//  4. OPENING, only against a certificate that the hospital counted itself: the sum
//     over U of the shares it holds, sealed under K_r and a fresh salt. Before it a
//     hospital journals its binding to the members of U, in all attempts of the
//     round (the lock) and, in exact studies, in all rounds (the freeze).
//
//  5. STATE. Anyone in the group interpolates S = sum s_i from t shares, computes
//     sum(c_i) - a·S, checks noise, ranges, padding and tags, and signs the salted
//     digest of the next state, or "rejected" and no cause. t equal ones close the
//     round.
//
//  6. RENOUNCE. Who joins attempt a+1, or will not open a certified set, promises
//     never to open up to a, if it never opened in the round. N-t+f+1 of these
//     release the lock of those who did open.
//
//  7. SUSPECT, SHOW, after a rejected sum: t equal lists of at most t-1-f hospitals
//     whose openings are off the others' polynomial; each that did open shows the
//     group the shares that it had added, which are checked against the dealers'
//     headers.
//
//  8. DEPART, between rounds or where one cannot be finished: who has opened nothing
//     from round r on under E promises that it never will. N-t+f+1 of these and the
//     signatures of all its members make E' valid, which begins with round r, fresh
//     keys and a fresh K_r. f' >= f, members of more than f' operators go on with their
//     keys, and nobody signs two successors of E. The state after round r-1 goes to the
//     new group sealed, with the salt under which t signed its digest.
//
// # What it gives
//
// The charter refuses anything but 2t >= N + f + 2 and min_sites >= f + 2 in
// distinct operators. Corruption is static. Then the coalition of coordinator
// and f hospitals learns the sum over one U in each round and of the honest
// hospitals' vectors nothing more; the coordinator without a hospital learns nothing
// and cannot shift a sum unnoticed; and t hospitals finish a certified round.
//
// # Why: a sketch
//
// One set. Two certificates in one attempt take f + 2 double votes, so two honest
// ones. Two opened sets in two attempts of a round share 2t-N >= f+2 openers, two
// of them honest, locked to the first; each released its lock only on N-t+f+1
// renouncements, N-t+1 of them honest, after which fewer than t hospitals ever open
// the first: a contradiction. (worker's binding is that rule; TestEverySchedule
// plays all schedules against it.) So in each round the coalition holds S_U for one
// member set; over several attempts these are sums of fresh keys of the same vectors.
//
// One set, across epochs. The departures hold N-t+1 honest ones, so under E fewer
// than t ever open a round from r on; only E' does. Two successors of E share no
// honest member, so no honest vector is in sums of both. (TestEveryEpochSchedule.)
//
// Shares. A share of an honest s_i leaves its box in three ways only. (a) An
// answer, to whom complained. An honest holder never complains about an honest
// dealer: header, lists, charter, state, layout and K_r that both judge by are
// equal, or the holder sees that they are not (the list) or never gets so far (a
// state needs t equal signatures, so there is one); then the dealer sealed to a key
// that the holder signed, and what it sealed checks. So answers go to the f
// dishonest, who have those shares. (b) A show. One list of accused in an attempt
// can get t signatures, since each honest hospital signs one; it has at most t-1-f
// members, and each shows its share of every dealer in U. (c) An opening, a sum over
// U, and there is one U in an attempt. Keys are fresh in every attempt. So the
// positions at which the coalition knows shares are, for all honest dealers of an
// attempt alike, those of the f and of at most t-1-f accused: t-1 in all. That they
// are the same for all matters: with S_U(x) = sum P_i(x) open at every x, knowing all
// P_j(x) but one gives that one, and different positions for different dealers would
// add up. With t-1 points of each P_i and the polynomial sum P_i, every choice of the
// s_i with the sum S_U is left, and equally likely. Each v_k is masked by R_k, uniform
// given t-1 of its points. An honest opening share is the value of sum P_i, a
// polynomial whose other coefficients are uniform; together they say S_U and nothing
// else.
//
// Hints. Given S_U and the summed error, with at least two honest members, each
// honest key and error is a Gaussian of width at least sigma/sqrt(2) = 3.2 around a
// known mean (Hint-LWE, Kim et al. 2023; exact enumeration here gives 3.1997 at
// these widths). So c_i is an RLWE sample at the width that the tables assume, in
// several chunks under one secret as usual; a hybrid over all honest members but one
// replaces their ciphertexts by uniform ones subject to the known sum. What is
// left is the sum of the honest vectors. Keys must be Gaussian: the sum of two
// ternary keys gives both away wherever it is extreme.
//
// Soundness. A dealing off degree t-1 passes three checks with probability 2^-183
// for each header that the dealer tries. A sum that was changed without K_r passes one
// tag with probability lanes/2^61, both with its square, and the noise check catches
// whatever is not a multiple of 2^Delta. A member of the group can shift the
// sum, as it could by contributing something else.
//
// Digests. A header's digests of the vector and of the rows are under salts that
// only its hospital has. Under the group's salt, one dishonest hospital would find a
// small table again by trying all.
//
// Blame. An honest dealer's answer checks; an honest accused shows shares that
// add up to its opening, from the box or, where that held nothing, from the answer;
// so neither is found guilty, whatever f hospitals do. Not
// everybody guilty is found: of m openings up to (m-t)/2 false ones are located, and
// a contributor whose c_i does not match its dealt key is not found without opening
// data, which is never done: one retry, every contributor audits itself from its
// seed, then the study ends with U listed.
//
// # Assumptions
//
//   - Ring-LWE with Gaussian secrets at the parameters below: Bossuat et al., ePrint
//     2024/463, its table for 128 bits, quantum, Gaussian secrets. Hint-RLWE reduces to
//     it: Kim, Lee, Seo, Song, CRYPTO 2023 (Hint-MLWE).
//   - HPKE base mode (RFC 9180 §5.1.1) with X25519 and ML-KEM-768 (FIPS 203): IND-CCA
//     if either holds. Signatures: Ed25519 (RFC 8032) and ML-DSA-65 (FIPS 204), both
//     must verify.
//   - SHA-256 as a random oracle in commitments, Fiat-Shamir and derivations;
//     HKDF (RFC 5869); AES-256 in CTR (SP 800-38A) as a random generator, in GCM (SP
//     800-38D) under a key of its own for every message.
//   - Every honest hospital's journal survives, and is not rolled back.
//
// # Parameters, and why
//
//   - sigma: two honest members cost a factor sqrt(2), leaving 3.2.
//   - log2 q per ring: 53, 103, 206, 412 for logN 11 to 14. The rule of the table,
//     W·K + Delta + 1 <= log2 of the product, and the limits are recomputed by a test.
//   - Delta: 9·sigma·sqrt(MaxN) < 2^(Delta-1); beyond nine deviations lies 2^-44 for a
//     sum of 2^14 coefficients.
//   - p = 2^61-1: six digits of ten bits hold a summed coefficient of 128 keys, at
//     most 460; reduction is two additions.
//   - Three check polynomials, since a dealer may try many headers: 2^61 tries pass
//     one check, 2^183 all three.
//
// docs/parameters.md is the operator's page; testdata has vectors.
//
// # Not covered
//
//   - Hospitals see every sum of their study, small cells included.
//   - A hospital may contribute any vector that fits its lanes.
//   - Fairness and guaranteed delivery: a colluder may learn a sum and stall.
//   - Adaptive corruption; hospitals whose journals are rolled back count among
//     the f.
//   - Timing: samplers and field arithmetic take no secret-dependent branch or
//     address in the source, but the Go compiler promises nothing about machine
//     code, and memory is wiped as well as a garbage-collected runtime allows.
//     Locating false shares branches on sums that its group knows.
//   - Not reviewed: the composition as a whole, the release of locks, the bound on
//     what blame shows, the hybrid over chunks with one hint for all of them.
//
// # Digests of long strings
//
// The digests of an encrypted vector, of a vector and of stored blobs are tree
// hashes (package internal/sha): the Merkle tree of RFC 6962 §2.1 over pieces of
// 4096 bytes, with a first block that names domain and kind (leaf, node, root) in
// the place of RFC 6962's first byte, and a last hash over context, length and root.
// They are collision resistant if SHA-256 is, since kind, domain and length are
// bound: two strings with one digest give two different inputs of one hash. A piece
// can be checked by itself, and sixteen are hashed at a time. The salt of a vector's
// digest is the context of its last hash; the hashes below it are never published.
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
//   - Shamir: How to share a secret. CACM 22(11), 1979. Welch, Berlekamp: Error
//     correction for algebraic block codes. US 4633470, 1986.
package he
