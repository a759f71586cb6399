// Package fetch reads one public document over HTTPS from a place that is not
// trusted: no redirect, no proxy of the environment, a bound on time and size.
// What comes is bytes; who calls verifies them by a digest or a signature.
package fetch

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"time"

	"consilium"
)

// Timeout bounds one document.
const Timeout = 20 * time.Second

// Client is what Get uses where it is given none: certificates of the system's
// roots, TLS 1.2 at least.
func Client() *http.Client {
	return &http.Client{Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true, TLSHandshakeTimeout: Timeout / 2, ResponseHeaderTimeout: Timeout, MaxResponseHeaderBytes: 16 << 10}}
}

// Get reads the document at address, of at most limit bytes, with status 200.
// A client's own policy on redirects is replaced: whoever answers does not choose
// where else to look.
func Get(ctx context.Context, client *http.Client, address string, limit int) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, consilium.ErrInvalid.Withf("%.120q: want an address that begins with https://", address)
	}
	if client == nil {
		client = Client()
	}
	own := *client
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	own.Jar = nil
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	resp, err := own.Do(req)
	if err != nil {
		return nil, consilium.ErrUnavailable.With(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, consilium.ErrUnavailable.Withf("%s answers %s; redirects are not followed", u.Host, resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	if err != nil {
		return nil, consilium.ErrUnavailable.With(err)
	}
	if len(b) > limit {
		return nil, consilium.ErrInvalid.Withf("%s: more than %d bytes", u.Host, limit)
	}
	return b, nil
}
