package consilium

import (
	"errors"
	"fmt"
)

// Submission is a researcher's signed request to run a study. It travels as
// RFC 8785 JSON. The same submission twice is one study.
type Submission struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"` // "Submission"
	Team       ResearcherID `json:"team"`
	Token      string       `json:"token"` // idempotency token, chosen by the submitter
	SpecBytes  []byte       `json:"spec"`  // the exact payload that SpecDigest names
	Policy     Digest       `json:"policy"`
	NotAfter   int64        `json:"notAfter"` // Unix seconds; later the submission is void
}

// ParseSubmission decodes and validates payload.
func ParseSubmission(payload []byte) (*Submission, error) {
	var s Submission
	if err := strictJSON(payload, &s); err != nil {
		return nil, fmt.Errorf("submission: %w", err)
	}
	switch {
	case s.APIVersion != APIVersion || s.Kind != "Submission":
		return nil, fmt.Errorf("submission: apiVersion %q kind %q", clip(s.APIVersion), clip(s.Kind))
	case s.Token == "" || len(s.Token) > 128:
		return nil, errors.New("submission: token: want 1 to 128 characters")
	case s.Policy.IsZero():
		return nil, errors.New("submission: no policy digest")
	}
	if err := checkLabel("researcher id", string(s.Team)); err != nil {
		return nil, fmt.Errorf("submission: %w", err)
	}
	if _, err := ParseSpec(s.SpecBytes); err != nil {
		return nil, fmt.Errorf("submission: %w", err)
	}
	return &s, nil
}

// Approval is what the board signs, k of n: this study under this policy for
// this long.
type Approval struct {
	APIVersion string  `json:"apiVersion"`
	Kind       string  `json:"kind"` // "Approval"
	Study      StudyID `json:"study"`
	Spec       Digest  `json:"spec"`
	Policy     Digest  `json:"policy"`
	NotBefore  int64   `json:"notBefore"`
	NotAfter   int64   `json:"notAfter"`
}

// ParseApproval decodes and validates payload.
func ParseApproval(payload []byte) (*Approval, error) {
	var a Approval
	if err := strictJSON(payload, &a); err != nil {
		return nil, fmt.Errorf("approval: %w", err)
	}
	switch {
	case a.APIVersion != APIVersion || a.Kind != "Approval":
		return nil, fmt.Errorf("approval: apiVersion %q kind %q", clip(a.APIVersion), clip(a.Kind))
	case a.Spec.IsZero() || a.Policy.IsZero():
		return nil, errors.New("approval: spec and policy digests are needed")
	case a.NotBefore >= a.NotAfter:
		return nil, errors.New("approval: notBefore is not before notAfter")
	}
	if _, err := ParseStudyID(string(a.Study)); err != nil {
		return nil, fmt.Errorf("approval: %w", err)
	}
	return &a, nil
}

// Charter is the frozen, enrolled study: the enrolment certificate once all
// members have signed it. Its digest stands for the study in every header,
// derivation, decision and piece of associated data; nothing else that the
// coordinator says is trusted.
//
// It travels as RFC 8785 JSON.
type Charter struct {
	APIVersion   string       `json:"apiVersion"`
	Kind         string       `json:"kind"` // "Charter"
	Protocol     int          `json:"protocol"`
	Study        StudyID      `json:"study"`
	Epoch        uint32       `json:"epoch"`
	Previous     Digest       `json:"previous"`           // charter of the epoch before; zero for epoch 1
	Handover     *Handover    `json:"handover,omitempty"` // where a later epoch goes on; nil in epoch 1
	Submission   Digest       `json:"submission"`
	Spec         Digest       `json:"spec"`
	Policy       Digest       `json:"policy"`
	Approval     Digest       `json:"approval"`
	Roster       Digest       `json:"roster"`
	Team         ResearcherID `json:"team"`
	TeamKey      SealingKey   `json:"teamKey"`
	KEM          uint16       `json:"kem"`
	Threshold    int          `json:"threshold"` // t: hospitals needed to open
	Faults       int          `json:"faults"`    // f
	MinSites     int          `json:"minSites"`
	Members      []Member     `json:"members"`      // position p is Members[p-1]
	Confirmation Digest       `json:"confirmation"` // of the group key
}

// ProtocolVersion is the version of the round protocol.
const ProtocolVersion = 2

// KEMX25519MLKEM768 is the HPKE KEM id of X25519 with ML-KEM-768
// (draft-ietf-hpke-pq), the only one accepted.
const KEMX25519MLKEM768 = 0x647a

// Member is one enrolled hospital.
type Member struct {
	Site       SiteID     `json:"site"`
	Operator   string     `json:"operator"`
	Key        PublicKey  `json:"key"`
	Sealing    SealingKey `json:"sealing"`    // its sealing key for the first round
	Nonce      Digest     `json:"nonce"`      // from its Enrol message
	Commitment Digest     `json:"commitment"` // to its contribution to the group key
	Decision   Digest     `json:"decision"`   // of its own policy, at enrolment
}

// DefaultFaults is f where the study does not set it: max(1, min(n/4, min_sites-2)).
func DefaultFaults(n, minSites int) int { return max(1, min(n/4, minSites-2)) }

