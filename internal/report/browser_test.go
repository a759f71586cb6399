//go:build browser

package report

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// This file opens a report in a real browser (Chromium, over its debugging
// pipe) and holds the rendered page against result.json: every point, label and
// number; no message on the console; no request but for the page itself. Run it
// by .ci/browser.sh DIR.

// TestReportInBrowser checks the directory in CONSILIUM_REPORT, or the sample.
func TestReportInBrowser(t *testing.T) {
	dir := os.Getenv("CONSILIUM_REPORT")
	if dir == "" {
		dir = t.TempDir()
		writeSample(t, dir, sample(t))
	}
	problems, seen := checkInBrowser(t, dir)
	for _, p := range problems {
		t.Error(p)
	}
	if seen.numbers == 0 {
		t.Error("nothing of the result was compared")
	}
	t.Logf("%d numbers and %d labels equal result.json; screenshot in %s", seen.numbers, seen.labels, filepath.Join(dir, "report.png"))
}

// TestBrowserCheckNotices spoils a good report in every way that the check is
// there for; a check that passed one of them would be worth nothing.
func TestBrowserCheckNotices(t *testing.T) {
	const policy = `<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">`
	page := render(t, sample(t), sampleExtras)
	for _, c := range []struct{ name, old, new, want string }{
		{"outside image", policy, `<img src="https://tracker.example/p.png" alt="">`, "outside request: https://tracker.example/p.png"},
		{"outside style", policy, `<link rel="stylesheet" href="http://fonts.example/a.css">`, "outside request: http://fonts.example/a.css"},
		{"late fetch", policy, `<script>setTimeout(()=>fetch("https://late.example/x").catch(()=>0),50)</script>`, "outside request: https://late.example/x"},
		{"web socket", policy, `<script>new WebSocket("wss://ws.example/")</script>`, "outside request: wss://ws.example/"},
		{"prefetch", policy, `<link rel="preload" as="image" href="https://pre.example/y.png">`, "outside request: https://pre.example/y.png"},
		{"connection ahead", policy, `<link rel="preconnect" href="http://ahead.example/">`, "outside link: http://ahead.example/"},
		{"name ahead", "</head>", `<link rel="dns-prefetch" href="//name.example"></head>`, "outside link: file://name.example"},
		{"beside file", policy, `<img src="result.json" alt="">`, "outside request: file://"},
		{"image under the policy", "</body>", `<img src="https://tracker.example/p.png" alt=""></body>`, "console"},
		{"script under the policy", "</body>", `<script>1</script></body>`, "console"},
		{"console error", policy, `<script>console.error("boom")</script>`, "console: error: boom"},
		{"console message", policy, `<script>console.log("hm")</script>`, "console: log: hm"},
		{"exception", policy, `<script>nothing.here()</script>`, "console: exception"},
		{"missing point", `<g class="point" data-term="treat:rIFN-g"`, `<g class="gone" data-term="treat:rIFN-g"`, "infections: forest points"},
		{"wrong label", `y="56" text-anchor="start">treat:rIFN-g<`, `y="56" text-anchor="start">treat:rIFN-a<`, "infections: forest labels"},
		{"wrong effect", `data-effect="0.3031097226172725"`, `data-effect="0.3031097226172726"`, "infections: effect of treat:rIFN-g"},
		{"wrong coefficient", `data-coef="-1.1936604181736143"`, `data-coef="1.1936604181736143"`, "infections: coefficient of treat:rIFN-g"},
		{"missing row", `<tr data-term="age" data-coef="-0.0345`, `<tr data-gone="age" data-coef="-0.0345`, "infections: rows"},
		{"missing curve point", `<circle class="at" cx="150" cy="14" r="2.6" data-time="0"`, `<circle class="no" cx="150" cy="14" r="2.6" data-time="0"`, "infection-free: points of treat:placebo"},
		{"wrong number at risk", `data-risk="57">57<`, `data-risk="58">58<`, "infection-free: at risk in treat:placebo"},
		{"shown number differs", `data-risk="57">57<`, `data-risk="57">75<`, "infection-free: at risk in treat:placebo"},
		{"missing training point", `data-round="7" data-value`, `data-round="8" data-value`, "risk: training loss"},
		{"missing section", `data-name="rate"`, `data-name="rates"`, "sections"},
		{"missing hospital", `data-site="nih"`, `data-gone="nih"`, "hospitals"},
	} {
		t.Run(c.name, func(t *testing.T) {
			spoiled := strings.Replace(page, c.old, c.new, 1)
			if spoiled == page {
				t.Fatalf("the page has no %s", c.old)
			}
			dir := t.TempDir()
			writeSample(t, dir, sample(t))
			if err := os.WriteFile(filepath.Join(dir, "report.html"), []byte(spoiled), 0o644); err != nil {
				t.Fatal(err)
			}
			problems, _ := checkInBrowser(t, dir)
			for _, p := range problems {
				if strings.Contains(p, c.want) {
					return
				}
			}
			t.Errorf("not noticed: want %q, got %q", c.want, problems)
		})
	}
}

