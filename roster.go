package consilium

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// APIVersion is the version of every JSON and YAML document of this release.
const APIVersion = "consilium/v1"

// Roster says who is who: the board, the hospitals, the coordinator nodes, the
// witnesses and the researchers, with their keys. It is signed by the board's
// threshold; the next version is signed by the previous board. TLS
// certificates are self-signed and pinned here, so rotation and revocation of
// anything are the next roster.
//
// It travels as RFC 8785 JSON inside a Signed. Times are Unix seconds.
type Roster struct {
	APIVersion   string        `json:"apiVersion"`
	Kind         string        `json:"kind"`
	Name         string        `json:"name"`
	Version      uint64        `json:"version"`
	Previous     Digest        `json:"previous"` // digest of the previous roster's payload; zero for version 1
	NotBefore    int64         `json:"notBefore"`
	NotAfter     int64         `json:"notAfter"`
	Board        Board         `json:"board"`
	Sites        []Site        `json:"sites"`
	Coordinators []Coordinator `json:"coordinators"`
	Researchers  []Researcher  `json:"researchers"`
	Auditors     []Auditor     `json:"auditors"`

	// Witnessing says whose cosignatures make a hospital's ledger believable.
	// Without it, the board's one witness must have cosigned.
	Witnessing *Witnessing `json:"witnessing,omitempty"`
}

// Witnessing is a quorum over named groups of witnesses, as in
// c2sp.org/tlog-policy.
type Witnessing struct {
	Witnesses []Witness      `json:"witnesses"`
	Groups    []WitnessGroup `json:"groups"` // each after the groups that it counts
	Quorum    string         `json:"quorum"` // name of a witness or group; there is no quorum of nobody
	MaxAge    int64          `json:"maxAge"` // seconds that a cosignature counts; 0 means fifteen minutes
}

// Witness is one witness of the ledgers.
type Witness struct {
	Name    string `json:"name"`
	Key     string `json:"key"`     // vkey (C2SP signed-note)
	Address string `json:"address"` // URL below which it answers add-checkpoint
}

// WitnessGroup counts as one when Threshold of its members do.
type WitnessGroup struct {
	Name      string   `json:"name"`
	Threshold int      `json:"threshold"`
	Members   []string `json:"members"` // names of witnesses or groups
}

// MaxWitnesses bounds the witnesses and the groups of a roster.
const MaxWitnesses = 64

// validate checks the shape; package provenance checks keys, names and that the
// quorum can be met.
func (w *Witnessing) validate() error {
	switch {
	case len(w.Witnesses) == 0 || len(w.Witnesses) > MaxWitnesses || len(w.Groups) > MaxWitnesses:
		return fmt.Errorf("%d witnesses in %d groups: want 1 to %d, and at most as many groups", len(w.Witnesses), len(w.Groups), MaxWitnesses)
	case w.Quorum == "":
		return errors.New("no quorum")
	case w.MaxAge < 0 || w.MaxAge > 7*24*3600:
		return fmt.Errorf("maxAge %d: want at most a week, in seconds", w.MaxAge)
	}
	for _, x := range w.Witnesses {
		if x.Name == "" || x.Key == "" || x.Address == "" || len(x.Name)+len(x.Key)+len(x.Address) > 8192 {
			return fmt.Errorf("witness %q: name, key and address are all needed", clip(x.Name))
		}
	}
	for _, g := range w.Groups {
		if g.Name == "" || g.Threshold < 1 || g.Threshold > len(g.Members) || len(g.Members) > 2*MaxWitnesses {
			return fmt.Errorf("group %q: %d of %d", clip(g.Name), g.Threshold, len(g.Members))
		}
	}
	return nil
}

// Board is the ethics board: n members of whom Threshold must sign.
type Board struct {
	Name      string        `json:"name"`
	Members   []BoardMember `json:"members"`
	Threshold int           `json:"threshold"`
	Witness   string        `json:"witness"` // vkey (C2SP signed-note) of the board's ledger witness
}

