package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"consilium"
	"consilium/internal/durable"
	"consilium/internal/hybrid"
	"consilium/internal/table"
	"consilium/provenance"
	"consilium/provenance/did"
	"consilium/provenance/guardian"
	"consilium/provenance/status"
)

// A card can be lost. Before that, its owner may name guardians: each gets a
// letter, and some of the letters together make a new card that the hospital
// accepts. A letter alone is worth nothing.

// files collects a flag that may be given several times.
type files []string

func (f *files) String() string     { return strings.Join(*f, ",") }
func (f *files) Set(s string) error { *f = append(*f, s); return nil }

// dealNext draws a card's next key, splits it among guardians into dir and
// forgets it.
func dealNext(dir string, need, of int) (consilium.Digest, error) {
	var next consilium.Digest
	shares, err := guardian.Deal(need, of, func(seed []byte) (consilium.Digest, error) {
		k, err := hybrid.FromSeed(seed)
		if err == nil {
			next = provenance.NextKey(k.Public())
		}
		return next, err
	})
	if err != nil {
		return next, consilium.ErrInvalid.With(err)
	}
	for i := range shares {
		b, err := shares[i].Encode()
		if err != nil {
			return next, err
		}
		if err := writeNew(filepath.Join(dir, fmt.Sprintf("guardian-%d.letter", i+1)), append(b, '\n'), 0o600); err != nil {
			return next, err
		}
	}
	return next, nil
}

// checkNext accepts the seed whose public key was named in advance.
func checkNext(seed []byte, next consilium.Digest) error {
	k, err := hybrid.FromSeed(seed)
	if err == nil && provenance.NextKey(k.Public()) != next {
		err = consilium.ErrSignature.Withf("the letters give another key than they promise")
	}
	return err
}

func runConsentGuardians(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	config := flags.String("config", "", "the worker's config `file`")
	patient := flags.String("patient", "", "the hospital's own patient `number`")
	cardDir := flags.String("card", "", "`folder` of the patient's card; an empty one becomes a new card")
	out := flags.String("out", "", "`folder` for the guardians' letters; hand them out and keep none")
	need := flags.Int("need", 2, "how many guardians together can replace the card")
	of := flags.Int("of", 3, "how many guardians there are")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 || *config == "" || *patient == "" || *cardDir == "" || *out == "" {
		return usagef("--config FILE, --patient NUMBER, --card FOLDER and --out FOLDER are needed")
	}
	h, store, name, leave, err := deskFor(ctx, *config, *patient, e)
	if err != nil {
		return err
	}
	defer leave()
	if store.LastKeyEvent(name) != nil {
		return &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: "this patient has guardians already", Next: "new ones are named when their letters have replaced the card"}
	}
	card, err := openCard(*cardDir, h.site, name)
	if err != nil {
		return err
	}
	next, err := dealNext(*out, *need, *of)
	if err != nil {
		return err
	}
	doc, err := provenance.SignKeyEvent(card.key, provenance.KeyEvent{Site: h.site, Type: provenance.KeyInception, Next: next, Guardians: *of, Threshold: *need, At: time.Now().Unix()}, name, nil)
	if err != nil {
		return err
	}
	if err := h.enter(ctx, store, []provenance.ConsentEntry{{Patient: name, Doc: doc}}); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"guardians": *of, "need": *need})
	}
	fmt.Fprintf(e.stdout, "%d letters are in %s. Give each to one person whom the patient trusts, and delete them there.\nAny %d of them can replace a lost card; fewer can do nothing.\n", *of, *out, *need)
	return nil
}

// deskFor opens the desk for one patient, until leave is called.
func deskFor(ctx context.Context, config, patient string, e *env) (h *hospital, store *provenance.Consents, name provenance.Pseudonym, leave func(), err error) {
	if h, err = openHospital(config, e.stderr); err != nil {
		return nil, nil, name, nil, err
	}
	store, alias, leave, err := h.consentDesk(ctx)
	if err != nil {
		return nil, nil, name, nil, err
	}
	return h, store, provenance.Pseudonym(table.Pseudonym(alias, patient)), leave, nil
}

