package wire

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"consilium"
	"consilium/api/v1"
	"consilium/internal/canon"
)

// handshake runs one TLS handshake and returns both sides' errors. A byte goes
// back so that the client learns of a refusal after its own half.
func handshake(client, server *tls.Config) (cerr, serr error) {
	a, b := pipe(memoryAddr("client"), memoryAddr("server"))
	c, s := tls.Client(a, client), tls.Server(b, server)
	done := make(chan error, 1)
	go func() {
		err := Handshake(context.Background(), s)
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		done <- err
	}()
	cerr = Handshake(context.Background(), c)
	if cerr == nil {
		_, cerr = io.ReadFull(c, make([]byte, 1))
	}
	a.Close()
	return cerr, <-done
}

func TestHandshake(t *testing.T) {
	w := newWorld(t)
	book := w.book(t)
	site, node := w.certs["site/london"], w.certs["coordinator/c1"]
	stranger, err := NewCertificate("site/london", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	stale, err := NewCertificate("site/london", -time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	classical := func(c *tls.Config) *tls.Config {
		c.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256}
		return c
	}
	naive := func(c *tls.Config) *tls.Config { // a twin that forgets the check after the handshake
		c.CurvePreferences = []tls.CurveID{tls.X25519}
		c.VerifyConnection = nil
		return c
	}
	tests := []struct {
		name           string
		client, server *tls.Config
		code           consilium.Code // "" succeeds
	}{
		{"both strict", ClientConfig(site, book, "c1"), ServerConfig(node, book), ""},
		{"strict client, classical server", ClientConfig(site, book, "c1"), classical(ServerConfig(node, book)), "auth.handshake"},
		{"classical client, strict server", classical(ClientConfig(site, book, "c1")), ServerConfig(node, book), "auth.handshake"},
		{"both offer classical, both check", classical(ClientConfig(site, book, "c1")), classical(ServerConfig(node, book)), consilium.ErrKeyExchange.Code},
		{"naive client, server checks", naive(ClientConfig(site, book, "c1")), classical(ServerConfig(node, book)), consilium.ErrKeyExchange.Code},
		{"client checks, naive server", classical(ClientConfig(site, book, "c1")), naive(ServerConfig(node, book)), consilium.ErrKeyExchange.Code},
		{"two naive twins agree on a classical exchange", naive(ClientConfig(site, book, "c1")), naive(ServerConfig(node, book)), ""},
		{"unpinned client", ClientConfig(stranger, book, "c1"), ServerConfig(node, book), consilium.ErrUnauthenticated.Code},
		{"unpinned server", ClientConfig(site, book, "c1"), ServerConfig(stranger, book), consilium.ErrUnauthenticated.Code},
		{"another node", ClientConfig(site, book, "c1"), ServerConfig(w.certs["coordinator/c2"], book), consilium.ErrUnauthenticated.Code},
		{"a site poses as a node", ClientConfig(site, book, "c1"), ServerConfig(w.certs["site/amsterdam"], book), consilium.ErrUnauthenticated.Code},
		{"expired client", ClientConfig(stale, book, "c1"), ServerConfig(node, book), consilium.ErrUnauthenticated.Code},
		{"no client certificate", func() *tls.Config {
			c := ClientConfig(site, book, "c1")
			c.Certificates = nil
			return c
		}(), ServerConfig(node, book), "auth.handshake"},
		{"TLS 1.2", func() *tls.Config {
			c := ClientConfig(site, book, "c1")
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return c
		}(), ServerConfig(node, book), "auth.handshake"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cerr, serr := handshake(tt.client, tt.server)
			if tt.code == "" {
				if cerr != nil || serr != nil {
					t.Fatalf("client %v, server %v", cerr, serr)
				}
				return
			}
			if cerr == nil || serr == nil {
				t.Fatalf("client %v, server %v: want both refused", cerr, serr)
			}
			if refusal(cerr) != tt.code && refusal(serr) != tt.code {
				t.Errorf("client %v, server %v: want one with %s", cerr, serr, tt.code)
			}
		})
	}
}

