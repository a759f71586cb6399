package provenance

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/mldsa"
	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"consilium"
)

// NoteKey is the secret of a log, a witness or a cosigning node, in the form
// of C2SP signed-note. It prints as NoteKey(redacted).
type NoteKey struct {
	name   string
	secret string
	vkey   string
	signer note.Signer
}

// NewLogKey makes a log's Ed25519 key (type 0x01). The name is the log's
// origin: visible ASCII without blanks, like a URL without its scheme.
func NewLogKey(name string) (*NoteKey, error) {
	if err := checkName("log name", name); err != nil {
		return nil, err
	}
	secret, _, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return nil, fmt.Errorf("log key: %w", err)
	}
	return ParseNoteKey(secret)
}

// NewWitnessKey makes a witness's or cosigning node's ML-DSA-44 key (type
// 0x06), as c2sp.org/tlog-cosignature recommends. It covers origin, size, root
// and time, and names the cosigner.
func NewWitnessKey(name string) (*NoteKey, error) {
	if err := checkName("witness name", name); err != nil {
		return nil, err
	}
	secret, _, err := fnote.GenerateMLDSAKey(name)
	if err != nil {
		return nil, fmt.Errorf("witness key: %w", err)
	}
	return ParseNoteKey(secret)
}

// NewClassicalWitnessKey makes an Ed25519 cosigner's key (type 0x04), for
// readers that know nothing newer. A policy counts it beside ML-DSA-44 keys
// and never instead of them. Its cosignatures do not name the cosigner: the
// key serves this one role.
func NewClassicalWitnessKey(name string) (*NoteKey, error) {
	if err := checkName("witness name", name); err != nil {
		return nil, err
	}
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("witness key: %w", err)
	}
	raw := append([]byte{algEd25519Cosigner}, private.Seed()...)
	return ParseNoteKey(fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", name, classicalHash(name, pub), base64.StdEncoding.EncodeToString(raw)))
}

// classicalHash is the key's number (c2sp.org/signed-note).
func classicalHash(name string, pub ed25519.PublicKey) uint32 {
	h := sha256.Sum256(append([]byte(name+"\n\x04"), pub...))
	return binary.BigEndian.Uint32(h[:])
}

// ParseNoteKey restores a key from Secret.
func ParseNoteKey(secret string) (*NoteKey, error) {
	bad := errors.New("note key: want PRIVATE+KEY+name+hash+base64 of type 0x01, 0x04 or 0x06")
	parts := strings.SplitN(secret, "+", 5)
	if len(parts) != 5 || parts[0] != "PRIVATE" || parts[1] != "KEY" {
		return nil, bad
	}
	raw, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(raw) < 2 || checkName("", parts[2]) != nil {
		return nil, bad
	}
	k := &NoteKey{name: parts[2], secret: secret}
	switch raw[0] {
	case algEd25519:
		if len(raw) != 1+ed25519.SeedSize {
			return nil, bad
		}
		pub := ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey)
		if k.signer, err = note.NewSigner(secret); err != nil {
			return nil, bad
		}
		if k.vkey, err = note.NewEd25519VerifierKey(k.name, pub); err != nil {
			return nil, bad
		}
	case algEd25519Cosigner:
		if len(raw) != 1+ed25519.SeedSize {
			return nil, bad
		}
		pub := ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey)
		if fmt.Sprintf("%08x", classicalHash(k.name, pub)) != parts[3] {
			return nil, bad
		}
		if k.signer, err = fnote.NewSignerForCosignatureV1(secret); err != nil {
			return nil, bad
		}
		k.vkey = fmt.Sprintf("%s+%s+%s", k.name, parts[3], base64.StdEncoding.EncodeToString(append([]byte{algEd25519Cosigner}, pub...)))
	case algMLDSA44:
		s, err := fnote.NewMLDSASigner(secret)
		if err != nil || fmt.Sprintf("%08x", s.KeyHash()) != parts[3] {
			return nil, bad
		}
		ml, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), raw[1:])
		if err != nil {
			return nil, bad
		}
		pub := ml.PublicKey().Bytes()
		k.signer = s
		k.vkey = fmt.Sprintf("%s+%08x+%s", k.name, s.KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{algMLDSA44}, pub...)))
	default:
		return nil, bad
	}
	return k, nil
}

