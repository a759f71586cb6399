// Command testlog reads the JSON of `go test`, prints what failed and a line
// for each package, and fails if a test skipped that the list of allowed skips
// does not name.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
)

type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: testlog TEST.json SKIPS")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(log, skips string) error {
	allowed, err := patterns(skips)
	if err != nil {
		return err
	}
	f, err := os.Open(log)
	if err != nil {
		return err
	}
	defer f.Close()
	output := map[string]*strings.Builder{}
	passed, failed, skipped := 0, 0, 0
	var bad []string
	in := bufio.NewScanner(f)
	in.Buffer(nil, 64<<20)
	for in.Scan() {
		var ev event
		if json.Unmarshal(in.Bytes(), &ev) != nil {
			fmt.Println(in.Text()) // a build failure is plain text
			continue
		}
		name := ev.Package + "." + ev.Test
		switch ev.Action {
		case "output", "build-output":
			if output[name] == nil {
				output[name] = &strings.Builder{}
			}
			output[name].WriteString(ev.Output)
		case "pass":
			if ev.Test == "" {
				fmt.Printf("ok\t%s\t%.1fs\n", ev.Package, ev.Elapsed)
			} else {
				passed++
			}
		case "fail":
			if ev.Test != "" {
				failed++
			}
			bad = append(bad, "failed: "+name)
			if output[name] != nil {
				fmt.Print(output[name].String())
			}
		case "skip":
			if ev.Test == "" {
				continue
			}
			skipped++
			ok := false
			for _, p := range allowed {
				ok = ok || p.MatchString(name)
			}
			if !ok {
				bad = append(bad, "skipped and not listed in "+skips+": "+name)
				fmt.Print(output[name].String())
			}
		}
	}
	if err := in.Err(); err != nil {
		return err
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	if len(bad) > 0 {
		return fmt.Errorf("%s", strings.Join(bad, "\n"))
	}
	return nil
}

// patterns reads one regular expression a line; blank lines and lines that
// begin with # do not count.
func patterns(path string) ([]*regexp.Regexp, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []*regexp.Regexp
	for _, line := range strings.Split(string(b), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		p, err := regexp.Compile("^(?:" + line + ")$")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, p)
	}
	return out, nil
}
