package provenance

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/mldsa"
	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/formats/proof"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"consilium"
	"consilium/internal/canon"
)

// Truths that we did not write: the examples of the specifications, verified
// by our own readers, and our own documents, verified by others' readers.

// The example of RFC 9162 §2.1.5: the tree of seven leaves, whose paths the
// text gives by name.
func TestRFC9162Example(t *testing.T) {
	d := leavesOf(7)
	a, b, c, e, f, j := d[0], d[1], d[2], d[4], d[5], d[6]
	g, h, i := NodeHash(a, b), NodeHash(c, d[3]), NodeHash(e, f)
	k, l := NodeHash(g, h), NodeHash(i, j)
	root := NodeHash(k, l)
	if TreeRoot(d) != root {
		t.Fatal("another root")
	}
	for index, path := range map[int][]consilium.Digest{
		0: {b, h, l}, 3: {c, g, l}, 4: {f, j, k}, 6: {i, k},
	} {
		if got := inclusionProof(d, index); !equalPaths(got, path) {
			t.Errorf("d%d: path of %d hashes, want %d", index, len(got), len(path))
		}
		if err := VerifyInclusion(d[index], uint64(index), 7, path, root); err != nil {
			t.Errorf("d%d: %v", index, err)
		}
	}
	hash0, hash1, hash2 := TreeRoot(d[:3]), k, TreeRoot(d[:6])
	for _, x := range []struct {
		size uint64
		root consilium.Digest
		path []consilium.Digest
	}{
		{3, hash0, []consilium.Digest{c, d[3], g, l}},
		{4, hash1, []consilium.Digest{l}},
		{6, hash2, []consilium.Digest{i, j, k}},
	} {
		if err := VerifyConsistency(x.size, x.root, 7, root, x.path); err != nil {
			t.Errorf("PROOF(%d, D[7]): %v", x.size, err)
		}
	}
}

func equalPaths(a, b []consilium.Digest) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// The published example of signed notes (golang.org/x/mod/sumdb/note), and
// published verifier keys of all three types that rosters may name. The C2SP
// pages print notes without the keys that sign them.
func TestPublishedNotes(t *testing.T) {
	const vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
	const secret = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
	const signed = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
	k, err := ParseNoteKey(secret)
	if err != nil || k.Verifier() != vkey {
		t.Fatal(err)
	}
	v, err := parseVKey(vkey, algEd25519)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open([]byte(signed), note.VerifierList(v))
	if err != nil {
		t.Fatal(err)
	}
	again, err := note.Sign(&note.Note{Text: n.Text}, k.signer) // Ed25519 is deterministic
	if err != nil || string(again) != signed {
		t.Errorf("%v %s", err, again)
	}
	if _, err := parseVKey("remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2", algEd25519Cosigner); err != nil {
		t.Error(err)
	}
	if _, err := parseVKey("remora.n621.de+da77ade8+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2", algEd25519Cosigner); err == nil {
		t.Error("a key with another number was accepted")
	}
	// The request that c2sp.org/tlog-witness prints.
	old, path, cp, err := parseAddCheckpoint([]byte("old 20852014\nPlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\njrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n" +
		"5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n\nexample.com/behind-the-sofa\n20852163\n" +
		"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n" +
		"— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=\n"))
	if err != nil || old != 20852014 || len(path) != 4 {
		t.Fatalf("%d %d %v", old, len(path), err)
	}
	if c, err := ParseCheckpoint(cp); err != nil || c.Origin != "example.com/behind-the-sofa" || c.Size != 20852163 {
		t.Errorf("%+v %v", c, err)
	}
}

// moduleDir is where a dependency's files lie, its test data included.
func moduleDir(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", path).Output()
	if err != nil {
		t.Fatalf("go list -m %s: %v", path, err)
	}
	return strings.TrimSpace(string(out))
}

