package wire

import (
	"context"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// What a call is part of travels in one header, traceparent, and only while a
// node traces. It is no part of any message and decides nothing.

func carry(ctx context.Context, headers map[string]string) context.Context {
	for k, v := range headers {
		ctx = metadata.AppendToOutgoingContext(ctx, k, v)
	}
	return ctx
}

func (p *pool) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, headers, end := p.span.Call(ctx, method)
	err := invoke(carry(ctx, headers), method, req, reply, cc, opts...)
	end(err)
	return err
}

func (p *pool) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, headers, end := p.span.Call(ctx, method)
	s, err := open(carry(ctx, headers), desc, cc, method, opts...)
	if err != nil || headers == nil {
		end(err)
		return s, err
	}
	t := &tracedStream{ClientStream: s, end: end, replies: desc.ServerStreams}
	// A stream that its caller leaves ends with its context.
	context.AfterFunc(ctx, func() { t.over(ctx.Err()) })
	return t, nil
}

// tracedStream ends its span with the stream.
type tracedStream struct {
	grpc.ClientStream
	end     func(error)
	once    sync.Once
	replies bool // more than one
}

func (t *tracedStream) over(err error) {
	if err == io.EOF {
		err = nil
	}
	t.once.Do(func() { t.end(err) })
}

func (t *tracedStream) RecvMsg(m any) error {
	err := t.ClientStream.RecvMsg(m)
	if err != nil || !t.replies {
		t.over(err)
	}
	return err
}

// header reads one header of an incoming call; nothing if it stands twice or is
// longer than any that we write.
func header(ctx context.Context) func(string) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return func(name string) string {
		if v := md.Get(name); len(v) == 1 && len(v[0]) <= 64 {
			return v[0]
		}
		return ""
	}
}
