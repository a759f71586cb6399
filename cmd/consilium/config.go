package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"consilium"
	"consilium/internal/span"
	"consilium/internal/studyfile"
	"consilium/policy"
	"consilium/provenance"
	"consilium/provenance/chain"
	"consilium/worker/vault"
)

// Config files are strict: a misspelt key must not silently mean the default.

// paths that every node has. They are relative to the config file.
type commonConfig struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Keys       string `yaml:"keys"`   // directory with the keys made by `provision`
	Roster     string `yaml:"roster"` // written by `provision install`
	Board      string `yaml:"board"`  // the pinned board, written by `provision install`
	Data       string `yaml:"data"`   // everything durable
	Health     string `yaml:"health"` // host:port of /healthz, /readyz and /metrics; "" for none
	Log        string `yaml:"log"`    // debug, info, warn or error

	Tracing tracingConfig `yaml:"tracing"`
}

// tracingConfig says where spans go; nowhere unless it names a place.
type tracingConfig struct {
	OTLP  string  `yaml:"otlp"`  // URL of an OTLP/HTTP receiver
	File  string  `yaml:"file"`  // a file, relative to the config
	Ratio float64 `yaml:"ratio"` // of rounds that are traced; default all
}

// spans says where the spans of a node go whose config is at path.
func (c *commonConfig) spans(path string) span.Config {
	file := c.Tracing.File
	if file != "" && !filepath.IsAbs(file) {
		file = filepath.Join(filepath.Dir(path), file)
	}
	return span.Config{OTLP: c.Tracing.OTLP, File: file, Ratio: c.Tracing.Ratio}
}

// tracer opens a node's tracer, or nil.
func (c *commonConfig) tracer(ctx context.Context, path, node string) (*span.Tracer, error) {
	return span.Open(ctx, node, c.spans(path))
}

func (c *commonConfig) common() *commonConfig { return c }

type workerConfig struct {
	commonConfig `yaml:",inline"`
	Site         string            `yaml:"site"`
	Facts        string            `yaml:"facts"`
	Register     string            `yaml:"register"`
	Policies     string            `yaml:"policies"`
	Witness      string            `yaml:"witness"`   // URL of the board's own; where the roster gives addresses, in its place
	Witnesses    map[string]string `yaml:"witnesses"` // the same for witnesses by name
	Anchors      anchorsConfig     `yaml:"anchors"`
	Isolation    string            `yaml:"isolation"`
	Privacy      privacyConfig     `yaml:"privacy"`
	Datasets     []datasetConfig   `yaml:"datasets"`
	Streams      []streamConfig    `yaml:"streams"`
	Retention    retentionConfig   `yaml:"retention"`
	Limits       limitsConfig      `yaml:"limits"`
}

// witnesses is the roster's policy with the addresses at which this hospital
// reaches them.
func (c *workerConfig) witnesses(r *consilium.Roster) (provenance.WitnessPolicy, error) {
	p, err := provenance.WitnessesOf(r)
	if err != nil {
		return p, err
	}
	known := map[string]bool{}
	for i := range p.Witnesses {
		w := &p.Witnesses[i]
		known[w.Name] = true
		if c.Witness != "" && w.Key == r.Board.Witness {
			w.URL = c.Witness
		}
		if url := c.Witnesses[w.Name]; url != "" {
			w.URL = url
		}
		if w.URL == "" {
			return p, &consilium.Error{Code: consilium.ErrLedger.Code, Msg: "no witness is configured", Next: "set witness: to the URL of the board's ledger witness"}
		}
	}
	for name := range c.Witnesses {
		if !known[name] {
			return p, consilium.ErrInvalid.Withf("witnesses: the roster has no witness %q", name)
		}
	}
	return p, nil
}

// anchorsConfig demands anchors of the hospital's own ledger before a row is used.
type anchorsConfig struct {
	Path     string        `yaml:"path"`     // directory of the anchors with their proofs; "" demands none
	Contract string        `yaml:"contract"` // address of the federation's contract
	Blocks   string        `yaml:"blocks"`   // file of trusted block hashes, one a line
	MaxAge   time.Duration `yaml:"max_age"`  // of the newest anchor's block; 0 means eight days
}

