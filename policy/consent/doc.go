// Package consent reads consents as they exist (HL7 FHIR Consent R4 and R5,
// GA4GH Data Use Ontology codes, GA4GH Passport visas, the claims of W3C
// credentials) into one internal form, and decides for a study which items of a
// patient's data it permits. The answer becomes a policy.Subject, which the row
// rules read.
//
// # The form
//
// A Form is a base (permit or deny) and rules. A rule is one path of nested
// provisions, from the outside in; it says permit or deny for what matches all
// of its provisions. Of each branch the deepest rule that matches speaks for it;
// any branch that ends in deny denies, whatever other branches say. Without a
// branch the base speaks.
//
// A criterion is met, not met, or cannot be told: a code that no table knows or of
// another system, a value without a code, an actor that may stand for another. What
// permits must be met; what denies must only not be ruled out. What this package
// cannot read at all (a modifier extension, an expression, a reference to single
// data, an element or a kind of consent that is not listed) makes the whole document
// deny. So reading less than a document says never permits more. A document that
// denies is a consent that covers nothing, never "no consent". It permits research
// only where it is about research as a whole, or where the provisions that permit
// name the purpose.
//
// # Threat model
//
// Documents are written by careless or hostile systems. Who signed them is
// established before (package provenance); this package trusts no signature
// and checks none. Input is bounded in size and depth.
//
// # What it does not protect
//
// FHIR leaves open whether the outermost provision of R4 limits a consent or is
// an exception to it where it names no type: the specification's text and its
// own examples differ. Such a document denies. Of several exceptions side by side
// inside one denial all must be met, since each leaves the others' branches denied:
// write them as alternatives of one provision. Dates without a zone are read as
// UTC. The tables of codes are short: a code that they lack is never permitted.
//
// Reading list: hl7.org/fhir/R4/consent.html and R5; DUO (EBISPOT/DUO,
// release 2021-02-23); Consent Codes, PLoS Genet 12(1):e1005772; GA4GH Passport
// 1.0 and 1.2; W3C Verifiable Credentials Data Model 2.0.
package consent
