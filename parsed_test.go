package consilium

import (
	"fmt"
	"reflect"
	"testing"
)

// fill gives every field of v a value that is not zero, and every list two
// elements.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.String:
		v.SetString(fmt.Sprint("text ", *n))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n)%255 + 1)
	default:
		panic("fill knows no " + v.Kind().String())
	}
}

// shared names what two values have in common in memory.
func shared(at string, a, b reflect.Value) (out []string) {
	switch a.Kind() {
	case reflect.Pointer:
		if a.Pointer() == b.Pointer() {
			return []string{at}
		}
		return shared(at, a.Elem(), b.Elem())
	case reflect.Struct:
		for i := range a.NumField() {
			out = append(out, shared(at+"."+a.Type().Field(i).Name, a.Field(i), b.Field(i))...)
		}
	case reflect.Slice:
		if a.Pointer() == b.Pointer() {
			return []string{at}
		}
		for i := range a.Len() {
			out = append(out, shared(fmt.Sprint(at, "[", i, "]"), a.Index(i), b.Index(i))...)
		}
	case reflect.Map, reflect.Interface:
		panic("shared knows no " + a.Kind().String())
	}
	return out
}

// TestClones: a copy is equal and shares nothing, whatever fields are added. The
// naive copy, of the struct alone, shares every list.
func TestClones(t *testing.T) {
	check := func(v, clone, naive any) {
		if !reflect.DeepEqual(v, clone) {
			t.Errorf("the copy of a %T is another one", v)
		}
		if out := shared("", reflect.ValueOf(v), reflect.ValueOf(clone)); out != nil {
			t.Errorf("the copy of a %T shares %v with it", v, out)
		}
		if shared("", reflect.ValueOf(v), reflect.ValueOf(naive)) == nil {
			t.Errorf("nobody notices what a naive copy of a %T shares", v)
		}
	}
	n := 0
	var c Charter
	fill(reflect.ValueOf(&c).Elem(), &n)
	naiveC := c
	check(&c, c.clone(), &naiveC)
	var r Roster
	fill(reflect.ValueOf(&r).Elem(), &n)
	naiveR := r
	check(&r, r.clone(), &naiveR)
}

// TestOnce: the second parse of a payload is the first, whatever the first caller
// did to it, and what is refused is refused again.
func TestOnce(t *testing.T) {
	var key PublicKey
	key[0] = 1
	payload := fmt.Appendf(nil, `{"apiVersion":%q,"kind":"Roster","name":"once","version":1,"previous":%q,"notBefore":1,"notAfter":2,`+
		`"board":{"name":"b","members":[{"id":"a","key":%q,"tls":null}],"threshold":1,"witness":""},"sites":null,"coordinators":null,"researchers":null,"auditors":null}`,
		APIVersion, Digest{}, marshalBytes(key[:]))
	first, err := ParseRoster(payload)
	if err != nil {
		t.Fatal(err)
	}
	first.Name, first.Board.Members[0].ID = "another", "mallory"
	for range 2 {
		r, err := ParseRoster(payload)
		if err != nil {
			t.Fatal(err)
		}
		if r.Name != "once" || r.Board.Members[0].ID != "a" {
			t.Fatalf("what one caller changed, the next one gets: %s, %s", r.Name, r.Board.Members[0].ID)
		}
		r.Board.Members[0].ID = "mallory"
	}
	if _, ok := rosters.Get(string(payload)); !ok {
		t.Error("the roster is not remembered")
	}
	bad := append([]byte(nil), payload...)
	bad[len(bad)-2] = 'x' // nulx
	for range 2 {
		if _, err := ParseRoster(bad); err == nil {
			t.Error("a payload that differs in one byte is taken for the one before")
		}
	}
}
