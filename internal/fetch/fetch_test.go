package fetch

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"consilium"
)

func TestGet(t *testing.T) {
	elsewhere := 0
	other := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { elsewhere++ }))
	defer other.Close()
	s := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/good":
			rw.Write([]byte("0123456789"))
		case "/large":
			rw.Write([]byte("0123456789x"))
		case "/away":
			http.Redirect(rw, r, other.URL, http.StatusFound)
		case "/within":
			http.Redirect(rw, r, "/good", http.StatusMovedPermanently)
		default:
			http.NotFound(rw, r)
		}
	}))
	defer s.Close()
	if b, err := Get(t.Context(), s.Client(), s.URL+"/good", 10); err != nil || string(b) != "0123456789" {
		t.Errorf("%s %v", b, err)
	}
	for path, want := range map[string]error{"/large": consilium.ErrInvalid, "/away": consilium.ErrUnavailable, "/within": consilium.ErrUnavailable, "/none": consilium.ErrUnavailable} {
		if b, err := Get(t.Context(), s.Client(), s.URL+path, 10); !errors.Is(err, want) || b != nil {
			t.Errorf("%s: %s %v", path, b, err)
		}
	}
	if elsewhere != 0 {
		t.Error("a redirect was followed")
	}
	// The naive twin, a client as it comes, follows it.
	if _, err := s.Client().Get(s.URL + "/away"); err == nil && elsewhere == 0 {
		t.Error("the naive twin does not follow")
	}
	for _, address := range []string{"", "http://" + strings.TrimPrefix(s.URL, "https://") + "/good", "https://", "file:///etc/hosts", "https://user:secret@host/x", "https://host/x#y"} {
		if _, err := Get(t.Context(), s.Client(), address, 10); !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("%q: %v", address, err)
		}
	}
	// A certificate that the system does not know.
	if _, err := Get(t.Context(), nil, s.URL+"/good", 10); !errors.Is(err, consilium.ErrUnavailable) {
		t.Errorf("an unknown certificate: %v", err)
	}
}
