//go:build unix

package benchmarks

import (
	"testing"

	"github.com/tuneinsight/lattigo/v5/core/rlwe"
	"github.com/tuneinsight/lattigo/v5/he/hefloat"
	"github.com/tuneinsight/lattigo/v5/he/heint"
	"github.com/tuneinsight/lattigo/v5/mhe"
	"github.com/tuneinsight/lattigo/v5/ring"
	"github.com/tuneinsight/lattigo/v5/utils/sampling"
)

// costs are processor time on one processor and bytes, all for a parameter;
// the coordinator's are for a parameter of one contribution.
type costs struct{ worker, coordinator, node, receiver, bytes, digest float64 }

// plainSum is the floor without any encryption: vectors of float32 copied once
// by their owner and added by the coordinator.
func plainSum(n int) costs {
	acc, v, out := make([]float32, params), make([]float32, params), make([]float32, params)
	return costs{
		worker: best(func() { copy(out, v) }) / params,
		coordinator: best(func() {
			for range n {
				for i, x := range v {
					acc[i] += x
				}
			}
		}) / params / float64(n),
		receiver: best(func() { copy(out, acc) }) / params,
		bytes:    4,
	}
}

// ckks is what NVFLARE and TenSEAL set by default for federated averaging:
// CKKS, N = 8192, coefficient moduli of 60, 40 and 40 bits, of which SEAL keeps
// the last for keys; public-key encryption, one float to a slot.
func ckks(b testing.TB) costs {
	lit := hefloat.ParametersLiteral{LogN: 13, LogQ: []int{60, 40}, LogP: []int{40}, LogDefaultScale: 40}
	p, err := hefloat.NewParametersFromLiteral(lit)
	if err != nil {
		b.Fatal(err)
	}
	kgen := rlwe.NewKeyGenerator(p)
	sk, pk := kgen.GenKeyPairNew()
	ecd, enc, dec, eval := hefloat.NewEncoder(p), rlwe.NewEncryptor(p, pk), rlwe.NewDecryptor(p, sk), hefloat.NewEvaluator(p, nil)
	values := make([]float64, p.MaxSlots())
	for i := range values {
		values[i] = float64(i%1000) / 1000
	}
	per := float64(len(values))
	var ct *rlwe.Ciphertext
	c := costs{worker: best(func() {
		pt := hefloat.NewPlaintext(p, p.MaxLevel())
		if err := ecd.Encode(values, pt); err != nil {
			b.Fatal(err)
		}
		if ct, err = enc.EncryptNew(pt); err != nil {
			b.Fatal(err)
		}
	}) / per}
	c.bytes = float64(ct.BinarySize()) / per
	acc := ct.CopyNew()
	c.coordinator = best(func() {
		if err := eval.Add(acc, ct, acc); err != nil {
			b.Fatal(err)
		}
	}) / per
	c.receiver = best(func() {
		pt := dec.DecryptNew(acc)
		if err := ecd.Decode(pt, values); err != nil {
			b.Fatal(err)
		}
	}) / per
	return c
}

// textbook is lattigo's own threshold protocol over BGV: a collective public
// key, one ciphertext of 26-bit slots for each hospital, and a key switch share
// of each hospital for the sum, flooded with noise of 2^20 only, which is less
// than its security needs and flatters it.
func textbook(b testing.TB) costs {
	const parties = 3
	p, err := heint.NewParametersFromLiteral(heint.ParametersLiteral{LogN: 13, LogQ: []int{60}, PlaintextModulus: 0x3ee0001})
	if err != nil {
		b.Fatal(err)
	}
	prng, err := sampling.NewKeyedPRNG([]byte("benchmark"))
	if err != nil {
		b.Fatal(err)
	}
	ckg := mhe.NewPublicKeyGenProtocol(p)
	crp := ckg.SampleCRP(prng)
	kgen := rlwe.NewKeyGenerator(p)
	var sks []*rlwe.SecretKey
	sum := ckg.AllocateShare()
	for i := range parties {
		sks = append(sks, kgen.GenSecretKeyNew())
		share := ckg.AllocateShare()
		ckg.GenShare(sks[i], crp, &share)
		ckg.AggregateShares(share, sum, &sum)
	}
	pk := rlwe.NewPublicKey(p)
	ckg.GenPublicKey(sum, crp, pk)
	ecd, enc, eval := heint.NewEncoder(p), rlwe.NewEncryptor(p, pk), heint.NewEvaluator(p, nil)
	cks, err := mhe.NewKeySwitchProtocol(p, ring.DiscreteGaussian{Sigma: 1 << 20, Bound: 6 << 20})
	if err != nil {
		b.Fatal(err)
	}
	zero := rlwe.NewSecretKey(p)
	values := make([]uint64, p.MaxSlots())
	for i := range values {
		values[i] = uint64(i % 65536)
	}
	per := float64(len(values))
	var ct *rlwe.Ciphertext
	c := costs{worker: best(func() {
		pt := heint.NewPlaintext(p, p.MaxLevel())
		if err := ecd.Encode(values, pt); err != nil {
			b.Fatal(err)
		}
		if ct, err = enc.EncryptNew(pt); err != nil {
			b.Fatal(err)
		}
	}) / per}
	acc := ct.CopyNew()
	c.coordinator = best(func() {
		if err := eval.Add(acc, ct, acc); err != nil {
			b.Fatal(err)
		}
	}) / per
	share := cks.AllocateShare(acc.Level())
	c.worker += best(func() { cks.GenShare(sks[0], zero, acc, &share) }) / per
	c.receiver = best(func() {
		out := rlwe.NewCiphertext(p, 1, acc.Level())
		cks.KeySwitch(acc, share, out)
		pt := rlwe.NewDecryptor(p, zero).DecryptNew(out)
		got := make([]uint64, len(values))
		if err := ecd.Decode(pt, got); err != nil {
			b.Fatal(err)
		}
	}) / per
	c.bytes = float64(ct.BinarySize()+share.BinarySize()) / per
	return c
}
