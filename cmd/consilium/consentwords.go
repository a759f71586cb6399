package main

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"consilium/provenance"
)

// What consents say in codes, said in words. A code without a word is shown as
// it is: nothing is left out because it is hard to say.

var categoryWords = [][2]string{
	{"general", "ordinary health records (illnesses, treatments, laboratory values)"},
	{"genetic", "genetic data"},
	{"mental", "mental health"},
	{"hiv", "HIV"},
	{"substance", "alcohol and drugs"},
	{"sexual", "sexual and reproductive health"},
}

var purposeWords = [][2]string{
	{"DUO:0000042", "any medical research"},
	{"DUO:0000006", "research on health and medicine"},
	{"DUO:0000007", "research on the illnesses named"},
}

var giverWords = [][2]string{
	{provenance.GivenBySelf, "the patient"},
	{provenance.GivenByParent, "a parent"},
	{provenance.GivenByGuardian, "a guardian appointed by a court"},
	{provenance.GivenByProxy, "somebody whom the patient asked to decide"},
}

var levelWords = [][2]string{
	{provenance.LevelProject, "only the studies that I name"},
	{provenance.LevelArea, "only the illnesses that I name"},
	{provenance.LevelGeneral, "any medical research"},
}

func inWords(table [][2]string, codes []string) string {
	var out []string
	for _, c := range codes {
		w := c
		for _, t := range table {
			if t[0] == c {
				w = t[1]
			}
		}
		out = append(out, w)
	}
	if len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, ", ")
}

// asker puts questions in plain words and reads the answers.
type asker struct {
	in  *bufio.Scanner
	out io.Writer
}

var errNoAnswer = usagef("no answer; run the command where somebody can answer, or give every answer as a flag (-h lists them)")

func (a *asker) text(question string) (string, error) {
	fmt.Fprintf(a.out, "%s\n> ", question)
	if !a.in.Scan() {
		return "", errNoAnswer
	}
	return strings.TrimSpace(a.in.Text()), nil
}

// choose offers numbered answers until one, or with many several, are chosen.
func (a *asker) choose(question string, table [][2]string, many bool) ([]string, error) {
	var b strings.Builder
	b.WriteString(question)
	for i, t := range table {
		fmt.Fprintf(&b, "\n  %d  %s", i+1, t[1])
	}
	if many {
		b.WriteString("\n  (several with commas, like 1,2)")
	}
	for range 5 {
		s, err := a.text(b.String())
		if err != nil {
			return nil, err
		}
		var out []string
		good := s != ""
		for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' }) {
			n := 0
			if _, err := fmt.Sscanf(part, "%d", &n); err != nil || fmt.Sprint(n) != part || n < 1 || n > len(table) {
				good = false
				break
			}
			if c := table[n-1][0]; !slices.Contains(out, c) {
				out = append(out, c)
			}
		}
		if good && (many || len(out) == 1) {
			return out, nil
		}
		fmt.Fprintf(a.out, "Please answer with a number from 1 to %d.\n", len(table))
	}
	return nil, errNoAnswer
}

// consentAnswers are the flags of `consent issue`; what is empty is asked for.
type consentAnswers struct {
	form, level, studies, scopes, purposes, diseases, countries, givenBy, from, until, objections, answers string
}

