package wire

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"consilium"
	"consilium/internal/hybrid"
)

// Role is what a roster says that an identity may act as.
type Role uint8

const (
	RoleSite Role = iota + 1
	RoleResearcher
	RoleBoard
	RoleCoordinator
	RoleAuditor
)

var roleNames = [...]string{"nobody", "site", "researcher", "board", "coordinator", "auditor"}

func (r Role) String() string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// Identity is a roster member, found by its TLS pin. Its zero value is nobody.
type Identity struct {
	Role Role
	Name string // roster id within the role
	Pin  consilium.Digest
}

func (i Identity) String() string { return i.Role.String() + "/" + i.Name }

// By is how the identity signs messages: see consilium.Message.
func (i Identity) By() string {
	if i.Role == RoleBoard {
		return "board/" + i.Name
	}
	return i.Name
}

// Book is the roster in force. Its readers see one whole roster or the next,
// never a mixture.
type Book struct {
	page atomic.Pointer[page]
	mu   sync.Mutex       // serialises updates
	now  func() time.Time // replaced by tests
}

type page struct {
	roster  *consilium.Roster
	payload []byte
	digest  consilium.Digest
	pins    map[consilium.Digest]Identity
}

// NewBook starts with a roster whose signatures the caller has already
// checked against the board's keys that it was provisioned with.
func NewBook(payload []byte) (*Book, error) {
	p, err := newPage(payload)
	if err != nil {
		return nil, err
	}
	b := &Book{now: time.Now}
	b.page.Store(p)
	return b, nil
}

func newPage(payload []byte) (*page, error) {
	r, err := consilium.ParseRoster(payload)
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	p := &page{roster: r, payload: append([]byte(nil), payload...), digest: consilium.RosterDigest(payload), pins: map[consilium.Digest]Identity{}}
	add := func(role Role, name string, pins []consilium.Digest) {
		for _, pin := range pins {
			p.pins[pin] = Identity{Role: role, Name: name, Pin: pin}
		}
	}
	for _, m := range r.Board.Members {
		add(RoleBoard, m.ID, m.TLS)
	}
	for _, s := range r.Sites {
		add(RoleSite, string(s.ID), s.TLS)
	}
	for _, c := range r.Coordinators {
		add(RoleCoordinator, string(c.ID), c.TLS)
	}
	for _, s := range r.Researchers {
		add(RoleResearcher, string(s.ID), s.TLS)
	}
	for _, a := range r.Auditors {
		add(RoleAuditor, a.ID, a.TLS)
	}
	return p, nil
}

// Roster is the roster in force. The caller must not change it.
func (b *Book) Roster() *consilium.Roster { return b.page.Load().roster }

// Digest names the roster in force.
func (b *Book) Digest() consilium.Digest { return b.page.Load().digest }

// Payload is the roster's exact bytes. The caller must not change them.
func (b *Book) Payload() []byte { return b.page.Load().payload }

// Update puts the next roster in force. The board of the roster in force must
// have signed it, k of n, and it must be that roster's direct successor.
func (b *Book) Update(next *consilium.Signed) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.page.Load()
	keys := make(map[string]consilium.PublicKey, len(old.roster.Board.Members))
	for _, m := range old.roster.Board.Members {
		keys[m.ID] = m.Key
	}
	if err := hybrid.VerifyThreshold(keys, old.roster.Board.Threshold, consilium.DomainRoster, next); err != nil {
		return fmt.Errorf("next roster: %w", err)
	}
	p, err := newPage(next.Payload)
	if err != nil {
		return fmt.Errorf("next roster: %w", err)
	}
	if p.roster.Version != old.roster.Version+1 || p.roster.Previous != old.digest {
		return consilium.ErrStale.Withf("roster version %d after %s does not follow version %d, %s",
			p.roster.Version, p.roster.Previous.Short(), old.roster.Version, old.digest.Short())
	}
	b.page.Store(p)
	return nil
}

// Pin is the SHA-256 of a certificate's SubjectPublicKeyInfo, as the roster
// lists it.
func Pin(c *x509.Certificate) consilium.Digest {
	return consilium.Digest(sha256.Sum256(c.RawSubjectPublicKeyInfo))
}

// Lookup finds who holds the pinned key. An expired roster pins nobody.
func (b *Book) Lookup(pin consilium.Digest) (Identity, error) {
	p := b.page.Load()
	if now := b.now().Unix(); now < p.roster.NotBefore || now > p.roster.NotAfter {
		return Identity{}, consilium.ErrUnauthenticated.Withf("roster version %d is not valid now", p.roster.Version)
	}
	id, ok := p.pins[pin]
	if !ok {
		return Identity{}, consilium.ErrUnauthenticated.Withf("pin %s, roster version %d", pin, p.roster.Version)
	}
	return id, nil
}

// identify checks a certificate's dates and finds its holder.
func (b *Book) identify(c *x509.Certificate) (Identity, error) {
	if now := b.now(); now.Before(c.NotBefore) || now.After(c.NotAfter) {
		return Identity{}, consilium.ErrUnauthenticated.Withf("certificate valid from %s to %s", c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
	}
	return b.Lookup(Pin(c))
}

// Key finds the identity key with which by signs messages of kind k, and the
// role that may do so. Which kinds a role signs is fixed here, once.
func (b *Book) Key(k consilium.MessageKind, by string) (consilium.PublicKey, Role, error) {
	r := b.Roster()
	switch k {
	case consilium.KindSubmission, consilium.KindCancel:
		if p, ok := r.Researcher(consilium.ResearcherID(by)); ok {
			return p.Key, RoleResearcher, nil
		}
	case consilium.KindApproval:
		for i := range r.Board.Members {
			if "board/"+r.Board.Members[i].ID == by {
				return r.Board.Members[i].Key, RoleBoard, nil
			}
		}
	default:
		if s, ok := r.Site(consilium.SiteID(by)); ok && k.Domain() != "" {
			return s.Key, RoleSite, nil
		}
	}
	return consilium.PublicKey{}, 0, consilium.ErrSignature.Withf("the roster has no signer %.128q of a message of kind %s", by, k)
}

// Verify checks a message's signature against the roster in force.
func (b *Book) Verify(m *consilium.Message) (Role, error) {
	key, role, err := b.Key(m.Kind, m.By)
	if err != nil {
		return 0, err
	}
	if err := hybrid.Verify(key, m.Kind.Domain(), m.Body, &m.Signature); err != nil {
		return 0, err
	}
	return role, nil
}
