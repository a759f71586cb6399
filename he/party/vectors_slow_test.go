package party_test

// This file computes the vectors of he/testdata by their definition, with
// nothing of ours: it imports the standard library alone. What it does is what
// he/testdata/README.md says.

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

type slowFile struct {
	Version    int
	CDT        []string
	Expansions []struct {
		Profile, Charter, State      string
		Round, Attempt, Chunk, Limb  int
		Prime, Key, First, Last, Sum string
	}
	Round struct {
		Profile                            string
		LogN, Bits, W, Delta, K            int
		Prime, Psi                         string
		Charter, Draft, State, Group       string
		Round, Attempt, Members, Threshold int
		Lanes                              int
		Hospitals                          []struct {
			Seed, Masks     string
			Lanes           []int64
			Salt, Vector    string
			Key, Error      []int64
			KeySum          string
			Coefficients    []string
			Tags            [2]string
			CiphertextStart string
			Ciphertext      string
			Boxes           []string
			Commitments     []string
			Header, Check   string
		}
		Aggregate, AggregateSum string
		Openings                []string
		SummedKey               []int64
		SummedKeySum            string
		Sums                    []int64
	}
}

var slowP = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 61), big.NewInt(1))

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	v, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }
func u32(v int) []byte    { return binary.BigEndian.AppendUint32(nil, uint32(v)) }
func u16(v int) []byte    { return binary.BigEndian.AppendUint16(nil, uint16(v)) }

// prefixed puts its length in eight bytes before each part.
func prefixed(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(append(out, u64(uint64(len(p)))...), p...)
	}
	return out
}

func digest(domain string, parts ...[]byte) []byte {
	h := sha256.Sum256(prefixed(append([][]byte{[]byte(domain)}, parts...)...))
	return h[:]
}

// treeHash is the digest of b, in pieces of 4096 bytes.
func treeHash(domain string, context []byte, length int, b []byte) []byte {
	hash := func(kind byte, parts ...[]byte) []byte {
		first := append(prefixed([]byte(domain)), kind)
		h := sha256.Sum256(bytes.Join(append([][]byte{append(first, make([]byte, 64-len(first))...)}, parts...), nil))
		return h[:]
	}
	var row [][]byte
	for rest := b; len(rest) > 0 || len(row) == 0; {
		n := min(4096, len(rest))
		row, rest = append(row, hash(0, rest[:n])), rest[n:]
	}
	for len(row) > 1 {
		var up [][]byte
		for ; len(row) > 1; row = row[2:] {
			up = append(up, hash(1, row[0], row[1]))
		}
		row = append(up, row...)
	}
	return hash(2, context, u64(uint64(length)), row[0])
}

// expand is HKDF-Expand (RFC 5869 §2.3) to 32 bytes: one block.
func expand(secret []byte, domain string, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write(prefixed(append([][]byte{[]byte(domain)}, parts...)...))
	m.Write([]byte{1})
	return m.Sum(nil)
}

// keystream yields the AES-256-CTR stream as 64-bit numbers.
type keystream struct {
	c   cipher.Stream
	raw [8]byte
}

func newKeystream(t *testing.T, key []byte, nonce uint64) *keystream {
	t.Helper()
	b, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	return &keystream{c: cipher.NewCTR(b, append(u64(nonce), make([]byte, 8)...))}
}

func (k *keystream) next() uint64 {
	k.raw = [8]byte{}
	k.c.XORKeyStream(k.raw[:], k.raw[:])
	return binary.LittleEndian.Uint64(k.raw[:])
}

func (k *keystream) field() *big.Int {
	for {
		if v := k.next() & (1<<61 - 1); v != 1<<61-1 {
			return new(big.Int).SetUint64(v)
		}
	}
}

func (k *keystream) residues(n int, q uint64) []uint64 {
	mask := uint64(1)<<bits.Len64(q) - 1
	var out []uint64
	for len(out) < n {
		if v := k.next() & mask; v < q {
			out = append(out, v)
		}
	}
	return out
}

func (k *keystream) gaussian(cdt []uint64) int64 {
	u := k.next()
	m := int64(0)
	for m < int64(len(cdt)) && cdt[m] <= u&(1<<63-1) {
		m++
	}
	if u>>63 == 1 {
		return -m
	}
	return m
}