// dotted is a result with every plot of dots.
const dotted = `{"apiVersion":"consilium/v1","kind":"Result","result":{"study":"dots","question":"Is every dot there?","sites":{"enrolled":3,"contributed":3,"contributors":["a","b","c"],"excluded":[]},
 "analyses":[{"analysis":"glm","name":"odds","family":"binomial","rows":90,"patients":90,"events":30,"terms":[],"assumptions":[],"warnings":[],"suppressed":[],
   "evaluation":{"auc":0.7,"auc_lower":0.65,"auc_upper":0.75,"brier":0.2,"roc":[[0,0],[0.12345678901234567,0.5],[1,1]],
    "calibration":[{"lower":0,"upper":0.5,"n":40,"observed":0.21,"expected":0.2468013579},{"lower":0.5,"upper":1,"n":50,"observed":0.61,"expected":0.6}]}},
  {"analysis":"gwas","name":"scan","family":"binomial","rows":90,"patients":90,"events":30,"tested":2,"lambda_gc":1.01,"assumptions":[],"warnings":[],"suppressed":[],
   "variants":[{"name":"rs001","freq":0.25,"call_rate":1,"hwe":0.5,"score":1,"variance":2,"beta":0.5,"se":0.7,"chisq":0.5,"p":0.4795},
    {"name":"rs002","freq":0.25,"call_rate":1,"hwe":null,"score":9,"variance":2,"beta":4.5,"se":0.7,"chisq":40.5,"p":1.97e-10}]}]},"run":{}}`

// TestDotsInBrowser: ROC curve, calibration and scan are drawn with the numbers of
// the result, and the check notices when one is missing or another's.
func TestDotsInBrowser(t *testing.T) {
	page := render(t, []byte(dotted), sampleExtras)
	for _, c := range []struct{ name, old, new, want string }{
		{"as it is", "<body", "<body", ""},
		{"missing ROC point", `data-x="0.12345678901234567"`, `data-gone="1"`, "odds: roc: across"},
		{"wrong calibration", `data-y="0.21"`, `data-y="0.12"`, "odds: calibration: up"},
		{"missing variant", `<circle class="at"`, `<circle class="no"`, "points, result.json"},
		{"wrong p", `data-p="1.97e-10"`, `data-p="1.97e-1"`, "scan: scan: up"},
		{"another variant", `data-variant="rs002"`, `data-variant="rs001"`, "scan: scan: across"},
	} {
		spoiled := strings.Replace(page, c.old, c.new, 1)
		if spoiled == page && c.want != "" {
			t.Fatalf("%s: the page has no %s", c.name, c.old)
		}
		dir := t.TempDir()
		writeSample(t, dir, []byte(dotted))
		if err := os.WriteFile(filepath.Join(dir, "report.html"), []byte(spoiled), 0o644); err != nil {
			t.Fatal(err)
		}
		problems, seen := checkInBrowser(t, dir)
		noticed := c.want == ""
		for _, p := range problems {
			noticed = noticed || c.want != "" && strings.Contains(p, c.want)
		}
		if !noticed || c.want == "" && (len(problems) > 0 || seen.numbers < 14) {
			t.Errorf("%s: want %q, got %q; %d numbers", c.name, c.want, problems, seen.numbers)
		}
	}
}

type compared struct{ numbers, labels int }

