package provenance

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/note"

	fnote "github.com/transparency-dev/formats/note"

	"consilium"
)

// request writes an add-checkpoint body.
func request(old uint64, path []consilium.Digest, checkpoint []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "old %d\n", old)
	for _, h := range path {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	return b.String() + "\n" + string(checkpoint)
}

func post(w http.Handler, body string) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/add-checkpoint", strings.NewReader(body)))
	return rec
}

// The table of c2sp.org/tlog-witness, with a restart after every answer.
func TestWitnessProtocol(t *testing.T) {
	log, err := NewLogKey("log.test/a")
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := NewLogKey("log.test/a")
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := NewLogKey("log.test/unknown")
	if err != nil {
		t.Fatal(err)
	}
	cfg := WitnessConfig{Key: witnessKeys(t, 1)[0], Dir: t.TempDir(), Logs: []string{log.Verifier()}}
	tiles, err := OpenTiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	all := leavesOf(10)
	if err := tiles.Append(all...); err != nil {
		t.Fatal(err)
	}
	sign := func(k *NoteKey, size uint64, root consilium.Digest) []byte {
		cp, err := SignCheckpoint(k.Name(), size, root, k)
		if err != nil {
			t.Fatal(err)
		}
		return cp
	}
	at := func(n uint64) []byte { return sign(log, n, TreeRoot(all[:n])) }
	proof := func(from, to uint64) []consilium.Digest {
		p, err := tiles.Consistency(t.Context(), from, to)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	other := append(leavesOf(3), leavesOf(7)...) // another history
	steps := []struct {
		name   string
		body   string
		status int
		want   string
	}{
		{"unknown log", request(0, nil, sign(unknown, 1, TreeRoot(all[:1]))), 404, ""},
		{"forged", request(0, nil, sign(stranger, 1, TreeRoot(all[:1]))), 403, ""},
		{"not a request", "hello", 400, ""},
		{"not a checkpoint", request(0, nil, []byte("log.test/a\n1\n\n")), 400, ""},
		{"old is not a number", "old x\n\n" + string(at(3)), 400, ""},
		{"old above the size", request(4, nil, at(3)), 400, ""},
		{"proof of nothing", request(0, proof(3, 7), at(3)), 422, ""},
		{"first", request(0, nil, at(3)), 200, "— "},
		{"first again, forgot what was cosigned", request(0, nil, at(3)), 409, "3\n"},
		{"same size", request(3, nil, at(3)), 200, "— "},
		{"split view at the same size", request(3, nil, sign(log, 3, TreeRoot(other[1:4]))), 422, ""},
		{"grown without proof", request(3, nil, at(7)), 422, ""},
		{"grown with the proof of another step", request(3, proof(2, 7), at(7)), 422, ""},
		{"split view with growth", request(3, proof(3, 7), sign(log, 7, TreeRoot(other[:7]))), 422, ""},
		{"grown", request(3, proof(3, 7), at(7)), 200, "— "},
		{"rollback", request(3, nil, at(3)), 409, "7\n"},
		{"rollback that knows the size", request(7, nil, at(3)), 400, ""},
		{"too many proof lines", request(7, make([]consilium.Digest, 64), at(10)), 400, ""},
		{"too large", request(7, proof(7, 10), at(10)) + strings.Repeat("— x AAAA\n", 4000), 400, ""},
		{"grown again", request(7, proof(7, 10), at(10)), 200, "— "},
	}
	v, err := fnote.NewVerifierForCosignatureV1(cfg.Key.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		w, err := OpenWitness(cfg)
		if err != nil {
			t.Fatal(err)
		}
		rec := post(w, s.body)
		if rec.Code != s.status || !strings.HasPrefix(rec.Body.String(), s.want) {
			t.Fatalf("%s: %d %q, want %d %q", s.name, rec.Code, rec.Body.String(), s.status, s.want)
		}
		if rec.Code == http.StatusConflict && rec.Header().Get("Content-Type") != "text/x.tlog.size" {
			t.Errorf("%s: content type %q", s.name, rec.Header().Get("Content-Type"))
		}
		if rec.Code == http.StatusOK {
			_, cp, _ := strings.Cut(s.body, "\n\n")
			if n, err := note.Open([]byte(cp+rec.Body.String()), note.VerifierList(v)); err != nil || len(n.Sigs) != 1 {
				t.Errorf("%s: the cosignature does not verify: %v", s.name, err)
			}
		}
	}
	w, err := OpenWitness(cfg)
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/add-checkpoint", nil))
	if rec.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", rec.Code)
	}
	if rec = post(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { r.URL.Path = "/x"; w.ServeHTTP(rw, r) }), ""); rec.Code != 404 {
		t.Errorf("another path: %d", rec.Code)
	}
}

