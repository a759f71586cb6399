package wire

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"time"

	"google.golang.org/grpc/credentials"

	"consilium"
)

// handshakeTimeout bounds a TLS handshake: a peer that stays silent holds no
// slot for longer.
const handshakeTimeout = 10 * time.Second

// base is what both sides agree on before either looks at the other. Sessions
// are never resumed: every connection proves its certificate afresh, so a pin
// removed from the roster is gone.
func base(cert tls.Certificate) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{cert},
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768},
		NextProtos:             []string{"h2"},
		SessionTicketsDisabled: true,
	}
}

// ServerConfig accepts any roster member over a post-quantum key exchange.
func ServerConfig(cert tls.Certificate, book *Book) *tls.Config {
	c := base(cert)
	c.ClientAuth = tls.RequireAnyClientCert // pinned in verify, there is no CA
	c.VerifyConnection = func(s tls.ConnectionState) error {
		_, err := verify(book, s)
		return err
	}
	return c
}

// ClientConfig connects to the coordinator node named node and nobody else.
func ClientConfig(cert tls.Certificate, book *Book, node consilium.NodeID) *tls.Config {
	c := base(cert)
	// The roster's pin replaces chain and name checks; verify runs on every
	// handshake and fails closed.
	c.InsecureSkipVerify = true
	c.ServerName = string(node)
	c.VerifyConnection = func(s tls.ConnectionState) error {
		id, err := verify(book, s)
		if err != nil {
			return err
		}
		if id.Role != RoleCoordinator || id.Name != string(node) {
			return consilium.ErrUnauthenticated.Withf("reached %s, wanted coordinator/%s", id, node)
		}
		return nil
	}
	return c
}

// verify is the one gate of every connection.
func verify(book *Book, s tls.ConnectionState) (Identity, error) {
	if s.Version != tls.VersionTLS13 {
		return Identity{}, consilium.ErrKeyExchange.Withf("%s agreed, want TLS 1.3", tls.VersionName(s.Version))
	}
	if s.CurveID != tls.X25519MLKEM768 {
		return Identity{}, consilium.ErrKeyExchange.Withf("%s agreed", s.CurveID)
	}
	if len(s.PeerCertificates) == 0 {
		return Identity{}, consilium.ErrUnauthenticated.Withf("no certificate")
	}
	return book.identify(s.PeerCertificates[0])
}

// NewCertificate makes a fresh Ed25519 key with a self-signed certificate for
// name, valid for the given time from an hour ago (clocks differ).
func NewCertificate(name string, validity time.Duration) (tls.Certificate, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(validity),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, pub, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// EncodeCertificate writes the certificate and its secret key as PEM.
func EncodeCertificate(c tls.Certificate) (certPEM, keyPEM []byte, err error) {
	if len(c.Certificate) != 1 {
		return nil, nil, fmt.Errorf("certificate: %d parts, want one self-signed", len(c.Certificate))
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// DecodeCertificate reads what EncodeCertificate wrote.
func DecodeCertificate(certPEM, keyPEM []byte) (tls.Certificate, error) {
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate: %w", err)
	}
	if c.Leaf == nil {
		if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
			return tls.Certificate{}, fmt.Errorf("certificate: %w", err)
		}
	}
	return c, nil
}

// CertificatePin is the pin of one's own certificate, for the roster.
func CertificatePin(c tls.Certificate) (consilium.Digest, error) {
	leaf := c.Leaf
	if leaf == nil {
		if len(c.Certificate) == 0 {
			return consilium.Digest{}, errors.New("certificate: empty")
		}
		var err error
		if leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
			return consilium.Digest{}, fmt.Errorf("certificate: %w", err)
		}
	}
	return Pin(leaf), nil
}

// Handshake runs a TLS handshake on conn with a deadline and closes conn when
// it fails.
func Handshake(ctx context.Context, conn *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		conn.Close()
		return err
	}
	return nil
}

// PeerIdentity is who is at the other end of an established connection, by
// the roster in force now.
func PeerIdentity(book *Book, conn *tls.Conn) (Identity, error) {
	return verify(book, conn.ConnectionState())
}

// serverCredentials logs why a handshake failed: the peer only learns a TLS
// alert, so the operator's log is where the reason stands.
type serverCredentials struct {
	credentials.TransportCredentials
	log *slog.Logger
}

func (c serverCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	out, info, err := c.TransportCredentials.ServerHandshake(conn)
	if err != nil {
		c.log.Warn("connection refused", "remote", conn.RemoteAddr().String(), "code", string(refusal(err)), "reason", err.Error())
	}
	return out, info, err
}

func (c serverCredentials) Clone() credentials.TransportCredentials {
	return serverCredentials{c.TransportCredentials.Clone(), c.log}
}

// refusal names a handshake failure: crypto/tls has its own errors for a peer
// that offers no common key exchange or version.
func refusal(err error) consilium.Code {
	var e *consilium.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return "auth.handshake"
}
