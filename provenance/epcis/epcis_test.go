package epcis

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const suite = "../../../shared/data/suites/epcis-event-hash"

// stale are the lines of the suite that are not the text of the hash that the
// suite itself lists for the same event (checked below), and one text whose
// document the suite does not hold.
var stale = map[string]bool{"epcisDocWithAllGS1Keys 0": true, "epcisDocWithCustomSchemaInContext 1": true,
	"epcisDocWithDefaultSchemaInContext 1": true, "epcisDocHavingTooManyUserExtensions 0": true}

func lines(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Split(strings.TrimPrefix(string(b), "\ufeff"), "\n"), func(s string) bool { return strings.TrimSpace(s) == "" })
}

// Every event of the public suite, in XML and in JSON-LD, hashes to the
// published value.
func TestPublicVectors(t *testing.T) {
	names, err := filepath.Glob(filepath.Join(suite, "*.hashes"))
	if err != nil || len(names) == 0 {
		t.Skip("needs the public suite epcis-event-hash beside the repository")
	}
	documents, events, texts := 0, 0, 0
	found := map[string]bool{}
	for _, path := range names {
		base := strings.TrimSuffix(path, ".hashes")
		name := filepath.Base(base)
		hashes, prehashes := lines(t, path), lines(t, base+".prehashes")
		read := 0
		for _, ext := range []string{".jsonld", ".xml"} {
			doc, err := os.ReadFile(base + ext)
			if os.IsNotExist(err) {
				continue
			}
			read++
			documents++
			got, err := Parse(doc)
			if err != nil {
				t.Errorf("%s%s: %v", name, ext, err)
				continue
			}
			if len(got) != len(hashes) {
				t.Errorf("%s%s: %d events, %d hashes", name, ext, len(got), len(hashes))
				continue
			}
			for i := range got {
				events++
				if got[i].Hash() != strings.TrimSpace(hashes[i]) {
					want := ""
					if i < len(prehashes) {
						want = prehashes[i]
					}
					t.Errorf("%s%s: event %d: hash %s, want %s\n got %s\nwant %s", name, ext, i+1, got[i].Hash(), hashes[i], got[i].Prehash, want)
				}
				if i >= len(prehashes) {
					continue
				}
				key := name + " " + string(rune('0'+i))
				if text := (Event{Prehash: prehashes[i]}); text.Hash() != strings.TrimSpace(hashes[i]) {
					if !stale[key] {
						t.Errorf("%s: the suite's text %d is not the text of its hash", name, i)
					}
					found[key] = true
					continue
				}
				texts++
				if got[i].Prehash != prehashes[i] {
					t.Errorf("%s%s: event %d: text differs", name, ext, i+1)
				}
			}
		}
		if read == 0 {
			t.Errorf("%s: no document", name)
		}
	}
	if len(lines(t, filepath.Join(suite, "epcisDocHavingTooManyUserExtensions.hashes"))) == 0 {
		found["epcisDocHavingTooManyUserExtensions 0"] = true
	}
	for key := range stale {
		if !found[key] {
			t.Errorf("%s is listed as stale and is not", key)
		}
	}
	t.Logf("%d documents, %d events, %d canonical texts", documents, events, texts)
	if documents != 39 || events != 89 {
		t.Errorf("only %d documents and %d events", documents, events)
	}
}

const anEvent = `{"@context":["x",{"ex":"https://ex.example/"}],"type":"ObjectEvent","eventTime":"2026-01-02T03:04:05+01:00",
 "eventTimeZoneOffset":"+01:00","epcList":["urn:epc:id:sgtin:4012345.011111.9876"],"action":"OBSERVE","bizStep":"shipping","ex:lot":"A 7"}`