func TestRefusalIsLoggedAndClear(t *testing.T) {
	w := newWorld(t)
	book := w.book(t)
	out := &logs{ch: make(chan string, 64)}
	n, _ := serve(t, w, book, slog.New(slog.NewTextHandler(out, nil)), "c1")
	stranger, err := NewCertificate("x", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(ClientOptions{Certificate: stranger, Book: book, Dial: n.Dial})
	defer c.Close()
	_, err = c.List(testContext(t))
	if !errors.Is(err, consilium.ErrUnauthenticated) {
		t.Errorf("got %v, want ErrUnauthenticated", err)
	}
	select {
	case line := <-out.ch:
		if !strings.Contains(line, "connection refused") || !strings.Contains(line, string(consilium.ErrUnauthenticated.Code)) {
			t.Errorf("log says %q", line)
		}
	case <-testContext(t).Done():
		t.Error("the server logged nothing")
	}
}

func TestCertificatePEM(t *testing.T) {
	c, err := NewCertificate("a", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM, err := EncodeCertificate(c)
	if err != nil {
		t.Fatal(err)
	}
	d, err := DecodeCertificate(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := CertificatePin(c)
	q, _ := CertificatePin(d)
	if p != q || p.IsZero() {
		t.Errorf("pins %s and %s", p, q)
	}
	if _, err := DecodeCertificate(certPEM, nil); err == nil {
		t.Error("a certificate without a key was accepted")
	}
}

func TestBookUpdate(t *testing.T) {
	w := newWorld(t)
	book := w.book(t)
	next := *w.roster
	next.Version, next.Previous = 2, book.Digest()
	next.Sites = next.Sites[:1] // london leaves
	payload, err := canon.Marshal(&next)
	if err != nil {
		t.Fatal(err)
	}
	signed := func(payload []byte, by ...string) *consilium.Signed {
		s := &consilium.Signed{Payload: payload}
		for _, m := range by {
			sig, err := w.keys["board/"+m].Sign(consilium.DomainRoster, payload)
			if err != nil {
				t.Fatal(err)
			}
			s.Signatures = append(s.Signatures, consilium.Countersign{By: m, Signature: sig})
		}
		return s
	}
	pin, _ := CertificatePin(w.certs["site/london"])
	if id, err := book.Lookup(pin); err != nil || id.By() != "london" || id.Role != RoleSite {
		t.Fatalf("%v, %v", id, err)
	}
	if err := book.Update(signed(payload, "ada")); !errors.Is(err, consilium.ErrSignature) {
		t.Errorf("one of two signatures: %v", err)
	}
	skip := next
	skip.Version = 3
	p3, _ := canon.Marshal(&skip)
	if err := book.Update(signed(p3, "ada", "bea")); !errors.Is(err, consilium.ErrStale) {
		t.Errorf("version 3 after 1: %v", err)
	}
	if err := book.Update(signed(payload, "ada", "cyn")); err != nil {
		t.Fatal(err)
	}
	if _, err := book.Lookup(pin); !errors.Is(err, consilium.ErrUnauthenticated) {
		t.Errorf("a removed site is still known: %v", err)
	}
	if err := book.Update(signed(payload, "ada", "cyn")); !errors.Is(err, consilium.ErrStale) {
		t.Errorf("the same roster again: %v", err)
	}
	book.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	pin, _ = CertificatePin(w.certs["site/amsterdam"])
	if _, err := book.Lookup(pin); !errors.Is(err, consilium.ErrUnauthenticated) {
		t.Errorf("an expired roster still pins: %v", err)
	}
}

// TestRevocationEndsStreams: a site that the next roster drops loses its
// standing connection's calls and its stream.
func TestRevocationEndsStreams(t *testing.T) {
	w := newWorld(t)
	serverBook, clientBook := w.book(t), w.book(t)
	n, fakes := serve(t, w, serverBook, discard(), "c1")
	c := w.client(t, clientBook, n, "site/london")
	ctx := testContext(t)
	if err := c.Post(ctx, w.sign(t, "site/london", consilium.KindAck, testStudy, []byte("x"))); err != nil {
		t.Fatal(err)
	}
	got := make(chan struct{}, 8)
	end := make(chan error, 1)
	go func() { end <- c.Follow(ctx, 0, func(*consilium.Event) error { got <- struct{}{}; return nil }) }()
	<-got
	next := *w.roster
	next.Version, next.Previous, next.Sites = 2, serverBook.Digest(), next.Sites[:1]
	payload, _ := canon.Marshal(&next)
	s := &consilium.Signed{Payload: payload}
	for _, m := range []string{"ada", "bea"} {
		sig, _ := w.keys["board/"+m].Sign(consilium.DomainRoster, payload)
		s.Signatures = append(s.Signatures, consilium.Countersign{By: m, Signature: sig})
	}
	if err := serverBook.Update(s); err != nil {
		t.Fatal(err)
	}
	for _, f := range fakes {
		f.mu.Lock()
		f.events = append(f.events, &consilium.Event{Seq: uint64(len(f.events)), Study: testStudy, Kind: consilium.EventResumed})
		f.cond.Broadcast()
		f.mu.Unlock()
	}
	if err := <-end; !errors.Is(err, consilium.ErrUnauthenticated) {
		t.Errorf("follow ended with %v", err)
	}
	if err := c.Post(ctx, w.sign(t, "site/london", consilium.KindAck, testStudy, []byte("y"))); !errors.Is(err, consilium.ErrUnauthenticated) {
		t.Errorf("post: %v", err)
	}
	if len(got) != 0 {
		t.Error("an event reached a revoked site")
	}
}

func TestVerifyMessage(t *testing.T) {
	w := newWorld(t)
	book := w.book(t)
	m := w.sign(t, "site/london", consilium.KindVote, testStudy, []byte("body"))
	if role, err := book.Verify(m); err != nil || role != RoleSite {
		t.Fatalf("%v, %v", role, err)
	}
	for name, change := range map[string]func(*consilium.Message){
		"body":      func(m *consilium.Message) { m.Body = []byte("bodY") },
		"kind":      func(m *consilium.Message) { m.Kind = consilium.KindAck },
		"by":        func(m *consilium.Message) { m.By = "amsterdam" },
		"role":      func(m *consilium.Message) { m.Kind = consilium.KindSubmission },
		"stranger":  func(m *consilium.Message) { m.By = "nowhere" },
		"signature": func(m *consilium.Message) { m.Signature[100] ^= 1 },
	} {
		bad := *m
		change(&bad)
		if _, err := book.Verify(&bad); !errors.Is(err, consilium.ErrSignature) {
			t.Errorf("changed %s: %v", name, err)
		}
	}
}

// TestSentinelsRoundTrip reads errors.go, so that a sentinel added there and
// forgotten here fails.
func TestSentinelsRoundTrip(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "../../errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var codesInSource []string
	ast.Inspect(f, func(n ast.Node) bool {
		kv, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		if id, ok := kv.Key.(*ast.Ident); ok && id.Name == "Code" {
			if lit, ok := kv.Value.(*ast.BasicLit); ok {
				c, _ := strconv.Unquote(lit.Value)
				codesInSource = append(codesInSource, c)
			}
		}
		return true
	})
	if len(codesInSource) < 30 {
		t.Fatalf("found only %d sentinels in errors.go", len(codesInSource))
	}
	table := map[string]*consilium.Error{}
	for _, s := range statuses {
		if table[string(s.err.Code)] != nil {
			t.Errorf("%s stands twice", s.err.Code)
		}
		table[string(s.err.Code)] = s.err
	}
	for _, c := range codesInSource {
		e, ok := table[c]
		if !ok {
			t.Errorf("%s is not in the table of status.go", c)
			continue
		}
		delete(table, c)
		back := FromStatus(Status(fmt.Errorf("while testing: %w", e.Withf("cause %d", 7))))
		if !errors.Is(back, e) {
			t.Errorf("%s came back as %v", c, back)
		}
		for _, s := range statuses {
			if s.err != e && errors.Is(back, s.err) {
				t.Errorf("%s came back as %s too", c, s.err.Code)
			}
		}
		if c != string(consilium.ErrNotLeader.Code) && back.Error() != e.Withf("cause %d", 7).Error() {
			t.Errorf("%s reads %q, want %q", c, back, e.Withf("cause %d", 7))
		}
	}
	for c := range table {
		t.Errorf("%s is in the table but not in errors.go", c)
	}
	var nl *NotLeaderError
	if back := FromStatus(Status(&NotLeaderError{Leader: "c2"})); !errors.As(back, &nl) || nl.Leader != "c2" || !errors.Is(back, consilium.ErrNotLeader) {
		t.Errorf("redirect came back as %v", back)
	}
	if s, _ := status.FromError(Status(errors.New("secret path"))); s.Code() != codes.Internal || strings.Contains(s.Message(), "secret") {
		t.Errorf("an error of ours travels as %v", s)
	}
	if s, _ := status.FromError(Status(consilium.ErrInvalid.Withf("%s", strings.Repeat("\xff\u00e9", 1<<20)))); len(s.Message()) > maxStatusText {
		t.Errorf("status text of %d bytes", len(s.Message()))
	}
}

func TestPhasesAgree(t *testing.T) {
	if len(apiv1.Phase_name)-1 != int(consilium.PhaseCancelled) {
		t.Fatalf("%d phases on the wire, %d in the domain", len(apiv1.Phase_name)-1, consilium.PhaseCancelled)
	}
	for p := consilium.PhaseSubmitted; p <= consilium.PhaseCancelled; p++ {
		want := "PHASE_" + strings.ToUpper(p.String())
		if apiv1.Phase_name[int32(p)] != want {
			t.Errorf("%s is %s on the wire", p, apiv1.Phase_name[int32(p)])
		}
	}
}

// services lists every method of the wire contract.
func services(t *testing.T) (out []protoreflect.MethodDescriptor) {
	protoregistry.GlobalFiles.RangeFilesByPackage("consilium.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			for j := range f.Services().Get(i).Methods().Len() {
				out = append(out, f.Services().Get(i).Methods().Get(j))
			}
		}
		return true
	})
	if len(out) < 15 {
		t.Fatalf("found only %d methods", len(out))
	}
	return out
}