// watch is what the vault demands, or nil. A part of the settings without the
// rest is a mistake, and not a demand of nothing.
func (a *anchorsConfig) watch(path string) (*chain.Watch, error) {
	if *a == (anchorsConfig{}) {
		return nil, nil
	}
	next := "set path:, contract: and blocks: under anchors:, or remove it"
	if a.Path == "" || a.Contract == "" || a.Blocks == "" || a.MaxAge < 0 {
		return nil, configError(path, nil, next, "anchors: a directory, a contract and a file of trusted blocks are needed together")
	}
	contract, err := chain.ParseAddress(a.Contract)
	if err != nil {
		return nil, configError(path, nil, next, "anchors: %w", err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	w := &chain.Watch{Dir: a.Path, Contract: contract, Blocks: a.Blocks, MaxAge: a.MaxAge}
	for _, p := range []*string{&w.Dir, &w.Blocks} {
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	return w, nil
}

// retentionConfig is how long a hospital keeps what it need not keep.
type retentionConfig struct {
	Replays *time.Duration `yaml:"replays"` // what a result followed from, after the study's last round; 0 for nothing
}

// privacyConfig is what all differentially private studies together may learn
// about one patient. Without it the vault's default holds.
type privacyConfig struct {
	Epsilon *float64 `yaml:"epsilon"`
	Delta   *float64 `yaml:"delta"`
}

// budget is the vault's, nil for its default.
func (p *privacyConfig) budget(path string) (*vault.Budget, error) {
	if p.Epsilon == nil && p.Delta == nil {
		return nil, nil
	}
	if p.Epsilon == nil || p.Delta == nil || !(*p.Epsilon >= 0) || math.IsInf(*p.Epsilon, 0) || !(*p.Delta > 0 && *p.Delta < 1) {
		return nil, configError(path, nil, "write privacy: {epsilon: 10, delta: 1e-6}; epsilon: 0 refuses every differentially private study", "privacy: want epsilon of at least 0 and delta between 0 and 1")
	}
	return &vault.Budget{Epsilon: *p.Epsilon, Delta: *p.Delta}, nil
}

type datasetConfig struct {
	Name    string            `yaml:"name"`
	Path    string            `yaml:"path"`
	Patient string            `yaml:"patient"` // "" means that every row is a patient
	Bind    map[string]string `yaml:"bind"`
	Columns yaml.Node         `yaml:"columns"`
}

type coordinatorConfig struct {
	commonConfig `yaml:",inline"`
	ID           string       `yaml:"id"`
	Policies     string       `yaml:"policies"`
	Listen       string       `yaml:"listen"`      // where to listen for members, if not on the roster's address
	ListenRaft   string       `yaml:"listen_raft"` // the same for the other nodes
	Timing       timingConfig `yaml:"timing"`
}

type timingConfig struct {
	Heartbeat time.Duration `yaml:"heartbeat"`
	Commit    time.Duration `yaml:"commit"`
	Drain     time.Duration `yaml:"drain"`
}

type witnessConfig struct {
	commonConfig `yaml:",inline"`
	Listen       string `yaml:"listen"`
}

// configError has the code of consilium.ErrInvalid with the file's name.
func configError(path string, n *yaml.Node, next, format string, args ...any) error {
	msg := path
	if n != nil {
		msg = fmt.Sprintf("%s: line %d, column %d", path, n.Line, n.Column)
	}
	return &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: msg, Next: next, Err: fmt.Errorf(format, args...)}
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

// readConfig reads a config file of one kind into out, a pointer to a struct
// with commonConfig in it, and makes its paths absolute.
func readConfig(path, kind string, out interface{ common() *commonConfig }) error {
	if path == "" {
		return usagef("--config FILE is needed; `consilium provision` writes one")
	}
	src, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	dec := yaml.NewDecoder(bytes.NewReader(src))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return configError(path, nil, "start from the file that `consilium provision` writes", "the file is empty")
		}
		return configError(path, nil, "check the indentation and quotes", "not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if dec.Decode(&more) != io.EOF {
		return configError(path, nil, "keep one", "more than one document")
	}
	root := doc.Content[0]
	if err := strict(path, root, reflect.TypeOf(out).Elem(), "the file"); err != nil {
		return err
	}
	if err := root.Decode(out); err != nil {
		text := strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: unmarshal errors:\n"), "\n", ";")
		if m := yamlLine.FindStringSubmatch(text); m != nil {
			if line, err := strconv.Atoi(m[1]); err == nil {
				return configError(path, &yaml.Node{Line: line, Column: 1}, "correct the value", "%s", strings.TrimSpace(strings.Replace(text, m[0], "", 1)))
			}
		}
		return configError(path, nil, "correct the value", "%s", strings.TrimSpace(text))
	}
	common := out.common()
	if common.APIVersion != consilium.APIVersion || common.Kind != kind {
		return configError(path, root, "begin with apiVersion: "+consilium.APIVersion+" and kind: "+kind, "apiVersion %q, kind %q", common.APIVersion, common.Kind)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return err
	}
	v := reflect.ValueOf(out).Elem()
	for _, name := range []string{"Keys", "Roster", "Board", "Data", "Facts", "Register", "Policies"} {
		f := v.FieldByName(name)
		if !f.IsValid() {
			continue
		}
		if f.String() == "" {
			return configError(path, root, "add it", "no key %s", strings.ToLower(name))
		}
		if !filepath.IsAbs(f.String()) {
			f.SetString(filepath.Join(dir, f.String()))
		}
	}
	return nil
}

// strict refuses what the config's type does not have: unknown and repeated
// keys, aliases and tags.
func strict(path string, n *yaml.Node, t reflect.Type, what string) error {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return configError(path, n, "write the value out", "anchors and aliases are not allowed")
	}
	if n.Style&yaml.TaggedStyle != 0 {
		return configError(path, n, "leave the tag out", "the tag %s is not allowed", n.Tag)
	}
	if t.Kind() == reflect.Pointer { // what may be absent
		t = t.Elem()
	}
	if t == reflect.TypeFor[yaml.Node]() {
		return nil // read by studyfile, which is as strict
	}
	switch t.Kind() {
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return configError(path, n, "write a list, each entry after a dash", "%s is not a list", what)
		}
		for _, c := range n.Content {
			if err := strict(path, c, t.Elem(), "an entry of "+what); err != nil {
				return err
			}
		}
		return nil
	case reflect.Struct, reflect.Map:
		if n.Kind != yaml.MappingNode {
			return configError(path, n, "write key: value lines", "%s holds no keys", what)
		}
	default:
		if n.Kind != yaml.ScalarNode {
			return configError(path, n, "write one value", "%s is not a plain value", what)
		}
		return nil
	}
	fields := map[string]reflect.Type{}
	var known []string
	if t.Kind() == reflect.Struct {
		for _, f := range reflect.VisibleFields(t) {
			if name := strings.Split(f.Tag.Get("yaml"), ",")[0]; name != "" {
				fields[name], known = f.Type, append(known, name)
			}
		}
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if seen[k.Value] {
			return configError(path, k, "keep one of them", "key %s stands twice", k.Value)
		}
		seen[k.Value] = true
		ft := t
		if t.Kind() == reflect.Struct {
			var ok bool
			if ft, ok = fields[k.Value]; !ok {
				return configError(path, k, suggestion(k.Value, known), "unknown key %s in %s", k.Value, what)
			}
		} else {
			ft = t.Elem()
		}
		if err := strict(path, v, ft, k.Value); err != nil {
			return err
		}
	}
	return nil
}