// checkInBrowser returns what is wrong with DIR/report.html and writes
// DIR/report.png.
func checkInBrowser(t *testing.T, dir string) ([]string, compared) {
	t.Helper()
	result, err := os.ReadFile(filepath.Join(dir, "result.json"))
	if err != nil {
		t.Fatal(err)
	}
	path, err := filepath.Abs(filepath.Join(dir, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	v := look(t, "file://"+path)
	if err := os.WriteFile(filepath.Join(dir, "report.png"), v.screenshot, 0o644); err != nil {
		t.Fatal(err)
	}
	problems, seen := compare(t, result, &v.page)
	return append(v.problems, problems...), seen
}

// view is what the browser saw.
type view struct {
	problems   []string
	screenshot []byte
	page       rendered
}

// rendered is the page as the script below reads it from the live document.
type rendered struct {
	Title    string
	Links    []string
	Sections []struct {
		Analysis, Name, Error string
		Rows                  []struct{ Term, Coef, Effect, Lower, Upper, Label string }
		Points                []struct{ Term, Effect, Lower, Upper, Label string }
		Curves                []struct {
			Group, Series, What string
			Points              []struct{ X, Y string }
			Count               string
		}
		Legend []string
		Risk   []struct {
			Group string
			Cells []struct{ Time, Risk, Text string }
		}
		Dots []struct {
			Plot   string // what its id ends in: roc, calibration, scan
			Points []struct{ X, Y string }
		}
		Tables []struct {
			Kind string
			Rows []struct {
				Name  string
				Cells []string
			}
		}
	}
	Sites []struct{ Name, Status string }
}

const readPage = `(() => {
 const all = (e, s) => [...e.querySelectorAll(s)], at = (e, n) => e.getAttribute(n) || "", text = (e, s) => { const x = e.querySelector(s); return x ? x.textContent : "" };
 return JSON.stringify({ Title: document.title, Links: all(document, "link").map(l => l.href),
  Sections: all(document, "section.analysis").map(s => ({ Analysis: at(s, "data-analysis"), Name: at(s, "data-name"), Error: s.querySelector(".fault") ? at(s.querySelector(".fault"), "data-error") : "",
   Rows: all(s, "tr[data-term]").map(r => ({ Term: at(r, "data-term"), Coef: at(r, "data-coef"), Effect: at(r, "data-effect"), Lower: at(r, "data-lower"), Upper: at(r, "data-upper"),
     Label: r.querySelector("th").firstChild.textContent })),
   Points: all(s, "g.point").map(p => ({ Term: at(p, "data-term"), Effect: at(p, "data-effect"), Lower: at(p, "data-lower"), Upper: at(p, "data-upper"), Label: text(p, "text.label") })),
   Curves: all(s, "g.curve").map(c => ({ Group: at(c, "data-group"), Series: at(c, "data-series"), What: at(c, "data-what"), Count: at(c, "data-points"),
     Points: all(c, "circle.at").map(p => ({ X: at(p, "data-time") || at(p, "data-round"), Y: at(p, "data-surv") || at(p, "data-value") })) })),
   Legend: all(s, "svg.km g.legend text.label").map(l => l.textContent),
   Risk: all(s, "g.risk").map(r => ({ Group: at(r, "data-group"), Cells: all(r, "text[data-time]").map(c => ({ Time: at(c, "data-time"), Risk: at(c, "data-risk"), Text: c.textContent })) })),
   Dots: all(s, "svg.unit, svg.manhattan").map(v => ({ Plot: at(v, "id").replace(/^.*?-(roc|calibration.*|scan)$/, "$1"), Points: all(v, "circle.at").map(c => ({ X: at(c, "data-x") || at(c, "data-variant"), Y: at(c, "data-y") || at(c, "data-p") })) })),
   Tables: all(s, "table.numbers").map(x => ({ Kind: at(x, "data-kind"), Rows: all(x, "tr[data-row]").map(r => ({ Name: at(r, "data-row"), Cells: all(r, "td").map(c => at(c, "data-value")) })) })) })),
  Sites: all(document, "tr[data-site]").map(r => ({ Name: at(r, "data-site"), Status: at(r, "data-status") })) })
})()`

// ownService matches what the browser itself asks its maker for (updates, time,
// accounts), some of it whatever the flags. A page's request to the same hosts
// is still seen: the debugging protocol reports every request of the page.
var ownService = regexp.MustCompile(`^[A-Z]+ (https?://)?[a-z0-9.-]+\.(google|googleapis|gvt1|gstatic)\.com[:/ ]`)

// look opens one page in a browser of its own.
func look(t *testing.T, url string) *view {
	t.Helper()
	binary := os.Getenv("CHROMIUM")
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); binary == "" && err == nil {
			binary = p
		}
	}
	if binary == "" {
		t.Fatal("no Chromium: install it (apt-get install chromium) or name it in CHROMIUM")
	}
	// Whatever leaves the browser, by any protocol that takes proxies, ends here.
	sink, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	v := &view{}
	var mu sync.Mutex // guards v.problems
	note := func(format string, args ...any) {
		mu.Lock()
		v.problems = append(v.problems, fmt.Sprintf(format, args...))
		mu.Unlock()
	}
	go func() {
		for {
			c, err := sink.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n')
			c.Close()
			if line == "" || ownService.MatchString(line) {
				continue // a connection that asks nothing is one the browser opens ahead; a page's would need a link, which compare refuses
			}
			note("outside request at the proxy: %s", strings.TrimSpace(line))
		}
	}()

	args := []string{"--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-default-browser-check", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions", "--disable-domain-reliability",
		"--disable-client-side-phishing-detection", "--disable-features=NetworkTimeServiceQuerying,OptimizationHints,MediaRouter,Translate,AutofillServerCommunication",
		"--force-webrtc-ip-handling-policy=disable_non_proxied_udp", "--hide-scrollbars", "--remote-debugging-pipe",
		"--proxy-server=http://" + sink.Addr().String(), "--proxy-bypass-list=<-loopback>", "--user-data-dir=" + t.TempDir(), "about:blank"}
	if os.Getuid() == 0 {
		args = append([]string{"--no-sandbox"}, args...) // the sandbox refuses root
	}
	cmd := exec.Command(binary, args...)
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.ExtraFiles, cmd.Stderr = []*os.File{inR, outW}, &stderr
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	inR.Close()
	outW.Close()
	b := &browser{t: t, in: inW, answers: map[int]chan json.RawMessage{}, loaded: make(chan struct{}, 8), gone: make(chan struct{})}
	b.event = func(method string, params json.RawMessage) { onEvent(b, url, method, params, note) }
	done := make(chan struct{})
	go func() { b.read(outR); close(done) }()
	defer func() {
		if cmd.Process != nil {
			_ = cmd.Process.Kill()
		}
		_ = cmd.Wait()
		inW.Close()
		outR.Close()
		<-done
		if t.Failed() {
			t.Logf("the browser said: %s", stderr.String())
		}
	}()

	var target struct{ TargetID string }
	b.call("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var tab struct{ SessionID string } // the protocol's name for one attached page
	b.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &tab)
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		b.call(tab.SessionID, domain+".enable", map[string]any{}, nil)
	}
	b.call(tab.SessionID, "Emulation.setDeviceMetricsOverride", map[string]any{"width": 1060, "height": 1400, "deviceScaleFactor": 1, "mobile": false}, nil)
	b.call(tab.SessionID, "Page.navigate", map[string]any{"url": url}, nil)
	select {
	case <-b.loaded:
	case <-b.gone:
		t.Fatalf("the browser ended: %s", stderr.String())
	case <-time.After(time.Minute):
		t.Fatal("the page did not load within a minute")
	}
	// Late requests: the page is left alone for a while, by the page's own clock.
	b.eval(tab.SessionID, `new Promise(r => setTimeout(() => requestAnimationFrame(() => r("")), 400))`)
	if err := json.Unmarshal([]byte(b.eval(tab.SessionID, readPage)), &v.page); err != nil {
		t.Fatal(err)
	}
	var shot struct{ Data string }
	b.call(tab.SessionID, "Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &shot)
	if v.screenshot, err = base64.StdEncoding.DecodeString(shot.Data); err != nil || len(v.screenshot) < 10000 {
		t.Fatalf("a screenshot of %d bytes: %v", len(v.screenshot), err)
	}
	mu.Lock()
	defer mu.Unlock()
	return &view{problems: append([]string(nil), v.problems...), screenshot: v.screenshot, page: v.page}
}