func fullName(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
}

// TestRoles writes out who may call what, for every method and role.
func TestRoles(t *testing.T) {
	const S, R, B, C, A = RoleSite, RoleResearcher, RoleBoard, RoleCoordinator, RoleAuditor
	want := map[string][]Role{
		"StudyService/Submit": {R, B}, "StudyService/List": {S, R, B}, "StudyService/Status": {S, R, B}, "StudyService/Follow": {R, B}, "StudyService/Fetch": {R, B},
		"SiteService/Post": {S}, "SiteService/Upload": {S}, "SiteService/Follow": {S}, "SiteService/Fetch": {S}, "SiteService/PutBlob": {S},
		"PeerService/Hello": {C}, "PeerService/Store": {C}, "PeerService/Load": {C}, "PeerService/Holds": {C},
		"AuditService/Checkpoint": {S, R, B, C, A}, "AuditService/Tile": {S, R, B, C, A}, "AuditService/Inclusion": {S, R, B, C, A},
		"AuditService/Consistency": {S, R, B, C, A}, "AuditService/Entries": {B, C, A},
	}
	methods := services(t)
	if len(methods) != len(want) || len(permissions) != len(want) {
		t.Errorf("%d methods, %d in the table, %d expected", len(methods), len(permissions), len(want))
	}
	for _, m := range methods {
		name := fmt.Sprintf("%s/%s", m.Parent().Name(), m.Name())
		for role := Role(0); role <= RoleAuditor+1; role++ {
			err := authorize(fullName(m), Identity{Role: role, Name: "x"})
			if ok := slices.Contains(want[name], role); ok != (err == nil) {
				t.Errorf("%s as %s: %v", name, role, err)
			}
			if err != nil && !errors.Is(err, consilium.ErrForbidden) {
				t.Errorf("%s as %s: %v", name, role, err)
			}
		}
	}
	if err := authorize("/consilium.v1.PeerService/New", Identity{Role: RoleCoordinator}); err == nil {
		t.Error("an unlisted method is open")
	}
}

