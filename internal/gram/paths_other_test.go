//go:build !amd64 || purego

package gram

func fastPaths() (haveFast, haveZMM bool) { return false, false }
func setPaths(bool, bool)                 {}
