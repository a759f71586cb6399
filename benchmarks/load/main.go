//go:build unix

// Command load puts three coordinator nodes, each a process with a disk and
// gRPC and Raft on loopback, under the load of real contributions, and says how
// long rounds take, what they would take in plain float32 through the same
// coordinators, what disk and loopback alone take, and what the nodes hold.
//
//	go run ./benchmarks/load -dir DIR -run ratio   -sites 16 -parameters 1000000
//	go run ./benchmarks/load -dir DIR -run load    -sites 100 -parameters 1000000
//	go run ./benchmarks/load -dir DIR -run load    -sites 16 -parameters 25000000
//	go run ./benchmarks/load -dir DIR -run studies -stored 1000 -running 10
//	go run ./benchmarks/load -dir DIR -run slow
//	go run ./benchmarks/load -dir DIR -run training -sites 4 -rounds 8
//
// The hospitals are one process. Each encrypts, signs, uploads, fetches and
// opens its boxes, votes, opens and checks the sum as a worker's gate does; they
// have neither rows nor journals. Every opened sum is compared with the plain
// one by one of them.
//
// The plain round runs through a twin of the coordinator: the same source with
// coordinator/vectors.go replaced at compile time by twin.go.txt. Messages, boxes
// and blobs are the same ones; the vectors and their sum are float32.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"consilium"
)

//go:embed twin.go.txt
var twin []byte