func sha(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func mulMod(a, b, q uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	_, r := bits.Div64(hi%q, lo, q)
	return r
}

// at is the polynomial's value at x modulo q.
func atPoint(poly []uint64, x, q uint64) uint64 {
	v := uint64(0)
	for i := len(poly) - 1; i >= 0; i-- {
		v = mulMod(v, x, q)
		v = (v + poly[i]) % q
	}
	return v
}

func packBits(v []uint64, width int) []byte {
	out := make([]byte, len(v)*width/8)
	for i, x := range v {
		for b := range width {
			if x>>b&1 == 1 {
				at := i*width + b
				out[at/8] |= 1 << (at % 8)
			}
		}
	}
	return out
}

func TestVectorsBySlowPath(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "testdata", "vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var f slowFile
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	if f.Version != 2 {
		t.Fatalf("vectors of version %d", f.Version)
	}
	same := func(what string, got, want any) {
		t.Helper()
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		if string(g) != string(w) {
			t.Errorf("%s: computed %.80s, the file has %.80s", what, g, w)
		}
	}
	var cdt []uint64
	for _, s := range f.CDT {
		cdt = append(cdt, number(t, s))
	}

	// Expansion of a_j.
	maskKey := func(charter, state, profile string, round, attempt, chunk int) []byte {
		return digest("consilium/a/v1", unhex(t, charter), append(u32(round), u32(attempt)...), unhex(t, state), unhex(t, profile), u64(uint64(chunk)))
	}
	for _, x := range f.Expansions {
		key := maskKey(x.Charter, x.State, x.Profile, x.Round, x.Attempt, x.Chunk)
		same("expansion key", hex.EncodeToString(key), x.Key)
		n := 1 << unhex(t, x.Profile)[0]
		v := newKeystream(t, key, uint64(x.Limb)).residues(n, number(t, x.Prime))
		var all []byte
		for _, r := range v {
			all = append(all, u64(r)...)
		}
		same("first residue", v[0], number(t, x.First))
		same("last residue", v[n-1], number(t, x.Last))
		same("residues", sha(all), x.Sum)
	}

	r := f.Round
	n, q, psi := 1<<r.LogN, number(t, r.Prime), number(t, r.Psi)
	Q := new(big.Int).SetUint64(q)
	if x := new(big.Int).Exp(new(big.Int).SetUint64(psi), big.NewInt(int64(n)), Q); x.Cmp(new(big.Int).Sub(Q, big.NewInt(1))) != 0 {
		t.Fatal("psi is no primitive 2N-th root of one")
	}
	// The points of the transform, in its order.
	points := make([]uint64, n)
	for i := range points {
		rev := bits.Reverse32(uint32(i)) >> (32 - r.LogN)
		points[i] = new(big.Int).Exp(new(big.Int).SetUint64(psi), big.NewInt(int64(2*rev+1)), Q).Uint64()
	}
	a := newKeystream(t, maskKey(r.Charter, r.State, r.Profile, r.Round, r.Attempt, 0), 0).residues(n, q)
	profile, group := unhex(t, r.Profile), unhex(t, r.Group)
	where := func(position int) []byte {
		return append(append(append(unhex(t, r.Charter), u32(r.Round)...), u32(r.Attempt)...), u16(position)...)
	}
	mod := func(x int64) uint64 { return uint64(((x % int64(q)) + int64(q)) % int64(q)) }
	elements := (n + 5) / 6
	const maskElements, saltSize = 3, 32
	total := make([]uint64, n)
	opening := make([][]*big.Int, r.Members)
	for h := range opening {
		opening[h] = make([]*big.Int, elements)
		for e := range opening[h] {
			opening[h][e] = new(big.Int)
		}
	}
	keySum := make([]int64, n)
	sums := make([]int64, r.Lanes)

	// Tags.
	ts := newKeystream(t, expand(group, "consilium/tag-key/v1", unhex(t, r.Draft), u32(r.Round), where(0)), 0)
	var rho [2]*big.Int
	for i := range rho {
		for rho[i] = ts.field(); rho[i].Cmp(big.NewInt(2)) < 0; rho[i] = ts.field() {
		}
	}
	tagsOf := func(u []uint64) (out [2]*big.Int) {
		per := 60 / r.W
		for i := range out {
			out[i] = new(big.Int)
			pow := new(big.Int).Set(rho[i])
			for k := 0; k < len(u); k += per {
				z := new(big.Int)
				for j := 0; j < per && k+j < len(u); j++ {
					z.Add(z, new(big.Int).Lsh(new(big.Int).SetUint64(u[k+j]), uint(j*r.W)))
				}
				out[i].Add(out[i], z.Mul(z, pow)).Mod(out[i], slowP)
				pow.Mul(pow, rho[i]).Mod(pow, slowP)
			}
		}
		return out
	}

	for hi, h := range r.Hospitals {
		position := hi + 1
		seed := unhex(t, h.Seed)
		sub := func(use string) []byte {
			return expand(seed, "consilium/round-key/v1", []byte(use), profile, where(position))
		}
		ks := newKeystream(t, sub("key"), 0)
		key := make([]int64, n)
		keyBytes := make([]byte, n)
		for i := range key {
			key[i] = ks.gaussian(cdt)
			keyBytes[i] = byte(key[i])
			keySum[i] += key[i]
		}
		same("key", key[:16], h.Key)
		same("whole key", sha(keyBytes), h.KeySum)
		es := newKeystream(t, sub("error"), 0)
		noise := make([]int64, n)
		for i := range noise {
			noise[i] = es.gaussian(cdt)
		}
		same("error", noise[:16], h.Error)

		// Packing.
		u := make([]uint64, r.Lanes)
		for i, m := range h.Lanes {
			u[i] = uint64(m + 1<<(r.Bits-1))
			sums[i] += m
		}
		tags := tagsOf(u)
		for i, tag := range tags {
			same("tag", tag.Uint64(), number(t, h.Tags[i]))
			for l := range 4 {
				u = append(u, tag.Uint64()>>(16*l)&0xffff)
			}
		}
		msg, secret := make([]uint64, n), make([]uint64, n)
		for c := range n {
			x := big.NewInt(noise[c])
			for lane := range r.K {
				if at := c*r.K + lane; at < len(u) {
					x.Add(x, new(big.Int).Lsh(new(big.Int).SetUint64(u[at]), uint(r.Delta+lane*r.W)))
				}
			}
			if c < len(h.Coefficients) {
				same("coefficient", x.String(), h.Coefficients[c])
			}
			msg[c] = x.Mod(x, Q).Uint64()
			secret[c] = mod(key[c])
		}
		c := make([]uint64, n)
		for i, x := range points {
			c[i] = (mulMod(a[i], atPoint(secret, x, q), q) + atPoint(msg, x, q)) % q
			total[i] = (total[i] + c[i]) % q
		}
		wire := packBits(c, bits.Len64(q))
		same("ciphertext's start", hex.EncodeToString(wire[:32]), h.CiphertextStart)
		same("ciphertext", hex.EncodeToString(treeHash("consilium/ciphertext/v1", nil, len(wire), wire)), h.Ciphertext)
		var small []byte
		for _, m := range h.Lanes {
			small = binary.LittleEndian.AppendUint16(small, uint16(m))
		}
		same("vector", hex.EncodeToString(treeHash("consilium/vector/v1", unhex(t, h.Salt), len(h.Lanes), small)), h.Vector)

		// Dealing.
		ss := newKeystream(t, sub("sharing"), 0)
		ms := newKeystream(t, expand(unhex(t, h.Masks), "consilium/round-key/v1", []byte("masks"), seed), 0)
		polys := make([][]*big.Int, elements+maskElements)
		for e := range polys {
			from := ss
			if e >= elements {
				from = ms
			}
			for range r.Threshold {
				polys[e] = append(polys[e], from.field())
			}
			if e < elements {
				v := new(big.Int)
				for j := 5; j >= 0; j-- {
					v.Lsh(v, 10)
					if at := 6*e + j; at < n {
						v.Add(v, big.NewInt(key[at]))
					}
				}
				polys[e][0] = v.Mod(v, slowP)
			}
		}
		for holder := 1; holder <= r.Members; holder++ {
			var plain []byte
			for range saltSize / 8 {
				plain = append(plain, u64(ms.next())...)
			}
			for e, poly := range polys {
				v := new(big.Int)
				for i := len(poly) - 1; i >= 0; i-- {
					v.Mul(v, big.NewInt(int64(holder))).Add(v, poly[i]).Mod(v, slowP)
				}
				plain = append(plain, u64(v.Uint64())...)
				if e < elements {
					opening[holder-1][e].Add(opening[holder-1][e], v).Mod(opening[holder-1][e], slowP)
				}
			}
			same("box", sha(plain), h.Boxes[holder-1])
			same("commitment", hex.EncodeToString(digest("consilium/commitment/v1", []byte("share"), append(where(position), u16(holder)...), plain)), h.Commitments[holder-1])
		}
		var check []byte
		challenge := digest("consilium/check/v1", unhex(t, h.Header))
		for i := range maskElements {
			rs := newKeystream(t, challenge, uint64(i))
			v := make([]*big.Int, r.Threshold)
			for j := range v {
				v[j] = new(big.Int).Set(polys[elements+i][j])
			}
			for e := range elements {
				x := rs.field()
				for j := range v {
					v[j].Add(v[j], new(big.Int).Mul(x, polys[e][j])).Mod(v[j], slowP)
				}
			}
			for j := range v {
				check = append(check, u64(v[j].Uint64())...)
			}
		}
		same("check polynomials", hex.EncodeToString(check), h.Check)
	}

	// Opening.
	wire := packBits(total, bits.Len64(q))
	same("aggregate's start", hex.EncodeToString(wire[:32]), r.Aggregate)
	same("aggregate", sha(wire), r.AggregateSum)
	for h, shares := range opening {
		var all []byte
		for _, v := range shares {
			all = append(all, u64(v.Uint64())...)
		}
		same("opening share", sha(all), r.Openings[h])
	}
	summed := make([]int64, n)
	for e := range elements {
		v := new(big.Int)
		for i := range r.Threshold { // Lagrange at 0 over the points 1 to t
			num, den := big.NewInt(1), big.NewInt(1)
			for j := range r.Threshold {
				if i != j {
					num.Mul(num, big.NewInt(int64(-(j + 1))))
					den.Mul(den, big.NewInt(int64(i-j)))
				}
			}
			den.Mod(den, slowP).ModInverse(den, slowP)
			num.Mul(num, den).Mul(num, opening[i][e])
			v.Add(v, num).Mod(v, slowP)
		}
		if v.BitLen() == 61 || v.Cmp(new(big.Int).Rsh(slowP, 1)) > 0 {
			v.Sub(v, slowP) // the centred value
		}
		for j := range 6 {
			digit := new(big.Int).And(v, big.NewInt(1023)).Int64()
			if digit >= 512 {
				digit -= 1024
			}
			if at := 6*e + j; at < n {
				summed[at] = digit
			}
			v.Sub(v, big.NewInt(digit)).Rsh(v, 10)
		}
	}
	var all []byte
	for i, s := range summed {
		if s != keySum[i] {
			t.Fatalf("coefficient %d of the summed key is %d, the keys sum to %d", i, s, keySum[i])
		}
		all = append(all, byte(s>>8), byte(s))
	}
	same("summed key", summed[:16], r.SummedKey)
	same("whole summed key", sha(all), r.SummedKeySum)
	same("sums", sums, r.Sums)
	// The aggregate minus a·S is the sum of the packed vectors: its coefficient
	// j is the sum of value·point^-j over all points, divided by N.
	secret := make([]uint64, n)
	for i, s := range summed {
		secret[i] = mod(s)
	}
	values := make([]uint64, n)
	for i, x := range points {
		values[i] = (total[i] + q - mulMod(a[i], atPoint(secret, x, q), q)) % q
	}
	inverse := new(big.Int).ModInverse(big.NewInt(int64(n)), Q)
	var lanes []uint64
	for j := range (r.Lanes + 8 + r.K - 1) / r.K {
		x := new(big.Int)
		for i, p := range points {
			w := new(big.Int).Exp(new(big.Int).SetUint64(p), big.NewInt(int64(-j)), Q)
			x.Add(x, w.Mul(w, new(big.Int).SetUint64(values[i])))
		}
		x.Mul(x, inverse).Mod(x, Q).Add(x, big.NewInt(1<<(r.Delta-1))) // the noise is centred
		x.Mod(x, Q).Rsh(x, uint(r.Delta))
		for range r.K {
			lanes = append(lanes, new(big.Int).And(x, big.NewInt(1<<r.W-1)).Uint64())
			x.Rsh(x, uint(r.W))
		}
		if x.Sign() != 0 {
			t.Errorf("coefficient %d has bits above its lanes", j)
		}
	}
	opened := make([]int64, r.Lanes)
	for i := range opened {
		opened[i] = int64(lanes[i]) - int64(r.Members)<<(r.Bits-1)
	}
	same("opened sums", opened, r.Sums)
	for i, want := range tagsOf(lanes[:r.Lanes]) {
		got := new(big.Int)
		for l := 3; l >= 0; l-- {
			got.Lsh(got, 16).Add(got, new(big.Int).SetUint64(lanes[r.Lanes+4*i+l]))
		}
		same("summed tag", got.Mod(got, slowP).String(), want.String())
	}
}
