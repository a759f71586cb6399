package provenance

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/mod/sumdb/note"

	"consilium"
)

// WitnessConfig describes a witness, for example the ethics board's.
type WitnessConfig struct {
	Key  *NoteKey   // ML-DSA-44
	Also []*NoteKey // Ed25519 cosigner keys, for readers that know nothing newer
	Dir  string     // remembers the last checkpoint of each log; must survive restarts
	Logs []string   // verifier keys of the ledgers it watches
}

// Witness cosigns a log's checkpoint only if the tree extends the one that it
// cosigned last (c2sp.org/tlog-witness). It knows nothing of what the entries
// say; it makes sure that everybody is shown the same ones. It is an
// http.Handler and safe for concurrent use.
type Witness struct {
	key     *NoteKey
	signers []note.Signer // key's first
	dir     string

	mu   sync.Mutex // guards logs
	logs map[string]*watched
}

type watched struct {
	verifier note.Verifier
	file     string

	mu   sync.Mutex // guards size and root: one update at a time
	size uint64
	root consilium.Digest
}

const (
	maxWitnessBody  = 1 << 14
	maxWitnessProof = 63 // c2sp.org/tlog-witness
)

// OpenWitness loads what the witness saw last. A damaged state is an error: a
// witness that forgot would vouch for any history.
func OpenWitness(cfg WitnessConfig) (*Witness, error) {
	if cfg.Key == nil || !isType(cfg.Key, algMLDSA44) {
		return nil, errors.New("witness: its key is an ML-DSA-44 note key (type 0x06)")
	}
	signers := []note.Signer{cfg.Key.signer}
	for _, k := range cfg.Also {
		if k == nil || !isType(k, algEd25519Cosigner) {
			return nil, errors.New("witness: its further keys are Ed25519 cosigner keys (type 0x04)")
		}
		signers = append(signers, k.signer)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	w := &Witness{key: cfg.Key, signers: signers, dir: cfg.Dir, logs: map[string]*watched{}}
	for _, vkey := range cfg.Logs {
		if err := w.AddLog(vkey); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// AddLog starts watching a log, as when the roster gains a hospital.
func (w *Witness) AddLog(vkey string) error {
	v, err := parseVKey(vkey, algEd25519)
	if err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	name := sha256.Sum256([]byte(v.Name()))
	l := &watched{verifier: v, file: filepath.Join(w.dir, hex.EncodeToString(name[:])+".checkpoint"), root: EmptyRoot()}
	b, err := os.ReadFile(l.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("witness: %w", err)
	default:
		n, err := note.Open(b, note.VerifierList(v))
		if err != nil {
			return fmt.Errorf("witness: state of %s is damaged or of another key: %w", v.Name(), err)
		}
		c, err := parseBody(n.Text)
		if err != nil || c.Origin != v.Name() {
			return fmt.Errorf("witness: state of %s is damaged", v.Name())
		}
		l.size, l.root = c.Size, c.Root
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.logs[v.Name()] != nil {
		return fmt.Errorf("witness: log %s stands twice", v.Name())
	}
	w.logs[v.Name()] = l
	return nil
}

// Key is the witness's verifier key.
func (w *Witness) Key() string { return w.key.Verifier() }

// ServeHTTP answers POST …/add-checkpoint.
func (w *Witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	switch {
	case !strings.HasSuffix(r.URL.Path, "/add-checkpoint"):
		http.Error(rw, "not found", http.StatusNotFound)
		return
	case r.Method != http.MethodPost:
		rw.Header().Set("Allow", http.MethodPost)
		http.Error(rw, "use POST", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxWitnessBody))
	if err != nil {
		http.Error(rw, fmt.Sprintf("the body exceeds %d bytes or broke off", maxWitnessBody), http.StatusBadRequest)
		return
	}
	sig, err := w.addCheckpoint(body)
	if err == nil {
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		rw.Write(sig)
		return
	}
	var refusal *witnessRefusal
	if !errors.As(err, &refusal) {
		http.Error(rw, "the witness cannot store its state", http.StatusInternalServerError)
		return
	}
	if refusal.status == http.StatusConflict {
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		rw.WriteHeader(http.StatusConflict)
		fmt.Fprintf(rw, "%d\n", refusal.size)
		return
	}
	http.Error(rw, refusal.reason, refusal.status)
}

type witnessRefusal struct {
	status int
	reason string
	size   uint64 // of the last cosigned checkpoint, with 409
}

func (r *witnessRefusal) Error() string { return r.reason }

func refuse(status int, format string, args ...any) error {
	return &witnessRefusal{status: status, reason: fmt.Sprintf(format, args...)}
}

// parseAddCheckpoint splits the request: "old N", proof lines, an empty line,
// the checkpoint.
func parseAddCheckpoint(body []byte) (old uint64, path []consilium.Digest, checkpoint []byte, err error) {
	head, checkpoint, ok := bytes.Cut(body, []byte("\n\n"))
	if !ok {
		return 0, nil, nil, errors.New("no empty line before the checkpoint")
	}
	lines := strings.Split(string(head), "\n")
	num, ok := strings.CutPrefix(lines[0], "old ")
	old, err = strconv.ParseUint(num, 10, 64)
	if !ok || err != nil || strconv.FormatUint(old, 10) != num {
		return 0, nil, nil, errors.New("want old and a size in the first line")
	}
	if len(lines)-1 > maxWitnessProof {
		return 0, nil, nil, fmt.Errorf("%d proof lines, at most %d", len(lines)-1, maxWitnessProof)
	}
	for _, l := range lines[1:] {
		h, err := decodeBase64(l, 32)
		if err != nil {
			return 0, nil, nil, fmt.Errorf("proof: %w", err)
		}
		path = append(path, consilium.Digest(h))
	}
	return old, path, checkpoint, nil
}

func (w *Witness) addCheckpoint(body []byte) ([]byte, error) {
	old, path, raw, err := parseAddCheckpoint(body)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	unverified, err := ParseCheckpoint(raw)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	w.mu.Lock()
	l := w.logs[unverified.Origin]
	w.mu.Unlock()
	if l == nil {
		return nil, refuse(http.StatusNotFound, "unknown log")
	}
	n, err := note.Open(raw, note.VerifierList(l.verifier))
	if err != nil {
		return nil, refuse(http.StatusForbidden, "no signature of the log's known key")
	}
	c, err := parseBody(n.Text)
	if err != nil || c.Origin != unverified.Origin {
		return nil, refuse(http.StatusBadRequest, "malformed checkpoint")
	}
	if old > c.Size {
		return nil, refuse(http.StatusBadRequest, "old size %d is above the checkpoint's %d", old, c.Size)
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	if old != l.size {
		return nil, &witnessRefusal{status: http.StatusConflict, size: l.size, reason: "old size is not the last one cosigned"}
	}
	// The proof must be empty where there is nothing to prove.
	if (old == 0 || old == c.Size) && len(path) != 0 {
		return nil, refuse(http.StatusUnprocessableEntity, "a proof where none is needed")
	}
	if err := VerifyConsistency(l.size, l.root, c.Size, c.Root, path); err != nil {
		return nil, refuse(http.StatusUnprocessableEntity, "%v", err)
	}
	if c.Size != l.size || l.size == 0 {
		// Remember before vouching: if we crash here, the log asks again and the
		// answer is the same.
		kept, err := note.Sign(&note.Note{Text: n.Text, Sigs: n.Sigs})
		if err != nil {
			return nil, fmt.Errorf("witness: %w", err)
		}
		if err := writeFile(l.file, kept); err != nil {
			return nil, fmt.Errorf("witness: %w", err)
		}
		l.size, l.root = c.Size, c.Root
	}
	signed, err := note.Sign(&note.Note{Text: n.Text}, w.signers...)
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	return signed[len(n.Text)+1:], nil
}
