package wire

import (
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
)

// gRPC's codec takes every buffer from one pool of the process, whose tiers end
// with 32 KiB and 1 MiB, and clears all of a buffer that it gives out again. A
// signed charter of a hundred hospitals is some 450 kB, and a coordinator sends it
// to a hundred followers at once: with every power of two a tier, a message takes
// less than twice its length.
func init() {
	pool, err := mem.NewBinaryTieredBufferPool(8, 10, 12, 14, 15, 16, 17, 18, 19, 20)
	if err != nil {
		panic("wire: " + err.Error()) // constants
	}
	experimental.SetDefaultBufferPool(pool)
}