// TestRolesOverTheWire calls every method as every role.
func TestRolesOverTheWire(t *testing.T) {
	w := newWorld(t)
	book := w.book(t)
	n, _ := serve(t, w, book, discard(), "c1")
	ctx := testContext(t)
	for _, who := range []string{"site/london", "researcher/team", "board/ada", "coordinator/c2", "auditor/eve"} {
		p := newPool(w.certs[who], book, n.Dial, nil)
		cc, err := p.conn("c1")
		if err != nil {
			t.Fatal(err)
		}
		pin, _ := CertificatePin(w.certs[who])
		id, err := book.Lookup(pin)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range services(t) {
			leave := 200 * time.Millisecond
			if !slices.Contains(permissions[fullName(m)], id.Role) {
				leave = 30 * time.Second // a refusal comes
			}
			err := garbage(ctx, cc, m, nil, leave)
			if forbidden := errors.Is(err, consilium.ErrForbidden); forbidden == slices.Contains(permissions[fullName(m)], id.Role) {
				t.Errorf("%s as %s: %v", m.Name(), who, err)
			}
		}
		p.close()
	}
}

type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (rawCodec) Unmarshal(b []byte, v any) error { *(v.(*[]byte)) = b; return nil }
func (rawCodec) Name() string                    { return "proto" }

