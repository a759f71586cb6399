package table

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"consilium"
)

// Error is what is wrong with a table and where. Its text holds nothing that
// stands in the table, not even a header, since the first line of a table
// without headers is a record. Local adds it.
type Error struct {
	File   string // as the caller named it, or ""
	Line   int    // from 1; 0 if the table as a whole is meant
	Column string // the study's column, or ""
	Rule   string // the rule that is broken
	Next   string // what to do, or ""
	note   string // what the table holds there; only Local shows it
}

func (e *Error) Error() string { return e.text("") }

func (e *Error) text(note string) string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d", e.Line)
		}
		b.WriteString(": ")
	} else if e.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", e.Line)
	}
	if e.Column != "" {
		fmt.Fprintf(&b, "column %s: ", clip(e.Column))
	}
	b.WriteString(e.Rule)
	b.WriteString(note)
	if e.Next != "" {
		b.WriteString("; ")
		b.WriteString(e.Next)
	}
	return b.String()
}

// Local is the text of err with the offending cell or header, for the terminal
// of the hospital that owns the table and for nothing else.
func Local(err error) string {
	var e *Error
	if !errors.As(err, &e) || e.note == "" {
		return err.Error()
	}
	return consilium.ErrData.Msg + ": " + e.text(" ("+e.note+")")
}

func refuse(e *Error) error { return consilium.ErrData.With(e) }

// clip keeps text short enough for an error message.
func clip(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}

// maxColumns bounds a header; a wider file is not a study's table.
const maxColumns = 10000

// row is one record of a CSV file.
type row struct {
	line  int    // of its first byte, from 1
	raw   []byte // its bytes without the line end
	cells []string
}

// lines splits a CSV file (RFC 4180, UTF-8, with header) into rows. The header
// comes first.
func lines(file string, src []byte) ([]row, error) {
	fail := func(line int, next, format string, args ...any) ([]row, error) {
		return nil, refuse(&Error{File: file, Line: line, Rule: fmt.Sprintf(format, args...), Next: next})
	}
	src = bytes.TrimPrefix(src, []byte("\xef\xbb\xbf"))
	if at := invalid(src); at >= 0 {
		return fail(1+bytes.Count(src[:at], []byte("\n")), "save the table as UTF-8", "the text is not UTF-8 or holds a NUL byte")
	}
	if bytes.IndexByte(src, '\r') >= 0 && bytes.IndexByte(src, '\n') < 0 {
		return fail(1, "save the table with LF or CRLF line ends", "the lines end with CR alone")
	}
	r := csv.NewReader(bytes.NewReader(src))
	r.FieldsPerRecord = -1
	var out []row
	for {
		start := r.InputOffset()
		cells, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			var p *csv.ParseError
			if errors.As(err, &p) {
				return fail(p.StartLine, "put the cell in double quotes and write a quote inside it twice", "not CSV: %v", p.Err)
			}
			return nil, refuse(&Error{File: file, Rule: err.Error()})
		}
		line, _ := r.FieldPos(0)
		raw := bytes.TrimLeft(src[start:r.InputOffset()], "\r\n") // blank lines before the record
		raw = bytes.TrimRight(raw, "\r\n")
		if len(out) == 0 {
			if len(cells) > maxColumns {
				return fail(line, "", "%d columns, at most %d", len(cells), maxColumns)
			}
			if err := header(file, line, cells); err != nil {
				return nil, err
			}
		} else if len(cells) != len(out[0].cells) {
			return fail(line, "put a cell that holds a comma in double quotes", "%d cells, but the header has %d", len(cells), len(out[0].cells))
		}
		out = append(out, row{line: line, raw: raw, cells: cells})
	}
	if len(out) == 0 {
		return fail(0, "the first line names the columns", "the table is empty")
	}
	return out, nil
}

// CheckCSV reports whether src is a table at all: CSV with commas, UTF-8 and a
// header, whatever its columns hold.
func CheckCSV(src []byte) error {
	_, err := lines("", src)
	return err
}

// invalid is the offset of the first byte that is not UTF-8 text, or -1.
func invalid(src []byte) int {
	if at := bytes.IndexByte(src, 0); at >= 0 {
		return at
	}
	if utf8.Valid(src) {
		return -1
	}
	for i := 0; i < len(src); {
		r, n := utf8.DecodeRune(src[i:])
		if r == utf8.RuneError && n <= 1 {
			return i
		}
		i += n
	}
	return -1
}

func header(file string, line int, cells []string) error {
	seen := map[string]bool{}
	for i, c := range cells {
		c = strings.TrimSpace(c)
		cells[i] = c
		switch {
		case c == "": // row names, as R writes them: no study can bind to it
			continue
		case seen[c]:
			return refuse(&Error{File: file, Line: line, Rule: fmt.Sprintf("header %d stands twice", i+1), Next: "rename one of the two",
				note: "it is " + clip(c)})
		}
		seen[c] = true
	}
	if len(cells) == 1 {
		for _, sep := range []struct{ char, name string }{{";", "semicolons"}, {"\t", "tabs"}, {"|", "bars"}} {
			if strings.Contains(cells[0], sep.char) {
				return refuse(&Error{File: file, Line: line, Rule: "the columns are separated by " + sep.name, Next: "save the table with commas"})
			}
		}
	}
	return nil
}