// Two histories of one size race for a cosignature: one of them gets it.
func TestWitnessCosignsOneHistory(t *testing.T) {
	log, err := NewLogKey("log.test/a")
	if err != nil {
		t.Fatal(err)
	}
	w, err := OpenWitness(WitnessConfig{Key: witnessKeys(t, 1)[0], Dir: t.TempDir(), Logs: []string{log.Verifier()}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ok := make([]bool, 16)
	for i := range ok {
		cp, err := SignCheckpoint(log.Name(), 1, LeafHash([]byte{byte(i)}), log)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { ok[i] = post(w, request(0, nil, cp)).Code == http.StatusOK })
	}
	wg.Wait()
	n := 0
	for _, o := range ok {
		if o {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d histories were cosigned", n)
	}
}

// What a board may sign into a roster and nobody may rest anything on.
func TestRosterWitnesses(t *testing.T) {
	w := witnessKeys(t, 3)
	old, err := NewClassicalWitnessKey("classical.test")
	if err != nil {
		t.Fatal(err)
	}
	good := func() *consilium.Roster {
		r := &consilium.Roster{Board: consilium.Board{Witness: w[0].Verifier()}, Witnessing: &consilium.Witnessing{Quorum: "top"}}
		for i, k := range w {
			r.Witnessing.Witnesses = append(r.Witnessing.Witnesses, consilium.Witness{Name: fmt.Sprintf("w%d", i), Key: k.Verifier(), Address: "https://w.example"})
		}
		r.Witnessing.Groups = []consilium.WitnessGroup{{Name: "boards", Threshold: 1, Members: []string{"w0", "w1"}}, {Name: "top", Threshold: 2, Members: []string{"boards", "w2"}}}
		return r
	}
	p, err := WitnessesOf(good())
	if err != nil {
		t.Fatal(err)
	}
	if again := p.Witnessing(); len(again.Witnesses) != 3 || len(again.Groups) != 2 || again.Quorum != "top" {
		t.Errorf("%+v", again)
	}
	for _, x := range []struct {
		who  []string
		want bool
	}{{[]string{"w0", "w2"}, true}, {[]string{"w1", "w2"}, true}, {[]string{"w0", "w1"}, false}, {[]string{"w2"}, false}, {nil, false}, {[]string{"boards", "top"}, false}} {
		names := map[string]bool{}
		for _, n := range x.who {
			names[n] = true
		}
		if met, err := p.Met(names); err != nil || met != x.want {
			t.Errorf("%v: %v %v", x.who, met, err)
		}
	}
	for name, edit := range map[string]func(*consilium.Roster){
		"no witness at all":        func(r *consilium.Roster) { r.Witnessing, r.Board.Witness = nil, "" },
		"the board's is not there": func(r *consilium.Roster) { r.Witnessing.Witnesses[0].Key = old.Verifier() },
		"nobody":                   func(r *consilium.Roster) { r.Witnessing.Witnesses = nil },
		"no quorum":                func(r *consilium.Roster) { r.Witnessing.Quorum = "" },
		"an unknown quorum":        func(r *consilium.Roster) { r.Witnessing.Quorum = "none" },
		"a group of none":          func(r *consilium.Roster) { r.Witnessing.Groups[0].Threshold = 0 },
		"more than there are":      func(r *consilium.Roster) { r.Witnessing.Groups[0].Threshold = 3 },
		"one witness twice":        func(r *consilium.Roster) { r.Witnessing.Witnesses[1].Key = w[0].Verifier() },
		"one member twice":         func(r *consilium.Roster) { r.Witnessing.Groups[1].Members[1] = "w0" },
		"a stranger in a group":    func(r *consilium.Roster) { r.Witnessing.Groups[1].Members[1] = "w9" },
		"no address":               func(r *consilium.Roster) { r.Witnessing.Witnesses[2].Address = "" },
		"an address with a line":   func(r *consilium.Roster) { r.Witnessing.Witnesses[2].Address = "http://w\nquorum w2" },
		"a classical quorum": func(r *consilium.Roster) {
			r.Witnessing.Witnesses[2].Key, r.Witnessing.Quorum = old.Verifier(), "w2"
		},
	} {
		r := good()
		edit(r)
		if p, err := WitnessesOf(r); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
}
