package consent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// The elements of a Consent that this package knows, those that never change
// whether something is permitted included. FHIR lets a reader ignore what it does
// not know; here an element that a typing error or a later release puts in the place
// of a condition would then make a permission wider.
var (
	consentElements = words(`resourceType id meta implicitRules language text contained extension modifierExtension identifier status scope category
		patient subject date dateTime performer organization grantor grantee manager controller source sourceAttachment sourceReference
		regulatoryBasis policy policyBasis policyText policyRule verification decision period provision`)
	provisionElements = words(`id extension modifierExtension type period actor action securityLabel purpose class documentType resourceType code dataPeriod
		data expression provision`)
)

func words(s string) map[string]bool {
	out := map[string]bool{}
	for _, w := range strings.Fields(s) {
		out[w] = true
	}
	return out
}

// known makes a document with an element that is not listed deny, and refuses one
// in which an element stands twice: which of the two counts, readers differ about.
func (f *Form) known(doc []byte) error {
	dec := json.NewDecoder(bytes.NewReader(doc))
	if err := unique(dec, 0); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("consent: bytes after the resource")
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(doc, &top); err != nil {
		return fmt.Errorf("consent: %w", err)
	}
	for k, v := range top {
		if !consentElements[k] {
			f.deny("the element %s is not known", clip(k))
		}
		if k == "provision" {
			if err := f.knownProvision(v, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *Form) knownProvision(v json.RawMessage, depth int) error {
	if depth > maxDepth {
		return nil // flatten makes it deny
	}
	list := []json.RawMessage{v}
	if bytes.HasPrefix(bytes.TrimSpace(v), []byte("[")) {
		if err := json.Unmarshal(v, &list); err != nil {
			return fmt.Errorf("consent: provision: %w", err)
		}
	}
	for _, p := range list {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(p, &fields); err != nil {
			return fmt.Errorf("consent: provision: %w", err)
		}
		for k, sub := range fields {
			if !provisionElements[k] {
				f.deny("the element %s of a provision is not known", clip(k))
			}
			if k == "provision" {
				if err := f.knownProvision(sub, depth+1); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// maxNesting bounds the nesting of a document, contained resources included.
const maxNesting = 64

// unique reads one value. Names are compared without case, as the decoder finds
// them.
func unique(dec *json.Decoder, depth int) error {
	t, err := dec.Token()
	if err != nil {
		return fmt.Errorf("consent: %w", err)
	}
	d, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	if depth == maxNesting {
		return fmt.Errorf("consent: nested deeper than %d", maxNesting)
	}
	seen := map[string]bool{}
	for dec.More() {
		if d == '{' {
			name, err := dec.Token()
			if err != nil {
				return fmt.Errorf("consent: %w", err)
			}
			s, _ := name.(string)
			if low := strings.ToLower(s); seen[low] {
				return fmt.Errorf("consent: the element %s stands twice", clip(s))
			} else {
				seen[low] = true
			}
		}
		if err := unique(dec, depth+1); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}

// categories reads what a document says that it is. Codings of one concept say the
// same; every concept must be one that this package knows.
func (f *Form) categories(list []concept) {
	for _, c := range list {
		known := false
		for _, k := range c.Coding {
			code := k.System + "|" + k.Code
			if slices.Contains(researchCategories, code) {
				known, f.research = true, true
			}
			known = known || slices.Contains(neutralCategories, code)
		}
		if !known {
			name := "a category without a code"
			if len(c.Coding) > 0 {
				name = c.Coding[0].Code
			}
			f.deny("the consent is of the kind %s, which is not known as one to research or to the use of data", clip(name))
		}
	}
}