// suggestion is the next step after an unknown word.
func suggestion(word string, known []string) string {
	best, least := "", max(2, len(word)/3)+1
	for _, k := range known {
		if d := edits(strings.ToLower(word), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	return "the keys are " + strings.Join(known, ", ")
}

// edits is the Levenshtein distance in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// logger writes a node's log as text lines.
func logger(path, level string, w io.Writer) (*slog.Logger, error) {
	l := slog.LevelInfo
	if level != "" {
		if err := l.UnmarshalText([]byte(level)); err != nil {
			return nil, configError(path, nil, "use debug, info, warn or error", "log: %q", level)
		}
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
}

// dataset reads one entry of datasets: its columns are in the syntax of study
// files, and so are the errors, with the line of this file.
func (d *datasetConfig) dataset(path string) (vault.Dataset, error) {
	out := vault.Dataset{Name: d.Name, Path: d.Path, Patient: d.Patient, Bind: d.Bind}
	if out.Name == "" || out.Path == "" {
		return out, configError(path, nil, "give each entry of datasets a name and a path", "a dataset without name or path")
	}
	if !filepath.IsAbs(out.Path) {
		dir, err := filepath.Abs(filepath.Dir(path))
		if err != nil {
			return out, err
		}
		out.Path = filepath.Join(dir, out.Path)
	}
	if d.Columns.Kind != yaml.MappingNode {
		return out, configError(path, nil, "list columns: as in a study file", "dataset %s has no columns", d.Name)
	}
	first := ""
	for i := 0; i+1 < len(d.Columns.Content); i += 2 {
		if name := d.Columns.Content[i].Value; name != d.Patient && first == "" {
			first = name
		}
	}
	// A study of nothing but this dictionary: studyfile then reads and checks
	// the columns as it does everywhere.
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": consilium.APIVersion, "kind": "Study", "metadata": map[string]string{"name": "dictionary"},
		"spec": map[string]any{
			"data": dataReference(d.Name, d.Patient), "columns": &d.Columns,
			"analysis": map[string]any{"type": consilium.AnalysisDescribe, "variables": []string{first}},
		},
	})
	if err != nil {
		return out, err
	}
	purpose := policy.DefaultPurpose()
	file, err := studyfile.ParseWith(text, studyfile.Options{Simulate: true, Purpose: &purpose})
	if err != nil {
		var at *studyfile.Error
		if errors.As(err, &at) {
			return out, configError(path, original(text, &d.Columns, at.Line, at.Column), at.Next, "dataset %s: %s", d.Name, at.Msg)
		}
		return out, configError(path, nil, "", "dataset %s: %w", d.Name, err)
	}
	out.Columns, out.RowPatients = file.Spec.Columns, file.RowPatients
	if out.RowPatients {
		if d.Patient != "" {
			return out, configError(path, &d.Columns, "declare it under columns with type: id", "dataset %s: the patient column %s is not declared", d.Name, d.Patient)
		}
		out.Patient = file.Spec.Data.Patient
	}
	return out, nil
}

func dataReference(name, patient string) map[string]string {
	out := map[string]string{"dataset": name}
	if patient != "" {
		out["patient"] = patient
	}
	return out
}

// original finds the node of the config file that stands at a place of text,
// into which the node columns was copied.
func original(text []byte, columns *yaml.Node, line, column int) *yaml.Node {
	var doc yaml.Node
	if yaml.Unmarshal(text, &doc) != nil || len(doc.Content) == 0 {
		return columns
	}
	var copied *yaml.Node
	var find func(n *yaml.Node, path ...string) *yaml.Node
	find = func(n *yaml.Node, path ...string) *yaml.Node {
		if len(path) == 0 {
			return n
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == path[0] {
				return find(n.Content[i+1], path[1:]...)
			}
		}
		return nil
	}
	if copied = find(doc.Content[0], "spec", "columns"); copied == nil {
		return columns
	}
	best := columns
	var walk func(a, b *yaml.Node)
	walk = func(a, b *yaml.Node) {
		if a.Line == line && a.Column == column {
			best = b
		}
		for i := range min(len(a.Content), len(b.Content)) {
			walk(a.Content[i], b.Content[i])
		}
	}
	walk(copied, columns)
	return best
}

// register is what the hospital's own register says: a default and exceptions
// by the hospital's own patient number, which start from the default.
type register struct {
	Default  vault.Register            `json:"default"`
	Patients map[string]vault.Register `json:"patients"`
}

func parseRegister(b []byte) (*register, error) {
	var raw struct {
		Default  *vault.Register            `json:"default"`
		Patients map[string]json.RawMessage `json:"patients"`
	}
	if err := strictJSON(b, &raw); err != nil {
		return nil, err
	}
	if raw.Default == nil {
		return nil, errors.New(`no "default"`)
	}
	r := &register{Default: *raw.Default, Patients: map[string]vault.Register{}}
	for id, entry := range raw.Patients {
		v := r.Default
		if err := strictJSON(entry, &v); err != nil {
			return nil, fmt.Errorf("patient %s: %w", id, err)
		}
		r.Patients[id] = v
	}
	return r, nil
}

func (r *register) of(patient string) vault.Register {
	if v, ok := r.Patients[patient]; ok {
		return v
	}
	return r.Default
}

// strictJSON refuses unknown fields and anything after the value.
func strictJSON(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("bytes after the JSON value")
	}
	return nil
}
