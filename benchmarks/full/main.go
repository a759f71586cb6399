//go:build unix

// Command full runs one encrypted round at full size, every role in a process
// of its own with its data in files, and reports what each took: processor
// time, and peak memory as the operating system saw it.
//
//	go run ./benchmarks/full -parameters 100000000 -sites 16 -dir DIR
//
// DIR takes the encrypted vectors, 2.67 bytes for each parameter and site. A
// worker holds its parameter vector in memory as float32 and quantises it on
// the way; the receiver adds the opened sums into such a vector. Every opened
// sum is compared with the sum of what the workers quantised.
//
// Keys pass between the processes in files, which a federation never does.
package main

import (
	"bufio"
	"context"
	"encoding/gob"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"consilium"
	"consilium/he"
	"consilium/he/party"
	"consilium/internal/seal"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type job struct {
	parameters, sites int
	dir               string
}

func run() error {
	var j job
	var role string
	flag.IntVar(&j.parameters, "parameters", 1e8, "length of the vector")
	flag.IntVar(&j.sites, "sites", 16, "hospitals, at most 16")
	flag.StringVar(&j.dir, "dir", "", "directory for the encrypted vectors")
	flag.StringVar(&role, "role", "", "run one role; set by the program itself")
	flag.Parse()
	if j.dir == "" || j.sites < 3 || j.sites > 16 || j.parameters < 1 {
		return errors.New("usage: full -dir DIR [-parameters N] [-sites 3..16]")
	}
	switch role {
	case "":
		return j.all()
	case "coordinator":
		return j.coordinate()
	case "receiver":
		return j.receive()
	}
	var site int
	if _, err := fmt.Sscanf(role, "worker-%d", &site); err != nil || site < 1 || site > j.sites {
		return fmt.Errorf("no role %q", role)
	}
	return j.work(site)
}

// all starts the roles one after the other.
func (j job) all() error {
	if err := j.prepare(); err != nil {
		return err
	}
	p, err := j.profile()
	if err != nil {
		return err
	}
	vector := float64(4 * j.parameters)
	fmt.Printf("%d parameters, %d sites, logN %d, %d chunks of %d bytes, %.3f bytes a parameter\n", j.parameters, j.sites, p.LogN, p.Chunks(j.parameters), p.ChunkSize(), float64(p.Size(j.parameters))/float64(j.parameters))
	roles := []string{}
	for i := range j.sites {
		roles = append(roles, fmt.Sprintf("worker-%d", i+1))
	}
	for _, role := range append(roles, "coordinator", "receiver") {
		c := exec.Command(os.Args[0], "-role", role, "-dir", j.dir, "-parameters", fmt.Sprint(j.parameters), "-sites", fmt.Sprint(j.sites))
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		if err := c.Run(); err != nil {
			return fmt.Errorf("%s: %w", role, err)
		}
		u := c.ProcessState.SysUsage().(*syscall.Rusage)
		cpu := (c.ProcessState.UserTime() + c.ProcessState.SystemTime()).Seconds()
		peak := float64(u.Maxrss) * 1024
		fmt.Printf("%-12s %6.2f s of processor, of which %.2f system; peak %.1f MiB", role, cpu, c.ProcessState.SystemTime().Seconds(), peak/(1<<20))
		if role != "coordinator" {
			fmt.Printf(", %.2f of the vector", peak/vector)
		} else {
			fmt.Printf("; the bound is %.1f MiB", 64+float64(4*p.ChunkSize()*j.sites)/(1<<20))
		}
		fmt.Println()
	}
	return nil
}

func (j job) threshold() int {
	return consilium.Threshold(j.sites, consilium.DefaultFaults(j.sites, j.sites))
}

func (j job) profile() (he.Profile, error) { return he.Choose(j.parameters, 16, j.sites) }

func (j job) charter() consilium.Digest { return consilium.DomainCharter.Digest([]byte("full")) }

func (j job) at(pos int) consilium.At {
	return consilium.At{Charter: j.charter(), Round: 1, Attempt: 1, Position: consilium.Position(pos)}
}

func (j job) path(name string, i int) string {
	return filepath.Join(j.dir, fmt.Sprintf("%s-%d", name, i))
}

func save(path string, v any) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(gob.NewEncoder(f).Encode(v), f.Close())
}

