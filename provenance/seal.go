package provenance

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"consilium"
)

// KEK is the key-encryption key under which a hospital's patient keys,
// manifests and consents rest. The caller keeps it apart from them. It prints
// as KEK(redacted).
type KEK struct{ key [32]byte }

// GenerateKEK draws a key from system randomness.
func GenerateKEK() *KEK {
	k := &KEK{}
	rand.Read(k.key[:])
	return k
}

// ParseKEK restores a key from Bytes.
func ParseKEK(b []byte) (*KEK, error) {
	k := &KEK{}
	if len(b) != len(k.key) {
		return nil, fmt.Errorf("key-encryption key: %d bytes, want %d", len(b), len(k.key))
	}
	copy(k.key[:], b)
	return k, nil
}

// Bytes returns the secret for storage.
func (k *KEK) Bytes() []byte { return append([]byte(nil), k.key[:]...) }

func (k KEK) String() string             { return "KEK(redacted)" }
func (k KEK) GoString() string           { return "KEK(redacted)" }
func (k KEK) LogValue() slog.Value       { return slog.StringValue("KEK(redacted)") }
func (k KEK) Format(f fmt.State, _ rune) { io.WriteString(f, "KEK(redacted)") }

var errUnseal = errors.New("does not open: damaged, moved, or sealed under another key-encryption key")

// sealer is AES-256-GCM under a key derived for one domain.
func (k *KEK) sealer(domain consilium.Domain) (cipher.AEAD, error) {
	if k == nil {
		return nil, errors.New("no key-encryption key")
	}
	key, err := hkdf.Key(sha256.New, k.key[:], nil, string(domain), 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// seal encrypts b for one place: a domain and a context. Nonces are random
// (96 bits), so at most 2^32 seals a domain and key, far above what a
// hospital writes.
func (k *KEK) seal(domain consilium.Domain, context, b []byte) ([]byte, error) {
	aead, err := k.sealer(domain)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, b, context), nil
}

func (k *KEK) open(domain consilium.Domain, context, b []byte) ([]byte, error) {
	aead, err := k.sealer(domain)
	if err != nil {
		return nil, err
	}
	out, err := aead.Open(nil, nil, b, context)
	if err != nil {
		return nil, errUnseal
	}
	return out, nil
}

// writeFile replaces path so that after a crash there is the old or the new
// content, and once it returns the new one, in full.
func writeFile(path string, b []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	// If we crash here, the temporary file is left behind and nothing reads it.
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