// Name is the key's name; a log's origin.
func (k *NoteKey) Name() string { return k.name }

// Secret returns the key for storage.
func (k *NoteKey) Secret() string { return k.secret }

// Verifier is the public half (vkey) that rosters list.
func (k *NoteKey) Verifier() string { return k.vkey }

func (k NoteKey) String() string             { return "NoteKey(redacted)" }
func (k NoteKey) GoString() string           { return "NoteKey(redacted)" }
func (k NoteKey) LogValue() slog.Value       { return slog.StringValue("NoteKey(redacted)") }
func (k NoteKey) Format(f fmt.State, _ rune) { io.WriteString(f, "NoteKey(redacted)") }

const (
	algEd25519         = 0x01
	algEd25519Cosigner = 0x04
	algMLDSA44         = 0x06
)

// parseVKey reads a public key of one of the given types. The key hash must
// fit, so that a typing error in a roster is found where it is made.
func parseVKey(vkey string, types ...byte) (note.Verifier, error) {
	bad := func(why string) error { return fmt.Errorf("verifier key %q: %s", clip(vkey), why) }
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 || checkName("", parts[0]) != nil {
		return nil, bad("want name+hash+base64")
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(raw) < 2 {
		return nil, bad("not base64")
	}
	if !bytes.Contains(types, raw[:1]) {
		return nil, bad(fmt.Sprintf("type %#02x does not serve here", raw[0]))
	}
	var v note.Verifier
	if raw[0] == algEd25519 {
		v, err = note.NewVerifier(vkey)
	} else {
		v, err = fnote.NewVerifierForCosignatureV1(vkey)
	}
	if err != nil {
		return nil, bad(err.Error())
	}
	if parts[1] != fmt.Sprintf("%08x", v.KeyHash()) {
		return nil, bad("the key hash does not fit")
	}
	return v, nil
}

// LogName is the origin that a log's verifier key names.
func LogName(vkey string) (string, error) {
	v, err := parseVKey(vkey, algEd25519)
	if err != nil {
		return "", err
	}
	return v.Name(), nil
}

// Checkpoint is a tree head: what a log committed to.
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   consilium.Digest
	Time   time.Time // from then on the newest cosignatures make the quorum; zero where none is needed
	Raw    []byte    // the signed note
}

const maxCheckpoint = 1 << 17 // 16 KiB bounds the witness; an archive may carry more cosigners

// body is the checkpoint's note text (c2sp.org/tlog-checkpoint).
func checkpointBody(origin string, size uint64, root consilium.Digest) string {
	return origin + "\n" + strconv.FormatUint(size, 10) + "\n" + base64.StdEncoding.EncodeToString(root[:]) + "\n"
}

// parseBody reads a note text. Extension lines are refused: ML-DSA
// cosignatures do not cover them, and our logs write none.
func parseBody(text string) (*Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return nil, errors.New("checkpoint: want origin, size and root, and no other line")
	}
	c := &Checkpoint{Origin: lines[0]}
	if err := checkName("origin", c.Origin); err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil || size > MaxTreeSize || strconv.FormatUint(size, 10) != lines[1] {
		return nil, fmt.Errorf("checkpoint: size %q", clip(lines[1]))
	}
	root, err := decodeBase64(lines[2], len(c.Root))
	if err != nil {
		return nil, fmt.Errorf("checkpoint: root: %w", err)
	}
	c.Size = size
	copy(c.Root[:], root)
	if size == 0 && c.Root != EmptyRoot() {
		return nil, errors.New("checkpoint: the empty tree has another root")
	}
	return c, nil
}

// ParseCheckpoint reads a checkpoint without checking any signature.
func ParseCheckpoint(b []byte) (*Checkpoint, error) {
	if len(b) > maxCheckpoint {
		return nil, fmt.Errorf("checkpoint: %d bytes, at most %d", len(b), maxCheckpoint)
	}
	text, sigs, ok := bytes.Cut(b, []byte("\n\n"))
	if !ok || len(sigs) == 0 {
		return nil, errors.New("checkpoint: no signatures")
	}
	c, err := parseBody(string(text) + "\n")
	if err != nil {
		return nil, err
	}
	// Base64 with loose ends would give one signature several spellings.
	for _, line := range bytes.Split(bytes.TrimSuffix(sigs, []byte("\n")), []byte("\n")) {
		rest, ok := bytes.CutPrefix(line, []byte("— "))
		_, sig, found := bytes.Cut(rest, []byte(" "))
		raw, err := base64.StdEncoding.Strict().DecodeString(string(sig))
		if !ok || !found || err != nil || base64.StdEncoding.EncodeToString(raw) != string(sig) {
			return nil, errors.New("checkpoint: malformed signature line")
		}
	}
	c.Raw = bytes.Clone(b)
	return c, nil
}