func load(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return gob.NewDecoder(f).Decode(v)
}

// secrets are what the processes share here.
type secrets struct {
	Group []byte
	Keys  [][]byte
}

func (j job) prepare() error {
	var s secrets
	var charter consilium.Charter
	var contributions []*party.Contribution
	for i := range j.sites {
		k, err := seal.Generate()
		if err != nil {
			return err
		}
		b, err := k.Bytes()
		if err != nil {
			return err
		}
		s.Keys = append(s.Keys, b)
		c, err := party.NewContribution()
		if err != nil {
			return err
		}
		m := consilium.Member{Site: consilium.SiteID(fmt.Sprintf("site-%03d", i))}
		m.Commitment = c.Commitment("", m.Site, m.Nonce)
		charter.Members = append(charter.Members, m)
		contributions = append(contributions, c)
	}
	g, err := party.Combine(j.charter(), &charter, contributions)
	if err != nil {
		return err
	}
	s.Group = g.Secret()
	return save(j.path("secrets", 0), s)
}

func (j job) secrets() (*party.GroupKey, []*seal.Key, []consilium.SealingKey, error) {
	var s secrets
	if err := load(j.path("secrets", 0), &s); err != nil {
		return nil, nil, nil, err
	}
	g, err := party.ParseGroupKey(s.Group)
	if err != nil {
		return nil, nil, nil, err
	}
	var keys []*seal.Key
	var public []consilium.SealingKey
	for _, b := range s.Keys {
		k, err := seal.Parse(b)
		if err != nil {
			return nil, nil, nil, err
		}
		keys, public = append(keys, k), append(public, k.Public())
	}
	return g, keys, public, nil
}

// weight is parameter i of a site's vector, in [-1, 1).
func weight(site, i int) float32 {
	x := uint32(i)*2654435761 + uint32(site)*40503
	return float32(int32(x^x>>15)>>8) / (1 << 23)
}

// quantise is how a clipped weight becomes a lane of 16 bits.
func quantise(w float32) int32 { return int32(w * 32767) }

// vector is a float32 vector as a source of lanes.
type vector struct {
	v  []float32
	at int
}

