package policy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/durable"
)

// AuditRecord is one line of the decision log. It holds no record of a
// patient: of the input only what the schema marks x-audit keep, or hash, and a
// keyed digest of the whole, which says later that an input is the same without
// letting anyone try out guesses.
type AuditRecord struct {
	Seq          uint64           `json:"seq"` // from 1
	Time         int64            `json:"time"`
	Node         string           `json:"node"` // site or coordinator id
	Study        string           `json:"study"`
	Round        uint32           `json:"round"` // 0 before the first
	PolicyDigest consilium.Digest `json:"policy_digest"`
	Path         string           `json:"path"` // rego or recalled; for rows vectorised or memoised
	InputMAC     string           `json:"input_sha256"`
	InputMasked  json.RawMessage  `json:"input_masked"`
	Decision     Decision         `json:"decision"`
	Counts       *AuditCounts     `json:"counts"` // of rows
	Bitmap       string           `json:"bitmap"` // of rows: keyed digest of who was allowed
	Prev         consilium.Digest `json:"prev"`   // of the line before; zero for the first
}

// How a record's decision came about, where no rows were decided.
const (
	pathRego     = "rego"     // the rules were asked
	pathRecalled = "recalled" // they had been asked the same before, and their answer held still
)

// AuditCounts says how many rows were asked and left out.
type AuditCounts struct {
	In       int     `json:"rows_in"`
	Out      int     `json:"rows_out"`
	ByReason []Count `json:"by_reason"`
}

// AuditEntry is what a caller knows of a decision.
type AuditEntry struct {
	Time     int64
	Node     string
	Study    consilium.StudyID
	Round    uint32
	Point    Point
	Input    Input
	Decision Decision     // of Decide or DecideAgain; for rows it is taken from Rows
	Recalled bool         // as DecideAgain says
	Rows     *RowDecision // of FilterRows
}

// Appender keeps lines, one or several at a time, each with its end. When Append
// returns nil they survive a power cut.
type Appender interface{ Append(lines []byte) error }

// Audit writes the log of one hospital or coordinator: the record is durable
// before the action that it permits, or the action does not happen.
type Audit struct {
	mu    sync.Mutex // guards the rest
	to    Appender
	key   []byte
	seq   uint64
	prev  consilium.Digest
	bad   error // after a failed append the log's end is unknown
	file  *auditFile
	masks masks
	held  map[consilium.Digest]bool // digests of every line that this log was opened with or took
}

func (a *Audit) String() string       { return "Audit(redacted)" }
func (a *Audit) GoString() string     { return "Audit(redacted)" }
func (a *Audit) LogValue() slog.Value { return slog.StringValue("Audit(redacted)") }

// Format keeps %+v and %x from printing the key.
func (a *Audit) Format(f fmt.State, _ rune) { io.WriteString(f, "Audit(redacted)") }

// MinAuditKey is the least length of the key of the keyed digests.
const MinAuditKey = 16

// NewAudit continues a log after seq records whose last has digest prev.
func NewAudit(to Appender, key []byte, seq uint64, prev consilium.Digest) (*Audit, error) {
	if to == nil || len(key) < MinAuditKey || (seq == 0) != prev.IsZero() {
		return nil, fmt.Errorf("policy audit: an appender, a key of at least %d bytes and a fitting end are needed", MinAuditKey)
	}
	return &Audit{to: to, key: bytes.Clone(key), seq: seq, prev: prev, held: map[consilium.Digest]bool{prev: true, {}: true}}, nil
}

// OpenAudit opens or makes a log file and verifies it from its first record. A
// last line that a crash cut short is removed: its action never happened.
func OpenAudit(path string, key []byte) (*Audit, error) {
	b, err := os.ReadFile(path)
	fresh := errors.Is(err, os.ErrNotExist)
	if err != nil && !fresh {
		return nil, err
	}
	whole := bytes.LastIndexByte(b, '\n') + 1
	held := map[consilium.Digest]bool{{}: true}
	head, n, err := verifyAudit(bytes.NewReader(b[:whole]), func(d consilium.Digest) { held[d] = true })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err = f.Truncate(int64(whole)); err == nil {
		_, err = f.Seek(int64(whole), io.SeekStart)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil && fresh {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	file := &auditFile{f, int64(whole)}
	a, err := NewAudit(file, key, n, head)
	if err != nil {
		f.Close()
		return nil, err
	}
	a.file, a.held = file, held
	return a, nil
}

// syncDir makes a new file's name durable. Where directories cannot be synced
// (Windows), the file system's own journal does it.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, os.ErrInvalid) && !errors.Is(err, os.ErrPermission) {
		return err
	}
	return nil
}