// BoardMember is one signer of the board.
type BoardMember struct {
	ID  string    `json:"id"`
	Key PublicKey `json:"key"`
	TLS []Digest  `json:"tls"` // SHA-256 of the SubjectPublicKeyInfo of accepted client certificates
}

// Site is one hospital.
type Site struct {
	ID       SiteID    `json:"id"`
	Name     string    `json:"name"`
	Operator string    `json:"operator"` // min_sites and f count distinct operators
	Country  string    `json:"country"`  // ISO 3166-1 alpha-2
	Regimes  []string  `json:"regimes"`  // regime ids of policy
	Key      PublicKey `json:"key"`
	TLS      []Digest  `json:"tls"`
	Ledger   string    `json:"ledger"` // vkey of the hospital's own transparency log
}

// Coordinator is one node of the replicated coordinator.
type Coordinator struct {
	ID      NodeID    `json:"id"`
	Country string    `json:"country"`
	Address string    `json:"address"` // host:port of the gRPC service
	Raft    string    `json:"raft"`    // host:port of the replication service
	Key     PublicKey `json:"key"`
	TLS     []Digest  `json:"tls"`
	Ledger  string    `json:"ledger"` // vkey with which the node cosigns the audit log
}

// Researcher is one data-science team.
type Researcher struct {
	ID      ResearcherID `json:"id"`
	Name    string       `json:"name"`
	Country string       `json:"country"`
	Key     PublicKey    `json:"key"`
	Sealing SealingKey   `json:"sealing"` // results are sealed to it
	TLS     []Digest     `json:"tls"`
}

// Auditor may read the audit log and nothing else.
type Auditor struct {
	ID  string    `json:"id"`
	Key PublicKey `json:"key"`
	TLS []Digest  `json:"tls"`
}

// ParseRoster decodes and validates payload. It does not check signatures.
func ParseRoster(payload []byte) (*Roster, error) { return once(rosters, payload, parseRoster) }

func parseRoster(payload []byte) (*Roster, error) {
	var r Roster
	if err := strictJSON(payload, &r); err != nil {
		return nil, fmt.Errorf("roster: %w", err)
	}
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("roster: %w", err)
	}
	return &r, nil
}

// RosterDigest names a roster by the exact bytes of its payload.
func RosterDigest(payload []byte) Digest { return DomainRoster.Digest(payload) }

