//go:build amd64 && !purego

package sha

import "golang.org/x/sys/cpu"

// Enabled says that the processor has what sixteen lanes need.
var Enabled = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW

// compress runs n blocks of each of sixteen messages through the compression
// function (FIPS 180-4 §6.2.2). Message i begins at data + i*stride. Word j of
// lane i's state is state[j][i].
//
//go:noescape
func compress(state *[8][Lanes]uint32, data *byte, stride, n int)