func main() {
	var j job
	node, train := "", ""
	flag.StringVar(&j.dir, "dir", "", "directory for everything that is stored; emptied at the end")
	flag.StringVar(&j.what, "run", "ratio", "ratio, load, studies, slow or training")
	flag.IntVar(&j.sites, "sites", 16, "hospitals, 3 to 128")
	flag.IntVar(&j.parameters, "parameters", 1_000_000, "length of the vector")
	flag.IntVar(&j.rounds, "rounds", 3, "rounds of a study")
	flag.IntVar(&j.repeats, "repeats", 2, "studies; the fastest round counts")
	flag.IntVar(&j.stored, "stored", 1000, "studies that the nodes know")
	flag.IntVar(&j.running, "running", 10, "studies that run at once")
	flag.IntVar(&j.rate, "rate", 200_000, "bytes a second of the slow hospital")
	flag.StringVar(&j.profile, "profile", "", "write each node's profiles to files of this name")
	flag.IntVar(&j.rows, "rows", 10_000, "rows of a hospital in training")
	flag.IntVar(&j.hidden, "hidden", 256, "width of the first layer in training")
	flag.StringVar(&train, "train", "", "run one training; set by the program itself")
	flag.StringVar(&node, "node", "", "run one node; set by the program itself")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := error(nil)
	switch {
	case node != "":
		err = runNode(node)
	case train != "":
		err = runTraining(ctx, train)
	default:
		err = j.run(ctx, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// job is one measurement.
type job struct {
	dir, what, profile                       string
	sites, parameters, rounds, repeats, rate int
	stored, running, rows, hidden            int
	out                                      io.Writer
	binary                                   map[bool]string // by plain
}

func (j *job) run(ctx context.Context, out io.Writer) (err error) {
	if j.dir == "" || j.sites < 3 || j.sites > consilium.MaxSites || j.parameters < 1 || j.rounds < 1 || j.repeats < 1 || flag.NArg() > 0 {
		return errors.New("usage: load -dir DIR [-run ratio|load|studies|slow|training] [-sites 3..128] [-parameters N] [-rounds N] [-repeats N]")
	}
	j.out = out
	if j.binary == nil {
		j.binary = map[bool]string{}
	}
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return err
	}
	if j.dir, err = os.MkdirTemp(j.dir, "load-"); err != nil {
		return err
	}
	if j.dir, err = filepath.Abs(j.dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(j.dir)) }()
	switch j.what {
	case "ratio":
		return j.ratio(ctx)
	case "load":
		return j.load(ctx)
	case "studies":
		return j.studies(ctx)
	case "slow":
		return j.slow(ctx)
	case "training":
		return j.training(ctx)
	}
	return fmt.Errorf("no measurement %q", j.what)
}

// least is min_sites of the studies here.
func least(sites int) int { return max(3, sites/2) }

// bed is a running cluster with its hospitals.
type bed struct {
	*cluster
	desk      *desk
	hospitals []*hospital
}

// lay starts a cluster and connects everybody.
func (j *job) lay(ctx context.Context, sites int, plain bool, links map[int]int) (*bed, error) {
	if j.binary[plain] == "" {
		b, err := build(ctx, j.dir, plain)
		if err != nil {
			return nil, err
		}
		j.binary[plain] = b
	}
	dir, err := os.MkdirTemp(j.dir, "cluster-")
	if err != nil {
		return nil, err
	}
	c, err := newCluster(dir, sites, plain)
	if err != nil {
		return nil, err
	}
	for i, rate := range links {
		c.dial["site/"+string(siteID(i))] = slowLink(rate)
	}
	b := &bed{cluster: c}
	if err := b.open(ctx, j, dir, sites); err != nil {
		_, again := b.close()
		return nil, errors.Join(err, again)
	}
	return b, nil
}

func (b *bed) open(ctx context.Context, j *job, dir string, sites int) error {
	profile := j.profile
	if profile != "" && b.plain {
		profile += "-plain"
	}
	if err := b.start(ctx, j.binary[b.plain], profile); err != nil {
		return err
	}
	var err error
	if b.desk, err = b.cluster.desk(); err != nil {
		return err
	}
	for i := range sites {
		h, err := b.join(ctx, siteID(i+1), dir)
		if err != nil {
			return err
		}
		b.hospitals = append(b.hospitals, h)
	}
	return nil
}

// close ends everything, removes what was stored, and says what the nodes took.
func (b *bed) close() ([]usage, error) {
	var errs []error
	for _, h := range b.hospitals {
		h.stop()
	}
	for _, h := range b.hospitals {
		errs = append(errs, h.leave())
	}
	took, err := b.stop()
	return took, errors.Join(append(errs, err, b.remove())...)
}

// vectors makes every hospital's work; the first one compares the sums.
func (j *job) vectors(sites int) func(consilium.Position) work {
	var all []consilium.Position
	for i := range sites {
		all = append(all, consilium.Position(i+1))
	}
	return func(p consilium.Position) work {
		s := &synthetic{size: j.parameters, position: p, rounds: uint32(j.rounds)}
		if p == 1 {
			s.want = all
		}
		return s
	}
}

// study runs one study over all hospitals of a bed.
func (j *job) study(ctx context.Context, b *bed) ([]lap, error) {
	p, err := b.propose(j.sites, least(j.sites), uint32(j.rounds), 600)
	if err != nil {
		return nil, err
	}
	laps, _, err := b.desk.run(ctx, p, b.hospitals, j.vectors(j.sites))
	return laps, err
}

func (j *job) lapRow(name string, l lap) {
	fmt.Fprintf(j.out, "%-10s uploaded %7.2f s, certified %7.2f, summed %7.2f, closed %7.2f s\n", name, l.uploaded, l.certified, l.summed, l.closed)
}

func (j *job) usageRow(name string, took []usage, rounds int) {
	fmt.Fprintf(j.out, "%-10s", name)
	var cpu time.Duration
	for _, u := range took {
		cpu += u.cpu
		fmt.Fprintf(j.out, " node: %6.1f MiB peak, %6.2f s of processor;", u.peak, u.cpu.Seconds())
	}
	fmt.Fprintf(j.out, " %.2f s of processor a round, enrolment included\n", cpu.Seconds()/float64(rounds))
}

// ratio runs the encrypted round and the same round in the open, in turns.
func (j *job) ratio(ctx context.Context) error {
	beds := map[bool]*bed{}
	for _, plain := range []bool{false, true} {
		b, err := j.lay(ctx, j.sites, plain, nil)
		if err != nil {
			return err
		}
		defer b.close()
		beds[plain] = b
	}
	all := map[bool][]lap{}
	for range j.repeats {
		for _, plain := range []bool{false, true} {
			laps, err := j.study(ctx, beds[plain])
			if err != nil {
				return fmt.Errorf("plain %v: %w", plain, err)
			}
			all[plain] = append(all[plain], laps...)
		}
	}
	encrypted, plain := fastest(all[false]), fastest(all[true])
	fmt.Fprintf(j.out, "%d sites, %d parameters, fastest of %d rounds each\n", j.sites, j.parameters, len(all[false]))
	j.lapRow("encrypted", encrypted)
	j.lapRow("plain", plain)
	fmt.Fprintf(j.out, "ratio      %.2f; medians %.2f s and %.2f s, ratio %.2f\n", encrypted.closed/plain.closed,
		median(all[false]), median(all[true]), median(all[false])/median(all[true]))
	for _, plain := range []bool{false, true} {
		took, err := beds[plain].close()
		if err != nil {
			return err
		}
		j.usageRow(map[bool]string{false: "encrypted", true: "plain"}[plain], took, len(all[plain]))
	}
	return nil
}

// load runs encrypted rounds, with what disk and loopback alone take for them.
func (j *job) load(ctx context.Context) error {
	b, err := j.lay(ctx, j.sites, false, nil)
	if err != nil {
		return err
	}
	defer b.close()
	var laps []lap
	var size int64
	for range j.repeats {
		more, err := j.study(ctx, b)
		if err != nil {
			return err
		}
		laps = append(laps, more...)
	}
	took, err := b.close()
	if err != nil {
		return err
	}
	p, err := profileOf(j.parameters, j.sites)
	if err != nil {
		return err
	}
	size = int64(p.Size(j.parameters) + p.BundleSize(j.sites))
	best := fastest(laps)
	fmt.Fprintf(j.out, "%d sites, %d parameters, %.1f MB from each with its boxes; fastest of %d rounds\n", j.sites, j.parameters, float64(size)/1e6, len(laps))
	j.lapRow("encrypted", best)
	j.usageRow("nodes", took, len(laps))
	var disk, loop float64
	for i := range 2 {
		d, err := writeLimit(j.dir, nodeCount, j.sites, size)
		if err != nil {
			return err
		}
		l, err := loopbackLimit(nodeCount, j.sites, size)
		if err != nil {
			return err
		}
		if i == 0 || d < disk {
			disk = d
		}
		if i == 0 || l < loop {
			loop = l
		}
	}
	fmt.Fprintf(j.out, "limits     write and sync on %d nodes %.2f s, loopback %.2f s; uploads take %.1f and %.1f times as long\n",
		nodeCount, disk, loop, best.uploaded/disk, best.uploaded/loop)
	return nil
}

// studies runs some studies alone, and again beside many that are stored: a third
// done, a third cancelled, a third waiting for the board.
func (j *job) studies(ctx context.Context) error {
	b, err := j.lay(ctx, j.sites, false, nil)
	if err != nil {
		return err
	}
	defer b.close()
	several := func(rounds int) ([]lap, error) {
		k := *j
		k.rounds = rounds
		var g errgroup.Group
		laps := make([][]lap, j.running)
		for i := range j.running {
			g.Go(func() error {
				var err error
				laps[i], err = k.study(ctx, b)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		var all []lap
		for _, l := range laps {
			all = append(all, l...)
		}
		return all, nil
	}
	alone, err := several(j.rounds)
	if err != nil {
		return err
	}
	start, count := time.Now(), j.running
	for count < j.stored/3 {
		if _, err := several(1); err != nil {
			return err
		}
		count += j.running
	}
	done := count
	var g errgroup.Group
	g.SetLimit(16)
	for ; count < j.stored-j.running; count++ {
		g.Go(func() error {
			p, err := b.propose(j.sites, least(j.sites), 1, 600)
			if err != nil {
				return err
			}
			if err := b.desk.submit(ctx, p); err != nil || count%2 == 0 {
				return err
			}
			return b.desk.cancel(ctx, p)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	filled := time.Since(start)
	among, err := several(j.rounds)
	if err != nil {
		return err
	}
	list, err := b.desk.team.List(ctx)
	if err != nil {
		return err
	}
	took, err := b.close()
	if err != nil {
		return err
	}
	fmt.Fprintf(j.out, "%d studies known, %d of them done, in %.0f s; %d run at once, %d sites, %d parameters, %d rounds\n", len(list), done, filled.Seconds(), j.running, j.sites, j.parameters, j.rounds)
	fmt.Fprintf(j.out, "a round    alone: median %.2f s; beside the stored ones: median %.2f s, ratio %.2f\n", median(alone), median(among), median(among)/median(alone))
	j.usageRow("nodes", took, 1)
	return nil
}

// leastDeadline is the shortest deadline, in seconds, that slow sets.
const leastDeadline = 2

// leftOut fails if an upload needs longer than the deadline and yet a round had all
// sites: then nothing was slow, and the figures are of something else.
func leftOut(laps []lap, sites int, needs float64, deadline int64) error {
	if needs <= float64(deadline) {
		return nil
	}
	for i, l := range laps {
		if l.members >= sites {
			return fmt.Errorf("round %d had all %d sites, though an upload of %.1f s cannot keep a deadline of %d s", i+1, sites, needs, deadline)
		}
	}
	if len(laps) == 0 {
		return errors.New("no round was closed")
	}
	return nil
}

// slow runs rounds of which one hospital's link is slow: first with a deadline
// that it misses, then with one that it keeps.
func (j *job) slow(ctx context.Context) error {
	p, err := profileOf(j.parameters, j.sites)
	if err != nil {
		return err
	}
	needs := float64(p.Size(j.parameters)+p.BundleSize(j.sites)) / float64(j.rate)
	fmt.Fprintf(j.out, "%d sites, %d parameters; one of them sends %d bytes a second, so its upload takes %.1f s\n", j.sites, j.parameters, j.rate, needs)
	if needs < 2*leastDeadline {
		return fmt.Errorf("an upload of %.1f s misses no deadline: lower -rate or raise -parameters, so that it takes at least %d s", needs, 2*leastDeadline)
	}
	b, err := j.lay(ctx, j.sites, false, map[int]int{j.sites: j.rate})
	if err != nil {
		return err
	}
	defer b.close()
	for _, deadline := range []int64{int64(needs / 2), int64(needs*2 + 10)} {
		study, err := b.propose(j.sites, least(j.sites), uint32(j.rounds), deadline)
		if err != nil {
			return err
		}
		laps, actors, err := b.desk.run(ctx, study, b.hospitals, func(p consilium.Position) work {
			return &synthetic{size: j.parameters, position: p, rounds: uint32(j.rounds)}
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(j.out, "deadline %d s: rounds of", deadline)
		for _, l := range laps {
			fmt.Fprintf(j.out, " %d sites in %.2f s;", l.members, l.closed)
		}
		fmt.Fprintf(j.out, " %d uploads came late\n", actors[j.sites-1].tardy)
		if err := leftOut(laps, j.sites, needs, deadline); err != nil {
			return err
		}
	}
	took, err := b.close()
	if err != nil {
		return err
	}
	j.usageRow("nodes", took, 2*j.rounds)
	return nil
}
