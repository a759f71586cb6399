package canon

import (
	"strings"
	"testing"
)

func TestDecodeRefuses(t *testing.T) {
	for _, bad := range []string{"", "{", `{"a":1,"a":2}`, `{"a":{"b":1,"b":1}}`, `[{"x":1,"x":1}]`, `{} {}`, `{"a":}`, `{1:2}`,
		`{"a":1,"\u0061":2}`, strings.Repeat("[", 70) + strings.Repeat("]", 70)} {
		if v, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%.40q read as %v", bad, v)
		}
	}
	v, err := DecodeObject([]byte(` { "b" : [ 1.0, null, "x" ], "a" : {} } `))
	if err != nil || len(v["b"].([]any)) != 3 {
		t.Errorf("%v %v", v, err)
	}
	if _, err := DecodeObject([]byte(`[]`)); err == nil {
		t.Error("an array is no object")
	}
}
