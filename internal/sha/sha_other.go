//go:build !amd64 || purego

package sha

// Enabled is false here: crypto/sha256 runs.
const Enabled = false

func compress(state *[8][Lanes]uint32, data *byte, stride, n int) {
	panic("sha: called where Enabled is false")
}
