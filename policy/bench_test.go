package policy

import "testing"

// BenchmarkDecide measures one admission at a hospital.
func BenchmarkDecide(b *testing.B) {
	e := demoEngine(b)
	for _, name := range []string{"study.json", "nl.json", "us.json", "columns-us.json", "rows-nl.json"} {
		f := readVectors(b)[name]
		q := question(b, f, &f.Cases[0])
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if d := e.ask(b.Context(), b, f.Point, q); !d.Allow {
					b.Fatal(Explain(d))
				}
			}
		})
	}
}

// BenchmarkCompile measures a change of policy.
func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		demoEngine(b)
	}
}
