package table

import "strings"

// suggest is the next step after an unknown name: the nearest known one, or
// the list when nothing is near.
func suggest(word string, known []string) string {
	if s := nearest(word, known); s != "" {
		return "did you mean " + clip(s) + "?"
	}
	const most = 24
	if len(known) > most {
		return "there are " + strings.Join(known[:most], ", ") + " and others"
	}
	return "there are " + strings.Join(known, ", ")
}

// nearest is the known name with the fewest edits, if they are few for its
// length; "" if none. The first of equals wins.
func nearest(word string, known []string) string {
	best, least := "", 0
	w := fold(word)
	for _, k := range known {
		d := distance(w, fold(k))
		if limit := max(2, len(k)/3); d <= limit && d < len(k) && (best == "" || d < least) {
			best, least = k, d
		}
	}
	return best
}

func fold(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "", ".", "", " ", "").Replace(s))
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	prev := make([]int, len(b)+1)
	next := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(prev[j]+1, next[j-1]+1, prev[j-1]+cost)
		}
		prev, next = next, prev
	}
	return prev[len(b)]
}