// garbage sends messages of raw bytes to a method and returns how the call
// ended; endless streams are left after the first answer, or after a time.
func garbage(ctx context.Context, cc *grpc.ClientConn, m protoreflect.MethodDescriptor, msgs [][]byte, leave time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	ss, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, fullName(m), grpc.ForceCodec(rawCodec{}))
	if err != nil {
		return FromStatus(err)
	}
	if len(msgs) == 0 {
		msgs = [][]byte{{}}
	}
	if !m.IsStreamingClient() {
		msgs = msgs[:1]
	}
	for _, b := range msgs {
		if err := ss.SendMsg(b); err != nil {
			break
		}
	}
	ss.CloseSend()
	if strings.HasSuffix(string(m.Name()), "Follow") {
		// Followed without an event, a valid request waits for ever.
		go func() {
			select {
			case <-time.After(leave):
			case <-ctx.Done():
			}
			cancel()
		}()
	}
	var out []byte
	err = ss.RecvMsg(&out)
	if err == io.EOF {
		return nil
	}
	return FromStatus(err)
}

// TestGarbage sends noise, truncations and mutations of valid requests to
// every method and checks that every node still answers.
func TestGarbage(t *testing.T) {
	w := newWorld(t)
	book := w.book(t)
	out := &logs{}
	n, _ := serve(t, w, book, slog.New(slog.NewTextHandler(out, nil)), "c1")
	ctx := testContext(t)
	rng := rand.New(rand.NewPCG(1, 2))
	noise := func(k int) []byte {
		b := make([]byte, k)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	header := uploadHeader(t, w, 3)
	startUpload, err := proto.Marshal(&apiv1.UploadRequest{Part: &apiv1.UploadRequest_Start{Start: &apiv1.UploadStart{Message: header.Encode(), Boxes: 3, BoxSize: 4, Size: 10, Bits: 16, Lanes: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	startBlob, _ := proto.Marshal(&apiv1.PutBlobRequest{Part: &apiv1.PutBlobRequest_Start{Start: &apiv1.BlobStart{Size: 10, Digest: bytes.Repeat([]byte{1}, 32)}}})
	chunk, _ := proto.Marshal(&apiv1.PutBlobRequest{Part: &apiv1.PutBlobRequest_Chunk{Chunk: &apiv1.Chunk{Data: make([]byte, 11)}}})
	boxes, _ := proto.Marshal(&apiv1.UploadRequest{Part: &apiv1.UploadRequest_Boxes{Boxes: &apiv1.Chunk{Data: make([]byte, 12)}}})
	conns := map[Role]*grpc.ClientConn{}
	for role, who := range map[Role]string{RoleSite: "site/london", RoleResearcher: "researcher/team", RoleBoard: "board/ada", RoleCoordinator: "coordinator/c2", RoleAuditor: "auditor/eve"} {
		p := newPool(w.certs[who], book, n.Dial, nil)
		defer p.close()
		if conns[role], err = p.conn("c1"); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range services(t) {
		cc := conns[permissions[fullName(m)][0]]
		for _, msgs := range [][][]byte{
			{noise(1)}, {noise(100)}, {noise(5000)}, {{}, {}}, {noise(50), noise(50)},
			{startUpload}, {startUpload[:len(startUpload)/2]}, {startUpload, boxes}, {startUpload, boxes, boxes}, {startUpload, startUpload}, {startUpload, noise(9)},
			{startBlob}, {startBlob, chunk}, {startBlob, startBlob}, {startBlob, noise(30)}, {chunk},
			{bytes.Repeat([]byte{0xff}, 64)}, {make([]byte, maxMessage+1)},
		} {
			if err := garbage(ctx, cc, m, msgs, 200*time.Millisecond); err != nil && errors.Is(err, consilium.ErrUnavailable) {
				t.Errorf("%s: %v", m.Name(), err)
			}
		}
	}
	c := w.client(t, book, n, "site/london")
	if _, err := c.List(ctx); err != nil {
		t.Errorf("after the garbage: %v", err)
	}
	out.mu.Lock()
	defer out.mu.Unlock()
	if strings.Contains(out.b.String(), "panic") {
		t.Errorf("a handler panicked: %s", out.b.String())
	}
}

func uploadHeader(t testing.TB, w *world, n int) *consilium.Message {
	t.Helper()
	h := &consilium.Header{At: consilium.At{Charter: consilium.Digest{1}, Round: 1, Attempt: 1, Position: 1}, Size: 10, Boxes: make([]consilium.Digest, n), Commitments: make([]consilium.Digest, n)}
	return w.sign(t, "site/london", consilium.KindHeader, testStudy, h.Encode())
}

func TestClientAgainstThreeNodes(t *testing.T) {
	w := newWorld(t)
	book := w.book(t)
	n, fakes := serve(t, w, book, discard(), "c3")
	c := w.client(t, book, n, "site/london")
	ctx := testContext(t)
	m := w.sign(t, "site/london", consilium.KindAck, testStudy, []byte("hello"))
	if err := c.Post(ctx, m); err != nil {
		t.Fatal(err)
	}
	if len(fakes["c3"].posts) != 1 || !bytes.Equal(fakes["c3"].posts[0].Encode(), m.Encode()) {
		t.Error("the redirect did not lead to the leader with the same bytes")
	}
	// A redirect to a node that the roster does not know leads nowhere.
	fakes["c3"].leader = "evil"
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	if err := c.Post(short, m); !errors.Is(err, consilium.ErrNotLeader) && !errors.Is(err, consilium.ErrUnavailable) {
		t.Errorf("redirect to a stranger: %v", err)
	}
	cancel()
	for _, f := range fakes {
		f.leader = "c2"
	}
	if err := c.Post(ctx, w.sign(t, "site/amsterdam", consilium.KindAck, testStudy, []byte("x"))); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("a site posts for another: %v", err)
	}
	if err := c.Post(ctx, w.sign(t, "site/london", consilium.KindHeader, testStudy, []byte("x"))); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("a header without a contribution: %v", err)
	}

	boxes := [][]byte{[]byte("aaaa"), []byte("bbbb"), []byte("cccc")}
	ct := []byte("0123456789")
	shape := Shape{Lanes: 2, Bits: 16}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(ct)), nil }
	if err := c.Upload(ctx, uploadHeader(t, w, 3), boxes, shape, 10, open); err != nil {
		t.Fatal(err)
	}
	if got := fakes["c2"].uploads; len(got) != 1 || string(got[0]) != "aaaabbbbcccc0123456789" {
		t.Errorf("uploaded %q", got)
	}
	if err := c.Upload(ctx, uploadHeader(t, w, 3), boxes, shape, 11, open); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("a wrong size: %v", err)
	}
	ct = ct[:9]
	if err := c.Upload(ctx, uploadHeader(t, w, 3), boxes, shape, 10, open); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("a short vector: %v", err)
	}
	disk := errors.New("disk")
	if err := c.Upload(ctx, uploadHeader(t, w, 3), boxes, shape, 10, func() (io.ReadCloser, error) { return nil, disk }); !errors.Is(err, disk) {
		t.Errorf("a vector that does not open: %v", err)
	}

	blob := bytes.Repeat([]byte("blob"), 1<<18)
	d, err := c.PutBlob(ctx, bytes.NewReader(blob), uint64(len(blob)))
	if err != nil {
		t.Fatal(err)
	}
	if d != blobSum(blob) {
		t.Error("digest of the blob")
	}
	for id, f := range fakes {
		f.blobs[d] = blob
		f.fetchCut = 300_001
		_ = id
	}
	got, err := c.FetchBlob(ctx, d, 1<<21)
	if err != nil || !bytes.Equal(got, blob) {
		t.Errorf("fetched %d bytes, %v", len(got), err)
	}
	r, err := c.Fetch(ctx, d, 4*1000, 4*100)
	if err != nil {
		t.Fatal(err)
	}
	got, err = io.ReadAll(r)
	r.Close()
	if err != nil || !bytes.Equal(got, blob[4000:4400]) {
		t.Errorf("range: %d bytes, %v", len(got), err)
	}
	if _, err := c.Fetch(ctx, consilium.Digest{9}, 0, 0); !errors.Is(err, consilium.ErrBlobMissing) {
		t.Errorf("a missing blob: %v", err)
	}
	for _, f := range fakes {
		f.blobs[d] = blob[:len(blob)-1]
	}
	if _, err := c.FetchBlob(ctx, d, 1<<21); !errors.Is(err, consilium.ErrBlobCorrupt) {
		t.Errorf("altered bytes: %v", err)
	}
	if r, err := c.Fetch(ctx, d, 0, uint64(len(blob))); err == nil {
		if _, err = io.ReadAll(r); !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("a range beyond the end: %v", err)
		}
		r.Close()
	}

	list, err := c.List(ctx)
	if err != nil || len(list) != 1 || list[0] != (StudyStatus{Study: testStudy, Team: "team", Name: "n", Phase: consilium.PhaseDone, Round: 3, Attempt: 1, Members: 5, Contributed: 4, Deadline: 7, Reason: "r"}) {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := c.Status(ctx, consilium.NewStudyID(consilium.Digest{5})); !errors.Is(err, consilium.ErrUnknownStudy) {
		t.Errorf("unknown study: %v", err)
	}
}

