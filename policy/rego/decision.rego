# METADATA
# title: Decisions
# description: >
#   Which rules are in force, which of them found their evidence, and the
#   decision that follows. Nothing here knows a single rule.
package consilium.decision

import rego.v2

import data.consilium.facts
import data.consilium.law

# A rule is in force at this point if it holds for everyone or if its regime is
# one of the hospital's.
regimes contains "*"

regimes contains r if some r in input.site.regimes

in_force := {code: r |
	some regime in regimes
	some code, r in data.in_force[input.point][regime]
}

# A rule whose only point is columns is asked for every column.
column_rules := {code: r |
	some regime in regimes
	some code, r in data.column_rules[regime]
}

missing := {code: r |
	some code, r in in_force
	not law.ok[code]
}

reasons contains reason if {
	some code, r in missing
	reason := {"code": code, "message": r.message, "article": r.article, "kind": r.kind, "regime": r.regime}
}

# A column that the study uses and may not read is also told by its own rule.
reasons contains reason if {
	input.point == "site"
	some column in facts.used
	some code in columns[column]
	r := column_rules[code]
	reason := {"code": code, "message": concat("", [r.message, ": ", column]), "article": r.article, "kind": r.kind, "regime": r.regime}
}

# Boards can only deny. Whatever an overlay puts into deny counts, even if it
# has not the form that a reason should have.
reasons contains reason if {
	input.point != "rows"
	some id in data.overlays
	some d in data.consilium.board[id].deny
	reason := {
		"code": object.get(d, "code", "BOARD"), "message": object.get(d, "message", "the board refuses"),
		"article": object.get(d, "article", ""), "kind": "POLICY", "regime": "BOARD",
	}
}

reasons contains reason if {
	input.point == "rows"
	some id in data.row_overlays
	not data.consilium.board[id].row_include == true
	reason := {"code": "ROW_BOARD", "message": "the board's row rule leaves the row out", "article": "", "kind": "POLICY", "regime": "BOARD"}
}

default allow := false

allow if {
	count(in_force) > 0
	count(reasons) == 0
}

obligations contains o if some o in law.obligations

obligations contains o if {
	input.point != "rows"
	some id in data.overlays
	some o in data.consilium.board[id].obligations
}

# The rules that forbid a column.
columns := {c.name: codes |
	some c in input.study.columns
	codes := {code |
		some code, _ in column_rules
		not law.keep[code][c.name]
	}
}

decision := {
	"allow": allow, "reasons": reasons, "obligations": obligations,
	"min_cohort": facts.min_cohort, "permits": facts.permits, "columns": {},
} if {
	not input.point in {"site", "columns", "withdrawal"}
}

decision := {
	"allow": allow, "reasons": reasons, "obligations": obligations,
	"min_cohort": facts.min_cohort, "permits": facts.permits, "columns": columns,
} if {
	input.point in {"site", "columns"}
}

decision := {
	"allow": allow, "reasons": reasons, "obligations": obligations,
	"min_cohort": facts.default_cohort, "permits": set(), "columns": {},
} if {
	input.point == "withdrawal"
}