func (s *vector) Read(lanes []int32) (int, error) {
	n := min(len(lanes), len(s.v)-s.at)
	for i, w := range s.v[s.at : s.at+n] {
		lanes[i] = quantise(w)
	}
	if s.at += n; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

type upload struct {
	Header []byte
	Boxes  [][]byte
}

func (j job) work(site int) error {
	g, _, public, err := j.secrets()
	if err != nil {
		return err
	}
	p, err := j.profile()
	if err != nil {
		return err
	}
	v := make([]float32, j.parameters)
	for i := range v {
		v[i] = weight(site, i)
	}
	salt, err := party.VectorSalt(make([]byte, 32), "study", 1)
	if err != nil {
		return err
	}
	again, err := party.NewFingerprint(salt)
	if err != nil {
		return err
	}
	buf := make([]int32, 1<<12)
	for src := (&vector{v: v}); ; {
		n, err := src.Read(buf)
		if err == io.EOF {
			break
		}
		again.Write(buf[:n])
	}
	digest := again.Digest()
	seed, err := party.NewSeed(make([]byte, 32), j.at(site), digest)
	if err != nil {
		return err
	}
	f, err := os.Create(j.path("cipher", site))
	if err != nil {
		return err
	}
	defer f.Close()
	d, err := party.Contribute(context.Background(), &party.Encryption{Profile: p, Lanes: j.parameters, At: j.at(site), Threshold: j.threshold(),
		Salt: salt, Vector: digest, Holders: public, Group: g, Seed: seed, Source: &vector{v: v}, Fingerprint: again}, f)
	if err != nil {
		return err
	}
	header := &consilium.Header{}
	if err := d.Header(header); err != nil {
		return err
	}
	return errors.Join(f.Close(), save(j.path("upload", site), upload{header.Encode(), d.Boxes}))
}

func (j job) coordinate() error {
	p, err := j.profile()
	if err != nil {
		return err
	}
	var readers []io.Reader
	var inputs []*he.Input
	for i := range j.sites {
		f, err := os.Open(j.path("cipher", i+1))
		if err != nil {
			return err
		}
		defer f.Close()
		inputs = append(inputs, he.NewInput(f))
		readers = append(readers, inputs[i])
	}
	f, err := os.Create(j.path("sum", 0))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := he.Sum(p, j.parameters, readers, f); err != nil {
		return err
	}
	for i, in := range inputs {
		var u upload
		if err := load(j.path("upload", i+1), &u); err != nil {
			return err
		}
		header, err := consilium.ParseHeader(u.Header)
		if err != nil {
			return err
		}
		if in.Digest() != header.Ciphertext {
			return fmt.Errorf("the encrypted vector of site %d is not the one of its header", i+1)
		}
	}
	return f.Close()
}

func (j job) receive() error {
	g, keys, _, err := j.secrets()
	if err != nil {
		return err
	}
	p, err := j.profile()
	if err != nil {
		return err
	}
	set := &consilium.Contributors{Charter: j.charter(), Round: 1, Attempt: 1}
	uploads := make([]upload, j.sites)
	for i := range uploads {
		if err := load(j.path("upload", i+1), &uploads[i]); err != nil {
			return err
		}
		set.Members = append(set.Members, consilium.Contributor{Position: consilium.Position(i + 1), Header: consilium.HeaderDigest(uploads[i].Header)})
	}
	in := &party.Decryption{Profile: p, Lanes: j.parameters, Threshold: j.threshold(), Members: j.sites, Set: set, Group: g}
	for holder := range j.threshold() {
		var shares []*party.KeyShare
		for dealer, u := range uploads {
			s, err := party.OpenBox(p, j.parameters, j.sites, j.threshold(), j.at(dealer+1), u.Header, consilium.Position(holder+1), u.Boxes[holder], keys[holder])
			if err != nil {
				return err
			}
			shares = append(shares, s)
		}
		o, err := party.NewOpeningShare(set, consilium.Position(holder+1), shares)
		if err != nil {
			return err
		}
		in.Openings = append(in.Openings, o)
	}
	f, err := os.Open(j.path("sum", 0))
	if err != nil {
		return err
	}
	defer f.Close()
	state := make([]float32, j.parameters)
	at := 0
	err = party.Open(context.Background(), in, file{f, bufio.NewReaderSize(f, 1<<20)}, party.SinkFunc(func(sums []int64) error {
		for i, s := range sums {
			want := int64(0)
			for site := range j.sites {
				want += int64(quantise(weight(site+1, at+i)))
			}
			if s != want {
				return fmt.Errorf("parameter %d: the sum is %d, want %d", at+i, s, want)
			}
			state[at+i] += float32(s) / (32767 * float32(j.sites))
		}
		at += len(sums)
		return nil
	}))
	if err != nil {
		return err
	}
	if at != j.parameters {
		return fmt.Errorf("%d parameters opened, want %d", at, j.parameters)
	}
	return nil
}

// file reads through a buffer and seeks below it.
type file struct {
	f *os.File
	r *bufio.Reader
}

func (f file) Read(b []byte) (int, error) { return f.r.Read(b) }

func (f file) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekCurrent && offset == 0 {
		at, err := f.f.Seek(0, io.SeekCurrent)
		return at - int64(f.r.Buffered()), err
	}
	at, err := f.f.Seek(offset, whence)
	f.r.Reset(f.f)
	return at, err
}
