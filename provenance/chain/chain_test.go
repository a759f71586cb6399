package chain

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/provenance"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.TrimPrefix(s, "0x"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// encode is RLP the other way, for tests.
func encode(v any) []byte {
	prefix := func(base byte, body []byte) []byte {
		if len(body) <= 55 {
			return append([]byte{base + byte(len(body))}, body...)
		}
		n := putNumber(uint64(len(body)))
		return append(append([]byte{base + 55 + byte(len(n))}, n...), body...)
	}
	switch v := v.(type) {
	case []byte:
		if len(v) == 1 && v[0] < 0x80 {
			return v
		}
		return prefix(0x80, v)
	case item:
		if !v.list {
			return encode(v.bytes)
		}
		var body []byte
		for _, x := range v.items {
			body = append(body, encode(x)...)
		}
		return prefix(0xc0, body)
	case []any:
		var body []byte
		for _, x := range v {
			body = append(body, encode(x)...)
		}
		return prefix(0xc0, body)
	}
	panic("encode")
}

// The examples of the Yellow Paper's companion page on RLP, and forms that are
// not canonical.
func TestRLP(t *testing.T) {
	for want, v := range map[string]any{
		"83646f67":           []byte("dog"),
		"c88363617483646f67": []any{[]byte("cat"), []byte("dog")},
		"80":                 []byte{}, "c0": []any{}, "00": []byte{0}, "0f": []byte{15}, "820400": []byte{4, 0},
		"c7c0c1c0c3c0c1c0": []any{[]any{}, []any{[]any{}}, []any{[]any{}, []any{[]any{}}}},
		"b8384c6f72656d20697073756d20646f6c6f722073697420616d65742c20636f6e7365637465747572206164697069736963696e6720656c6974": []byte("Lorem ipsum dolor sit amet, consectetur adipisicing elit"),
	} {
		b := unhex(t, want)
		if !bytes.Equal(encode(v), b) {
			t.Errorf("%x, want %s", encode(v), want)
		}
		it, err := decodeRLP(b)
		if err != nil || !bytes.Equal(encode(it), b) || !bytes.Equal(it.raw, b) {
			t.Errorf("%s: %x: %v", want, encode(it), err)
		}
	}
	for name, s := range map[string]string{
		"nothing": "", "a byte behind a prefix": "8100", "a long form of a short string": "b801aa", "a length with a zero in front": "b90001aa",
		"too short": "83646f", "bytes behind": "83646f6700", "a list too short": "c883636174", "an item over its list": "c2830102",
		"a length of eight bytes": "bfffffffffffffffff", "nested too deep": strings.Repeat("c1", 9) + "c0",
	} {
		if _, err := decodeRLP(unhex(t, s)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, s := range []string{"820004", "8900ffffffffffffffff", "c0"} {
		if it, err := decodeRLP(unhex(t, s)); err == nil {
			if _, err = it.number(); err == nil {
				t.Errorf("%s is a number", s)
			}
		}
	}
}

// Ethereum's first block: everybody's client hashes it to the same 32 bytes.
func TestGenesisOfMainnet(t *testing.T) {
	zero := func(n int) []byte { return make([]byte, n) }
	header := encode([]any{
		zero(32), unhex(t, "1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347"), zero(20),
		unhex(t, "d7f8974fb5ac78d9ac099b9ad5018bedc2ce0a72dad1827a1709da30580f0544"),
		unhex(t, "56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"),
		unhex(t, "56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"),
		zero(256), unhex(t, "0400000000"), []byte{}, unhex(t, "1388"), []byte{}, []byte{},
		unhex(t, "11bbe8db4e347b4e8c937c1c8370e4b5ed33adb3db69cbdb7a38e1e50b1b82fa"), zero(32), unhex(t, "0000000000000042"),
	})
	if got := Hash(keccak(header)).String(); got != "0xd4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3" {
		t.Fatal(got)
	}
	state, number, at, err := parseHeader(header)
	if err != nil || number != 0 || !at.Equal(time.Unix(0, 0)) || state[0] != 0xd7 {
		t.Errorf("%x %d %v %v", state, number, at, err)
	}
}

// What no chain has proved is refused, whatever it claims.
func TestVerifyRefuses(t *testing.T) {
	a := &provenance.Anchor{APIVersion: consilium.APIVersion, Kind: "Anchor", Chain: provenance.ChainEVM, Contract: Address{1}.String(), Epoch: 1,
		Heads: []provenance.Head{{Origin: "a.example/ledger", Size: 1, Root: consilium.Digest{1}}}, Status: provenance.AnchorFinal, Block: Hash{1}.String(), Height: 1}
	a.SuperRoot, _ = provenance.SuperRoot(1, a.Heads)
	trust := Trust{Contract: Address{1}, Blocks: []Hash{{1}, {}, keccak(nil)}}
	for name, proof := range map[string]string{"none": "", "null": "null", "empty": "{}", "unknown field": `{"x":1}`, "two": "{}{}", "no header": `{"header":"0x"}`, "no hex": `{"header":"zz"}`} {
		a.Proof = json.RawMessage(proof)
		if _, err := Verify(a, trust); !errors.Is(err, consilium.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, s := range []string{"", "0x", "0x01", "01" + strings.Repeat("00", 31), "0x" + strings.Repeat("zz", 32)} {
		if _, err := ParseHash(s); !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("hash %q: %v", s, err)
		}
		if _, err := ParseAddress(s); !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("address %q: %v", s, err)
		}
	}
}

// FuzzRLP: what is accepted encodes to the same bytes.
func FuzzRLP(f *testing.F) {
	for _, s := range []string{"c7c0c1c0c3c0c1c0", "83646f67", "b8384c", "f90211a0"} {
		b, _ := hex.DecodeString(s)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if it, err := decodeRLP(b); err == nil && !bytes.Equal(encode(it), b) {
			t.Errorf("%x encodes to %x", b, encode(it))
		}
	})
}

// FuzzLookup: hostile nodes neither panic nor go round in circles, and prove
// nothing under a root that is not their hash.
func FuzzLookup(f *testing.F) {
	f.Add(unhex(new(testing.T), "e2a0"+strings.Repeat("20", 32)+"01"), []byte{})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		Lookup(keccak(first), []byte("key"), [][]byte{first, second})
		if v, err := Lookup([32]byte{1}, []byte("key"), [][]byte{first, second}); err == nil {
			t.Errorf("%x", v)
		}
	})
}
