package did

import (
	"context"
	"net/http"

	"consilium"
	"consilium/internal/fetch"
)

// maxWeb bounds a did:web document: some hundred keys.
const maxWeb = 1 << 18

// FetchWeb reads the document of a did:web where it is published and holds it to
// the digest that was pinned. The web says where the document is; what it says is
// decided by the pin alone, so that who takes over the host, its name or its
// certificate cannot replace a key. A document that has changed is refused with
// its new digest: its owner announces that, and somebody looks before pinning it.
//
// client may be nil. The bytes come back too, to be kept as a Pin: what they
// verify today stays checkable when the host is gone.
func FetchWeb(ctx context.Context, client *http.Client, did string, digest consilium.Digest) (*Document, Pin, error) {
	address, err := WebURL(did)
	if err != nil {
		return nil, Pin{}, consilium.ErrInvalid.With(err)
	}
	if digest.IsZero() {
		return nil, Pin{}, consilium.ErrInvalid.Withf("%s: no pinned digest", clip(did))
	}
	b, err := fetch.Get(ctx, client, address, maxWeb)
	if err != nil {
		return nil, Pin{}, err
	}
	p := Pin{DID: did, Digest: digest, Document: b}
	d, err := ParseWeb(p)
	if err != nil {
		return nil, Pin{}, err
	}
	return d, p, nil
}