func runConsentRecover(ctx context.Context, e *env, args []string) error {
	var letters files
	flags := e.flags()
	config := flags.String("config", "", "the worker's config `file`")
	patient := flags.String("patient", "", "the hospital's own patient `number`")
	cardDir := flags.String("card", "", "empty `folder` for the new card")
	flags.Var(&letters, "letter", "a guardian's letter, a `file`; give the flag for each")
	out := flags.String("out", "", "`folder` for the guardians' new letters")
	need := flags.Int("need", 2, "how many guardians together can replace the new card")
	of := flags.Int("of", 3, "how many guardians there are")
	since := flags.String("since", "", "the `day` from which the old card may have been in wrong hands: what it signed since then does not count")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 || *config == "" || *patient == "" || *cardDir == "" || *out == "" || len(letters) == 0 {
		return usagef("--config FILE, --patient NUMBER, --card FOLDER, --out FOLDER and several --letter FILE are needed")
	}
	h, store, name, leave, err := deskFor(ctx, *config, *patient, e)
	if err != nil {
		return err
	}
	defer leave()
	last := store.LastKeyEvent(name)
	if last == nil {
		return &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: "this patient has named no guardians", Next: "withdraw at the desk without a card, and issue the consent again with a new one"}
	}
	var shares []guardian.Share
	for _, file := range letters {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		s, err := guardian.Parse(b)
		if err != nil {
			fmt.Fprintf(e.stderr, "%s is left out: %v\n", file, err)
			continue
		}
		shares = append(shares, *s)
	}
	seed, err := guardian.Recover(shares, checkNext)
	if err != nil {
		return err
	}
	key, err := hybrid.FromSeed(seed)
	if err != nil {
		return err
	}
	if provenance.NextKey(key.Public()) != last.KeyEvent.Next {
		return consilium.ErrForbidden.Withf("these letters are of another patient, or were replaced by newer ones")
	}
	from, err := day("since", *since, 0)
	if err != nil {
		return err
	}
	// The letters first: with them lost, so would be the next recovery. Then the
	// card; then the hospital's entry, which makes the old card worthless.
	next, err := dealNext(*out, *need, *of)
	if err != nil {
		return err
	}
	doc, err := provenance.SignKeyEvent(key, provenance.KeyEvent{Site: h.site, Type: provenance.KeyRecovery, Next: next, Guardians: *of, Threshold: *need, Since: from, At: time.Now().Unix()}, name, last)
	if err != nil {
		return err
	}
	if _, err := newCard(*cardDir, h.site, name, key); err != nil {
		return err
	}
	if err := h.enter(ctx, store, []provenance.ConsentEntry{{Patient: name, Doc: doc}}); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"event": doc.Digest()})
	}
	fmt.Fprintf(e.stdout, "The new card is in %s; the old one opens nothing any more. What the patient allowed before stays as it was.\nHand the new letters in %s to the guardians; the old ones are worthless.\n", *cardDir, *out)
	return nil
}

func runConsentMandate(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	config := flags.String("config", "", "the worker's config `file`")
	patient := flags.String("patient", "", "the hospital's own patient `number`")
	role := flags.String("role", "", "proxy (the patient asks somebody), parent or guardian (the hospital has seen the papers)")
	cardDir := flags.String("card", "", "`folder` of the patient's card, for a proxy")
	holder := flags.String("holder", "", "`folder` of the card of who may act; an empty one becomes a new card")
	powers := flags.String("powers", "consent,see,withdraw", "what the holder may do")
	scopes := flags.String("scopes", "", "for which categories of data; default all")
	until := flags.String("until", "", "last `day`; for a parent the day before the child is of age")
	end := flags.Bool("end", false, "end the holder's mandate instead")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 || *config == "" || *patient == "" || *holder == "" || *role == "" && !*end {
		return usagef("--config FILE, --patient NUMBER, --role ROLE and --holder FOLDER are needed")
	}
	h, store, name, leave, err := deskFor(ctx, *config, *patient, e)
	if err != nil {
		return err
	}
	defer leave()
	acts, err := openCard(*holder, h.site, name)
	if err != nil {
		return err
	}
	var signer consilium.Signer = h.kit.signer
	if *cardDir != "" {
		card, err := openCard(*cardDir, h.site, name)
		if err != nil {
			return err
		}
		signer = card.key
	} else if *role == provenance.RoleProxy && !*end {
		return usagef("a proxy is named by the patient: --card FOLDER of the patient's card")
	}
	var doc *provenance.SignedDoc
	if *end {
		m, ok := store.MandateOf(name, acts.key.Public(), time.Now().Unix())
		if !ok {
			return consilium.ErrInvalid.Withf("this card's holder has no mandate for the patient")
		}
		doc, err = provenance.SignWithdrawal(signer, provenance.Withdrawal{Site: h.site, Consent: m, At: time.Now().Unix()}, name)
	} else {
		var last int64
		if last, err = day("until", *until, 0); err != nil {
			return err
		}
		if last != 0 {
			last += 24 * 3600
		}
		doc, err = provenance.SignMandate(signer, provenance.Mandate{Site: h.site, Role: *role, Holder: acts.key.Public(), Powers: split(*powers), Scopes: split(*scopes), From: time.Now().Unix(), Until: last}, name)
	}
	if err != nil {
		return err
	}
	if err := h.enter(ctx, store, []provenance.ConsentEntry{{Patient: name, Doc: doc}}); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"mandate": doc.Digest()})
	}
	if *end {
		fmt.Fprintln(e.stdout, "The mandate has ended; what was decided under it stays until it is taken back.")
		return nil
	}
	fmt.Fprintf(e.stdout, "Entered: the owner of the card %s may %s for this patient.\n", *holder, strings.ReplaceAll(*powers, ",", ", "))
	return nil
}

