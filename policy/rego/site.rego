# METADATA
# title: Rules of every hospital, its columns, rows, transfers and releases
package consilium.law

import rego.v2

import data.consilium.decision
import data.consilium.facts

roster_entry contains s if {
	some s in input.federation.sites
	s.id == input.site.site
}

ok["SITE_IDENTITY"] if {
	some s in roster_entry
	s.country == input.site.country
	{r | some r in s.regimes} == facts.regimes
}

# A withdrawal is judged by the documents alone; it never waits for a roster.
ok["SITE_IDENTITY"] if input.point == "withdrawal"

ok["REGIME_KNOWN"] if {
	count(input.site.regimes) > 0
	every r in input.site.regimes {
		r in data.regimes
	}
}

ok["REGIME_COUNTRY"] if {
	facts.in_eea(input.site.country)
	"GDPR" in input.site.regimes
	input.site.country in input.site.regimes
}

ok["REGIME_COUNTRY"] if {
	input.site.country == "US"
	"COMMON_RULE" in input.site.regimes
	some r in {"HIPAA", "US_PRIVACY_ACT"}
	r in input.site.regimes
}

ok["REGIME_COUNTRY"] if {
	input.site.country == "GB"
	"UKGDPR" in input.site.regimes
}

ok["REGIME_COUNTRY"] if {
	input.site.country == "CH"
	"CH_HRA" in input.site.regimes
	some r in input.site.regimes
	startswith(r, "CH_")
	r != "CH_HRA"
}

ok["NOT_YET_APPLICABLE"] if not "EHDS" in input.site.regimes

ok["NOT_YET_APPLICABLE"] if data.law.ehds.chapterIV <= input.now

ok["COLUMN_DROPPED"] if {
	every name in facts.used {
		count(decision.columns[name]) == 0
	}
}

# Residency: the hospital and every board may name the countries in which
# anything but an anonymous result may be held. What all of them name is left.
ok["RESIDENCY"] if {
	every list in residencies {
		every r in facts.concerned {
			resident(r.country, list)
		}
	}
}

residencies contains input.site.residency if input.site.residency != null

residencies contains b.residency if {
	some b in data.boards
	b.residency != null
}

resident(country, list) if country in list

resident(country, list) if {
	"EEA" in list
	facts.in_eea(country)
}

# A hospital is asked twice: before it reads its rows, and with the cohort that
# came of them before any is used. Sums are exact, so the difference of two that
# were opened over nearly the same patients is the sum of the few.
ok["COHORT_OVERLAP"] if input.cohort == null

ok["COHORT_OVERLAP"] if {
	every d in input.cohort.differences {
		far(d)
	}
}

ok["COHORT_OVERLAP"] if "repeat-cohort" in facts.permits

ok["COHORT_OVERLAP"] if input.study.dp

# Columns.
keep["COLUMN_UNTAGGED"] contains c.name if {
	some c in input.study.columns
	not c.type in {"id", "date"}
}

keep["COLUMN_UNTAGGED"] contains c.name if {
	some c in input.study.columns
	c.tag != ""
}

keep["COLUMN_UNTAGGED"] contains c.name if {
	some c in input.study.columns
	c.patient
}

keep["COLUMN_CATEGORY"] contains c.name if {
	some c in input.study.columns
	c.category in input.site.categories
}

keep["COLUMN_SITE"] contains c.name if {
	some c in input.study.columns
	not c.name in input.site.drop
}

# Rows. input.now is the moment at which the row is read, in every attempt
# anew.
ok["ROW_WITHDRAWN"] if {
	input.record.status != "withdrawn"
	input.now < input.record.withdrawn_at
}

ok["ROW_CONSENT"] if input.site.consent == "where_given"

ok["ROW_CONSENT"] if facts.standing

ok["ROW_VALID"] if input.record.status == "none"

ok["ROW_VALID"] if facts.lapsed

ok["ROW_VALID"] if {
	input.record.valid_from <= input.now
	input.now < input.record.valid_to
}

# A consent that was given binds, also where the ground would be another one.
ok["ROW_PURPOSE"] if input.record.status == "none"

ok["ROW_PURPOSE"] if facts.lapsed

ok["ROW_PURPOSE"] if {
	purpose_covered
	not code_broken
}

# The schema lets only permissions and modifiers of the ontology into a record.
code_broken if {
	some code in data.law.duo.modifiers
	code in input.record.purposes
	not duo_held(code)
}

# The matching table of the Data Use Ontology. Research on ancestry is covered
# by the widest permissions only; health research and disease-specific
# permissions do not reach it.
purpose_covered if {
	facts.research
	data.law.duo.permissions.NRES in input.record.purposes
}