// SignCheckpoint writes a checkpoint signed by keys. A key of type 0x01 must
// carry the origin's name: it is the log's own.
func SignCheckpoint(origin string, size uint64, root consilium.Digest, keys ...*NoteKey) ([]byte, error) {
	body := checkpointBody(origin, size, root)
	if _, err := parseBody(body); err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, errors.New("checkpoint: no key to sign with")
	}
	signers := make([]note.Signer, len(keys))
	for i, k := range keys {
		if isLogKey(k) && k.name != origin {
			return nil, fmt.Errorf("checkpoint: the log key of %s does not sign for %s", k.name, origin)
		}
		signers[i] = k.signer
	}
	return note.Sign(&note.Note{Text: body}, signers...)
}

func isLogKey(k *NoteKey) bool { return isType(k, algEd25519) }

func isType(k *NoteKey, alg byte) bool {
	_, err := parseVKey(k.vkey, alg)
	return err == nil
}

// Cosign adds the signatures of keys to a checkpoint. It does not check those
// that are there: the caller knows that it wants to vouch for this tree.
func Cosign(checkpoint []byte, keys ...*NoteKey) ([]byte, error) {
	c, err := ParseCheckpoint(checkpoint)
	if err != nil {
		return nil, err
	}
	more, err := SignCheckpoint(c.Origin, c.Size, c.Root, keys...)
	if err != nil {
		return nil, err
	}
	return MergeCheckpoints(checkpoint, more)
}

// MergeCheckpoints joins the signatures of two checkpoints of the same tree.
func MergeCheckpoints(a, b []byte) ([]byte, error) {
	ca, err := ParseCheckpoint(a)
	if err != nil {
		return nil, err
	}
	cb, err := ParseCheckpoint(b)
	if err != nil {
		return nil, err
	}
	if ca.Origin != cb.Origin || ca.Size != cb.Size || ca.Root != cb.Root {
		return nil, fmt.Errorf("checkpoints of two trees: %s %d and %s %d", ca.Origin, ca.Size, cb.Origin, cb.Size)
	}
	_, sigsA, _ := bytes.Cut(a, []byte("\n\n"))
	_, sigsB, _ := bytes.Cut(b, []byte("\n\n"))
	out := bytes.Clone(a)
	have := map[string]bool{}
	for _, s := range bytes.SplitAfter(sigsA, []byte("\n")) {
		have[sigKey(s)] = true
	}
	for _, s := range bytes.SplitAfter(sigsB, []byte("\n")) {
		// One signature a key: a note with two makes some readers stop.
		if k := sigKey(s); k != "" && !have[k] {
			have[k] = true
			out = append(out, s...)
		}
	}
	if len(out) > maxCheckpoint {
		return nil, fmt.Errorf("checkpoint: %d bytes, at most %d", len(out), maxCheckpoint)
	}
	return out, nil
}

// sigKey is the key's name and hash of a signature line, or "".
func sigKey(line []byte) string {
	fields := bytes.Fields(line)
	if len(fields) != 3 {
		return ""
	}
	raw, err := base64.StdEncoding.DecodeString(string(fields[2]))
	if err != nil || len(raw) < 4 {
		return ""
	}
	return string(fields[1]) + " " + string(raw[:4])
}

// Errors that say why a ledger is not believed; each comes inside a
// consilium.ErrLedger.
var (
	ErrRollback        = errors.New("the ledger is smaller than when it was last seen")
	ErrSplitView       = errors.New("the ledger shows another history than when it was last seen")
	ErrStaleCheckpoint = errors.New("no witness saw the ledger recently")
	ErrQuorum          = errors.New("too few witnesses cosigned")
	ErrForgedEntry     = errors.New("a ledger entry does not carry the hospital's signature")
	ErrCorrupt         = errors.New("stored entries do not hash to the signed root")
)

