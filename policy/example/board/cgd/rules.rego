# METADATA
# title: The CGD board's own rules
# description: >
#   An overlay can only deny, ask for obligations and leave rows out. What it
#   grants (permits, assessments) stands in board.json, which is signed with it.
package consilium.board.cgd

import rego.v2

# The registry was given for research on chronic granulomatous disease and its
# kin, and for nothing else.
refused := {
	"commercial_marketing": "GDPR Art. 5(1)(b); 45 CFR 164.508(a)(3)",
	"insurance": "GDPR Art. 5(1)(b); Regulation (EU) 2025/327 Art. 54(b)",
	"employment": "GDPR Art. 5(1)(b); Regulation (EU) 2025/327 Art. 54(a)",
	"credit": "GDPR Art. 5(1)(b); Regulation (EU) 2025/327 Art. 54(b)",
}

deny contains {
	"code": "BOARD-CGD-PURPOSE",
	"message": "the board does not allow this purpose for the registry",
	"article": refused[input.study.purpose.class],
}

allowed_disease if input.study.purpose.disease == "MONDO:0018305"

allowed_disease if input.study.purpose.disease in data.law.diseases["MONDO:0018305"].ancestors

# A withdrawal asks about no study.
deny contains {
	"code": "BOARD-CGD-DISEASE",
	"message": "the registry serves research on chronic granulomatous disease and its parent diseases only",
	"article": "",
} if {
	input.point != "withdrawal"
	not allowed_disease
}

deny contains {
	"code": "BOARD-CGD-COMMERCIAL",
	"message": "the registry is not open to studies for profit",
	"article": "",
} if {
	input.study.legal.commercial
}

obligations contains "report_result_to_the_board" if input.point == "release"

# Records of the dead are left out at the families' wish.
row_include if input.record.deceased == false