// auditFile is a log's file, of which size bytes are acknowledged.
type auditFile struct {
	f interface {
		io.WriterAt
		io.Closer
		Truncate(int64) error
		Sync() error
	}
	size int64
}

func (a *auditFile) Append(line []byte) error {
	_, err := a.f.WriteAt(line, a.size)
	if err == nil {
		err = a.f.Sync()
	}
	if err == nil {
		a.size += int64(len(line))
	}
	return err
}

// cut takes off what a failed Append left. None of it was acknowledged.
func (a *auditFile) cut() error {
	if err := a.f.Truncate(a.size); err != nil {
		return err
	}
	return a.f.Sync()
}

// Close closes a log that OpenAudit opened.
func (a *Audit) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil
	}
	a.bad = errors.New("closed")
	return a.file.f.Close()
}

// Head is the digest of the last line and the number of lines.
func (a *Audit) Head() (consilium.Digest, uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.prev, a.seq
}

// Holds reports whether a digest was once the log's head: a log that was removed,
// cut short or put back from an older copy does not hold what a later record
// elsewhere says of it.
func (a *Audit) Holds(head consilium.Digest) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.held[head]
}

// ErrAudit says that a decision could not be logged. It is no word of any rule.
var ErrAudit = errors.New("the decision log cannot be written: nothing may be done")

// Append writes a decision. If it returns an error, nothing may be done on
// the decision's strength. After consilium.ErrDiskFull the log is as it was, and
// takes records again once there is space; after any other ErrAudit what the file
// holds is unknown, and it takes none until it is opened again.
func (a *Audit) Append(entry AuditEntry) (AuditRecord, error) {
	rec, err := a.record(&entry)
	if err != nil {
		return AuditRecord{}, err
	}
	recs := []AuditRecord{rec}
	if err := a.chain(recs); err != nil {
		return AuditRecord{}, err
	}
	return recs[0], nil
}

// chain gives records their places and writes them, durable together.
func (a *Audit) chain(recs []AuditRecord) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bad != nil {
		return fmt.Errorf("%w: it takes no more records: %w", ErrAudit, a.bad)
	}
	var all []byte
	var lines [][]byte
	prev := a.prev
	for i := range recs {
		recs[i].Seq, recs[i].Prev = a.seq+1+uint64(i), prev
		line, err := recs[i].encode()
		if err != nil {
			return err
		}
		prev = lineDigest(line)
		lines = append(lines, line)
		all = append(append(all, line...), '\n')
	}
	if err := a.to.Append(all); err != nil {
		err = durable.Full(err)
		a.bad = err
		// As in a journal: only a write for which there was no space leaves the
		// acknowledged lines surely whole.
		if a.file != nil && errors.Is(err, consilium.ErrDiskFull) && a.file.cut() == nil {
			a.bad = nil
		}
		return fmt.Errorf("%w: %w", ErrAudit, err)
	}
	for _, line := range lines {
		a.seq, a.prev = a.seq+1, lineDigest(line)
		a.held[a.prev] = true
	}
	return nil
}