func TestFollowResumes(t *testing.T) {
	w := newWorld(t)
	book := w.book(t)
	n, fakes := serve(t, w, book, discard(), "c1")
	other := consilium.NewStudyID(consilium.Digest{7})
	for _, f := range fakes {
		for i := range 100 {
			study := testStudy
			if i%3 == 0 {
				study = other
			}
			f.events = append(f.events, &consilium.Event{Seq: uint64(i), Study: study, Kind: consilium.EventResumed})
		}
		f.breakAt = 41
	}
	c := w.client(t, book, n, "researcher/team")
	ctx := testContext(t)
	stop := errors.New("enough")
	var seen []uint64
	err := c.Follow(ctx, 10, func(ev *consilium.Event) error {
		seen = append(seen, ev.Seq)
		if ev.Seq == 99 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	for i, s := range seen {
		if s != uint64(10+i) {
			t.Fatalf("event %d at place %d", s, i)
		}
	}
	if len(seen) != 90 {
		t.Errorf("%d events", len(seen))
	}
	seen = nil
	err = c.FollowStudy(ctx, other, 0, func(ev *consilium.Event) error {
		if ev.Study != other {
			t.Errorf("event of %s", ev.Study)
		}
		if seen = append(seen, ev.Seq); len(seen) == 34 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	ctx2, cancel := context.WithCancel(ctx)
	go func() { cancel() }()
	if err := c.Follow(ctx2, 100, func(*consilium.Event) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled follow: %v", err)
	}
}

func TestPeerClient(t *testing.T) {
	w := newWorld(t)
	book := w.book(t)
	n, fakes := serve(t, w, book, discard(), "c1")
	p := NewPeerClient(ClientOptions{Certificate: w.certs["coordinator/c2"], Book: book, Dial: n.Dial})
	defer p.Close()
	ctx := testContext(t)
	h, err := p.Hello(ctx, "c1", "0123456789abcdef")
	if err != nil || h.Incarnation != "0123456789abcdef" || !h.Started || len(h.Members) != 1 {
		t.Errorf("%+v, %v", h, err)
	}
	if _, err := p.Hello(ctx, "c1", "UPPER"); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("a bad incarnation: %v", err)
	}
	blob := []byte("some bytes")
	d := blobSum(blob)
	if err := p.Store(ctx, "c3", d, uint64(len(blob)), bytes.NewReader(blob)); err != nil {
		t.Fatal(err)
	}
	if held, err := p.Holds(ctx, "c3", d, uint64(len(blob))); err != nil || !held {
		t.Errorf("%v, %v", held, err)
	}
	if held, err := p.Holds(ctx, "c1", d, uint64(len(blob))); err != nil || held {
		t.Errorf("%v, %v", held, err)
	}
	r, err := p.Load(ctx, "c3", d, 5, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	r.Close()
	if err != nil || string(b) != "bytes" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := p.Load(ctx, "c1", d, 0, 0); !errors.Is(err, consilium.ErrBlobMissing) {
		t.Errorf("%v", err)
	}
	if err := p.Store(ctx, "c9", d, 10, bytes.NewReader(blob)); !errors.Is(err, consilium.ErrUnauthenticated) {
		t.Errorf("a node outside the roster: %v", err)
	}
	_ = fakes
}

func TestAuditClient(t *testing.T) {
	w := newWorld(t)
	book := w.book(t)
	n, _ := serve(t, w, book, discard(), "c1")
	c := w.client(t, book, n, "auditor/eve")
	ctx := testContext(t)
	if note, err := c.Checkpoint(ctx); err != nil || string(note) != "note" {
		t.Errorf("%q, %v", note, err)
	}
	if b, err := c.Tile(ctx, 0, 0, 256); err != nil || len(b) != 8192 {
		t.Errorf("%d, %v", len(b), err)
	}
	if _, err := c.Tile(ctx, 0, 0, 257); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if p, err := c.Inclusion(ctx, 1, 2); err != nil || len(p) != 1 {
		t.Errorf("%v, %v", p, err)
	}
	if _, err := c.Inclusion(ctx, 2, 2); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("%v", err)
	}
	next := uint64(5)
	if err := c.Entries(ctx, 5, 9000, func(i uint64, leaf []byte) error {
		if i != next {
			return fmt.Errorf("leaf %d, wanted %d", i, next)
		}
		next++
		return nil
	}); err != nil || next != 9005 {
		t.Errorf("%d, %v", next, err)
	}
	if _, err := c.List(ctx); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("an auditor lists studies: %v", err)
	}
}

// blobSum spells the definition out.
func blobSum(b []byte) consilium.Digest {
	hash := func(kind byte, parts ...[]byte) []byte {
		first := append([]byte("\x00\x00\x00\x00\x00\x00\x00\x11"+string(consilium.DomainBlob)), kind)
		h := sha256.Sum256(append(append(first, make([]byte, 64-len(first))...), bytes.Join(parts, nil)...))
		return h[:]
	}
	var row [][]byte
	for rest := b; len(rest) > 0 || len(row) == 0; {
		n := min(4096, len(rest))
		row, rest = append(row, hash(0, rest[:n])), rest[n:]
	}
	for len(row) > 1 {
		var up [][]byte
		for ; len(row) > 1; row = row[2:] {
			up = append(up, hash(1, row[0], row[1]))
		}
		row = append(up, row...)
	}
	return consilium.Digest(hash(2, binary.BigEndian.AppendUint64(nil, uint64(len(b))), row[0]))
}

func TestBlobDigest(t *testing.T) {
	for _, n := range []int{1, 5, chunkSize, chunkSize + 1} {
		b := bytes.Repeat([]byte{7}, n)
		d, err := BlobDigest(bytes.NewReader(b), uint64(n))
		if err != nil || d != blobSum(b) {
			t.Errorf("%d bytes: %v", n, err)
		}
		if _, err := BlobDigest(bytes.NewReader(b), uint64(n)-1); err == nil {
			t.Errorf("%d bytes: one byte too many was accepted", n)
		}
	}
}

func TestMemoryNetwork(t *testing.T) {
	n := NewNetwork()
	l, err := n.Listen("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Listen("a"); err == nil {
		t.Error("an address was opened twice")
	}
	if _, err := n.Dial(context.Background(), "b"); !errors.Is(err, consilium.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		io.Copy(c, c)
		c.Close()
	}()
	c, err := n.Dial(context.Background(), "a")
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("x"), 3*pipeBuffer)
	go func() { c.Write(want) }()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v", err)
	}
	c.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := c.Read(got); err == nil {
		t.Error("a read beyond its deadline")
	} else if ne, ok := err.(net.Error); !ok || !ne.Timeout() {
		t.Errorf("%v is not a time-out", err)
	}
	c.Close()
	if _, err := c.Write(got); err == nil {
		t.Error("a write after close")
	}
	l.Close()
	if _, err := n.Dial(context.Background(), "a"); err == nil {
		t.Error("a closed listener answers")
	}
	if l2, err := n.Listen("a"); err != nil {
		t.Errorf("the address is not free again: %v", err)
	} else {
		l2.Close()
	}
}

