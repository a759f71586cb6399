package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"crypto/tls"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/client"
	"consilium/internal/durable"
	"consilium/internal/hybrid"
	"consilium/internal/pinned"
	"consilium/internal/seal"
	"consilium/internal/wire"
	"consilium/provenance"
)

// A kit is one member's directory. Its keys are made in it and never leave it:
// what leaves is card.json.
const (
	kitConfig = "config.yaml"
	kitCard   = "card.json"
	kitRoster = "roster.json"
	kitBoard  = "board.json"
	kitKeys   = "keys"

	identityFile  = "identity.key"  // seed of the hybrid identity
	tlsCertFile   = "tls.crt"       // self-signed; the roster pins it
	tlsKeyFile    = "tls.key"       //
	ledgerFile    = "ledger.key"    // note key: a hospital's ledger, a node's audit log
	kekFile       = "kek.key"       // key-encryption key of salts, manifests and consents
	pseudonymFile = "pseudonym.key" // key of the patients' pseudonyms
	sealingFile   = "sealing.key"   // results are sealed to it
	witnessFile   = "witness.key"   // note key of the board's ledger witness
)

const certificateValidity = 2 * 365 * 24 * time.Hour

// writeNew writes a file that must not exist yet: a key is never overwritten.
func writeNew(path string, b []byte, perm fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			return &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: path + " exists", Next: "a key is made once; choose another directory, or remove this one if nothing uses it"}
		}
		return durable.Full(err)
	}
	_, err = f.Write(b)
	return durable.Full(errors.Join(err, f.Sync(), f.Close()))
}

// writeSecret writes secret bytes as one line of base64.
func writeSecret(keys, name string, secret []byte) error {
	return writeNew(filepath.Join(keys, name), []byte(base64.StdEncoding.EncodeToString(secret)+"\n"), 0o600)
}

// readPrivate reads a file of keys/ that nobody but its owner may read. The
// mode is that of the very file that is read.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w; `consilium provision` makes it", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, &consilium.Error{Code: consilium.ErrForbidden.Code, Msg: fmt.Sprintf("%s may be read by others (mode %o)", path, info.Mode().Perm()), Next: "chmod 600 it"}
	}
	return io.ReadAll(f)
}

func readSecret(keys, name string) ([]byte, error) {
	path := filepath.Join(keys, name)
	b, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	secret, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w; restore it from its backup", path, err)
	}
	return secret, nil
}

// makeIdentity makes the keys that every member has.
func makeIdentity(keys, name string) (*hybrid.Key, consilium.Digest, error) {
	key, err := hybrid.Generate()
	if err != nil {
		return nil, consilium.Digest{}, err
	}
	if err := writeSecret(keys, identityFile, key.Seed()); err != nil {
		return nil, consilium.Digest{}, err
	}
	pin, err := makeCertificate(keys, name, tlsCertFile, tlsKeyFile)
	return key, pin, err
}

func makeCertificate(keys, name, certFile, keyFile string) (consilium.Digest, error) {
	cert, err := wire.NewCertificate(name, certificateValidity)
	if err != nil {
		return consilium.Digest{}, err
	}
	certPEM, keyPEM, err := wire.EncodeCertificate(cert)
	if err != nil {
		return consilium.Digest{}, err
	}
	if err := errors.Join(writeNew(filepath.Join(keys, keyFile), keyPEM, 0o600), writeNew(filepath.Join(keys, certFile), certPEM, 0o644)); err != nil {
		return consilium.Digest{}, err
	}
	return wire.CertificatePin(cert)
}

func makeNoteKey(keys, file string, key *provenance.NoteKey, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return key.Verifier(), writeSecret(keys, file, []byte(key.Secret()))
}