// record is an entry's record without its place in the chain.
func (a *Audit) record(entry *AuditEntry) (AuditRecord, error) {
	rec := AuditRecord{Time: entry.Time, Node: entry.Node, Study: string(entry.Study), Round: entry.Round, Path: pathRego, Decision: entry.Decision}
	if entry.Recalled {
		rec.Path = pathRecalled
	}
	if entry.Rows != nil {
		rec.Decision, rec.Path = entry.Rows.Decision, entry.Rows.Path
		if rec.Path == "" { // refused before any row was looked at
			rec.Path = pathRego
		}
		rec.Counts = &AuditCounts{In: entry.Rows.In, Out: entry.Rows.Out, ByReason: orEmpty(entry.Rows.Reasons)}
		rec.Bitmap = a.mac("bitmap", entry.Rows.bitmap())
	}
	rec.PolicyDigest = rec.Decision.PolicyDigest
	question := entry.Input
	if entry.Point == PointRows {
		question.Record = nobody()
	}
	input, err := question.encode(entry.Point)
	if err != nil {
		return rec, err
	}
	rec.InputMAC = a.mac("input", input)
	rec.InputMasked, err = a.maskedAgain(entry.Point, input, question.Now)
	return rec, err
}

func lineDigest(line []byte) consilium.Digest {
	return consilium.DomainAuditRecord.Digest([]byte("decision"), line)
}

func (rec AuditRecord) encode() ([]byte, error) {
	d, err := rec.Decision.Encode()
	if err != nil {
		return nil, err
	}
	type alias AuditRecord
	return canon.Marshal(struct {
		alias
		Decision json.RawMessage `json:"decision"`
	}{alias(rec), d})
}

func (a *Audit) mac(what string, b []byte) string {
	h := hmac.New(sha256.New, a.key)
	h.Write(consilium.DomainAuditMask.Message([]byte(what)))
	h.Write([]byte{0})
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil))
}

// masks are masked inputs that a log remembers: what stands before and after the
// moment, by questionKey.
type masks struct {
	mu   sync.Mutex
	list map[consilium.Digest][2][]byte
	size int // of what list holds, in bytes
}

const (
	// maxMasks bounds the bytes of them, not their number: one may take as much as
	// MaxInput, and nothing says how many a hospital's studies ask. When full, all are
	// forgotten: each is masked again when it is asked again.
	maxMasks = 16 << 20
	// maskCost is what one takes beside its own bytes: a key, two slices, their place.
	maskCost = 128
)

func (m *masks) find(key consilium.Digest) (around [2][]byte, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	around, ok = m.list[key]
	return around, ok
}

func (m *masks) keep(key consilium.Digest, head, tail []byte) {
	size := maskCost + len(head) + len(tail)
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.list[key]; ok || size > maxMasks {
		return
	}
	if m.list == nil || m.size+size > maxMasks {
		m.list, m.size = map[consilium.Digest][2][]byte{}, 0
	}
	m.list[key] = [2][]byte{bytes.Clone(head), bytes.Clone(tail)}
	m.size += size
}

// maskedAgain is masked. An input that differs in its moment alone from one that was
// masked before, which the log keeps, is masked alike.
func (a *Audit) maskedAgain(p Point, input []byte, now int64) (json.RawMessage, error) {
	head, tail, ok := cutMoment(input, p, now)
	if !ok {
		return a.masked(p, input)
	}
	key := questionKey(p, head, tail)
	if have, ok := a.masks.find(key); ok {
		return slices.Concat(have[0], momentText(p, now), have[1]), nil
	}
	m, err := a.masked(p, input)
	if err != nil {
		return nil, err
	}
	if head, tail, ok := cutMoment(m, p, now); ok {
		a.masks.keep(key, head, tail)
	}
	return m, nil
}

// masked keeps of an input what the schema's allow-list lets stand.
func (a *Audit) masked(p Point, input []byte) (json.RawMessage, error) {
	all, err := allSchemas()
	if err != nil {
		return nil, err
	}
	v, err := decode(input)
	if err != nil {
		return nil, err
	}
	// An input that does not fit the schema was refused; none of it is kept.
	if _, err := all.check("input:"+string(p), v); err != nil {
		return json.RawMessage("{}"), nil
	}
	m, ok := all.mask(all["input:"+string(p)], v, a.maskedField)
	if !ok {
		return json.RawMessage("{}"), nil
	}
	return canon.Marshal(m)
}

// maskedField is what stands for a field that is marked hash.
func (a *Audit) maskedField(x any) string {
	b, err := canon.Marshal(x)
	if err != nil {
		return ""
	}
	return a.mac("field", b)
}