// Validate reports the first thing that makes r unusable.
func (r *Roster) Validate() error {
	switch {
	case r.APIVersion != APIVersion || r.Kind != "Roster":
		return fmt.Errorf("apiVersion %q kind %q: want %s Roster", clip(r.APIVersion), clip(r.Kind), APIVersion)
	case r.Version == 0:
		return errors.New("version 0: the first version is 1")
	case (r.Version == 1) != r.Previous.IsZero():
		return errors.New("previous: set it exactly when version is above 1")
	case r.NotBefore >= r.NotAfter:
		return fmt.Errorf("notBefore %d is not before notAfter %d", r.NotBefore, r.NotAfter)
	case len(r.Board.Members) == 0:
		return errors.New("board: no members")
	case r.Board.Threshold < 1 || r.Board.Threshold > len(r.Board.Members):
		return fmt.Errorf("board: threshold %d of %d members", r.Board.Threshold, len(r.Board.Members))
	case len(r.Sites) > MaxSites:
		return fmt.Errorf("%d sites: at most %d", len(r.Sites), MaxSites)
	}
	if r.Witnessing != nil {
		if err := r.Witnessing.validate(); err != nil {
			return fmt.Errorf("witnessing: %w", err)
		}
	}
	names := map[string]bool{}
	keys := map[PublicKey]string{}
	pins := map[Digest]string{}
	add := func(name string, key PublicKey, tls []Digest) error {
		if names[name] {
			return fmt.Errorf("%s stands twice", name)
		}
		names[name] = true
		if key.IsZero() {
			return fmt.Errorf("%s: no key", name)
		}
		if other, ok := keys[key]; ok {
			return fmt.Errorf("%s and %s have the same key", other, name)
		}
		keys[key] = name
		for _, p := range tls {
			if other, ok := pins[p]; ok {
				return fmt.Errorf("%s and %s have the same TLS pin", other, name)
			}
			pins[p] = name
		}
		return nil
	}
	for _, m := range r.Board.Members {
		if err := checkLabel("board member", m.ID); err != nil {
			return err
		}
		if err := add("board/"+m.ID, m.Key, m.TLS); err != nil {
			return err
		}
	}
	for _, s := range r.Sites {
		if err := checkLabel("site id", string(s.ID)); err != nil {
			return err
		}
		if err := add("site/"+string(s.ID), s.Key, s.TLS); err != nil {
			return err
		}
		if s.Operator == "" {
			return fmt.Errorf("site %s: no operator", s.ID)
		}
		if err := checkCountry(s.Country); err != nil {
			return fmt.Errorf("site %s: %w", s.ID, err)
		}
	}
	for _, c := range r.Coordinators {
		if err := checkLabel("node id", string(c.ID)); err != nil {
			return err
		}
		if err := add("coordinator/"+string(c.ID), c.Key, c.TLS); err != nil {
			return err
		}
		if err := checkCountry(c.Country); err != nil {
			return fmt.Errorf("coordinator %s: %w", c.ID, err)
		}
	}
	for _, p := range r.Researchers {
		if err := checkLabel("researcher id", string(p.ID)); err != nil {
			return err
		}
		if err := add("researcher/"+string(p.ID), p.Key, p.TLS); err != nil {
			return err
		}
		if p.Sealing.IsZero() {
			return fmt.Errorf("researcher %s: no sealing key", p.ID)
		}
	}
	for _, a := range r.Auditors {
		if err := checkLabel("auditor id", a.ID); err != nil {
			return err
		}
		if err := add("auditor/"+a.ID, a.Key, a.TLS); err != nil {
			return err
		}
	}
	return nil
}

func checkCountry(c string) error {
	if len(c) != 2 || c[0] < 'A' || c[0] > 'Z' || c[1] < 'A' || c[1] > 'Z' {
		return fmt.Errorf("country %q: want two letters A-Z (ISO 3166-1)", clip(c))
	}
	return nil
}

// Site finds a hospital by id.
func (r *Roster) Site(id SiteID) (*Site, bool) {
	for i := range r.Sites {
		if r.Sites[i].ID == id {
			return &r.Sites[i], true
		}
	}
	return nil, false
}

// Researcher finds a team by id.
func (r *Roster) Researcher(id ResearcherID) (*Researcher, bool) {
	for i := range r.Researchers {
		if r.Researchers[i].ID == id {
			return &r.Researchers[i], true
		}
	}
	return nil, false
}

// Coordinator finds a node by id.
func (r *Roster) Coordinator(id NodeID) (*Coordinator, bool) {
	for i := range r.Coordinators {
		if r.Coordinators[i].ID == id {
			return &r.Coordinators[i], true
		}
	}
	return nil, false
}

// KeepsCoordinators says why old's coordinator nodes cannot become r's, or nil:
// more than half of them must stay. A majority of the old nodes decides on every
// change, and what they hold must not be left with those that go.
func (r *Roster) KeepsCoordinators(old *Roster) error {
	kept := 0
	for _, c := range old.Coordinators {
		if _, ok := r.Coordinator(c.ID); ok {
			kept++
		}
	}
	if len(old.Coordinators) > 0 && 2*kept <= len(old.Coordinators) {
		return ErrStale.Withf("roster version %d keeps %d of the %d coordinators of version %d: replace them in several rosters, of which each keeps more than half", r.Version, kept, len(old.Coordinators), old.Version)
	}
	return nil
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
