package span_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"consilium"
	"consilium/internal/span"
)

const study = consilium.StudyID("s-aaaaaaaaaaaaaaaa")

// TestOneTrace: two nodes that never spoke put a round into one trace; what one
// does for the other hangs below the other's step; other rounds are apart.
func TestOneTrace(t *testing.T) {
	a, b := tracetest.NewInMemoryExporter(), tracetest.NewInMemoryExporter()
	ta, fa := keep("site/a", a)
	tb, fb := keep("coordinator/b", b)
	ctx, end := ta.Step(t.Context(), study, 2, 1, "upload")
	_, headers, done := ta.Call(ctx, "/consilium.v1.SiteService/Upload")
	_, served := tb.Serve(context.Background(), "/consilium.v1.SiteService/Upload", func(h string) string { return headers[h] })
	served(nil)
	done(nil)
	end(consilium.ErrRoundClosed.Withf("a patient's name"))
	_, other := tb.Step(t.Context(), study, 2, 1, "sum")
	other(nil)
	_, next := tb.Step(t.Context(), study, 3, 1, "sum")
	next(nil)
	sa, sb := fa(), fb()
	if len(sa) != 2 || len(sb) != 3 {
		t.Fatalf("%d and %d spans", len(sa), len(sb))
	}
	want := span.TraceID(study, 2)
	for _, s := range []tracetest.SpanStub{sa[0], sa[1], sb[0], sb[1]} {
		if s.SpanContext.TraceID().String() != want {
			t.Errorf("%s is in trace %s, want %s", s.Name, s.SpanContext.TraceID(), want)
		}
	}
	call, step, server := sa[0], sa[1], sb[0]
	if server.Parent.SpanID() != call.SpanContext.SpanID() || call.Parent.SpanID() != step.SpanContext.SpanID() {
		t.Error("the call does not hang below the step that made it")
	}
	if id := sb[2].SpanContext.TraceID().String(); id == want || id != span.TraceID(study, 3) {
		t.Errorf("the next round is in trace %s", id)
	}
	if step.Status.Description != string(consilium.ErrRoundClosed.Code) {
		t.Errorf("the step's status says %q", step.Status.Description)
	}
	for _, s := range append(sa, sb...) {
		for _, kv := range s.Attributes {
			if !strings.HasPrefix(string(kv.Key), "consilium.") && !strings.HasPrefix(string(kv.Key), "rpc.") {
				t.Errorf("%s carries %s", s.Name, kv.Key)
			}
		}
		if b, _ := json.Marshal(s.Attributes); strings.Contains(string(b), "patient") || len(s.Events) > 0 {
			t.Errorf("an error's words left the node: %s %v", b, s.Events)
		}
	}
}

// TestPeerDecidesNothing: a peer's header that is no context, or that asks for
// anything, changes nothing but what a span hangs below.
func TestPeerDecidesNothing(t *testing.T) {
	e := tracetest.NewInMemoryExporter()
	tr, spans := keep("coordinator/b", e)
	for _, h := range []string{"", "x", strings.Repeat("0", 64), "00-00000000000000000000000000000000-0000000000000000-01", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"} {
		_, end := tr.Serve(context.Background(), "/s/m", func(string) string { return h })
		end(nil)
	}
	if n := len(spans()); n != 0 {
		t.Errorf("%d spans below no context", n)
	}
	// Not sampled by the peer: kept all the same, since this node keeps all.
	_, end := tr.Serve(context.Background(), "/s/m", func(name string) string {
		if name != "traceparent" {
			t.Errorf("%s is read of a peer", name)
		}
		return "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
	})
	end(errors.New("x"))
	if n := len(spans()); n != 1 {
		t.Errorf("%d spans", n)
	}
}

// TestOff: nothing is traced, sent or opened unless the configuration says so.
func TestOff(t *testing.T) {
	tr, err := span.Open(t.Context(), "site/a", span.Config{})
	if tr != nil || err != nil {
		t.Fatal(tr, err)
	}
	ctx, end := tr.Step(t.Context(), study, 1, 1, "local")
	_, headers, done := tr.Call(ctx, "/s/m")
	_, served := tr.Serve(ctx, "/s/m", func(string) string { t.Error("a header is read"); return "" })
	end(nil)
	done(nil)
	served(nil)
	if headers != nil || tr.Close() != nil {
		t.Error("a tracer that is off does something")
	}
	for _, c := range []span.Config{{OTLP: "127.0.0.1:4318"}, {OTLP: "grpc://h:1"}, {File: "/dev/null", Ratio: 2}, {File: filepath.Join(t.TempDir(), "no", "file")}} {
		if _, err := span.Open(t.Context(), "site/a", c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

// TestExports: a file and an OTLP receiver get the spans by the time of Close.
func TestExports(t *testing.T) {
	var posts atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err == nil && r.URL.Path == "/v1/traces" && r.Header.Get("Content-Type") == "application/x-protobuf" && len(b) > 0 {
			posts.Add(1)
		}
	}))
	defer s.Close()
	file := filepath.Join(t.TempDir(), "spans.json")
	tr, err := span.Open(t.Context(), "site/a", span.Config{OTLP: s.URL, File: file})
	if err != nil {
		t.Fatal(err)
	}
	_, end := tr.Step(t.Context(), study, 1, 1, "local")
	end(nil)
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ Name string }
	if err := json.Unmarshal(b, &doc); err != nil || doc.Name != "local" || !strings.Contains(string(b), span.TraceID(study, 1)) {
		t.Errorf("%v: %s", err, b)
	}
	if posts.Load() != 1 {
		t.Errorf("%d posts to the receiver", posts.Load())
	}
}

// keep is a tracer whose spans can be looked at: the memory exporter forgets what
// it has at shutdown.
func keep(node string, e *tracetest.InMemoryExporter) (*span.Tracer, func() tracetest.SpanStubs) {
	tr := span.New(node, 1, e)
	return tr, func() tracetest.SpanStubs {
		if err := tr.Flush(); err != nil {
			panic(err)
		}
		return e.GetSpans()
	}
}