// DefaultMaxAge is how old the cosignatures of a checkpoint may be: a ledger
// republishes every minute, so older means a ledger that is stuck or held back.
const DefaultMaxAge = 15 * time.Minute

// maxSkew is how far a witness's clock may run ahead of ours.
const maxSkew = time.Minute

// WitnessKey is one witness: its name in the policy, verifier key (type 0x04
// or 0x06) and, for the log that asks it, URL.
type WitnessKey struct {
	Name string
	Key  string
	URL  string
}

// WitnessGroup needs Threshold of its members, which are witnesses or groups
// defined before it.
type WitnessGroup struct {
	Name      string
	Threshold int
	Members   []string
}

// WitnessPolicy says which cosignatures make a checkpoint believable
// (c2sp.org/tlog-policy): a quorum over named groups, not too old.
type WitnessPolicy struct {
	Witnesses []WitnessKey
	Groups    []WitnessGroup
	Quorum    string        // name of a witness or group; "" is refused, there is no quorum of nobody
	MaxAge    time.Duration // 0 means DefaultMaxAge; below 0, any age (receipts and archives)
}

// SingleWitness is the policy of one witness, as in Roster.Board.Witness.
func SingleWitness(vkey, url string) WitnessPolicy {
	return WitnessPolicy{Witnesses: []WitnessKey{{Name: "board", Key: vkey, URL: url}}, Quorum: "board"}
}

// WitnessesOf is the policy that a roster sets for the hospitals' ledgers: its
// quorum, or without one the board's witness alone. A policy that nobody or a
// quantum computer could meet is an error here, before anything rests on it.
func WitnessesOf(r *consilium.Roster) (WitnessPolicy, error) {
	w := r.Witnessing
	if w == nil {
		p := SingleWitness(r.Board.Witness, "")
		_, err := p.compile()
		return p, err
	}
	p := WitnessPolicy{Quorum: w.Quorum, MaxAge: time.Duration(w.MaxAge) * time.Second}
	own := r.Board.Witness == ""
	for _, x := range w.Witnesses {
		if strings.ContainsAny(x.Address, " \t\r\n#") || !strings.HasPrefix(x.Address, "http://") && !strings.HasPrefix(x.Address, "https://") {
			return WitnessPolicy{}, fmt.Errorf("witness %s: address %q: want a URL", clip(x.Name), clip(x.Address))
		}
		own = own || x.Key == r.Board.Witness
		p.Witnesses = append(p.Witnesses, WitnessKey{Name: x.Name, Key: x.Key, URL: x.Address})
	}
	if !own {
		return WitnessPolicy{}, errors.New("witness policy: the board's own witness is not in it")
	}
	for _, g := range w.Groups {
		p.Groups = append(p.Groups, WitnessGroup{Name: g.Name, Threshold: g.Threshold, Members: g.Members})
	}
	_, err := p.compile()
	return p, err
}

// Witnessing writes p as a roster names it.
func (p WitnessPolicy) Witnessing() *consilium.Witnessing {
	w := &consilium.Witnessing{Quorum: p.Quorum, MaxAge: int64(p.MaxAge / time.Second), Witnesses: []consilium.Witness{}, Groups: []consilium.WitnessGroup{}}
	for _, x := range p.Witnesses {
		w.Witnesses = append(w.Witnesses, consilium.Witness{Name: x.Name, Key: x.Key, Address: x.URL})
	}
	for _, g := range p.Groups {
		w.Groups = append(w.Groups, consilium.WitnessGroup{Name: g.Name, Threshold: g.Threshold, Members: g.Members})
	}
	return w
}

// Met reports whether the witnesses of these names make the quorum.
func (p WitnessPolicy) Met(names map[string]bool) (bool, error) {
	c, err := p.compile()
	if err != nil {
		return false, err
	}
	ok := make([]bool, len(p.Witnesses))
	for i, w := range p.Witnesses {
		ok[i] = names[w.Name]
	}
	return c.met(ok), nil
}

// Cosignature says when a witness cosigned a checkpoint; zero where it has not.
type Cosignature struct {
	Witness string
	At      time.Time
}