// onEvent notes whatever a report must not do.
func onEvent(b *browser, url, method string, params json.RawMessage, note func(string, ...any)) {
	var p struct {
		Request struct{ URL string }
		URL     string
		Type    string
		Args    []struct{ Value any }
		Entry   struct{ Level, Text, URL string }
		Details struct {
			Text      string `json:"text"`
			Exception struct{ Description string }
		} `json:"exceptionDetails"`
	}
	if err := json.Unmarshal(params, &p); err != nil {
		note("event %s: %v", method, err)
		return
	}
	switch method {
	case "Page.loadEventFired":
		b.loaded <- struct{}{}
	case "Network.requestWillBeSent":
		if p.Request.URL != url && !strings.HasPrefix(p.Request.URL, "data:") {
			note("outside request: %s", p.Request.URL)
		}
	case "Network.webSocketCreated", "Network.webTransportCreated":
		note("outside request: %s", p.URL)
	case "Runtime.consoleAPICalled":
		var words []string
		for _, a := range p.Args {
			words = append(words, fmt.Sprint(a.Value))
		}
		note("console: %s: %s", p.Type, strings.Join(words, " "))
	case "Runtime.exceptionThrown":
		note("console: exception: %s %s", p.Details.Text, p.Details.Exception.Description)
	case "Log.entryAdded":
		note("console: %s: %s %s", p.Entry.Level, p.Entry.Text, p.Entry.URL)
	}
}

