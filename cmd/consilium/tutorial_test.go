package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// lesson is one thing that a page tells its reader to do.
type lesson struct {
	line    int
	command []string // consilium's arguments, or nil
	want    []string // lines of output; "…" stands for any number of lines, or of characters inside one
	code    int
	file    string // to be written, or changed
	content string
	old     string // where only a part of file is replaced
}

var (
	fileMark    = regexp.MustCompile(`^<!-- file: (\S+) -->$`)
	replaceMark = regexp.MustCompile(`^<!-- replace: (\S+): (.+) -> (.+) -->$`)
	exitMark    = regexp.MustCompile(`^\(exit (\d)\)$`)
)

// readTutorial takes a page's commands and files out of it, in order.
func readTutorial(t *testing.T, page string) []lesson {
	t.Helper()
	var out []lesson
	var fence, pending string
	var body []string
	for i, l := range strings.Split(page, "\n") {
		switch {
		case fence == "" && strings.HasPrefix(l, "```"):
			fence, body = strings.TrimPrefix(l, "```"), nil
		case fence != "" && l == "```":
			if pending != "" {
				out = append(out, lesson{line: i, file: pending, content: strings.Join(body, "\n") + "\n"})
				pending = ""
			} else if fence == "console" {
				for k, c := range body {
					if args, ok := strings.CutPrefix(c, "$ consilium "); ok {
						out = append(out, lesson{line: i - len(body) + k + 1, command: words(t, args)})
						continue
					}
					if len(out) == 0 || out[len(out)-1].command == nil {
						t.Fatalf("line %d: output without a command: %s", i, c)
					}
					s := &out[len(out)-1]
					if m := exitMark.FindStringSubmatch(c); m != nil {
						s.code, _ = strconv.Atoi(m[1])
					} else {
						s.want = append(s.want, c)
					}
				}
			}
			fence = ""
		case fence != "":
			body = append(body, l)
		default:
			if m := fileMark.FindStringSubmatch(l); m != nil {
				pending = m[1]
			}
			if m := replaceMark.FindStringSubmatch(l); m != nil {
				out = append(out, lesson{line: i + 1, file: m[1], old: m[2], content: m[3]})
			}
		}
	}
	return out
}

// words splits a command line at blanks outside double quotes.
func words(t *testing.T, s string) []string {
	t.Helper()
	var out []string
	var b strings.Builder
	quoted, open := false, false
	for _, r := range s {
		switch {
		case r == '"':
			quoted, open = !quoted, true
		case r == ' ' && !quoted:
			if open || b.Len() > 0 {
				out = append(out, b.String())
			}
			b.Reset()
			open = false
		default:
			b.WriteRune(r)
		}
	}
	if quoted {
		t.Fatalf("a quote is not closed: %s", s)
	}
	if open || b.Len() > 0 {
		out = append(out, b.String())
	}
	return out
}

// shows reports whether output is what a page shows of it.
func shows(want, got []string) error {
	for i, w := range want {
		if w == "…" {
			for k := 0; k <= len(got); k++ {
				if shows(want[i+1:], got[k:]) == nil {
					return nil
				}
			}
			return fmt.Errorf("nothing fits what follows line %d", i+1)
		}
		if len(got) == 0 {
			return fmt.Errorf("missing: %s", w)
		}
		parts := strings.Split(w, "…")
		for k := range parts {
			parts[k] = regexp.QuoteMeta(parts[k])
		}
		if ok, err := regexp.MatchString("^"+strings.Join(parts, ".*")+"$", got[0]); err != nil || !ok {
			return fmt.Errorf("want: %s\n got: %s", w, got[0])
		}
		got = got[1:]
	}
	if len(got) > 0 {
		return fmt.Errorf("not on the page: %s", got[0])
	}
	return nil
}

// TestTutorial follows docs/writing-policy.md literally: it types the commands,
// makes the changes and compares the output.
func TestTutorial(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "writing-policy.md"))
	if err != nil {
		t.Fatal(err)
	}
	steps := readTutorial(t, string(page))
	k := provisionAll(t)
	t.Chdir(t.TempDir())
	for name, member := range map[string]string{"ana": "board-1", "ben": "board-2"} {
		if err := os.Symlink(k.kit(member), name); err != nil {
			t.Fatal(err)
		}
	}
	commands := map[string]int{}
	for _, s := range steps {
		switch {
		case s.command == nil && s.old != "":
			edit(t, s.file, s.old, s.content)
		case s.command == nil:
			if err := os.WriteFile(s.file, []byte(s.content), 0o644); err != nil {
				t.Fatal(err)
			}
		default:
			stdout, stderr, code := try(t.Context(), s.command...)
			if code != s.code {
				t.Fatalf("line %d: consilium %s: exit code %d, want %d\n%s%s", s.line, strings.Join(s.command, " "), code, s.code, stdout, stderr)
			}
			var got []string
			if stdout != "" {
				got = strings.Split(strings.TrimSuffix(stdout, "\n"), "\n")
			}
			if err := shows(s.want, got); err != nil {
				t.Fatalf("line %d: consilium %s\n%v\nwhole output:\n%s%s", s.line, strings.Join(s.command, " "), err, stdout, stderr)
			}
			commands[strings.Join(s.command[:2], " ")]++
		}
	}
	for _, c := range []string{"new", "check", "test", "explain", "diff", "replay", "sign", "cosign", "publish"} {
		if commands["policy "+c] == 0 {
			t.Errorf("the page does not use policy %s", c)
		}
	}
}
