package vault

import (
	"cmp"
	"context"
	"slices"

	"consilium"
	"consilium/policy"
	"consilium/provenance"
)

// Register is what a hospital's own register says of a patient beside the
// consent: facts that rules ask for and no study sees.
type Register struct {
	Adult         bool `json:"adult"`
	Deceased      bool `json:"deceased"`
	CitizenOrLPR  bool `json:"citizenOrLPR"`  // 5 U.S.C. 552a(a)(2)
	MNObjected    bool `json:"mnObjected"`    // Minn. Stat. 144.295
	WGBOObjected  bool `json:"wgboObjected"`  // BW 7:458(2)(c)
	Part2         bool `json:"part2"`         // 42 CFR 2
	Psychotherapy bool `json:"psychotherapy"` // 45 CFR 164.501
	Part2Consent  bool `json:"part2Consent"`  // 42 CFR 2.31
	NHSOptOut     bool `json:"nhsOptOut"`     // National Data Opt-Out of England

	OptedOutAt int64 `json:"optedOutAt"` // Regulation (EU) 2025/327 Art. 71; Unix seconds, 0 = not
}

// permission is the row decision for a table's patients at one moment.
type permission struct {
	allowed  []bool // by patient ordinal
	rows     policy.RowDecision
	decision policy.Decision
}

// permit asks the policy, now, which patients' rows may be used. Consents are
// read as of the same moment: a withdrawal that has arrived counts. ledger is the
// checkpoint against which they were held.
func (v *Vault) permit(ctx context.Context, st *study, ledger []byte) (*permission, error) {
	in, err := v.question(st)
	if err != nil {
		return nil, err
	}
	in.Site = v.cfg.Facts
	columns, err := v.decide(ctx, st, policy.PointColumns, in)
	if err != nil {
		return nil, err
	}
	if err := columns.Err(); err != nil {
		return nil, err
	}
	table, err := v.controlTable(st, ledger)
	if err != nil {
		return nil, err
	}
	rows, err := st.engine.FilterRows(ctx, in, table)
	if err != nil {
		return nil, err
	}
	if err := v.recordDecision(st, policy.AuditEntry{Point: policy.PointRows, Input: in, Rows: &rows}); err != nil {
		return nil, err
	}
	if rows.Path == policy.PathMemoised {
		v.cfg.Log.Warn("row rules do not compile to kernels and are asked tuple by tuple", "study", string(st.id), "why", rows.Why)
	}
	if err := rows.Decision.Err(); err != nil {
		return nil, err
	}
	return &permission{allowed: rows.Allowed, rows: rows, decision: rows.Decision}, nil
}

// readsAny reports whether a study reads a column of one of the categories.
func readsAny(spec *consilium.Spec, categories []string) bool {
	used := policy.UsedColumns(spec)
	return slices.ContainsFunc(spec.Columns, func(c consilium.Column) bool {
		return slices.Contains(used, c.Name) && slices.Contains(categories, cmp.Or(c.Category, "general"))
	})
}

// Subject states a patient's consent and register entry as the row rules read
// them. It judges nothing but whether the consent is about this study at all.
func Subject(spec *consilium.Spec, name provenance.Pseudonym, c *provenance.Claims, r Register) policy.Subject {
	s := policy.Subject{
		Patient: name, Status: "none", GivenBy: "none", WithdrawnAt: policy.Never, ValidTo: policy.Never,
		IsAdultNow: r.Adult, Deceased: r.Deceased, MNObjected: r.MNObjected, Part2: r.Part2, Psychotherapy: r.Psychotherapy,
		CitizenOrLPR: r.CitizenOrLPR, WGBOObjected: r.WGBOObjected, Part2Consent: r.Part2Consent, NHSOptOut: r.NHSOptOut,
		OptedOutAt: policy.Never,
	}
	if r.OptedOutAt != 0 {
		s.OptedOutAt = r.OptedOutAt
	}
	// Who took everything back, or a kind of data that this study reads, is not
	// somebody who was never asked: what was refused stays out, unless a consent to
	// this study was given afterwards.
	relevant := c.Status == provenance.ConsentActive && (c.Level != provenance.LevelProject || slices.Contains(c.Studies, spec.Name))
	if !relevant && (c.Refused != 0 || readsAny(spec, c.RefusedScopes)) {
		s.Status, s.WithdrawnAt = "withdrawn", c.Refused
		return s
	}
	if c.Status == provenance.ConsentNone {
		return s
	}
	s.Objected = slices.Contains(c.Objections, "research")
	s.HRADissent = s.Objected || slices.Contains(c.Objections, "anonymisation")
	if c.Level == provenance.LevelProject && !slices.Contains(c.Studies, spec.Name) {
		return s
	}
	switch c.Status {
	case provenance.ConsentActive, provenance.ConsentExpired, provenance.ConsentNotYet:
		s.Status = "active" // the dates below say since and until when
	default:
		s.Status = "withdrawn"
	}
	s.Explicit, s.Evidence = c.Explicit, !c.Consent.IsZero()
	s.Categories, s.Purposes = c.Scopes, c.Purposes
	switch {
	case len(c.Diseases) == 0:
		s.Area = "any"
	case slices.Contains(c.Diseases, spec.Purpose.Disease):
		s.Area = spec.Purpose.Disease
	default:
		s.Area = c.Diseases[0]
	}
	s.ValidFrom = c.From
	if c.Until != 0 {
		s.ValidTo = c.Until
	}
	if c.Withdrawn != 0 {
		s.WithdrawnAt = c.Withdrawn
	}
	switch c.GivenBy {
	case provenance.GivenBySelf:
		s.GivenBy = "self"
	case provenance.GivenByParent:
		s.GivenBy = "parent"
	case provenance.GivenByGuardian, provenance.GivenByProxy:
		s.GivenBy = "representative"
	}
	s.HRAGeneral, s.HRAProject, s.HRAInformed = c.Level == provenance.LevelGeneral, c.Level == provenance.LevelProject, c.Informed
	s.HRAGenetic = c.Explicit && slices.Contains(c.Scopes, "genetic")
	return s
}
