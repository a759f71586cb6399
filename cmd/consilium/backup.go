package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"consilium"
	"consilium/internal/durable"
)

// A backup is a copy of a stopped process's data directory, whole: its parts
// remember each other. What a restored directory has forgotten is found when it
// is used, by others who remember: the log and the ledger (worker/stale.go), the
// peers (coordinator/starts.go). A backup that is the newest goes on; an older one
// says so and takes no part. Nobody remembers for a witness: one that was put back
// would cosign a second history from there on, so it has no backup.

const backupManifest = "backup.json"

// backupOf is backup.json.
type backupOf struct {
	APIVersion string                `json:"apiVersion"`
	Kind       string                `json:"kind"` // "Backup"
	Of         string                `json:"of"`   // Worker or Coordinator
	Pin        string                `json:"pin"`  // SHA-256 of the card's fingerprint without what is renewed: whose it is
	At         time.Time             `json:"at"`
	Dirs       []string              `json:"dirs"` // below data/, with slashes; an empty one can mean something too
	Files      map[string]backupFile `json:"files"`
}

type backupFile struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// keptOut says what of a data directory is in no backup: locks and sockets, what
// was never finished, and the secrets of rounds, which a hospital destroys as it
// goes and a copy would keep. A study that ran is left when they are gone.
func keptOut(rel string) bool {
	name := filepath.Base(rel)
	return name == "LOCK" || name == deskSocket || strings.HasPrefix(name, durable.TempPrefix) ||
		strings.HasPrefix(rel, "gate/secrets/") || strings.HasPrefix(rel, "gate/spool/")
}

// dataKinds are the directories below data/ that a process of a kind locks, with
// what durable calls them.
var dataKinds = map[string]map[string]string{
	"Worker":      {consentDeskDir: "worker-consents", deskDir: "worker-desk", "gate": "worker-gate", "vault": "worker-vault"},
	"Coordinator": {".": "coordinator"},
}

// stopped reads a node's config and makes sure that no process works in its data
// directory until release.
func stopped(path string) (kind string, c *commonConfig, release func(), err error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return "", nil, nil, err
	}
	var head struct {
		Kind string `yaml:"kind"`
	}
	if err := yaml.Unmarshal(src, &head); err != nil {
		return "", nil, nil, configError(path, nil, "check the indentation and quotes", "not YAML: %w", err)
	}
	switch head.Kind {
	case "Worker":
		var w workerConfig
		err, c = readConfig(path, head.Kind, &w), &w.commonConfig
	case "Coordinator":
		var w coordinatorConfig
		err, c = readConfig(path, head.Kind, &w), &w.commonConfig
	case "Witness":
		err = configError(path, nil, "a witness whose directory is lost is a new witness: `consilium provision witness` makes its key, the next roster names it", "a witness has no backup: nobody would notice that one was put back, and it would cosign a second history of each ledger")
	default:
		err = configError(path, nil, "give the config of a worker or a coordinator", "kind %q has no data", head.Kind)
	}
	if err != nil {
		return "", nil, nil, err
	}
	var locks []*durable.Dir
	release = func() {
		for _, l := range locks {
			l.Close()
		}
	}
	for _, sub := range slices.Sorted(maps.Keys(dataKinds[head.Kind])) {
		dir := filepath.Join(c.Data, sub)
		if _, err := os.Stat(filepath.Join(dir, "VERSION")); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		l, err := durable.Prepare(dir, dataKinds[head.Kind][sub])
		if err != nil {
			release()
			if errors.Is(err, durable.ErrLocked) {
				err = &consilium.Error{Code: consilium.ErrUnavailable.Code, Msg: fmt.Sprintf("a process is running on %s", dir), Next: "stop it first: a copy of a directory in use is no backup"}
			}
			return "", nil, nil, err
		}
		locks = append(locks, l)
	}
	return head.Kind, c, release, nil
}

// owner binds a backup to its kit: to the card without its certificates and its
// witness, which are renewed.
func owner(c *commonConfig) (string, error) {
	card, err := parseCard(filepath.Join(filepath.Dir(c.Keys), kitCard))
	if err != nil {
		return "", err
	}
	*card.pins(), card.Witness, card.WitnessAddress = nil, "", ""
	sum := sha256.Sum256([]byte(card.fingerprint()))
	return hex.EncodeToString(sum[:]), nil
}

func runBackup(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	path := flags.String("config", "", "config `file` of a worker or a coordinator that is stopped")
	out := flags.String("out", "", "new `directory` for the copy; it holds personal data and is as secret as data/")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 || *path == "" || *out == "" {
		return usagef("--config FILE and --out DIR are needed, and nothing else")
	}
	kind, c, release, err := stopped(*path)
	if err != nil {
		return err
	}
	defer release()
	if list, err := os.ReadDir(*out); err == nil && len(list) > 0 {
		return consilium.ErrInvalid.Withf("%s is not empty; a backup is written once", *out)
	}
	m := backupOf{APIVersion: consilium.APIVersion, Kind: "Backup", Of: kind, At: time.Now().UTC().Truncate(time.Second), Files: map[string]backupFile{}}
	if m.Pin, err = owner(c); err != nil {
		return err
	}
	root, err := filepath.EvalSymlinks(c.Data)
	if err != nil {
		return err
	}
	files, err := m.list(root)
	if err != nil {
		return err
	}
	var total int64
	for _, rel := range files {
		f, err := copyFile(filepath.Join(root, filepath.FromSlash(rel)), filepath.Join(*out, "data", filepath.FromSlash(rel)))
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		m.Files[rel], total = f, total+f.Size
	}
	b, err := json.MarshalIndent(&m, "", " ")
	if err != nil {
		return err
	}
	// Last: a directory with it is a whole backup.
	if err := durable.WriteFile(filepath.Join(*out, backupManifest), append(b, '\n'), 0o600); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"of": kind, "files": len(m.Files), "bytes": total})
	}
	fmt.Fprintf(e.stdout, "%s: %d files, %d bytes; keys are not in it. Once the process has run on, this copy is an older one: it is found to be, and refused\n", *out, len(m.Files), total)
	return nil
}