// Cosignatures lists what each witness of p says of a checkpoint, for whoever
// looks why a quorum is not met. It proves nothing: VerifyCheckpoint does.
func (p WitnessPolicy) Cosignatures(checkpoint []byte) ([]Cosignature, error) {
	c, err := p.compile()
	if err != nil {
		return nil, err
	}
	out := make([]Cosignature, len(p.Witnesses))
	for i, w := range p.Witnesses {
		out[i].Witness = w.Name
	}
	n, err := note.Open(checkpoint, note.VerifierList(c.verifiers...))
	var none *note.UnverifiedNoteError
	if errors.As(err, &none) {
		return out, nil
	}
	if err != nil {
		return nil, consilium.ErrLedger.With(err)
	}
	for i, v := range c.verifiers {
		for _, s := range n.Sigs {
			if s.Name == v.Name() && s.Hash == v.KeyHash() {
				if out[i].At, err = fnote.CoSigV1Timestamp(s); err != nil {
					return nil, consilium.ErrLedger.With(err)
				}
			}
		}
	}
	return out, nil
}

// AnyAge returns p without its bound on age, for receipts and archives.
func (p WitnessPolicy) AnyAge() WitnessPolicy {
	p.MaxAge = -1
	return p
}

// ParseWitnessPolicy reads the witness, group and quorum lines of a C2SP
// tlog-policy; log lines are left to the caller. "quorum none" is refused.
func ParseWitnessPolicy(text []byte, maxAge time.Duration) (WitnessPolicy, error) {
	p := WitnessPolicy{MaxAge: maxAge}
	if len(text) > 1<<20 {
		return p, fmt.Errorf("witness policy: %d bytes", len(text))
	}
	defined := map[string]bool{}
	for i, line := range strings.Split(string(text), "\n") {
		if bytes.ContainsFunc([]byte(line), func(r rune) bool { return r < 0x20 && r != '\t' || r == 0x7f }) {
			return WitnessPolicy{}, fmt.Errorf("witness policy: line %d: a control character", i+1)
		}
		f := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
		bad := func() (WitnessPolicy, error) {
			return WitnessPolicy{}, fmt.Errorf("witness policy: line %d: %q", i+1, clip(line))
		}
		switch {
		case len(f) == 0, f[0] == "log", strings.HasPrefix(f[0], "#"):
		case f[0] == "witness" && (len(f) == 3 || len(f) == 4):
			w := WitnessKey{Name: f[1], Key: f[2]}
			if len(f) == 4 {
				w.URL = f[3]
			}
			p.Witnesses, defined[w.Name] = append(p.Witnesses, w), true
		case f[0] == "group" && len(f) >= 4:
			g := WitnessGroup{Name: f[1], Members: f[3:]}
			for _, m := range g.Members {
				if !defined[m] {
					return bad()
				}
			}
			defined[g.Name] = true
			switch f[2] {
			case "any":
				g.Threshold = 1
			case "all":
				g.Threshold = len(g.Members)
			default:
				n, err := strconv.ParseUint(f[2], 10, 8)
				if err != nil {
					return bad()
				}
				g.Threshold = int(n)
			}
			p.Groups = append(p.Groups, g)
		case f[0] == "quorum" && len(f) == 2 && p.Quorum == "" && defined[f[1]]:
			p.Quorum = f[1]
		default:
			return bad()
		}
	}
	_, err := p.compile()
	return p, err
}

// compiled is a checked policy: witnesses and groups in order, members as
// indices into the same list.
type compiled struct {
	unwitnessed bool
	verifiers   []note.Verifier
	groups      []compiledGroup
	quorum      int
	maxAge      time.Duration
}

type compiledGroup struct {
	threshold int
	members   []int
}

var policyWords = map[string]bool{"witness": true, "group": true, "any": true, "all": true, "none": true, "quorum": true, "log": true}