// RFC 8785: the test data of the RFC's own implementations.
func TestJCSVectors(t *testing.T) {
	dir := filepath.Join(moduleDir(t, "github.com/gowebpki/jcs"), "testdata")
	files, err := filepath.Glob(filepath.Join(dir, "input", "*.json"))
	if err != nil || len(files) < 6 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, path := range files {
		name := filepath.Base(path)
		in, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(dir, "output", name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := canon.Marshal(json.RawMessage(in))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v\n got %s\nwant %s", name, err, got, want)
		}
		if len(want) > 0 && want[0] == '{' {
			if err := canon.Check(want); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if h, err := os.ReadFile(filepath.Join(dir, "outhex", strings.TrimSuffix(name, ".json")+".txt")); err == nil {
			raw, err := hex.DecodeString(strings.Join(strings.Fields(string(h)), ""))
			if err != nil || !bytes.Equal(raw, got) {
				t.Errorf("%s: the bytes differ from the published ones: %v", name, err)
			}
		}
	}
}

// A receipt proves the same to readers that share no code with ours: JSON and
// SHA-256 of the standard library, signed notes and trees of golang.org/x/mod,
// ML-DSA of filippo.io/mldsa, the format of c2sp.org/tlog-proof.
func TestReceiptBySecondImplementation(t *testing.T) {
	rec := record(t, testRows())
	h := newHospital(t)
	b := h.anchor(testRows())
	g := h.gate(nil)
	h.verify(g, rec)
	r, err := g.Receipt(t.Context(), h.ledger, b, rec, 3, h.salts)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	check := func(raw []byte, proofBytes []byte, entry []byte) string {
		var doc struct {
			Row, Header []byte
			Salt        string
			Leaf        int64
			Path        []string
			Columns     []struct{ Name, Type, Unit, Code, View string }
		}
		if err := json.Unmarshal(raw, &doc); err != nil {
			return err.Error()
		}
		var head struct {
			N            int64
			Root, Schema string
		}
		if err := json.Unmarshal(doc.Header, &head); err != nil {
			return err.Error()
		}
		digest := func(s string) (d tlog.Hash) { b, _ := hex.DecodeString(s); copy(d[:], b); return d }
		schema, salt, root := digest(head.Schema), digest(doc.Salt), digest(head.Root)
		pre := append(append(append([]byte{0}, schema[:]...), salt[:]...), doc.Row...)
		var path tlog.RecordProof
		for _, p := range doc.Path {
			path = append(path, digest(p))
		}
		if err := tlog.CheckRecord(path, head.N, root, doc.Leaf, tlog.Hash(sha256.Sum256(pre))); err != nil {
			return "row: " + err.Error()
		}
		var p proof.TLogProof
		if err := p.Unmarshal(proofBytes); err != nil {
			return "tlog-proof: " + err.Error()
		}
		log, err := note.NewVerifier(h.log.Verifier())
		if err != nil {
			return err.Error()
		}
		board, err := fnote.NewMLDSAVerifier(h.board.Verifier())
		if err != nil {
			return err.Error()
		}
		n, err := note.Open(p.Checkpoint, note.VerifierList(log, board))
		if err != nil || len(n.Sigs) != 2 {
			return "checkpoint: not by log and witness"
		}
		tree, err := tlog.ParseTree([]byte("go.sum database tree\n" + strings.SplitN(n.Text, "\n", 2)[1]))
		if err != nil {
			return err.Error()
		}
		var inclusion tlog.RecordProof
		for _, x := range p.Hashes {
			inclusion = append(inclusion, tlog.Hash(x))
		}
		if err := tlog.CheckRecord(inclusion, tree.N, tree.Hash, int64(p.Index), tlog.RecordHash(entry)); err != nil {
			return "entry: " + err.Error()
		}
		return ""
	}
	if why := check(raw, r.TLogProof(), r.LedgerEntry()); why != "" {
		t.Fatal(why)
	}
	if ours, err := r.Verify(ReceiptPolicy{Ledger: h.log.Verifier(), Sites: []consilium.PublicKey{h.key.Public()}, Witnesses: h.policy()}); err != nil || ours.Values[1].Text != "44" {
		t.Fatal(err)
	}
	// What ours refuses, so does the other.
	for name, change := range map[string]func(r *Receipt){
		"row": func(r *Receipt) {
			r.Row = append(bytes.Clone(r.Row[:20]), append([]byte{r.Row[20] ^ 1}, r.Row[21:]...)...)
		},
		"salt":  func(r *Receipt) { r.Salt[0] ^= 1 },
		"index": func(r *Receipt) { r.Leaf ^= 1 },
		"entry": func(r *Receipt) { r.Proof = append(r.Proof, r.Salt) },
	} {
		bad := *r
		change(&bad)
		raw, err := bad.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if check(raw, bad.TLogProof(), bad.LedgerEntry()) == "" {
			t.Errorf("%s: the second implementation accepts it", name)
		}
		if _, err := bad.Verify(ReceiptPolicy{Ledger: h.log.Verifier(), Sites: []consilium.PublicKey{h.key.Public()}, Witnesses: h.policy()}); err == nil {
			t.Errorf("%s: ours accepts it", name)
		}
	}
}

// A witness with two keys gives two cosignatures, each in its own format: the
// bytes that c2sp.org/tlog-cosignature says are signed, checked by hand.
func TestCosignatureBytes(t *testing.T) {
	log, err := NewLogKey("log.test/a")
	if err != nil {
		t.Fatal(err)
	}
	old, err := NewClassicalWitnessKey("witness.test/old")
	if err != nil {
		t.Fatal(err)
	}
	pq := witnessKeys(t, 1)[0]
	w, err := OpenWitness(WitnessConfig{Key: pq, Also: []*NoteKey{old}, Dir: t.TempDir(), Logs: []string{log.Verifier()}})
	if err != nil {
		t.Fatal(err)
	}
	leaves := leavesOf(5)
	cp, err := SignCheckpoint(log.Name(), 5, TreeRoot(leaves), log)
	if err != nil {
		t.Fatal(err)
	}
	rec := post(w, request(0, nil, cp))
	if rec.Code != 200 || strings.Count(rec.Body.String(), "\n") != 2 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	v1, err := fnote.NewVerifierForCosignatureV1(old.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	v2, err := fnote.NewVerifierForCosignatureV1(pq.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(append(bytes.Clone(cp), rec.Body.Bytes()...), note.VerifierList(v1, v2))
	if err != nil || len(n.Sigs) != 2 {
		t.Fatalf("%v", err)
	}
	for _, s := range n.Sigs {
		raw, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil {
			t.Fatal(err)
		}
		at, err := fnote.CoSigV1Timestamp(s)
		if err != nil || time.Since(at) > time.Minute {
			t.Errorf("%s: %v %v", s.Name, at, err)
		}
		if s.Name != pq.Name() {
			if len(raw) != 4+8+64 {
				t.Errorf("cosignature/v1 of %d bytes", len(raw))
			}
			continue
		}
		// timestamp || ML-DSA-44 over subtree/v1, by another implementation's words.
		key, err := base64.StdEncoding.DecodeString(strings.SplitN(pq.Verifier(), "+", 3)[2])
		if err != nil {
			t.Fatal(err)
		}
		pub, err := mldsa.NewPublicKey(mldsa.MLDSA44(), key[1:])
		if err != nil {
			t.Fatal(err)
		}
		root := TreeRoot(leaves)
		m := append([]byte("subtree/v1\n\x00"), byte(len(s.Name)))
		m = append(m, s.Name...)
		m = append(m, raw[4:12]...)
		m = append(m, byte(len(log.Name())))
		m = append(m, log.Name()...)
		m = append(m, make([]byte, 8)...)
		m = append(m, 0, 0, 0, 0, 0, 0, 0, 5)
		m = append(m, root[:]...)
		if err := mldsa.Verify(pub, m, raw[12:], nil); err != nil {
			t.Errorf("ML-DSA-44 cosignature: %v", err)
		}
	}
	if _, err := OpenWitness(WitnessConfig{Key: old, Dir: t.TempDir()}); err == nil {
		t.Error("a witness with a classical key alone was opened")
	}
}