// browser speaks the DevTools protocol over a pipe: JSON, each ended by a NUL.
type browser struct {
	t       *testing.T
	in      *os.File
	mu      sync.Mutex // guards id and answers
	id      int
	answers map[int]chan json.RawMessage
	event   func(method string, params json.RawMessage)
	loaded  chan struct{}
	gone    chan struct{}
}

func (b *browser) read(r *os.File) {
	defer close(b.gone)
	in := bufio.NewReader(r)
	for {
		msg, err := in.ReadBytes(0)
		if err != nil {
			return
		}
		var m struct {
			ID     int
			Method string
			Params json.RawMessage
		}
		if json.Unmarshal(msg[:len(msg)-1], &m) != nil {
			continue
		}
		if m.Method != "" {
			b.event(m.Method, m.Params)
			continue
		}
		b.mu.Lock()
		c := b.answers[m.ID]
		delete(b.answers, m.ID)
		b.mu.Unlock()
		if c != nil {
			c <- append(json.RawMessage(nil), msg[:len(msg)-1]...)
		}
	}
}

func (b *browser) call(tab, method string, params map[string]any, out any) {
	b.t.Helper()
	b.mu.Lock()
	b.id++
	id := b.id
	answer := make(chan json.RawMessage, 1)
	b.answers[id] = answer
	b.mu.Unlock()
	msg := map[string]any{"id": id, "method": method, "params": params}
	if tab != "" {
		msg["sessionId"] = tab
	}
	j, err := json.Marshal(msg)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.in.Write(append(j, 0)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	select {
	case raw := <-answer:
		var m struct {
			Error  *struct{ Message string }
			Result json.RawMessage
		}
		if err := json.Unmarshal(raw, &m); err != nil || m.Error != nil {
			b.t.Fatalf("%s: %v %s", method, err, raw)
		}
		if out != nil {
			if err := json.Unmarshal(m.Result, out); err != nil {
				b.t.Fatalf("%s: %v", method, err)
			}
		}
	case <-b.gone:
		b.t.Fatalf("%s: the browser ended", method)
	case <-time.After(time.Minute):
		b.t.Fatalf("%s: no answer within a minute", method)
	}
}

func (b *browser) eval(tab, script string) string {
	b.t.Helper()
	var out struct {
		Result           struct{ Value string }
		ExceptionDetails json.RawMessage
	}
	b.call(tab, "Runtime.evaluate", map[string]any{"expression": script, "awaitPromise": true, "returnByValue": true}, &out)
	if out.ExceptionDetails != nil {
		b.t.Fatalf("the checking script failed: %s", out.ExceptionDetails)
	}
	return out.Result.Value
}

// compare holds the rendered page against result.json, which it reads by
// itself: nothing of the code that made the page is used.
func compare(t *testing.T, result []byte, page *rendered) (problems []string, seen compared) {
	t.Helper()
	type obj = map[string]any
	dec := json.NewDecoder(bytes.NewReader(result))
	dec.UseNumber()
	var doc struct{ Result obj }
	if err := dec.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for _, href := range page.Links {
		bad("outside link: %s", href)
	}
	list := func(o obj, key string) []any { l, _ := o[key].([]any); return l }
	sub := func(o obj, key string) obj { m, _ := o[key].(map[string]any); return m }
	text := func(v any) string {
		switch v := v.(type) {
		case string:
			return v
		case json.Number:
			return v.String()
		}
		return ""
	}
	number := func(what, shown string, want any) {
		seen.numbers++
		if shown != text(want) {
			bad("%s: the page has %q, result.json %q", what, shown, text(want))
		}
	}
	word := func(what, shown, want string) {
		seen.labels++
		if shown != want {
			bad("%s: the page has %q, result.json %q", what, shown, want)
		}
	}

	analyses := list(doc.Result, "analyses")
	if analyses == nil {
		analyses = []any{doc.Result}
	}
	if len(analyses) != len(page.Sections) {
		bad("sections: the page has %d, result.json %d analyses", len(page.Sections), len(analyses))
		return problems, seen
	}
	for i, raw := range analyses {
		a, _ := raw.(map[string]any)
		s := &page.Sections[i]
		name := text(a["name"])
		if name == "" {
			name = text(a["analysis"])
		}
		word("sections", s.Name, name)
		word("sections", s.Analysis, text(a["analysis"]))
		if e := sub(a, "error"); e != nil {
			word(name+": error", s.Error, text(e["code"]))
			continue
		}
		ratio := a["analysis"] == "cox" || a["family"] != nil && a["family"] != "gaussian"
		effect := func(term obj) any {
			if ratio {
				return term["exp_coef"]
			}
			return term["coef"]
		}
		terms := list(a, "terms")
		if len(terms) != len(s.Rows) {
			bad("%s: rows: the page has %d, result.json %d terms", name, len(s.Rows), len(terms))
		}
		var points []obj
		for k, rawTerm := range terms {
			term, _ := rawTerm.(map[string]any)
			label := text(term["name"])
			if k < len(s.Rows) {
				r := s.Rows[k]
				word(name+": rows", r.Term, label)
				word(name+": row labels", r.Label, label)
				number(name+": coefficient of "+label, r.Coef, term["coef"])
				number(name+": effect of "+label+" in its row", r.Effect, effect(term))
				number(name+": lower limit of "+label+" in its row", r.Lower, term["lower"])
				number(name+": upper limit of "+label+" in its row", r.Upper, term["upper"])
			}
			if label != "(Intercept)" && term["lower"] != nil && term["upper"] != nil && effect(term) != nil {
				points = append(points, term)
			}
		}
		if len(points) != len(s.Points) {
			bad("%s: forest points: the page has %d, result.json %d", name, len(s.Points), len(points))
		}
		for k, p := range s.Points {
			if k >= len(points) {
				break
			}
			label := text(points[k]["name"])
			word(name+": forest points", p.Term, label)
			word(name+": forest labels", p.Label, label)
			number(name+": effect of "+label, p.Effect, effect(points[k]))
			number(name+": lower limit of "+label, p.Lower, points[k]["lower"])
			number(name+": upper limit of "+label, p.Upper, points[k]["upper"])
		}

		// Dots: a ROC curve and a calibration of fitted probabilities, or of a trained
		// model by split, and every variant of a scan.
		dots := map[string][][2]any{}
		if e := sub(a, "evaluation"); e != nil {
			dots["roc"], dots["calibration"] = [][2]any{}, [][2]any{}
			for _, p := range list(e, "roc") {
				xy, _ := p.([]any)
				dots["roc"] = append(dots["roc"], [2]any{xy[0], xy[1]})
			}
			for _, c := range list(e, "calibration") {
				if c, _ := c.(map[string]any); c["expected"] != nil && c["observed"] != nil {
					dots["calibration"] = append(dots["calibration"], [2]any{c["expected"], c["observed"]})
				}
			}
		}
		for _, c := range list(a, "calibration") {
			if c, _ := c.(map[string]any); c["expected"] != nil && c["observed"] != nil {
				plot := "calibration-" + text(c["split"])
				dots[plot] = append(dots[plot], [2]any{c["expected"], c["observed"]})
			}
		}
		if a["tested"] != nil {
			dots["scan"] = [][2]any{}
			for _, v := range list(a, "variants") {
				if v, _ := v.(map[string]any); v["p"] != nil {
					dots["scan"] = append(dots["scan"], [2]any{v["name"], v["p"]})
				}
			}
		}
		if len(s.Dots) != len(dots) {
			bad("%s: the page has %d plots of dots, result.json has data for %d", name, len(s.Dots), len(dots))
		}
		for _, d := range s.Dots {
			want := dots[d.Plot]
			if len(d.Points) != len(want) {
				bad("%s: %s: the page has %d points, result.json %d", name, d.Plot, len(d.Points), len(want))
				continue
			}
			for k, p := range d.Points {
				number(name+": "+d.Plot+": across", p.X, want[k][0])
				number(name+": "+d.Plot+": up", p.Y, want[k][1])
			}
		}

		switch a["analysis"] {
		case "kaplan-meier":
			groups := list(a, "groups")
			if len(groups) != len(s.Curves) || len(groups) != len(s.Legend) || len(groups) != len(s.Risk) {
				bad("%s: %d curves, %d in the legend, %d rows at risk; result.json has %d groups", name, len(s.Curves), len(s.Legend), len(s.Risk), len(groups))
				continue
			}
			total := 0
			for _, g := range groups {
				total += len(list(sub(g.(map[string]any), "curve"), "time"))
			}
			for k, rawGroup := range groups {
				g, _ := rawGroup.(map[string]any)
				c := sub(g, "curve")
				group := text(g["name"])
				label := group
				if label == "" {
					label = "all patients"
				}
				word(name+": curves", s.Curves[k].Group, group)
				word(name+": legend", s.Legend[k], label)
				word(name+": rows at risk", s.Risk[k].Group, group)
				times, surv, risk := list(c, "time"), list(c, "surv"), list(c, "n_risk")
				word(name+": points of "+group, s.Curves[k].Count, fmt.Sprint(len(times)))
				if total <= 5000 {
					if len(s.Curves[k].Points) != len(times) {
						bad("%s: points of %s: the page has %d, result.json %d", name, group, len(s.Curves[k].Points), len(times))
					} else {
						for j, p := range s.Curves[k].Points {
							number(name+": time of "+group, p.X, times[j])
							number(name+": survival of "+group, p.Y, surv[j])
						}
					}
				}
				for _, cell := range s.Risk[k].Cells {
					for j := range times {
						if text(times[j]) == cell.Time {
							number(name+": at risk in "+group, cell.Risk, risk[j])
							number(name+": at risk in "+group, strings.ReplaceAll(cell.Text, "\u2009", ""), risk[j])
						}
					}
				}
			}
		case "train":
			curves := sub(a, "curves")
			for _, c := range []struct{ key, series, what string }{{"training_loss", "training", "loss"}, {"holdout_loss", "holdout", "loss"},
				{"training_auc", "training", "auc|r²"}, {"holdout_auc", "holdout", "auc|r²"}} {
				type point struct{ round, value string }
				var want, got []point
				for round, v := range list(curves, c.key) {
					if v != nil {
						want = append(want, point{fmt.Sprint(round), text(v)})
					}
				}
				for _, l := range s.Curves {
					if l.Series == c.series && strings.Contains("|"+c.what+"|", "|"+l.What+"|") {
						for _, p := range l.Points {
							got = append(got, point{p.X, p.Y})
						}
					}
				}
				seen.numbers += len(want)
				if fmt.Sprint(got) != fmt.Sprint(want) {
					bad("%s: %s: the page has %v, result.json %v", name, strings.ReplaceAll(c.key, "_", " "), got, want)
				}
			}
		case "logrank":
			for k, rawGroup := range list(a, "groups") {
				g, _ := rawGroup.(map[string]any)
				if len(s.Tables) != 1 || k >= len(s.Tables[0].Rows) || len(s.Tables[0].Rows[k].Cells) != 3 {
					bad("%s: groups: row %d is missing", name, k+1)
					break
				}
				row := s.Tables[0].Rows[k]
				word(name+": groups", row.Name, text(g["name"]))
				number(name+": patients", row.Cells[0], g["n"])
				number(name+": observed", row.Cells[1], g["observed"])
				number(name+": expected", row.Cells[2], g["expected"])
			}
		}
	}
	sites := sub(doc.Result, "sites")
	if n := text(sites["contributed"]); n != "" {
		contributed := 0
		for _, s := range page.Sites {
			if s.Status == "contributed" {
				contributed++
			}
		}
		number("hospitals that contributed", fmt.Sprint(contributed), json.Number(n))
	}
	return problems, seen
}

// writeSample leaves a directory as a study leaves it: result.json and
// report.html.
func writeSample(t *testing.T, dir string, result []byte) {
	t.Helper()
	for name, b := range map[string][]byte{"result.json": result, "report.html": []byte(render(t, result, sampleExtras))} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
