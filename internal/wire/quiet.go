package wire

import (
	"io"

	"google.golang.org/grpc/grpclog"
)

// Quiet silences what gRPC itself would print about connections that break
// off: callers get the same as errors. To be called before any connection.
func Quiet() {
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
}
