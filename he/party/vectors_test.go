package party

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"math/bits"
	"os"
	"path/filepath"
	"testing"

	"consilium"
	"consilium/he"
)

// The vectors of he/testdata: everything that another implementation must
// compute byte for byte, from fixed secrets. he/testdata/README.md says what each
// field is; TestVectorsBySlowPath computes them again without our code.

type vectorFile struct {
	Version    int
	CDT        []string // of the sampler, as hexadecimal numbers
	Expansions []expansionVector
	Round      roundVector
}

type expansionVector struct {
	Profile                      string // encoded
	Charter, State               consilium.Digest
	Round, Attempt, Chunk, Limb  int
	Prime, Key, First, Last, Sum string // Sum: SHA-256 of the residues, eight bytes each, big-endian
}

type roundVector struct {
	Profile                 string
	LogN, Bits, W, Delta, K int
	Prime, Psi              string
	Charter, Draft, State   consilium.Digest
	Group                   string
	Round, Attempt          int
	Members, Threshold      int
	Lanes                   int
	Hospitals               []hospitalVector
	Aggregate, AggregateSum string // first 32 bytes; SHA-256
	Openings                []string
	SummedKey               []int64
	SummedKeySum            string
	Sums                    []int64
}

type hospitalVector struct {
	Seed, Masks     string
	Salt            string // of the vector
	Lanes           []int32
	Vector          consilium.Digest
	Key, Error      []int64 // first 16
	KeySum          string  // SHA-256 of all coefficients as bytes, two's complement
	Coefficients    []string
	Tags            [2]string
	CiphertextStart string
	Ciphertext      consilium.Digest
	Boxes           []string // SHA-256 of what each holds: salt and share
	Commitments     []consilium.Digest
	Header          string // without check polynomials
	Check           string
}

