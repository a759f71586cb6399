//go:build amd64 && !purego

package gram

func fastPaths() (haveFast, haveZMM bool) { return fast, useZMM }
func setPaths(f, z bool)                  { fast, useZMM = f, z }
