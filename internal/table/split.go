package table

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sort"
	"strings"
	"unicode"

	"consilium"
)

// Site is one hospital's part of a table that holds many.
type Site struct {
	ID    consilium.SiteID
	Label string // the site column's value
	CSV   []byte // header and this site's rows, byte for byte
	Rows  int
	Lines []int // of the rows in the whole table
}

// Split cuts a table into one per distinct value of column, for simulations on
// a pooled table. Rows keep their order and bytes; sites are sorted by ID.
func Split(csv []byte, column string) ([]Site, error) {
	rows, err := lines("", csv)
	if err != nil {
		return nil, err
	}
	at := -1
	for i, h := range rows[0].cells {
		if h == column {
			at = i
		}
	}
	if at < 0 {
		return nil, refuse(&Error{Line: rows[0].line, Column: column, Rule: "the table has no such header", Next: "name the column that tells the hospitals apart",
			note: suggest(column, rows[0].cells)})
	}
	byLabel := map[string]*Site{}
	byID := map[consilium.SiteID]string{}
	var out []*Site
	for _, r := range rows[1:] {
		label := strings.TrimSpace(r.cells[at])
		s := byLabel[label]
		if s == nil {
			id, err := siteID(label)
			if err != nil {
				return nil, refuse(&Error{Line: r.line, Column: column, Rule: err.Error(), Next: "name the hospital of every row with letters or digits",
					note: fmt.Sprintf("the cell is %q", clip(label))})
			}
			if first, taken := byID[id]; taken {
				return nil, refuse(&Error{Line: r.line, Column: column, Rule: fmt.Sprintf("two hospitals would both be called %s", id),
					Next: "spell each hospital in one way, or rename one",
					note: fmt.Sprintf("they are %q and %q", clip(first), clip(label))})
			}
			if len(out) == consilium.MaxSites {
				return nil, refuse(&Error{Line: r.line, Column: column, Rule: fmt.Sprintf("more than %d hospitals", consilium.MaxSites),
					Next: "name the column that tells the hospitals apart"})
			}
			byID[id] = label
			s = &Site{ID: id, Label: label, CSV: append(append([]byte(nil), rows[0].raw...), '\n')}
			byLabel[label] = s
			out = append(out, s)
		}
		s.CSV = append(append(s.CSV, r.raw...), '\n')
		s.Rows++
		s.Lines = append(s.Lines, r.line)
	}
	if len(out) == 0 {
		return nil, refuse(&Error{Rule: "the table has a header and no rows"})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	list := make([]Site, len(out))
	for i, s := range out {
		list[i] = *s
	}
	return list, nil
}

// siteID makes a site's name of a label: lower case, everything but letters
// and digits a hyphen. "Mt. Sinai" is mt-sinai. A label with letters that have
// no plain spelling gets eight digits of its hash, so that two hospitals named
// in Greek or Chinese stay two, and keep their names from run to run.
func siteID(label string) (consilium.SiteID, error) {
	var b strings.Builder
	lost := false
	for _, r := range strings.ToLower(label) {
		if f, ok := plainLetters[r]; ok {
			b.WriteString(f)
			continue
		}
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
			continue
		}
		if r >= 0x300 && r <= 0x36f { // an accent that stands by itself, as macOS writes them
			continue
		}
		lost = lost || unicode.IsLetter(r) || unicode.IsNumber(r)
		if s := b.String(); s != "" && s[len(s)-1] != '-' {
			b.WriteByte('-')
		}
	}
	s := strings.Trim(b.String(), "-")
	if !lost {
		if s == "" {
			return "", fmt.Errorf("no hospital is named")
		}
		return consilium.ParseSiteID(strings.TrimRight(s[:min(len(s), 63)], "-"))
	}
	if s == "" {
		s = "site"
	}
	sum := sha256.Sum256([]byte(label))
	return consilium.ParseSiteID(strings.TrimRight(s[:min(len(s), 54)], "-") + "-" + hex.EncodeToString(sum[:4]))
}

// plainLetters spells the letters of European hospital names without marks.
var plainLetters = func() map[rune]string {
	m := map[rune]string{'ß': "ss", 'æ': "ae", 'œ': "oe", 'ø': "o", 'đ': "d", 'ł': "l", 'þ': "th", 'ð': "d", '\'': "", '’': ""}
	for plain, marked := range map[string]string{"a": "àáâãäåāăą", "c": "çćčċ", "d": "ď", "e": "èéêëēėęě", "g": "ğģ", "i": "ìíîïīįı",
		"k": "ķ", "l": "ľļ", "n": "ñńňņ", "o": "òóôõöőō", "r": "řŕ", "s": "śšşș", "t": "ťţț", "u": "ùúûüůűūų", "y": "ýÿ", "z": "źžż"} {
		for _, r := range marked {
			m[r] = plain
		}
	}
	return m
}()