func (p WitnessPolicy) compile() (*compiled, error) {
	c := &compiled{maxAge: p.MaxAge, quorum: -1}
	if c.maxAge == 0 {
		c.maxAge = DefaultMaxAge
	}
	index := map[string]int{}
	define := func(name string) error {
		if err := checkName("witness or group", name); err != nil {
			return err
		}
		if _, ok := index[name]; ok || policyWords[name] {
			return fmt.Errorf("%q is defined twice or a keyword", name)
		}
		index[name] = len(index)
		return nil
	}
	keys := map[string]bool{}
	var classical []bool // by witness
	for _, w := range p.Witnesses {
		v, err := parseVKey(w.Key, algEd25519Cosigner, algMLDSA44)
		if err != nil {
			return nil, fmt.Errorf("witness policy: %s: %w", clip(w.Name), err)
		}
		if err := define(w.Name); err != nil {
			return nil, fmt.Errorf("witness policy: %w", err)
		}
		// The key itself, whatever name it goes by.
		_, raw, _ := strings.Cut(strings.TrimPrefix(w.Key, v.Name()+"+"), "+")
		if keys[raw] {
			return nil, fmt.Errorf("witness policy: %s: the key stands twice, one witness would count as two", w.Name)
		}
		keys[raw] = true
		c.verifiers = append(c.verifiers, v)
		key, _ := base64.StdEncoding.DecodeString(raw) // parseVKey has read it
		classical = append(classical, key[0] != algMLDSA44)
	}
	seen := map[string]bool{} // a member of two groups would count in both
	for _, g := range p.Groups {
		cg := compiledGroup{threshold: g.Threshold}
		for _, m := range g.Members {
			i, ok := index[m]
			if !ok || seen[m] {
				return nil, fmt.Errorf("witness policy: group %s: member %q is unknown or stands twice in the groups", clip(g.Name), clip(m))
			}
			seen[m] = true
			cg.members = append(cg.members, i)
		}
		if g.Threshold < 1 || g.Threshold > len(g.Members) {
			return nil, fmt.Errorf("witness policy: group %s: %d of %d", clip(g.Name), g.Threshold, len(g.Members))
		}
		if err := define(g.Name); err != nil {
			return nil, fmt.Errorf("witness policy: %w", err)
		}
		c.groups = append(c.groups, cg)
	}
	q, ok := index[p.Quorum]
	if !ok {
		return nil, fmt.Errorf("witness policy: quorum %q is not defined", clip(p.Quorum))
	}
	c.quorum = q
	if c.met(classical) {
		return nil, errors.New("witness policy: the quorum can be met by Ed25519 cosignatures alone, which a quantum computer forges: let it need a witness of type 0x06")
	}
	return c, nil
}

// met reports whether the witnesses for which ok holds make the quorum.
func (c *compiled) met(ok []bool) bool {
	if c.unwitnessed {
		return true
	}
	values := append([]bool(nil), ok...)
	for _, g := range c.groups {
		n := 0
		for _, m := range g.members {
			if values[m] {
				n++
			}
		}
		values = append(values, n >= g.threshold)
	}
	return values[c.quorum]
}

// text writes the policy as C2SP tlog-policy, for the log that asks the
// witnesses.
func (p WitnessPolicy) text() string {
	var b strings.Builder
	for _, w := range p.Witnesses {
		fmt.Fprintf(&b, "witness %s %s %s\n", w.Name, w.Key, w.URL)
	}
	for _, g := range p.Groups {
		fmt.Fprintf(&b, "group %s %d %s\n", g.Name, g.Threshold, strings.Join(g.Members, " "))
	}
	fmt.Fprintf(&b, "quorum %s\n", p.Quorum)
	return b.String()
}

// CheckpointPolicy says whose signatures a checkpoint needs.
type CheckpointPolicy struct {
	Log       string        // verifier key (0x01) of the log; "" where nodes only cosign (the coordinators' audit log)
	Origin    string        // needed where Log is ""
	Witnesses WitnessPolicy // for the audit log: the nodes' keys
	// Unwitnessed accepts a checkpoint on the log's own signature: for a log
	// whose entries prove themselves by signatures, as the coordinators' audit log.
	// Log and no Witnesses must be set with it. A vault's gate never uses it.
	Unwitnessed bool
}

// VerifyCheckpoint checks a checkpoint against p at a moment. The error is a
// consilium.ErrLedger, around ErrQuorum or ErrStaleCheckpoint where it is that.
func VerifyCheckpoint(b []byte, p CheckpointPolicy, now time.Time) (*Checkpoint, error) {
	v, err := p.compile()
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	return v.verify(b, now)
}

type checkpointVerifier struct {
	log       note.Verifier // nil where only cosigners sign
	origin    string
	witnesses *compiled
	list      note.Verifiers
}