// What does not change the event does not change its name, and what does, does.
func TestOneNameForOneEvent(t *testing.T) {
	hash := func(doc string) string {
		t.Helper()
		e, err := Parse([]byte(doc))
		if err != nil || len(e) != 1 {
			t.Fatalf("%v, %d events", err, len(e))
		}
		return e[0].Hash()
	}
	want := hash(anEvent)
	for name, same := range map[string][2]string{
		"moment":       {"2026-01-02T03:04:05+01:00", "2026-01-02T02:04:05.0000Z"},
		"key":          {"urn:epc:id:sgtin:4012345.011111.9876", "https://example.com/gtin/04012345111118/ser/9876?x=1"},
		"lot and item": {"urn:epc:id:sgtin:4012345.011111.9876", "https://example.com/01/04012345111118/10/L1/21/9876"},
		"vocabulary":   {`"shipping"`, `"urn:epcglobal:cbv:bizstep:shipping"`},
		"prefix":       {`"shipping"`, `"cbv:BizStep-shipping"`},
		"event id":     {`"type":"ObjectEvent"`, `"eventID":"urn:uuid:1","recordTime":"2027-01-01T00:00:00Z","type":"ObjectEvent"`},
	} {
		if !strings.Contains(anEvent, same[0]) {
			t.Fatal(name)
		}
		if got := hash(strings.Replace(anEvent, same[0], same[1], 1)); got != want {
			t.Errorf("%s: another name", name)
		}
	}
	for name, other := range map[string][2]string{
		"moment": {"03:04:05", "03:04:06"}, "key": {"9876", "9877"}, "step": {"shipping", "receiving"}, "extension": {"A 7", "A 8"},
		"namespace": {"https://ex.example/", "https://ey.example/"}, "type": {"ObjectEvent", "TransactionEvent"}, "action": {"OBSERVE", "ADD"},
	} {
		if got := hash(strings.Replace(anEvent, other[0], other[1], 1)); got == want {
			t.Errorf("%s: the same name", name)
		}
	}
	// A document cannot have a field of the standard ignored.
	doc := `{"@context":[{"r":"https://r.example/"}],"r:ignoreFields":["bizStep","r:note"],"epcisBody":{"eventList":[` + anEvent + `]}}`
	if got := hash(doc); got == hash(strings.Replace(doc, "shipping", "receiving", 1)) {
		t.Error("bizStep was left out of the hash")
	}
}

func TestMoments(t *testing.T) {
	for in, want := range map[string]string{
		"2023-02-02T11:04:03.1415Z": "11:04:03.142", "2023-02-02T11:04:03.1414Z": "11:04:03.141", "2023-02-02T23:59:59.9999+12:00": "12:00:00.000",
	} {
		if got, err := moment(in); err != nil || got.Format("15:04:05.000") != want {
			t.Errorf("%s: %v %v", in, got, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, doc := range map[string]string{
		"empty": "", "no events": "{}", "number": "7", "twice": strings.Replace(anEvent, `"action":`, `"action":"ADD","action":`, 1),
		"no time": strings.Replace(anEvent, "eventTime\"", "eventTimeX\"", 1), "no zone": strings.Replace(anEvent, "+01:00\",\n", "\",\n", 1),
		"more":   anEvent + "{}",
		"deep":   `{"type":"ObjectEvent","a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "}",
		"entity": `<!DOCTYPE x [<!ENTITY a "b">]><EPCISDocument><EPCISBody><EventList/></EPCISBody></EPCISDocument>`,
		"xml":    "<a><b></a>",
	} {
		if _, err := Parse([]byte(doc)); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

// Whatever is read has a name, and the same one each time.
func FuzzParse(f *testing.F) {
	f.Add([]byte(anEvent))
	f.Add([]byte(`<d><EventList><ObjectEvent><eventTime>2026-01-01T00:00:00Z</eventTime><epcList><epc>urn:epc:id:sscc:4012345.3111111111</epc></epcList></ObjectEvent></EventList></d>`))
	f.Add([]byte(`{"type":"ObjectEvent","eventTime":"2026-01-01T00:00:00Z","readPoint":{"id":"http://a/414/1234567890123/254/1"},"sourceList":[{"type":"location","source":"urn:epc:id:itip:4012345.011111.01.02.987"}]}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		a, err := Parse(doc)
		if err != nil {
			return
		}
		b, err := Parse(doc)
		if err != nil || !slices.Equal(a, b) {
			t.Fatalf("two readings: %v", err)
		}
	})
}
