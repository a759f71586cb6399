package provenance

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"consilium"
)

func witnessKeys(t testing.TB, n int) []*NoteKey {
	t.Helper()
	out := make([]*NoteKey, n)
	for i := range out {
		var err error
		if out[i], err = NewWitnessKey(fmt.Sprintf("witness-%d.test", i)); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestNoteKeys(t *testing.T) {
	log, err := NewLogKey("log.test/a")
	if err != nil {
		t.Fatal(err)
	}
	old, err := NewClassicalWitnessKey("old.test/w")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range append(witnessKeys(t, 1), log, old) {
		again, err := ParseNoteKey(k.Secret())
		if err != nil || again.Verifier() != k.Verifier() || again.Name() != k.Name() {
			t.Fatalf("%s does not survive its encoding: %v", k.Name(), err)
		}
		raw := strings.SplitN(k.Secret(), "+", 5)[4]
		for _, s := range []string{fmt.Sprintf("%v %+v %#v %s %q %x", k, k, k, k, k, k), fmt.Sprint(*k), fmt.Sprintf("%+v", struct{ K *NoteKey }{k})} {
			if strings.Contains(s, raw[4:20]) || !strings.Contains(s, "redacted") {
				t.Errorf("a secret is printed: %s", s)
			}
		}
	}
	if n, err := LogName(log.Verifier()); err != nil || n != "log.test/a" {
		t.Errorf("LogName = %q, %v", n, err)
	}
	for _, bad := range []string{"", "PRIVATE+KEY+a+00000000+", "PRIVATE+KEY+a b+00000000+AQ==", log.Verifier(), strings.Replace(log.Secret(), "log.test/a", "log.test/b", 1), log.Secret() + "AA"} {
		if _, err := ParseNoteKey(bad); err == nil {
			t.Errorf("ParseNoteKey(%.40q) accepted", bad)
		}
	}
	for _, bad := range []string{"", "a b", "a+b", strings.Repeat("a", 300), "naïve"} {
		if _, err := NewLogKey(bad); err == nil {
			t.Errorf("NewLogKey(%.40q) accepted", bad)
		}
	}
	// A roster entry with one wrong character is refused before it is trusted.
	wrong := strings.Replace(log.Verifier(), "log.test/a", "log.test/b", 1)
	if _, err := LogName(wrong); err == nil {
		t.Error("a verifier key of another name was accepted")
	}
}

func TestCheckpointNeedsLogAndQuorum(t *testing.T) {
	log, err := NewLogKey("log.test/a")
	if err != nil {
		t.Fatal(err)
	}
	w := witnessKeys(t, 4)
	root := LeafHash([]byte("x"))
	var text strings.Builder
	for i, k := range w {
		fmt.Fprintf(&text, "witness w%d %s http://localhost/%d\n", i, k.Verifier(), i)
	}
	text.WriteString("# two boards of which one is needed, and an auditor\ngroup boards any w0 w1\ngroup pair 2 w2 w3\ngroup top all boards pair\nquorum top\n")
	policy, err := ParseWitnessPolicy([]byte(text.String()), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseWitnessPolicy([]byte(policy.text()), time.Hour)
	if err != nil || again.text() != policy.text() {
		t.Fatalf("the policy does not survive its text: %v", err)
	}
	p := CheckpointPolicy{Log: log.Verifier(), Witnesses: policy}
	now := time.Now()
	check := func(keys ...*NoteKey) error {
		cp, err := SignCheckpoint("log.test/a", 1, root, keys...)
		if err != nil {
			t.Fatal(err)
		}
		c, err := VerifyCheckpoint(cp, p, now)
		if err == nil && (c.Size != 1 || c.Root != root || c.Origin != "log.test/a" || c.Time.IsZero()) {
			t.Errorf("checkpoint %+v", c)
		}
		return err
	}
	for _, c := range []struct {
		keys []*NoteKey
		want error
	}{
		{[]*NoteKey{log, w[0], w[2], w[3]}, nil},
		{[]*NoteKey{log, w[1], w[2], w[3]}, nil},
		{[]*NoteKey{log, w[0], w[1], w[2], w[3]}, nil},
		{[]*NoteKey{log, w[0], w[1], w[2]}, ErrQuorum},
		{[]*NoteKey{log, w[2], w[3]}, ErrQuorum},
		{[]*NoteKey{log}, ErrQuorum},
		{[]*NoteKey{w[0], w[2], w[3]}, consilium.ErrLedger}, // the log itself is missing
	} {
		if err := check(c.keys...); !errors.Is(err, c.want) {
			t.Errorf("%d keys: %v, want %v", len(c.keys), err, c.want)
		}
	}
	// Two hours later the same cosignatures no longer count; nor from the future.
	cp, err := SignCheckpoint("log.test/a", 1, root, log, w[0], w[2], w[3])
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []time.Time{now.Add(2 * time.Hour), now.Add(-2 * time.Hour)} {
		if _, err := VerifyCheckpoint(cp, p, at); !errors.Is(err, ErrStaleCheckpoint) || !errors.Is(err, consilium.ErrLedger) {
			t.Errorf("at %v: %v, want stale", at.Sub(now), err)
		}
	}
	any := p
	any.Witnesses = policy.AnyAge()
	if _, err := VerifyCheckpoint(cp, any, now.Add(1e6*time.Hour)); err != nil {
		t.Errorf("archive: %v", err)
	}
	// Every byte counts. A flip can only be harmless in the name or key hash of
	// a signature that the quorum does not need; here all are needed.
	for i := 0; i < len(cp); i += 1 + i/300*6 { // all of the text, every few of the signatures
		bad := bytes.Clone(cp)
		bad[i] ^= 1
		if _, err := VerifyCheckpoint(bad, p, now); err == nil {
			t.Fatalf("byte %d (%q) may change", i, cp[i])
		}
	}
	merged, err := func() ([]byte, error) {
		a, err := SignCheckpoint("log.test/a", 1, root, log, w[0])
		if err != nil {
			return nil, err
		}
		b, err := SignCheckpoint("log.test/a", 1, root, w[0], w[2])
		if err != nil {
			return nil, err
		}
		if a, err = MergeCheckpoints(a, b); err != nil {
			return nil, err
		}
		return Cosign(a, w[3])
	}()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyCheckpoint(merged, p, now); err != nil {
		t.Errorf("merged: %v", err)
	}
	other, err := SignCheckpoint("log.test/a", 2, root, w[1])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := MergeCheckpoints(merged, other); err == nil {
		t.Error("merged the checkpoints of two trees")
	}
	if _, err := SignCheckpoint("log.test/b", 1, root, log); err == nil {
		t.Error("a log key signed for another origin")
	}
}

func TestWitnessPolicies(t *testing.T) {
	w := witnessKeys(t, 2)
	c, err := NewClassicalWitnessKey("classical.test/w")
	if err != nil {
		t.Fatal(err)
	}
	// The same key under another name, with the number that fits it.
	renamed := w[0].Verifier()
	key, err := base64.StdEncoding.DecodeString(strings.SplitN(renamed, "+", 3)[2])
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256(append([]byte("other.test/w\n"), key...))
	renamed = fmt.Sprintf("other.test/w+%x+%s", hash[:4], base64.StdEncoding.EncodeToString(key))
	old := "witness old " + c.Verifier() + "\n"
	a, b := "witness a "+w[0].Verifier()+"\n", "witness b "+w[1].Verifier()+" http://localhost/\n"
	for name, text := range map[string]string{
		"no quorum":           a,
		"quorum of nobody":    a + "quorum none\n",
		"unknown quorum":      a + "quorum b\n",
		"unknown member":      a + "group g any b\nquorum g\n",
		"too many of":         a + b + "group g 3 a b\nquorum g\n",
		"none of":             a + b + "group g 0 a b\nquorum g\n",
		"member twice":        a + "group g 2 a a\nquorum g\n",
		"name twice":          a + a + "quorum a\n",
		"key twice":           a + "witness c " + w[0].Verifier() + "\ngroup g 2 a c\nquorum g\n",
		"key renamed":         a + "witness c " + renamed + "\ngroup g 2 a c\nquorum g\n",
		"in two groups":       a + b + "group g 1 a\ngroup h 2 a g b\nquorum h\n",
		"classical alone":     a + old + "group g any a old\nquorum g\n",
		"only classical":      old + "quorum old\n",
		"quorum before":       a + "quorum g\ngroup g any a\n",
		"control character":   a + "quorum a\v\n",
		"group before member": "group g any a\n" + a + "quorum g\n",
		"keyword":             "witness any " + w[0].Verifier() + "\nquorum any\n",
		"two quorums":         a + b + "quorum a\nquorum b\n",
		"unknown word":        a + "quorum a\nwatcher a\n",
	} {
		if _, err := ParseWitnessPolicy([]byte(text), 0); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := ParseWitnessPolicy([]byte(a+b+"log x\ngroup g any a b\n\n # done\nquorum g\n"), 0); err != nil {
		t.Error(err)
	}
	if _, err := ParseWitnessPolicy([]byte(a+old+"group g all a old\nquorum g\n"), 0); err != nil {
		t.Errorf("a classical witness beside another: %v", err)
	}
	if _, err := (WitnessPolicy{}).compile(); err == nil {
		t.Error("the empty policy trusts nobody's word, so it must be refused")
	}
	log, err := NewLogKey("log.test/a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := SingleWitness(log.Verifier(), "").compile(); err == nil {
		t.Error("a log's key serves as witness")
	}
}

// The coordinators' audit log: no log key, but t of n nodes.
func TestNodesCosignTheAuditLog(t *testing.T) {
	nodes := witnessKeys(t, 3)
	var p WitnessPolicy
	g := WitnessGroup{Name: "nodes", Threshold: 2}
	for i, k := range nodes {
		name := fmt.Sprint("n", i)
		p.Witnesses = append(p.Witnesses, WitnessKey{Name: name, Key: k.Verifier()})
		g.Members = append(g.Members, name)
	}
	p.Groups, p.Quorum = []WitnessGroup{g}, "nodes"
	policy := CheckpointPolicy{Origin: "consilium.test/audit", Witnesses: p}
	cp, err := SignCheckpoint("consilium.test/audit", 0, EmptyRoot(), nodes[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyCheckpoint(cp, policy, time.Now()); !errors.Is(err, ErrQuorum) {
		t.Errorf("one node: %v", err)
	}
	if cp, err = Cosign(cp, nodes[2]); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyCheckpoint(cp, policy, time.Now()); err != nil {
		t.Error(err)
	}
	policy.Origin = "consilium.test/other"
	if _, err := VerifyCheckpoint(cp, policy, time.Now()); err == nil {
		t.Error("another log's checkpoint was accepted")
	}
}

// The time of a checkpoint is when a quorum last was complete, whatever older
// cosignatures stand beside it.
func TestTimeOfTheQuorum(t *testing.T) {
	w := witnessKeys(t, 3)
	p := WitnessPolicy{Groups: []WitnessGroup{{Name: "two", Threshold: 2, Members: []string{"w0", "w1", "w2"}}}, Quorum: "two", MaxAge: -1}
	for i, k := range w {
		p.Witnesses = append(p.Witnesses, WitnessKey{Name: fmt.Sprintf("w%d", i), Key: k.Verifier()})
	}
	c, err := p.compile()
	if err != nil {
		t.Fatal(err)
	}
	at := func(s ...int64) (out []time.Time) {
		for _, x := range s {
			out = append(out, time.Unix(x, 0))
		}
		return out
	}
	for _, x := range []struct {
		fresh []bool
		times []time.Time
		want  int64
	}{
		{[]bool{true, true, true}, at(100, 900, 800), 800}, // the naive twin says 100
		{[]bool{true, true, false}, at(100, 900, 999), 100},
		{[]bool{true, true, true}, at(900, 100, 100), 100}, // one new cosignature makes nothing young
	} {
		if got := c.since(x.fresh, x.times); got.Unix() != x.want {
			t.Errorf("%v: %d, want %d", x.times, got.Unix(), x.want)
		}
	}
}