// list finds what to copy below root, before any of it is copied. A link or
// another special file, behind which a part of the data may lie, is an error: a
// walk does not follow it, and a copy without that part would look whole.
func (m *backupOf) list(root string) (files []string, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch mode := d.Type(); {
		case rel == ".":
		case mode.IsDir():
			m.Dirs = append(m.Dirs, rel)
		case keptOut(rel), mode&fs.ModeSocket != 0:
		case mode.IsRegular():
			files = append(files, rel)
		default:
			return &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: fmt.Sprintf("%s is neither a file nor a directory (%s): what lies behind it would be missing from the copy", path, mode),
				Next: "put what it leads to in its place; to keep the data on another volume, put the whole directory there and let data: name it"}
		}
		return nil
	})
	if err == nil && len(files) == 0 {
		err = consilium.ErrInvalid.Withf("%s holds no file: there is nothing to back up; check data: in the config", root)
	}
	return files, err
}

// copyFile copies one file, durably, and says what it copied.
func copyFile(from, to string) (backupFile, error) {
	in, err := os.Open(from)
	if err != nil {
		return backupFile{}, err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return backupFile{}, durable.Full(err)
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return backupFile{}, durable.Full(err)
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, h), in)
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return backupFile{}, fmt.Errorf("copy %s: %w", from, durable.Full(err))
	}
	return backupFile{n, hex.EncodeToString(h.Sum(nil))}, nil
}

func runRestore(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	path := flags.String("config", "", "config `file` of the kit that the backup is of")
	from := flags.String("from", "", "`directory` that `consilium backup` wrote")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 || *path == "" || *from == "" {
		return usagef("--config FILE and --from DIR are needed, and nothing else")
	}
	b, err := os.ReadFile(filepath.Join(*from, backupManifest))
	if err != nil {
		return fmt.Errorf("%w; a directory without it is no whole backup", err)
	}
	var m backupOf
	if err := strictJSON(b, &m); err != nil {
		return fmt.Errorf("%s: %w", backupManifest, err)
	}
	kind, c, release, err := stopped(*path)
	if err != nil {
		return err
	}
	release() // there is nothing to hold: the directory must be empty
	pin, err := owner(c)
	if err != nil {
		return err
	}
	if m.APIVersion != consilium.APIVersion || m.Kind != "Backup" || m.Of != kind || m.Pin != pin {
		return consilium.ErrInvalid.Withf("%s is a backup of another kit than %s", *from, *path)
	}
	if len(m.Files) == 0 {
		return consilium.ErrInvalid.Withf("%s lists no file: it is no backup; use another", backupManifest)
	}
	root, err := dataRoot(c.Data)
	if err != nil {
		return err
	}
	if list, err := os.ReadDir(root); err == nil && len(list) > 0 {
		return consilium.ErrInvalid.Withf("%s is not empty; what it holds may be newer than the backup: move it away, and keep it", c.Data)
	}
	// All of it is checked before any of it is put back.
	for _, rel := range slices.Sorted(maps.Keys(m.Files)) {
		if !filepath.IsLocal(filepath.FromSlash(rel)) || keptOut(rel) {
			return consilium.ErrInvalid.Withf("%s lists %q", backupManifest, rel)
		}
		have, err := fileDigest(filepath.Join(*from, "data", filepath.FromSlash(rel)))
		if err != nil {
			return err
		}
		if have != m.Files[rel] {
			return &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: fmt.Sprintf("%s is not as it was copied", rel), Next: "use another backup"}
		}
	}
	part := root + ".restoring"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	for _, rel := range m.Dirs {
		if !filepath.IsLocal(filepath.FromSlash(rel)) {
			return consilium.ErrInvalid.Withf("%s lists %q", backupManifest, rel)
		}
		if err := os.MkdirAll(filepath.Join(part, filepath.FromSlash(rel)), 0o700); err != nil {
			return durable.Full(err)
		}
	}
	for _, rel := range slices.Sorted(maps.Keys(m.Files)) {
		if _, err := copyFile(filepath.Join(*from, "data", filepath.FromSlash(rel)), filepath.Join(part, filepath.FromSlash(rel))); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if err := os.Remove(root); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// If we crash before this line, the directory is as it was.
	if err := os.Rename(part, root); err != nil {
		return err
	}
	if err := durable.OS.SyncDir(filepath.Dir(root)); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"of": kind, "at": m.At, "files": len(m.Files)})
	}
	fmt.Fprintf(e.stdout, "%s is as it was on %s. If the process ran after that, it will find out at its first contact, and say so\n", c.Data, m.At.Format(time.DateTime))
	return nil
}

// dataRoot is where a data directory lies that may not be there yet: the target of
// a link to another volume, which a restore must not replace by a directory here.
func dataRoot(path string) (string, error) {
	root, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, lerr := os.Lstat(path); errors.Is(lerr, fs.ErrNotExist) {
			return path, nil
		}
		return "", fmt.Errorf("%w; %s is a link to it: make the directory, or mount its volume", err, path)
	}
	return root, err
}

func fileDigest(path string) (backupFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return backupFile{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return backupFile{n, hex.EncodeToString(h.Sum(nil))}, err
}
