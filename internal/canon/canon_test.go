package canon

import (
	"errors"
	"fmt"
	"testing"
)

// TestMemo: the same document again has the same encoding, whatever the caller
// did with the first, and what was refused is refused again.
func TestMemo(t *testing.T) {
	v := map[string]any{"b": 1, "a": []int{2}}
	for i := range 3 * maxMemo {
		v["n"] = i % 5
		b, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf(`{"a":[2],"b":1,"n":%d}`, i%5); string(b) != want {
			t.Fatalf("%s, want %s", b, want)
		}
		clear(b)
		if _, err := Marshal(map[string]int{"filler": i}); err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{`{"b":1,"a":2}`, `{"a":1,"a":2}`, `{`} {
			if err := Check([]byte(bad)); !errors.Is(err, ErrNotCanonical) {
				t.Fatalf("%s: %v", bad, err)
			}
		}
	}
}