func hashOf(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func signedBytes(s []int64) []byte {
	out := make([]byte, len(s))
	for i, x := range s {
		out[i] = byte(int8(x))
	}
	return out
}

func wideBytes(s []int64) []byte {
	var out []byte
	for _, x := range s {
		out = append(out, byte(x>>8), byte(x))
	}
	return out
}

func makeVectors(t *testing.T) *vectorFile {
	t.Helper()
	out := &vectorFile{Version: 2}
	for _, x := range gaussCDT {
		out.CDT = append(out.CDT, fmt.Sprintf("%#x", x))
	}
	charter := consilium.DomainCharter.Digest([]byte("vectors"))
	state := consilium.DomainState.Digest([]byte("vectors"))
	for _, p := range []he.Profile{mustProfile(t, 11, 16, 16), mustProfile(t, 13, 24, 16)} {
		at := consilium.At{Charter: charter, Round: 2, Attempt: 3}
		for chunk := range 2 {
			for i, q := range p.Primes {
				var ra [8]byte
				ra[3], ra[7] = 2, 3
				k := consilium.DomainPublicMask.Digest(charter[:], ra[:], state[:], p.Encode(), []byte{0, 0, 0, 0, 0, 0, 0, byte(chunk)})
				var s stream
				s.open(maskBlock(p.Encode(), at, state, chunk), uint64(i))
				v := make([]uint64, p.N())
				s.uniform(v, q, bits.Len64(q))
				out.Expansions = append(out.Expansions, expansionVector{
					Profile: hex.EncodeToString(p.Encode()), Charter: charter, State: state, Round: 2, Attempt: 3, Chunk: chunk, Limb: i,
					Prime: fmt.Sprintf("%#x", q), Key: hex.EncodeToString(k[:]), First: fmt.Sprintf("%#x", v[0]), Last: fmt.Sprintf("%#x", v[len(v)-1]), Sum: hashOf(appendF(nil, v)),
				})
			}
		}
	}
	p := mustProfile(t, 11, 16, 16)
	e, err := engineFor(p)
	if err != nil {
		t.Fatal(err)
	}
	const n, threshold, lanes = 3, 3, 10
	f := newFederation(t, p, lanes, n, threshold)
	f.charter, f.state, f.group, f.round, f.attempt = charter, state, testGroup("vectors"), 1, 1
	q := p.Primes[0]
	psi := new(big.Int).Exp(new(big.Int).SetUint64(e.limbs[0].ring.PrimitiveRoot), big.NewInt(int64((q-1)/uint64(2*p.N()))), new(big.Int).SetUint64(q))
	r := &out.Round
	*r = roundVector{Profile: hex.EncodeToString(p.Encode()), LogN: p.LogN, Bits: p.Bits, W: p.W, Delta: p.Delta, K: p.K, Prime: fmt.Sprintf("%#x", q), Psi: fmt.Sprintf("%#x", psi),
		Charter: charter, Draft: f.group.charter, State: state, Group: hex.EncodeToString(f.group.b[:]), Round: 1, Attempt: 1, Members: n, Threshold: threshold, Lanes: lanes}
	values := [][]int32{{0, 1, -1, 32767, -32768, 100, -100, 7, 8, 9}, {-32768, 32767, 5, 5, 5, 5, 5, 5, 5, 5}, {3, 1, 4, 1, 5, 9, 2, 6, 5, 3}}
	plains := make([][][]byte, n)
	for i := range n {
		pos := consilium.Position(i + 1)
		in := f.encryption(t, pos, values[i])
		seed := sha256.Sum256(fmt.Appendf(nil, "seed %d", i))
		masks := sha256.Sum256(fmt.Appendf(nil, "masks %d", i))
		if in.Seed, err = ParseSeed(seed[:]); err != nil {
			t.Fatal(err)
		}
		s := e.roundKey(in)
		d := &Dealing{at: in.At, state: in.State, vector: in.Vector, p: p, threshold: threshold, Size: p.Size(lanes)}
		var fresh secret
		fresh.b = masks
		salts := d.share(in, s, &fresh)
		share := make([]uint64, len(d.poly))
		h := hospitalVector{Seed: hex.EncodeToString(seed[:]), Masks: hex.EncodeToString(masks[:]), Salt: hex.EncodeToString(in.Salt[:]), Lanes: values[i], Vector: in.Vector, Key: s[:16], KeySum: hashOf(signedBytes(s))}
		for holder := 1; holder <= n; holder++ {
			plain := d.plain(nil, share, salts, holder)
			plains[i] = append(plains[i], plain)
			h.Boxes = append(h.Boxes, hashOf(plain))
			d.Commitments = append(d.Commitments, commitment(in.At, consilium.Position(holder), plain))
			d.Boxes = append(d.Boxes, fmt.Appendf(nil, "box of %d for %d", i+1, holder)) // HPKE is random: the vectors begin at what a box holds
		}
		h.Commitments = d.Commitments
		var buf bytes.Buffer
		if err := e.encryptStream(context.Background(), in, e.newKey(s), d, &buf); err != nil {
			t.Fatal(err)
		}
		f.cipher[i] = buf.Bytes()
		h.Ciphertext, h.CiphertextStart = d.Ciphertext, hex.EncodeToString(buf.Bytes()[:32])
		k := in.Seed.sub(p, in.At, "error")
		var es stream
		es.open(newBlock(&k), 0)
		noise := make([]int64, p.N())
		es.gaussians(noise)
		h.Error = noise[:16]
		tg := newTagger(p, f.group, in.At)
		u := make([]uint32, lanes)
		for j, m := range values[i] {
			u[j] = uint32(m + 1<<15)
		}
		tg.add(u)
		tags := tg.sum()
		h.Tags = [2]string{fmt.Sprintf("%#x", tags[0]), fmt.Sprintf("%#x", tags[1])}
		tail := make([]uint32, he.TagLanes)
		tagLanes(tail, tags)
		u = append(u, tail...)
		for c := range len(u) / p.K {
			x := big.NewInt(noise[c])
			for lane := range p.K {
				x.Add(x, new(big.Int).Lsh(big.NewInt(int64(u[c*p.K+lane])), uint(p.Delta+lane*p.W)))
			}
			h.Coefficients = append(h.Coefficients, x.String())
		}
		header := &consilium.Header{Layout: consilium.DomainState.Digest([]byte("layout"))}
		if err := d.Header(header); err != nil {
			t.Fatal(err)
		}
		h.Check = hex.EncodeToString(header.Check)
		bare := *header
		bare.Check = nil
		h.Header = hex.EncodeToString(bare.Encode())
		f.bodies[i] = header.Encode()
		f.vectors[i] = values[i]
		r.Hospitals = append(r.Hospitals, h)
	}
	var readers []io.Reader
	for _, c := range f.cipher {
		readers = append(readers, bytes.NewReader(c))
	}
	var sum bytes.Buffer
	if err := he.Sum(p, lanes, readers, &sum); err != nil {
		t.Fatal(err)
	}
	r.Aggregate, r.AggregateSum = hex.EncodeToString(sum.Bytes()[:32]), hashOf(sum.Bytes())
	set := f.set(positions(n))
	var openings []*OpeningShare
	for holder := range n {
		o := &OpeningShare{p: p, at: f.at(consilium.Position(holder + 1)), set: set.Digest(), elements: make([]uint64, p.Elements())}
		for i := range n {
			one := make([]uint64, p.Elements()+he.MaskElements)
			if !parseF(one, plains[i][holder][he.SaltSize:]) {
				t.Fatal("share")
			}
			for j := range o.elements {
				o.elements[j] = addF(o.elements[j], one[j])
			}
		}
		openings = append(openings, o)
		r.Openings = append(r.Openings, hashOf(appendF(nil, o.elements)))
	}
	in := &Decryption{Profile: p, Lanes: lanes, Threshold: threshold, Members: n, State: state, Set: set, Group: f.group, Openings: openings}
	s := make([]int64, p.N())
	if !in.reconstruct(s, sumBound(n)) {
		t.Fatal("no key")
	}
	r.SummedKey, r.SummedKeySum = s[:16], hashOf(wideBytes(s))
	got, err := f.open(positions(n), openings, sum.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, got, f.plain(positions(n)))
	r.Sums = got
	return out
}

// TestVectorFile holds our code to the vectors.
func TestVectorFile(t *testing.T) {
	b, err := json.MarshalIndent(makeVectors(t), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	name := filepath.Join("..", "testdata", "vectors.json")
	if os.Getenv("UPDATE_VECTORS") != "" {
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("not the vectors of %s (UPDATE_VECTORS=1 writes them anew, which is a change of protocol)", name)
	}
}
