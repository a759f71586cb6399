package provenance

import (
	"bytes"
	"testing"
	"time"

	"consilium"
	"consilium/internal/hybrid"
)

// Every decoder: what it accepts, it encodes to the same bytes.

func fuzzKey(f *testing.F) *hybrid.Key {
	f.Helper()
	k, err := hybrid.FromSeed(make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	return k
}

func fuzzDraft(f *testing.F) *Draft {
	f.Helper()
	d, err := NewBatch(record(f, testRows()), NewSalts(), BatchOptions{Origin: "consilium.test/a", Stream: NewID(), From: 1, To: 2,
		Supersedes: []LeafRef{{Batch: NewID(), Leaf: 3}}})
	if err != nil {
		f.Fatal(err)
	}
	return d
}

func FuzzEntry(f *testing.F) {
	k := fuzzKey(f)
	sh, err := SignHeader(k, fuzzDraft(f).Payload)
	if err != nil {
		f.Fatal(err)
	}
	rec, err := SignRecord(k, &AuditRecord{Type: RecordUse, Time: 1, Digests: map[string]consilium.Digest{"a": {}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sh.Entry())
	f.Add(rec)
	f.Add([]byte("consilium/batch/v1\n{}\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEntry(b)
		if err != nil {
			return
		}
		if !bytes.Equal(e.Encode(), b) {
			t.Error("another encoding")
		}
		if h, err := ParseSignedHeader(b); err == nil && !bytes.Equal(h.Entry(), b) {
			t.Error("another header")
		}
		ParseRecord(e.Payload)
	})
}

func FuzzHeader(f *testing.F) {
	f.Add(fuzzDraft(f).Payload)
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := ParseHeader(b); err == nil && h.validate() != nil {
			t.Error("accepted and not valid")
		}
		if r, err := ParseRecord(b); err == nil && r.validate() != nil {
			t.Error("accepted and not valid")
		}
	})
}

func FuzzManifest(f *testing.F) {
	m := fuzzDraft(f).Manifest
	m.Erase(pseudonym(f, "p1"))
	f.Add(m.Marshal())
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := ParseManifest(b); err == nil && !bytes.Equal(m.Marshal(), b) {
			t.Error("another encoding")
		}
	})
}

func FuzzEdge(f *testing.F) {
	e := &Edge{}
	for i := 0; i < 7; i++ {
		f.Add(e.Marshal())
		e.AppendData([]byte{byte(i)})
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEdge(b)
		if err != nil {
			return
		}
		if !bytes.Equal(e.Marshal(), b) {
			t.Error("another encoding")
		}
		e.Root()
		e.AppendData(nil)
	})
}

func FuzzSalts(f *testing.F) {
	s := NewSalts()
	if err := s.Ensure(pseudonym(f, "a"), pseudonym(f, "b")); err != nil {
		f.Fatal(err)
	}
	f.Add(encodeSalts(s.keys))
	f.Fuzz(func(t *testing.T, b []byte) {
		if keys, err := parseSalts(b); err == nil && !bytes.Equal(encodeSalts(keys), b) {
			t.Error("another encoding")
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	log, err := NewLogKey("log.test/a")
	if err != nil {
		f.Fatal(err)
	}
	w, err := NewWitnessKey("w")
	if err != nil {
		f.Fatal(err)
	}
	cp, err := SignCheckpoint("log.test/a", 3, LeafHash(nil), log, w)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cp)
	f.Add([]byte("a\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— x AAAA\n"))
	p, err := CheckpointPolicy{Log: log.Verifier(), Witnesses: SingleWitness(w.Verifier(), "")}.compile()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCheckpoint(b)
		if err == nil && !bytes.HasPrefix(b, []byte(checkpointBody(c.Origin, c.Size, c.Root)+"\n")) {
			t.Error("another body")
		}
		if v, err2 := p.verify(b, time.Now()); err2 == nil && (err != nil || v.Root != c.Root) {
			t.Error("verified and not parsed")
		}
		MergeCheckpoints(cp, b)
	})
}

func FuzzAddCheckpoint(f *testing.F) {
	f.Add([]byte("old 3\n" + "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\ncheckpoint"))
	f.Fuzz(func(t *testing.T, b []byte) {
		old, path, cp, err := parseAddCheckpoint(b)
		if err == nil && request(old, path, cp) != string(b) {
			t.Error("another encoding")
		}
	})
}

func FuzzWitnessPolicy(f *testing.F) {
	w, err := NewWitnessKey("w")
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("witness a " + w.Verifier() + "\ngroup g any a\nquorum g\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseWitnessPolicy(b, time.Hour)
		if err != nil {
			return
		}
		if c, err := p.compile(); err != nil || c.met(make([]bool, len(c.verifiers))) {
			t.Errorf("met by nobody: %v", err)
		}
	})
}

func FuzzSignedDoc(f *testing.F) {
	k := fuzzKey(f)
	p := pseudonym(f, "p1")
	d, err := SignConsent(k, consentFor("general"), p)
	if err != nil {
		f.Fatal(err)
	}
	w, err := SignWithdrawal(k, Withdrawal{Site: "amsterdam", At: 1}, p)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(d.Encode())
	f.Add(w.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := ParseSignedDoc(b); err == nil && !bytes.Equal(d.Encode(), b) {
			t.Error("another encoding")
		}
		if s, err := parseStored(b); err == nil && !bytes.Equal(s.encode(), b) {
			t.Error("another encoding")
		}
		parseConsentFile(&KEK{}, b)
	})
}

func FuzzReceipt(f *testing.F) {
	f.Add([]byte(`{"apiVersion":"consilium/v1"}`))
	r := Receipt{APIVersion: consilium.APIVersion, Kind: "Receipt", Columns: []Column{{Name: "patient", Type: "fixed(16)"}}, Row: make([]byte, 17),
		Path: []consilium.Digest{{}}, Header: fuzzDraft(f).Payload, Proof: []consilium.Digest{}, Checkpoint: "x\n"}
	b, err := r.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReceipt(b)
		if err != nil {
			return
		}
		if again, err := r.Marshal(); err != nil || !bytes.Equal(again, b) {
			t.Error("another encoding")
		}
		if _, err := r.Verify(ReceiptPolicy{}); err == nil {
			t.Error("believed by nobody's key")
		}
	})
}

// DecodeRow accepts exactly what append makes: no two byte strings hold the
// same row.
func FuzzDecodeRow(f *testing.F) {
	rec := record(f, testRows())
	cols, err := Columns(rec.Schema())
	if err != nil {
		f.Fatal(err)
	}
	b, err := CanonicalRow(rec, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if values, err := DecodeRow(cols, b); err == nil && len(values) != len(cols) {
			t.Error("a row of another length")
		}
	})
}
