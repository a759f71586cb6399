package studyfile

import "strings"

// suggest is the next step after an unknown word: the nearest known one, or
// the whole list when nothing is near.
func suggest(word string, known []string, what string) string {
	if s := nearest(word, known); s != "" {
		return "did you mean " + s + "?"
	}
	if len(known) == 0 {
		return ""
	}
	plural := what + "s are "
	if what == "" {
		plural = ""
	}
	const most = 24
	if len(known) > most {
		return plural + strings.Join(known[:most], ", ") + " and others"
	}
	return plural + strings.Join(known, ", ")
}

// nearest is the known word with the fewest edits, if they are few for its
// length; else the first that word begins; "" if none. The first of equals wins.
func nearest(word string, known []string) string {
	best, least := "", 0
	w := fold(word)
	for _, k := range known {
		d := distance(w, fold(k))
		if limit := max(2, len(k)/3); d <= limit && d < len(k) && (best == "" || d < least) {
			best, least = k, d
		}
	}
	for i := 0; best == "" && len(w) >= 3 && i < len(known); i++ {
		if strings.HasPrefix(fold(known[i]), w) {
			best = known[i]
		}
	}
	return best
}

// fold makes minCohort, min-cohort and min_cohort one word.
func fold(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "", ".", "", " ", "").Replace(s))
}

// distance is the Levenshtein distance, with two swapped neighbours counted as
// one edit (the optimal string alignment of Damerau), in bytes.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
