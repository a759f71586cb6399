// Package cgd carries a real trial: gamma interferon against infections in
// chronic granulomatous disease, 128 patients at thirteen hospitals (N Engl J
// Med 1991;324:509-516). NOTICE says where the data come from. The demonstration
// and the tests read it from here.
package cgd

import "embed"

// Files holds the tables, the reference results computed with R, the study
// files and what the thirteen hospitals have filed.
//
//go:embed *.csv *.json *.yaml NOTICE
var Files embed.FS

// Read returns one file; a missing one is a mistake of the program.
func Read(name string) []byte {
	b, err := Files.ReadFile(name)
	if err != nil {
		panic("examples/cgd: " + err.Error())
	}
	return b
}
