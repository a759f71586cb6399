//go:build amd64 && !purego

package vec

import "golang.org/x/sys/cpu"

// Enabled says that the processor has what the functions of this package use:
// every server processor since Ice Lake (2021) and Zen 4 (2022).
var Enabled = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512VBMI &&
	cpu.X86.HasAVX512IFMA && cpu.X86.HasAVX512VNNI && cpu.X86.HasAVX512VAES && cpu.X86.HasAES