// Threshold is t = ceil((n + f + 2) / 2): any two sets of t hospitals then
// share f + 2 members, so two different contributor sets never both get t
// votes while at least two of those who would have to vote twice are honest.
func Threshold(n, f int) int { return (n + f + 3) / 2 }

// ParseCharter decodes and validates payload.
func ParseCharter(payload []byte) (*Charter, error) { return once(charters, payload, parseCharter) }

func parseCharter(payload []byte) (*Charter, error) {
	var c Charter
	if err := strictJSON(payload, &c); err != nil {
		return nil, fmt.Errorf("charter: %w", err)
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("charter: %w", err)
	}
	return &c, nil
}

// ParseDraft decodes and validates the payload of a drafted charter: one whose
// confirmation is zero, since the group key is not yet known.
func ParseDraft(payload []byte) (*Charter, error) { return once(drafts, payload, parseDraft) }

func parseDraft(payload []byte) (*Charter, error) {
	var c Charter
	if err := strictJSON(payload, &c); err != nil {
		return nil, err
	}
	if !c.Confirmation.IsZero() {
		return nil, errors.New("a draft with a confirmation")
	}
	// Validate wants a confirmation; which one does not matter to the rest.
	c.Confirmation = DomainGroupConfirm.Digest()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c.Confirmation = Digest{}
	return &c, nil
}

// CharterDigest names a charter by the exact bytes of its payload: H(E).
func CharterDigest(payload []byte) Digest { return DomainCharter.Digest(payload) }

// Validate checks everything a hospital refuses to sign without.
func (c *Charter) Validate() error {
	n := len(c.Members)
	switch {
	case c.APIVersion != APIVersion || c.Kind != "Charter":
		return fmt.Errorf("apiVersion %q kind %q: want %s Charter", clip(c.APIVersion), clip(c.Kind), APIVersion)
	case c.Protocol != ProtocolVersion:
		return fmt.Errorf("protocol %d: this software speaks %d", c.Protocol, ProtocolVersion)
	case c.KEM != KEMX25519MLKEM768:
		return fmt.Errorf("kem %#x: want %#x", c.KEM, KEMX25519MLKEM768)
	case c.Epoch == 0 || (c.Epoch == 1) != c.Previous.IsZero() || (c.Epoch == 1) != (c.Handover == nil):
		return errors.New("epoch, previous and handover do not fit")
	case c.Handover != nil && (c.Handover.Round == 0 || (c.Handover.Round == 1) != c.Handover.State.IsZero()):
		return errors.New("handover: round and state do not fit")
	case n < 3 || n > MaxSites:
		return fmt.Errorf("%d members: want 3 to %d", n, MaxSites)
	case c.Faults < 1:
		return errors.New("faults: at least 1")
	case c.MinSites < c.Faults+2:
		return fmt.Errorf("min_sites %d: at least faults + 2 = %d, or the colluders and one victim are a legal set", c.MinSites, c.Faults+2)
	case 2*c.Threshold < n+c.Faults+2:
		return fmt.Errorf("threshold %d: 2t must reach n + f + 2 = %d, or two contributor sets can both be opened", c.Threshold, n+c.Faults+2)
	case c.Threshold > n:
		return fmt.Errorf("threshold %d of %d members", c.Threshold, n)
	case c.MinSites > n:
		return fmt.Errorf("min_sites %d of %d members", c.MinSites, n)
	case c.Spec.IsZero() || c.Policy.IsZero() || c.Roster.IsZero() || c.Submission.IsZero() || c.Approval.IsZero():
		return errors.New("spec, policy, roster, submission and approval digests are all needed")
	case c.TeamKey.IsZero():
		return errors.New("no team key")
	case c.Confirmation.IsZero():
		return errors.New("no group-key confirmation")
	}
	operators := map[string]bool{}
	for i, m := range c.Members {
		if err := checkLabel("site id", string(m.Site)); err != nil {
			return err
		}
		if i > 0 && c.Members[i-1].Site >= m.Site {
			return fmt.Errorf("members are not in strictly ascending order at %s", m.Site)
		}
		if m.Key.IsZero() || m.Sealing.IsZero() || m.Nonce.IsZero() || m.Commitment.IsZero() || m.Decision.IsZero() {
			return fmt.Errorf("member %s: key, sealing key, nonce, commitment and decision are all needed", m.Site)
		}
		operators[m.Operator] = true
	}
	if len(operators) < c.MinSites {
		return fmt.Errorf("%d distinct operators, min_sites is %d", len(operators), c.MinSites)
	}
	return nil
}

// Position finds a member's place.
func (c *Charter) Position(site SiteID) (Position, bool) {
	for i := range c.Members {
		if c.Members[i].Site == site {
			return Position(i + 1), true
		}
	}
	return 0, false
}

// Member is the hospital at p, or nil.
func (c *Charter) Member(p Position) *Member {
	if p < 1 || int(p) > len(c.Members) {
		return nil
	}
	return &c.Members[p-1]
}

// Operators counts the distinct operators among positions.
func (c *Charter) Operators(positions []Position) int {
	seen := map[string]bool{}
	for _, p := range positions {
		if m := c.Member(p); m != nil {
			seen[m.Operator] = true
		}
	}
	return len(seen)
}
