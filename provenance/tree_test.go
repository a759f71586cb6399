package provenance

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"golang.org/x/mod/sumdb/tlog"

	"consilium"
)

// The eight leaves that Certificate Transparency implementations share (RFC 6962).
func TestRFC6962Vectors(t *testing.T) {
	var leaves []consilium.Digest
	e := &Edge{}
	for n, want := range testonly.RootHashes() {
		if root := TreeRoot(leaves); !bytes.Equal(root[:], want) {
			t.Errorf("root of %d leaves: %v, want %x", n, root, want)
		}
		if root := e.Root(); !bytes.Equal(root[:], want) || e.Size() != uint64(n) {
			t.Errorf("edge of %d leaves: %v, want %x", n, root, want)
		}
		if n < len(testonly.LeafInputs()) {
			in := testonly.LeafInputs()[n]
			leaf := LeafHash(in)
			if want := testonly.NodeHashes()[0][n]; !bytes.Equal(leaf[:], want) {
				t.Errorf("leaf %d: %v, want %x", n, leaf, want)
			}
			leaves = append(leaves, leaf)
			e.AppendData(in)
		}
	}
}

func leavesOf(n int) []consilium.Digest {
	out := make([]consilium.Digest, n)
	for i := range out {
		out[i] = LeafHash(fmt.Append(nil, "leaf ", i))
	}
	return out
}

// Every size has the root that an independent implementation gives, and every
// inclusion proof verifies in two of them and for no other leaf.
func TestTreeAgainstSecondImplementation(t *testing.T) {
	ref := testonly.New(rfc6962.DefaultHasher)
	e := &Edge{}
	all := leavesOf(70)
	for n := 1; n <= len(all); n++ {
		ref.AppendData(fmt.Append(nil, "leaf ", n-1))
		e.Append(all[n-1])
		root := TreeRoot(all[:n])
		if !bytes.Equal(root[:], ref.Hash()) || e.Root() != root {
			t.Fatalf("size %d: root %v, edge %v, want %x", n, root, e.Root(), ref.Hash())
		}
		parsed, err := ParseEdge(e.Marshal())
		if err != nil || !parsed.Equal(e) || parsed.Root() != root {
			t.Fatalf("size %d: edge does not survive its encoding: %v", n, err)
		}
		for i := 0; i < n; i++ {
			path := inclusionProof(all[:n], i)
			if err := VerifyInclusion(all[i], uint64(i), uint64(n), path, root); err != nil {
				t.Fatalf("leaf %d of %d: %v", i, n, err)
			}
			var proof tlog.RecordProof
			for _, h := range path {
				proof = append(proof, tlog.Hash(h))
			}
			if err := tlog.CheckRecord(proof, int64(n), tlog.Hash(root), int64(i), tlog.Hash(all[i])); err != nil {
				t.Fatalf("leaf %d of %d: tlog: %v", i, n, err)
			}
			if n > 1 && VerifyInclusion(all[(i+1)%n], uint64(i), uint64(n), path, root) == nil {
				t.Fatalf("leaf %d of %d: the proof holds for another leaf", i, n)
			}
		}
	}
}

func TestParallelRootEqualsSerial(t *testing.T) {
	for _, n := range []int{1<<13 - 1, 1 << 13, 1<<13 + 1, 40001} {
		all := leavesOf(n)
		e := &Edge{}
		for _, l := range all {
			e.Append(l)
		}
		if got := TreeRoot(all); got != e.Root() {
			t.Errorf("%d leaves: %v, want %v", n, got, e.Root())
		}
	}
}

// Tiles give at every size the root and proofs of the tree, also after a
// restart and across whole tiles.
func TestTiles(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	tiles, err := OpenTiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := leavesOf(66000)
	steps := []int{1, 2, 3, 255, 256, 257, 600, 65535, 65537, 66000}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range steps {
		if err := tiles.Append(all[tiles.Size():n]...); err != nil {
			t.Fatal(err)
		}
		root := TreeRoot(all[:n])
		if tiles.Edge().Root() != root {
			t.Fatalf("size %d: another root", n)
		}
		if tiles, err = OpenTiles(dir); err != nil {
			t.Fatalf("size %d: reopen: %v", n, err)
		}
		for i := 0; i < 8; i++ {
			size := 1 + rng.IntN(n)
			index, from := rng.IntN(size), rng.IntN(size+1)
			want := TreeRoot(all[:size])
			if got, err := tiles.Root(ctx, uint64(size)); err != nil || got != want {
				t.Fatalf("root at %d of %d: %v", size, n, err)
			}
			path, err := tiles.Inclusion(ctx, uint64(index), uint64(size))
			if err != nil {
				t.Fatal(err)
			}
			if err := VerifyInclusion(all[index], uint64(index), uint64(size), path, want); err != nil {
				t.Fatal(err)
			}
			if path, err = tiles.Consistency(ctx, uint64(from), uint64(size)); err != nil {
				t.Fatal(err)
			}
			if err := VerifyConsistency(uint64(from), TreeRoot(all[:from]), uint64(size), want, path); err != nil {
				t.Fatalf("from %d to %d: %v", from, size, err)
			}
		}
	}
	if _, err := tiles.Inclusion(ctx, 0, 66001); err == nil {
		t.Error("a proof in a tree that is not there")
	}
	// A changed byte on the right edge is found on opening.
	files, err := filepath.Glob(filepath.Join(dir, "tile", "0", "*.p", "208")) // 66000 = 257*256 + 208
	if err != nil || len(files) != 1 {
		t.Fatalf("the right-most tile: %v %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	b[77] ^= 1
	if err := os.WriteFile(files[0], b, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTiles(dir); err == nil {
		t.Error("a damaged tile was not noticed")
	}
}

func TestTilesPublishOnlyTheirOwnRoot(t *testing.T) {
	tiles, err := OpenTiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	all := leavesOf(5)
	if err := tiles.Append(all...); err != nil {
		t.Fatal(err)
	}
	node, err := NewWitnessKey("node-1")
	if err != nil {
		t.Fatal(err)
	}
	sign := func(size uint64, root consilium.Digest) []byte {
		cp, err := SignCheckpoint("audit.test/log", size, root, node)
		if err != nil {
			t.Fatal(err)
		}
		return cp
	}
	if err := tiles.WriteCheckpoint(t.Context(), sign(5, TreeRoot(all[:4]))); err == nil {
		t.Error("published a root that the tiles do not have")
	}
	if err := tiles.WriteCheckpoint(t.Context(), sign(6, TreeRoot(all))); err == nil {
		t.Error("published a size that the tiles do not have")
	}
	want := sign(4, TreeRoot(all[:4]))
	if err := tiles.WriteCheckpoint(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if got, err := tiles.Checkpoint(t.Context()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("checkpoint: %v", err)
	}
}