purpose_covered if {
	facts.research
	data.law.duo.permissions.GRU in input.record.purposes
}

purpose_covered if {
	facts.research
	data.law.duo.permissions.HMB in input.record.purposes
	input.study.purpose.disease != ""
	not ancestry
}

purpose_covered if {
	facts.research
	data.law.duo.permissions.DS in input.record.purposes
	facts.covers_area
	not ancestry
}

purpose_covered if {
	facts.research
	data.law.duo.permissions.POA in input.record.purposes
	ancestry
}

ancestry if "DUO:0000033" in input.study.purpose.duo

methods if "DUO:0000031" in input.study.purpose.duo

# Each code of the consent that restricts does so in a way that this study keeps
# to. What the study undertakes it lists among its own codes
# (publication, collaboration, ethics approval, return of results). Codes that
# need a word beside them (where, when, who, which institution) are settled when
# a consent is read in, and deny where they still stand here.
duo_held(code) if {
	some name in ["PUB", "COL", "IRB", "RTN"]
	data.law.duo.modifiers[name] == code
	code in input.study.purpose.duo
}

duo_held(code) if {
	some name in ["NPU", "NCU", "NPUNCU"]
	data.law.duo.modifiers[name] == code
	input.study.legal.commercial == false
}

duo_held(code) if {
	code == data.law.duo.modifiers.GSO
	"DUO:0000038" in input.study.purpose.duo
}

duo_held(code) if {
	code == data.law.duo.modifiers.NMDS
	not methods
}

duo_held(code) if {
	code == data.law.duo.modifiers.NMDS
	data.law.duo.permissions.DS in input.record.purposes
	facts.covers_area
}

duo_held(code) if {
	code == data.law.duo.modifiers.NPOA
	not ancestry
}

# Clinical care is permitted beside research.
duo_held(code) if code == data.law.duo.modifiers.CC

ok["ROW_CATEGORY"] if input.record.status == "none"

ok["ROW_CATEGORY"] if facts.lapsed

ok["ROW_CATEGORY"] if {
	every category in facts.used_categories {
		category in input.record.categories
	}
}

ok["ROW_PART2"] if input.record.part2 == false

# Transfers.
ok["TRANSFER_KNOWN"] if {
	some r in facts.addressee
	input.artefact.class in facts.classes[r.role]
}

# A coordinator that could reach t shares would read single contributions.
ok["TRANSFER_RECORDS"] if input.artefact.keySharesReachable < input.artefact.threshold

ok["TRANSFER_RECORDS"] if input.artefact.role == "team"

ok["TRANSFER_RECORDS"] if {
	input.artefact.role == "site"
	input.artefact.class in {"aggregate", "round_state"}
}

# Release.
ok["RELEASE_PATIENTS"] if input.release.patients >= facts.min_cohort

ok["RELEASE_SITES"] if input.release.contributors >= facts.min_sites

ok["RELEASE_CELL"] if input.release.smallestCell >= facts.min_cohort

ok["RELEASE_CELL"] if "small-cells" in facts.permits

# A noisy count is nobody's count; the budget is what bounds it.
ok["RELEASE_CELL"] if {
	input.release.dp
	input.study.dp
}

ok["RELEASE_BUDGET"] if {
	input.release.dp == false
	input.study.dp == false
}

ok["RELEASE_BUDGET"] if {
	input.release.dp
	input.study.dp
	input.release.epsilonBudgetMicro > 0
	input.release.epsilonSpentMicro <= input.release.epsilonBudgetMicro
}

ok["RELEASE_DIFFERENCE"] if {
	every p in input.release.prior {
		far(p.difference)
	}
}

ok["RELEASE_DIFFERENCE"] if "repeat-cohort" in facts.permits

ok["RELEASE_DIFFERENCE"] if input.release.dp

far(0)

far(n) if n >= facts.min_cohort

ok["RELEASE_ANONYMOUS"] if input.release.containsRecords == false

# Withdrawal: what it asks for, whatever the regime.
obligations contains "exclude_from_next_reading" if input.point == "withdrawal"

obligations contains "delete_caches" if input.point == "withdrawal"

obligations contains "tell_recipients" if {
	input.point == "withdrawal"
	"GDPR" in input.site.regimes
}

obligations contains "anonymise_after_evaluation" if {
	input.point == "withdrawal"
	"CH_HRA" in input.site.regimes
}

obligations contains "write_disclosures" if {
	input.point == "site"
	input.site.hipaa.path in {"waiver", "preparatory", "decedents"}
}

obligations contains "note_in_file" if {
	input.point == "site"
	"NL" in input.site.regimes
}