func FuzzValidate(f *testing.F) {
	f.Add([]byte{}, uint8(0))
	f.Add(bytes.Repeat([]byte{10, 2, 3, 4}, 20), uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, which uint8) {
		switch which % 5 {
		case 0:
			var r apiv1.UploadRequest
			if proto.Unmarshal(b, &r) == nil {
				if u, err := toUpload(&r); err == nil && (u.BoxCount != len(u.Header.Boxes) || u.Shape.Lanes < 1) {
					t.Error("accepted an upload that its header contradicts")
				}
			}
		case 1:
			var r apiv1.PutBlobRequest
			if proto.Unmarshal(b, &r) == nil {
				toBlobStart(&r)
				toBlobChunk(&r)
			}
		case 2:
			var r apiv1.FollowResponse
			if proto.Unmarshal(b, &r) == nil {
				if ev, err := toEvent(&r); err == nil && !bytes.Equal(ev.Encode(), r.GetEvent()) {
					t.Error("an accepted event re-encodes differently")
				}
			}
		case 3:
			if m, err := toMessage(b); err == nil && !bytes.Equal(m.Encode(), b) {
				t.Error("an accepted message re-encodes differently")
			}
		case 4:
			var r apiv1.StatusResponse
			if proto.Unmarshal(b, &r) == nil {
				toStatus(r.GetStatus())
			}
		}
	})
}
