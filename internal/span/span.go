// Package span promises that a round can be followed across hospitals and
// coordinators, and that nothing of a record is in what is exported. Spans are
// OpenTelemetry's; this is the only room that knows its SDK. A span carries a
// study, a round, an attempt, the name of a step, a gRPC method and an error's
// stable code, and there is no way to put anything else on it.
//
// All nodes put what they do in one round of one study into one trace without
// having to ask each other: its id follows from the two. Calls between nodes carry
// W3C Trace Context (https://www.w3.org/TR/trace-context/), so that what a node
// does for a hospital hangs below the hospital's own step. A peer's context decides
// nothing but that: neither whether a span is kept nor what stands on it.
//
// It is off unless a node's configuration says where spans go.
package span

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"consilium"
)

// Tracer makes spans. A nil Tracer makes none.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
}

// Config says where a node's spans go: to OTLP, to a file, or to both.
type Config struct {
	OTLP  string  // URL of an OTLP/HTTP receiver, such as http://127.0.0.1:4318; "" for none
	File  string  // appended to, one JSON object a span; "" for none
	Ratio float64 // of traces that are kept; 0 means all
}

// Check refuses a configuration that Open would refuse, without opening anything.
func (c *Config) Check() error {
	if !(c.Ratio >= 0 && c.Ratio <= 1) {
		return consilium.ErrInvalid.Withf("tracing: ratio %v; use one from 0 to 1", c.Ratio)
	}
	if c.OTLP == "" {
		return nil
	}
	_, err := c.receiver()
	return err
}

// receiver is where OTLP/HTTP requests with spans go.
func (c *Config) receiver() (*url.URL, error) {
	u, err := url.Parse(c.OTLP)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, consilium.ErrInvalid.Withf("tracing: otlp %q is not an http or https URL", c.OTLP)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces" // OTLP §OTLP/HTTP Request
	}
	return u, nil
}

// Open makes the tracer of a node, such as "site/zurich", or nil if the
// configuration names no place. Close it after the node.
func Open(ctx context.Context, node string, c Config) (*Tracer, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	var to []sdk.SpanExporter
	if c.OTLP != "" {
		u, err := c.receiver()
		if err != nil {
			return nil, err
		}
		e, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(u.String()))
		if err != nil {
			return nil, fmt.Errorf("tracing: %w", err)
		}
		to = append(to, e)
	}
	if c.File != "" {
		f, err := os.OpenFile(c.File, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, fmt.Errorf("tracing: %w", err)
		}
		e, err := stdouttrace.New(stdouttrace.WithWriter(f))
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("tracing: %w", err)
		}
		to = append(to, closing{e, f})
	}
	if len(to) == 0 {
		return nil, nil
	}
	return New(node, c.Ratio, to...), nil
}

// closing closes an exporter's file after it.
type closing struct {
	sdk.SpanExporter
	f *os.File
}

func (c closing) Shutdown(ctx context.Context) error {
	return errors.Join(c.SpanExporter.Shutdown(ctx), c.f.Close())
}

// New makes a tracer over exporters. Spans wait in a bounded queue and are
// dropped when it is full: tracing never holds a round up.
func New(node string, ratio float64, to ...sdk.SpanExporter) *Tracer {
	if ratio == 0 {
		ratio = 1
	}
	options := []sdk.TracerProviderOption{
		sdk.WithSampler(sdk.TraceIDRatioBased(ratio)), // by the trace's id alone: a peer's flag decides nothing
		sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", "consilium"), attribute.String("service.instance.id", node))),
		sdk.WithRawSpanLimits(sdk.SpanLimits{AttributeValueLengthLimit: 128, AttributeCountLimit: 8, EventCountLimit: 0, LinkCountLimit: 0,
			AttributePerEventCountLimit: 0, AttributePerLinkCountLimit: 0}),
	}
	for _, e := range to {
		options = append(options, sdk.WithBatcher(e))
	}
	p := sdk.NewTracerProvider(options...)
	return &Tracer{provider: p, tracer: p.Tracer("consilium")}
}

// Close hands over what waits, within a few seconds.
func (t *Tracer) Close() error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return t.provider.Shutdown(ctx)
}

// Flush hands over what waits, and goes on.
func (t *Tracer) Flush() error {
	if t == nil {
		return nil
	}
	return t.provider.ForceFlush(context.Background())
}

// TraceID is the trace of one round of a study, in the hexadecimal form in
// which viewers search; round 0 is what comes before the first and after the last.
func TraceID(study consilium.StudyID, round uint32) string {
	return root(study, round).TraceID().String()
}

// root is the round's own span, which no node ever makes: all hang below it.
func root(study consilium.StudyID, round uint32) trace.SpanContext {
	var r [4]byte
	binary.BigEndian.PutUint32(r[:], round)
	d := consilium.DomainSpan.Digest([]byte(study), r[:])
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID(d[:16]), SpanID: trace.SpanID(d[16:24]), TraceFlags: trace.FlagsSampled, Remote: true})
}

// Step begins a step of a study's round. The returned function ends it.
func (t *Tracer) Step(ctx context.Context, study consilium.StudyID, round, attempt uint32, step string) (context.Context, func(error)) {
	if t == nil {
		return ctx, func(error) {}
	}
	ctx, s := t.tracer.Start(trace.ContextWithRemoteSpanContext(ctx, root(study, round)), step, trace.WithAttributes(
		attribute.String("consilium.study", string(study)), attribute.Int64("consilium.round", int64(round)), attribute.Int64("consilium.attempt", int64(attempt))))
	return ctx, func(err error) { end(s, err) }
}

// end closes a span with an error's code; its words stay in the node's log.
func end(s trace.Span, err error) {
	if err != nil {
		s.SetStatus(codes.Error, string(consilium.CodeOf(err)))
	}
	s.End()
}

// Call begins a span for an outgoing call and returns the headers that carry
// it; nil while nothing is being traced.
func (t *Tracer) Call(ctx context.Context, method string) (context.Context, map[string]string, func(error)) {
	if t == nil || !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, nil, func(error) {} // followers and heartbeats belong to no step
	}
	ctx, s := t.tracer.Start(ctx, strings.TrimPrefix(method, "/"), trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(rpc(method)...))
	headers := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, headers)
	return ctx, headers, func(err error) { end(s, err) }
}

// Serve begins a span for an incoming call that carries a context, read by get.
func (t *Tracer) Serve(ctx context.Context, method string, get func(header string) string) (context.Context, func(error)) {
	if t == nil {
		return ctx, func(error) {}
	}
	// Only the two headers of Trace Context; no baggage is taken from a peer.
	carried := propagation.MapCarrier{"traceparent": get("traceparent")}
	ctx = propagation.TraceContext{}.Extract(ctx, carried)
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, func(error) {}
	}
	ctx, s := t.tracer.Start(ctx, strings.TrimPrefix(method, "/"), trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(rpc(method)...))
	return ctx, func(err error) { end(s, err) }
}

// rpc names a gRPC method as the semantic conventions do.
func rpc(method string) []attribute.KeyValue {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	return []attribute.KeyValue{attribute.String("rpc.system", "grpc"), attribute.String("rpc.service", service), attribute.String("rpc.method", name)}
}