// statusValid is how long a published status list counts: a week bounds how long
// an old one can hide a withdrawal.
const statusValid = 7 * 24 * time.Hour

// statusEvery is how often a served list is made anew.
const statusEvery = 24 * time.Hour

func runConsentStatus(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	config := flags.String("config", "", "the worker's config `file`")
	out := flags.String("out", "", "`file` to publish, for whoever is shown a consent of this hospital")
	listen := flags.String("listen", "", "go on, making the list anew each day, and serve it over HTTP at this `host:port`; put the hospital's web server with its certificate in front")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 || *config == "" || *out == "" {
		return usagef("--config FILE and --out FILE are needed")
	}
	h, err := openHospital(*config, e.stderr)
	if err != nil {
		return err
	}
	n, err := h.publishStatus(ctx, *out)
	if err != nil {
		return err
	}
	if e.json {
		err = json.NewEncoder(e.stdout).Encode(map[string]any{"list": provenance.StatusListID(h.site), "bytes": n})
	} else {
		fmt.Fprintf(e.stdout, "%s: the status list %s, valid for seven days; it names nobody\n", *out, provenance.StatusListID(h.site))
	}
	if err != nil || *listen == "" {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	read := func() (string, error) {
		b, err := os.ReadFile(*out)
		return string(b), err
	}
	s := &http.Server{Handler: status.Handler(read, did.Hybrid(h.kit.signer.Public()), time.Now), ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	fmt.Fprintln(e.stderr, "status list served on", l.Addr())
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(statusEvery):
			}
			// A failure leaves the last list, which its readers refuse when it has
			// run out.
			if _, err := h.publishStatus(ctx, *out); err != nil && ctx.Err() == nil {
				h.log.Error("the status list was not made anew", "err", err)
			}
		}
	}()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// publishStatus writes the list as the verified store has it now.
func (h *hospital) publishStatus(ctx context.Context, out string) (int, error) {
	store, _, leave, err := h.consentDesk(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	if err := h.verify(ctx, store); err != nil {
		return 0, err
	}
	list, err := store.PublishStatus(statusValid)
	if err != nil {
		return 0, err
	}
	return len(list), durable.WriteFile(out, []byte(list), 0o644)
}

// runConsentErase removes everything that a patient ever signed. It is for a
// patient who asks for erasure, not for one who withdraws: a withdrawal keeps the
// proof that there was a consent while it was used.
func runConsentErase(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	config := flags.String("config", "", "the worker's config `file`")
	patient := flags.String("patient", "", "the hospital's own patient `number`")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 || *config == "" || *patient == "" {
		return usagef("--config FILE and --patient NUMBER are needed")
	}
	h, store, name, leave, err := deskFor(ctx, *config, *patient, e)
	if err != nil {
		return err
	}
	defer leave()
	// From a store that lacks a document, not all of the patient's would be erased.
	if err := h.verify(ctx, store); err != nil {
		return err
	}
	n := 0
	if err := h.write(ctx, func(ctx context.Context, ledger ledgerWriter) (err error) {
		n, err = store.Erase(ctx, ledger, name)
		return err
	}); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"erased": n})
	}
	if n == 0 {
		fmt.Fprintln(e.stdout, "the store holds nothing of this patient; is the number right?")
		return nil
	}
	fmt.Fprintf(e.stdout, "%d documents are erased; the ledger says how many, and not whose. Publish the status list again: the patient's copies no longer count.\n", n)
	fmt.Fprintln(e.stdout, "backups and copies that were handed out are yours to erase; the patient's rows have `consilium ledger erase`")
	return nil
}