// complete asks for what no flag says, shows the whole and waits for a yes.
func (c *consentAnswers) complete(a *asker) error {
	one := func(dst *string, question string, table [][2]string, many bool) error {
		if *dst != "" {
			return nil
		}
		list, err := a.choose(question, table, many)
		*dst = strings.Join(list, ",")
		return err
	}
	text := func(dst *string, question string) (err error) {
		if *dst == "" {
			*dst, err = a.text(question)
		}
		return err
	}
	if err := text(&c.form, "Which information sheet was explained? (its name and version)"); err != nil {
		return err
	}
	if err := one(&c.givenBy, "Who decides?", giverWords, false); err != nil {
		return err
	}
	if err := one(&c.level, "What may the records be used for?", levelWords, false); err != nil {
		return err
	}
	switch c.level {
	case provenance.LevelProject:
		if err := text(&c.studies, "Which studies? (their names, with commas)"); err != nil {
			return err
		}
		if c.purposes == "" {
			c.purposes = "DUO:0000006"
		}
	case provenance.LevelArea:
		if err := text(&c.diseases, "Which illnesses? (their MONDO codes, with commas)"); err != nil {
			return err
		}
		if c.purposes == "" {
			c.purposes = "DUO:0000007"
		}
	default:
		if c.purposes == "" {
			c.purposes = "DUO:0000042"
		}
	}
	if err := one(&c.scopes, "Which records?", categoryWords, true); err != nil {
		return err
	}
	if c.until == "" {
		for {
			s, err := a.text("Until when? (a day like 2027-12-31, or nothing: until it is taken back)")
			if err != nil {
				return err
			}
			if _, err := time.Parse(time.DateOnly, s); s == "" || err == nil {
				c.until = s
				break
			}
			fmt.Fprintln(a.out, "Please write the day as year-month-day.")
		}
	}
	if c.answers == "" {
		s, err := a.text("Was everything explained, and were all questions answered? (yes or no)")
		if err != nil {
			return err
		}
		if !yes(s) {
			return usagef("then there is no consent yet; explain it first")
		}
		c.answers = "explicit,informed"
	}
	fmt.Fprintf(a.out, "\nThis is what will be signed:\n%s\n", indent(c.summary()))
	s, err := a.text("Is that right? (yes signs it, anything else stops)")
	if err != nil {
		return err
	}
	if !yes(s) {
		return usagef("nothing was signed")
	}
	return nil
}

func yes(s string) bool { return strings.EqualFold(s, "yes") || strings.EqualFold(s, "y") }

func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }

func (c *consentAnswers) summary() string {
	until := "until it is taken back"
	if c.until != "" {
		until = "until " + c.until + ", or until it is taken back"
	}
	lines := []string{
		"decided by: " + inWords(giverWords, []string{c.givenBy}),
		"records:    " + inWords(categoryWords, split(c.scopes)),
		"used for:   " + inWords(purposeWords, split(c.purposes)),
	}
	if c.studies != "" {
		lines = append(lines, "studies:    "+c.studies)
	}
	if c.diseases != "" {
		lines = append(lines, "illnesses:  "+c.diseases)
	}
	if c.objections != "" {
		lines = append(lines, "not:        "+c.objections)
	}
	return strings.Join(append(lines, "for how long: "+until, "explained with: "+c.form), "\n")
}

// claimsText says in words where a consent stands.
func claimsText(c *provenance.Claims) string {
	state := map[provenance.ConsentStatus]string{
		provenance.ConsentActive: "in force (active)", provenance.ConsentWithdrawn: "taken back (withdrawn)", provenance.ConsentExpired: "over (expired)", provenance.ConsentNotYet: "not begun yet",
	}[c.Status]
	a := consentAnswers{form: c.Form, studies: strings.Join(c.Studies, ", "), scopes: strings.Join(c.Scopes, ","), purposes: strings.Join(c.Purposes, ","),
		diseases: strings.Join(c.Diseases, ", "), givenBy: c.GivenBy, objections: strings.Join(c.Objections, ", ")}
	if c.Until != 0 {
		a.until = time.Unix(c.Until, 0).UTC().Format(time.DateOnly)
	}
	s := fmt.Sprintf("Your consent of %s is %s\n%s", time.Unix(c.Given, 0).UTC().Format("2 January 2006"), state, indent(a.summary()))
	if c.Withdrawn != 0 {
		s += fmt.Sprintf("\n  taken back: %s", when(c.Withdrawn))
	}
	return s
}
