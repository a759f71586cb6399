package party

import (
	"bytes"
	"context"
	"testing"

	"consilium"
	"consilium/he"
)

// FuzzAggregate: the bytes of a sum, which come from a coordinator, are opened
// or rejected, by both engines alike, and only the true sum's bytes open. The
// input says how the true bytes are changed; without a change they open.
func FuzzAggregate(f *testing.F) {
	p := mustProfile(f, 13, 16, 16) // the default: three primes, several blocks and tiles
	fast, err := engineFor(p)
	if err != nil {
		f.Fatal(err)
	}
	slow := portableEngine(fast)
	key, s := [32]byte{1}, make([]int64, p.N())
	for i := range s {
		s[i] = int64(i%9) - 4
	}
	made := fast.newSlot(false)
	fast.encrypt(made, fast.newKey(s), newBlock(&key), newBlock(&key), 0)
	x, y := fast.newSlot(true), slow.newSlot(true)
	fastKey, slowKey := fast.newKey(s), slow.newKey(s)
	masks, std := newBlock(&key), portable(f, key)
	f.Add([]byte{}, uint16(0))
	f.Add([]byte{1}, uint16(7))
	f.Add(bytes.Repeat([]byte{0xff}, 7), uint16(0))
	f.Add(bytes.Repeat([]byte{0xff}, len(made.bytes)), uint16(0))
	f.Fuzz(func(t *testing.T, change []byte, at uint16) {
		copy(x.bytes, made.bytes)
		same := true
		for i, c := range change {
			if j := int(at)*len(x.bytes)>>16 + i; j < len(x.bytes) {
				x.bytes[j] ^= c
				same = same && c == 0
			}
		}
		copy(y.bytes, x.bytes)
		ok := fast.decrypt(x, fastKey, masks, int64(tailCut))
		if ok != slow.decrypt(y, slowKey, std, int64(tailCut)) {
			t.Fatal("the engines disagree")
		}
		if ok != same {
			t.Fatalf("accepted: %v, unchanged: %v", ok, same)
		}
	})
}

// FuzzOpen: no stream of bytes, of whatever length, makes Open panic or write
// to its sink before it has held.
func FuzzOpen(f *testing.F) {
	p, err := he.Choose(4, 16, 3)
	if err != nil {
		f.Fatal(err)
	}
	e, err := engineFor(p)
	if err != nil {
		f.Fatal(err)
	}
	s := make([]int64, p.N())
	for i := range s {
		s[i] = int64(i%9) - 4
	}
	rk := e.newKey(s)
	set := &consilium.Contributors{Round: 1, Attempt: 1, Members: make([]consilium.Contributor, 2)}
	f.Add([]byte{})
	f.Add(make([]byte, p.Size(4)))
	f.Add(make([]byte, p.Size(4)+1))
	f.Add(bytes.Repeat([]byte{0xff}, int(p.Size(4))))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := (&Decryption{Profile: p, Lanes: 4, Set: set, Group: testGroup("fuzz")}).newDrainer(e)
		d.kept = *e.getKept(1)
		if err := d.in.openStream(context.Background(), e, rk, bytes.NewReader(b), d); err == nil {
			t.Fatal("opened by chance")
		}
	})
}
