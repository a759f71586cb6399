package status

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"consilium"
	"consilium/internal/fetch"
	"consilium/provenance/did"
	"consilium/provenance/sdjwt"
)

// MediaType is that of a published list (VC-JOSE-COSE §6.1.1).
const MediaType = "application/vc+jwt"

// maxPublished bounds a list on its way: one of MaxBits that is half set does not
// compress, and nobody publishes that.
const maxPublished = 8 << 20

// Handler serves a published list as read hands it over, at any path. It serves
// nothing that has run out or is no list of this issuer: a reader must not be
// given an old list by the issuer's own server. It is safe for concurrent use if
// read is.
func Handler(read func() (string, error), issuer did.Key, now func() time.Time) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			rw.Header().Set("Allow", "GET, HEAD")
			http.Error(rw, "use GET", http.StatusMethodNotAllowed)
			return
		}
		token, err := read()
		var p *Published
		if err == nil {
			p, err = Open(token, issuer, now())
		}
		if err != nil || !now().Before(p.Until) {
			http.Error(rw, "there is no list in force here", http.StatusServiceUnavailable)
			return
		}
		left := min(p.Until.Sub(now()), time.Hour)
		rw.Header().Set("Content-Type", MediaType)
		rw.Header().Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int(left.Seconds())))
		rw.Header().Set("X-Content-Type-Options", "nosniff")
		rw.Header().Set("Content-Length", fmt.Sprint(len(token)))
		if r.Method == http.MethodGet {
			io.WriteString(rw, token)
		}
	})
}

// Fetch reads the list id of an issuer where it is published. It must be signed
// by the issuer, be in force now, and be issued within maxAge: a list that is
// formally valid for a year would else hide a revocation for as long. client may
// be nil. The whole list is read, so the server does not learn whose credential is
// looked up.
func Fetch(ctx context.Context, client *http.Client, address, id string, issuer did.Key, maxAge time.Duration, now time.Time) (*Published, error) {
	if maxAge <= 0 {
		return nil, consilium.ErrInvalid.Withf("status list %.80s: how old may it be?", id)
	}
	b, err := fetch.Get(ctx, client, address, maxPublished)
	if err != nil {
		return nil, err
	}
	p, err := Open(string(b), issuer, now)
	if err != nil {
		return nil, err
	}
	switch {
	case p.ID != id:
		return nil, consilium.ErrSignature.Withf("status list: %.80q was asked for, this is %.80q", id, p.ID)
	case p.From.IsZero() || now.Sub(p.From) > maxAge+sdjwt.DefaultSkew:
		return nil, consilium.ErrStale.Withf("status list %.80s: of %s, more than %v old", id, p.From.Format(time.RFC3339), maxAge)
	}
	return p, nil
}
