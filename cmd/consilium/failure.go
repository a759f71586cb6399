package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"consilium"
	"consilium/internal/studyfile"
	"consilium/internal/table"
)

// Codes of failures that never leave the command line; docs/errors.md has
// them below its table.
const (
	codeUsage       consilium.Code = "usage"
	codeInterrupted consilium.Code = "interrupted"
	codeFile        consilium.Code = "file"
)

// failure is what a command that fails says: one line for a person, one
// object for a program.
type failure struct {
	Command string         `json:"command"`
	Code    consilium.Code `json:"code"`
	Message string         `json:"message"`
	Next    string         `json:"next"`
	Exit    int            `json:"exit"`
}

// describe says what an error means to the person at the command line.
// interrupted is whether they ended the command themselves: then whatever broke
// off with it is not worth a word.
func describe(command string, err error, interrupted bool) failure {
	f := failure{Command: command, Code: consilium.CodeOf(err), Message: err.Error(), Exit: exitFailed}
	var u *usageError
	switch {
	case interrupted:
		f.Code, f.Message, f.Next, f.Exit = codeInterrupted, "interrupted", "run it again", exitIncomplete
		if strings.HasPrefix(command, "study ") {
			f.Next = "a submitted study goes on; repeat the command"
		}
		return f
	case errors.As(err, &u):
		f.Code, f.Exit = codeUsage, exitUsage
	case errors.Is(err, consilium.ErrStudyRefused), errors.Is(err, consilium.ErrPolicy):
		f.Exit = exitRefused
	case errors.Is(err, consilium.ErrUnavailable), errors.Is(err, context.Canceled):
		f.Exit = exitIncomplete
	}
	var pathError *fs.PathError
	if f.Code == "internal" && errors.As(err, &pathError) {
		f.Code = codeFile
	}
	f.split(err)
	return f
}

// split takes the next step off the message.
func (f *failure) split(err error) {
	var line *studyfile.Error
	var cell *table.Error
	var e *consilium.Error
	var steps []string
	if errors.As(err, &line) {
		steps = append(steps, line.Next)
	}
	if errors.As(err, &cell) {
		steps = append(steps, cell.Next)
	}
	if errors.As(err, &e) {
		steps = append(steps, e.Next)
	}
	for _, next := range steps {
		if text, ok := strings.CutSuffix(f.Message, "; "+next); ok && next != "" {
			f.Message, f.Next = text, next
			return
		}
	}
	// A reason of a study lists facts with semicolons; other messages end with
	// the next step after the last one.
	if f.Next = nextSteps[f.Code]; f.Next != "" {
		return
	}
	if i := strings.LastIndex(f.Message, "; "); i > 0 && !strings.Contains(f.Message[i:], "\n") {
		f.Message, f.Next = f.Message[:i], f.Message[i+2:]
		return
	}
	switch {
	case f.Code == codeUsage:
		f.Next = fmt.Sprintf("`consilium %s -h` lists the flags", f.Command)
		if f.Command == "" {
			f.Next = "`consilium help` lists the commands"
		}
	case errors.Is(err, fs.ErrNotExist):
		f.Next = "correct the path"
	case errors.Is(err, fs.ErrExist):
		f.Next = "choose another name, or remove what is there"
	case errors.Is(err, fs.ErrPermission):
		f.Next = "give this user access to it, or choose another path"
	default:
		f.Next = "docs/errors.md and docs/operating.md say more"
	}
}

// nextSteps are for codes whose messages hold reasons, not steps.
var nextSteps = map[consilium.Code]string{
	consilium.ErrStudyRefused.Code: "change the study, or ask the board: the rule and its article are named",
	consilium.ErrPolicy.Code:       "change the study, or ask the board: the rule and its article are named",
	consilium.ErrStudyAborted.Code: "settle what the reason names and submit the study again",
	consilium.ErrStudyStalled.Code: "settle what the reason names and submit the study again",
	consilium.ErrStudyEnded.Code:   "`consilium study list` shows how it ended",
	consilium.ErrSignature.Code:    "ask its maker for an unchanged copy",
}

// write says it: a line on stderr, and with --json the object on stdout,
// unless the command has already written its own document there.
func (f failure) write(e *env, out *counted) {
	line := f.Message
	if !strings.HasSuffix(line, "; "+f.Next) {
		line += "; " + f.Next
	}
	name := strings.TrimSpace("consilium " + f.Command)
	fmt.Fprintf(e.stderr, "%s: %s\n", name, line)
	if e.json && out.n == 0 {
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(f) // the line above has said it
	}
}

// counted knows whether anything was written.
type counted struct {
	io.Writer
	n int
}

func (c *counted) Write(b []byte) (int, error) {
	c.n += len(b)
	return c.Writer.Write(b)
}

// asksJSON reports whether a command line asks for JSON, also where its flags
// cannot be parsed.
func asksJSON(args []string) bool {
	for _, a := range args {
		switch a {
		case "--json", "-json", "--json=true", "-json=true":
			return true
		case "--":
			return false
		}
	}
	return false
}