func (p CheckpointPolicy) compile() (*checkpointVerifier, error) {
	w := &compiled{unwitnessed: true}
	if !p.Unwitnessed {
		var err error
		if w, err = p.Witnesses.compile(); err != nil {
			return nil, err
		}
	} else if p.Log == "" || len(p.Witnesses.Witnesses) > 0 {
		return nil, errors.New("checkpoint policy: an unwitnessed log needs its own key and takes no witnesses")
	}
	var err error
	v := &checkpointVerifier{origin: p.Origin, witnesses: w}
	known := append([]note.Verifier(nil), w.verifiers...)
	if p.Log != "" {
		if v.log, err = parseVKey(p.Log, algEd25519); err != nil {
			return nil, err
		}
		if v.origin == "" {
			v.origin = v.log.Name()
		}
		if v.origin != v.log.Name() {
			return nil, fmt.Errorf("checkpoint policy: log key of %s, origin %s", v.log.Name(), clip(v.origin))
		}
		known = append(known, v.log)
	} else if err := checkName("origin", v.origin); err != nil {
		return nil, fmt.Errorf("checkpoint policy: %w", err)
	}
	v.list = note.VerifierList(known...)
	return v, nil
}

func (v *checkpointVerifier) verify(b []byte, now time.Time) (*Checkpoint, error) {
	if _, err := ParseCheckpoint(b); err != nil {
		return nil, consilium.ErrLedger.With(err)
	}
	// note.Open is content with any one signature that it knows; what the
	// policy needs is counted below.
	n, err := note.Open(b, v.list)
	if err != nil {
		return nil, consilium.ErrLedger.Withf("checkpoint: %w", err)
	}
	c, err := parseBody(n.Text)
	if err != nil {
		return nil, consilium.ErrLedger.With(err)
	}
	c.Raw = bytes.Clone(b)
	if c.Origin != v.origin {
		return nil, consilium.ErrLedger.Withf("checkpoint of %s, want %s", clip(c.Origin), v.origin)
	}
	signed := func(k note.Verifier) *note.Signature {
		for i := range n.Sigs {
			if n.Sigs[i].Name == k.Name() && n.Sigs[i].Hash == k.KeyHash() {
				return &n.Sigs[i]
			}
		}
		return nil
	}
	if v.log != nil && signed(v.log) == nil {
		return nil, consilium.ErrLedger.Withf("checkpoint: the log's own signature is missing")
	}
	times := make([]time.Time, len(v.witnesses.verifiers))
	all, fresh := make([]bool, len(v.witnesses.verifiers)), make([]bool, len(v.witnesses.verifiers))
	for i, k := range v.witnesses.verifiers {
		s := signed(k)
		if s == nil {
			continue
		}
		t, err := fnote.CoSigV1Timestamp(*s)
		if err != nil {
			return nil, consilium.ErrLedger.Withf("checkpoint: %w", err)
		}
		all[i] = true
		if v.witnesses.maxAge < 0 || now.Sub(t) <= v.witnesses.maxAge && t.Sub(now) <= maxSkew {
			fresh[i], times[i] = true, t
		}
	}
	switch {
	case !v.witnesses.met(all):
		return nil, consilium.ErrLedger.Withf("checkpoint of %s at size %d: %w", c.Origin, c.Size, ErrQuorum)
	case !v.witnesses.met(fresh):
		return nil, consilium.ErrLedger.Withf("checkpoint of %s at size %d: %w (within %v)", c.Origin, c.Size, ErrStaleCheckpoint, v.witnesses.maxAge)
	}
	c.Time = v.witnesses.since(fresh, times)
	return c, nil
}

// since is the latest moment from which on the cosignatures make the quorum: an
// old one beside enough newer ones does not age a checkpoint, nor does a new one
// beside too few make it young.
func (c *compiled) since(fresh []bool, times []time.Time) time.Time {
	if c.unwitnessed {
		return time.Time{}
	}
	var order []int
	for i, ok := range fresh {
		if ok {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(a, b int) int { return times[b].Compare(times[a]) })
	have := make([]bool, len(fresh))
	for _, i := range order {
		if have[i] = true; c.met(have) {
			return times[i]
		}
	}
	return time.Time{} // not reached: fresh makes the quorum
}
