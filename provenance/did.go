package provenance

import (
	"errors"
	"math/big"
	"strings"

	"consilium"
)

const base58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

// DIDKey is the did:key (W3C CCG did-method-key) of the key's Ed25519 half: a
// name to show to people. It identifies, it verifies nothing: signatures are
// checked against the whole hybrid key.
func DIDKey(k consilium.PublicKey) string {
	return "did:key:z" + encode58(append([]byte{0xed, 0x01}, k[:32]...)) // multicodec ed25519-pub
}

// ParseDIDKey returns the Ed25519 key that a did:key names.
func ParseDIDKey(did string) ([32]byte, error) {
	var out [32]byte
	body, ok := strings.CutPrefix(did, "did:key:z")
	if !ok || len(body) > 64 {
		return out, errors.New("did:key: want did:key:z and base58btc")
	}
	b, err := decode58(body)
	if err != nil {
		return out, err
	}
	if len(b) != 34 || b[0] != 0xed || b[1] != 0x01 {
		return out, errors.New("did:key: no Ed25519 key")
	}
	copy(out[:], b[2:])
	return out, nil
}

func encode58(b []byte) string {
	n, m, base := new(big.Int).SetBytes(b), new(big.Int), big.NewInt(58)
	var out []byte
	for n.Sign() > 0 {
		n.DivMod(n, base, m)
		out = append(out, base58[m.Int64()])
	}
	for i := 0; i < len(b) && b[i] == 0; i++ {
		out = append(out, base58[0])
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return string(out)
}

func decode58(s string) ([]byte, error) {
	n, base := new(big.Int), big.NewInt(58)
	for i := 0; i < len(s); i++ {
		d := strings.IndexByte(base58, s[i])
		if d < 0 {
			return nil, errors.New("did:key: not base58btc")
		}
		n.Add(n.Mul(n, base), big.NewInt(int64(d)))
	}
	zeros := 0
	for zeros < len(s) && s[zeros] == base58[0] {
		zeros++
	}
	return append(make([]byte, zeros), n.Bytes()...), nil
}