// VerifyAudit reads a log from its first record and checks the chain. It
// returns the digest of the last line and the number of lines; an auditor
// compares them with what the hospital's ledger says.
func VerifyAudit(r io.Reader) (consilium.Digest, uint64, error) {
	return verifyAudit(r, func(consilium.Digest) {})
}

func verifyAudit(r io.Reader, each func(consilium.Digest)) (consilium.Digest, uint64, error) {
	var prev consilium.Digest
	var n uint64
	err := eachAudit(r, func(rec AuditRecord, line []byte) error {
		if rec.Seq != n+1 || rec.Prev != prev {
			return fmt.Errorf("decision log: line %d does not follow the line before it", n+1)
		}
		n, prev = rec.Seq, lineDigest(line)
		each(prev)
		return nil
	})
	if err != nil {
		return consilium.Digest{}, 0, err
	}
	return prev, n, nil
}

func eachAudit(r io.Reader, fn func(AuditRecord, []byte) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 1<<16), 4*MaxInput)
	n := 0
	for s.Scan() {
		n++
		line := s.Bytes()
		if err := canon.Check(line); err != nil {
			return fmt.Errorf("decision log: line %d: %w", n, err)
		}
		var rec AuditRecord
		if err := strict(line, &rec); err != nil {
			return fmt.Errorf("decision log: line %d: %w", n, err)
		}
		if rec.PolicyDigest != rec.Decision.PolicyDigest || rec.Decision.Allow != (len(rec.Decision.Reasons) == 0) {
			return fmt.Errorf("decision log: line %d contradicts itself", n)
		}
		if err := fn(rec, line); err != nil {
			return err
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("decision log: after line %d: %w", n, err)
	}
	return nil
}

// Changed is a logged decision that another policy, or the same one, would
// not make again.
type Changed struct {
	Seq      uint64
	Point    Point
	Before   Decision
	After    Decision
	Unproven string // why the record could not be replayed, or ""
}

// Replay decides again what a log holds. inputs finds the question of a record,
// which the log itself does not hold; it is checked against the record's keyed
// digest. Under the policy of the log every decision must come out as it was,
// byte for byte; under another one the list shows what would change. Rows are not
// replayed: their facts never leave the hospital.
func (e *Engine) Replay(ctx context.Context, log io.Reader, key []byte, inputs func(AuditRecord) (Input, bool)) ([]Changed, error) {
	a := &Audit{key: key}
	var out []Changed
	err := eachAudit(log, func(rec AuditRecord, _ []byte) error {
		c := Changed{Seq: rec.Seq, Point: rec.Decision.Point, Before: rec.Decision}
		if c.Point == PointRows {
			return nil
		}
		in, ok := inputs(rec)
		if !ok {
			c.Unproven = "the question is not at hand"
			out = append(out, c)
			return nil
		}
		b, err := in.encode(c.Point)
		if err != nil {
			return err
		}
		if !hmac.Equal([]byte(a.mac("input", b)), []byte(rec.InputMAC)) {
			c.Unproven = "the question is not the one that was decided"
			out = append(out, c)
			return nil
		}
		if c.After, err = e.Decide(ctx, c.Point, in); err != nil {
			return err
		}
		before, after := c.Before, c.After
		// Another policy has another digest; what counts is the answer.
		before.PolicyDigest, after.PolicyDigest = consilium.Digest{}, consilium.Digest{}
		x, err := before.Encode()
		if err != nil {
			return err
		}
		y, err := after.Encode()
		if err != nil {
			return err
		}
		if !bytes.Equal(x, y) {
			out = append(out, c)
		}
		return nil
	})
	return out, err
}

// Explain writes a decision for a person: one line for each reason.
func Explain(d Decision) string {
	var b strings.Builder
	if d.Allow {
		fmt.Fprintf(&b, "%s: allowed", d.Point)
		if len(d.Obligations) > 0 {
			fmt.Fprintf(&b, ", with duties: %s", strings.Join(d.Obligations, ", "))
		}
		b.WriteByte('\n')
		return b.String()
	}
	fmt.Fprintf(&b, "%s: refused\n", d.Point)
	for _, r := range d.Reasons {
		fmt.Fprintf(&b, "  %s\n", r)
	}
	return b.String()
}