func readNoteKey(keys, file string) (*provenance.NoteKey, error) {
	b, err := readSecret(keys, file)
	if err != nil {
		return nil, err
	}
	key, err := provenance.ParseNoteKey(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

func randomSecret(keys, file string, size int) error {
	b := make([]byte, size)
	if _, err := rand.Read(b); err != nil {
		return err
	}
	return writeSecret(keys, file, b)
}

// card is what a member publishes: everything of it stands in the roster.
type card struct {
	APIVersion     string                 `json:"apiVersion"`
	Kind           string                 `json:"kind"` // "Card"
	Federation     string                 `json:"federation"`
	Site           *consilium.Site        `json:"site,omitempty"`
	Coordinator    *consilium.Coordinator `json:"coordinator,omitempty"`
	Member         *consilium.BoardMember `json:"member,omitempty"`
	Researcher     *consilium.Researcher  `json:"researcher,omitempty"`
	Witness        string                 `json:"witness,omitempty"`        // verifier key of the ledger witness that a board member runs
	WitnessAddress string                 `json:"witnessAddress,omitempty"` // its URL
}

// name is how the card's owner is called in messages.
func (c *card) name() string {
	switch {
	case c.Site != nil:
		return "site/" + string(c.Site.ID)
	case c.Coordinator != nil:
		return "coordinator/" + string(c.Coordinator.ID)
	case c.Member != nil:
		return "board/" + c.Member.ID
	case c.Researcher != nil:
		return "researcher/" + string(c.Researcher.ID)
	}
	return "nobody"
}

func (c *card) id() string { return c.name()[strings.IndexByte(c.name(), '/')+1:] }

func (c *card) pins() *[]consilium.Digest {
	switch {
	case c.Site != nil:
		return &c.Site.TLS
	case c.Coordinator != nil:
		return &c.Coordinator.TLS
	case c.Member != nil:
		return &c.Member.TLS
	}
	return &c.Researcher.TLS
}

func parseCard(path string) (*card, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var c card
	if err := strictJSON(b, &c); err != nil {
		return nil, fmt.Errorf("%s: %w; ask its owner for the card.json of the kit", path, err)
	}
	n := 0
	for _, set := range []bool{c.Site != nil, c.Coordinator != nil, c.Member != nil, c.Researcher != nil} {
		if set {
			n++
		}
	}
	if c.APIVersion != consilium.APIVersion || c.Kind != "Card" || n != 1 {
		return nil, fmt.Errorf("%s: not a member's card; ask its owner for the card.json of the kit", path)
	}
	return &c, nil
}

// fingerprint names a card for two people on the telephone.
func (c *card) fingerprint() string {
	b, err := canon.Marshal(c)
	if err != nil {
		panic("card: " + err.Error()) // plain values only
	}
	return groups(consilium.DomainBlob.Digest(b))
}

// groups prints the first half of a digest in groups of four.
func groups(d consilium.Digest) string { return pinned.Groups(d) }

// kit is a loaded directory: the member's own keys, and the roster as the
// pinned board signed it.
type kit struct {
	keys   string
	board  *pinned.Board
	signed *consilium.Signed
	roster *consilium.Roster
	book   *wire.Book
	signer *hybrid.Key
	cert   tls.Certificate
}

// openKit loads a kit and checks that the roster knows its keys: a mistake
// shows here, in words, and not as a refused connection.
func openKit(keys, rosterPath, boardPath, name string) (*kit, error) {
	k := &kit{keys: keys}
	var err error
	if k.board, err = pinned.ReadBoard(boardPath); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &consilium.Error{Code: consilium.ErrUnauthenticated.Code, Msg: "this kit has no roster yet", Next: "run `consilium provision install --roster FILE --dir KIT`", Err: err}
		}
		return nil, err
	}
	if k.signed, k.roster, err = pinned.ParseRoster(rosterPath); err != nil {
		return nil, err
	}
	if err := k.board.Check(k.signed); err != nil {
		return nil, fmt.Errorf("%s: the board pinned in this kit has not signed it: %w; ask the board for the signed roster", rosterPath, err)
	}
	if k.book, err = wire.NewBook(k.signed.Payload); err != nil {
		return nil, err
	}
	seed, err := readSecret(keys, identityFile)
	if err != nil {
		return nil, err
	}
	if k.signer, err = hybrid.FromSeed(seed); err != nil {
		return nil, fmt.Errorf("%s: %w", identityFile, err)
	}
	certPEM, err := os.ReadFile(filepath.Join(keys, tlsCertFile))
	if err != nil {
		return nil, err
	}
	keyPEM, err := readPrivate(filepath.Join(keys, tlsKeyFile))
	if err != nil {
		return nil, err
	}
	if k.cert, err = wire.DecodeCertificate(certPEM, keyPEM); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(keys, tlsCertFile), err)
	}
	if now := time.Now(); now.After(k.cert.Leaf.NotAfter) || now.Before(k.cert.Leaf.NotBefore) {
		return nil, &consilium.Error{Code: consilium.ErrUnauthenticated.Code, Msg: fmt.Sprintf("the certificate in %s is valid from %s to %s", filepath.Join(keys, tlsCertFile),
			k.cert.Leaf.NotBefore.UTC().Format(time.DateOnly), k.cert.Leaf.NotAfter.UTC().Format(time.DateOnly)), Next: "run `consilium provision renew --dir KIT` and send the board the new card"}
	}
	pin, err := wire.CertificatePin(k.cert)
	if err != nil {
		return nil, err
	}
	id, err := k.book.Lookup(pin)
	if err != nil {
		return nil, &consilium.Error{Code: consilium.ErrUnauthenticated.Code, Msg: fmt.Sprintf("roster version %d does not accept the certificate in %s", k.roster.Version, keys),
			Next: "restore the certificate that the roster pins, or send the board this kit's card.json and install the next roster", Err: err}
	}
	if id.String() != name {
		return nil, &consilium.Error{Code: consilium.ErrUnauthenticated.Code, Msg: fmt.Sprintf("the certificate in %s is pinned for %s, this is the kit of %s", keys, id, name),
			Next: "use the keys of this kit"}
	}
	return k, nil
}

// openMemberKit loads the kit of a team or a board member, whose files have
// fixed names.
func openMemberKit(dir string) (*kit, *card, error) {
	if dir == "" {
		return nil, nil, usagef("--kit DIR is needed: the directory that `consilium provision` made")
	}
	c, err := parseCard(filepath.Join(dir, kitCard))
	if err != nil {
		return nil, nil, err
	}
	k, err := openKit(filepath.Join(dir, kitKeys), filepath.Join(dir, kitRoster), filepath.Join(dir, kitBoard), c.name())
	return k, c, err
}

func (k *kit) wire(e *env) *wire.Client {
	return wire.NewClient(wire.ClientOptions{Certificate: k.cert, Book: k.book, Logger: newProgress(e).log})
}

// team opens a team's side.
func (k *kit) team(e *env, c *card) (*client.Team, error) {
	if c.Researcher == nil {
		return nil, usagef("%s is the kit of %s, not of a data-science team", k.keys, c.name())
	}
	b, err := readSecret(k.keys, sealingFile)
	if err != nil {
		return nil, err
	}
	sealing, err := seal.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", sealingFile, err)
	}
	return &client.Team{ID: c.Researcher.ID, Signer: k.signer, Sealing: sealing, Wire: k.wire(e), Book: k.book}, nil
}
