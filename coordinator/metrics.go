package coordinator

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"consilium"
)

// collector reads the node's state whenever it is scraped, so no gauge can
// drift from what it describes. Metrics carry no study's name.
type collector struct{ n *Node }

var (
	descStudies  = prometheus.NewDesc("consilium_studies", "Studies by phase.", []string{"phase"}, nil)
	descRound    = prometheus.NewDesc("consilium_rounds_open", "Rounds of live studies that are open.", nil, nil)
	descEvents   = prometheus.NewDesc("consilium_events_total", "Events recorded.", nil, nil)
	descLeader   = prometheus.NewDesc("consilium_leader", "1 if this node leads.", nil, nil)
	descApplied  = prometheus.NewDesc("consilium_applied_index", "Last index of the replicated log that this node applied.", nil, nil)
	descReceived = prometheus.NewDesc("consilium_received_bytes_total", "Bytes of accepted uploads.", nil, nil)
	descSent     = prometheus.NewDesc("consilium_sent_bytes_total", "Bytes of blobs handed out.", nil, nil)
	descBlobs    = prometheus.NewDesc("consilium_live_blobs", "Blobs that live studies need.", nil, nil)
	descBlobSize = prometheus.NewDesc("consilium_live_blob_bytes", "Their size.", nil, nil)
	descRejected = prometheus.NewDesc("consilium_rejected_total", "Commands that the state refused, by code.", []string{"code"}, nil)
)

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descStudies, descRound, descEvents, descLeader, descApplied, descReceived, descSent, descBlobs, descBlobSize, descRejected} {
		ch <- d
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	var studies []StudyInfo
	var blobs []BlobRef
	c.n.fsm.read(func(s *State) { studies, blobs = s.Studies(), s.LiveBlobs() })
	phases := map[consilium.Phase]int{}
	rounds := 0
	for i := range studies {
		phases[studies[i].Phase]++
		if p := studies[i].Phase; p >= consilium.PhaseContributing && p <= consilium.PhaseUpdating {
			rounds++
		}
	}
	for p := consilium.PhaseSubmitted; p <= consilium.PhaseCancelled; p++ {
		gauge(descStudies, float64(phases[p]), p.String())
	}
	gauge(descRound, float64(rounds))
	events, _ := c.n.fsm.events.len()
	counter(descEvents, float64(events))
	leads := 0.0
	if c.n.IsLeader() {
		leads = 1
	}
	gauge(descLeader, leads)
	gauge(descApplied, float64(c.n.fsm.applied.Load()))
	counter(descReceived, float64(c.n.server.received.Load()))
	counter(descSent, float64(c.n.server.sent.Load()))
	var size float64
	for _, b := range blobs {
		size += float64(b.Size)
	}
	gauge(descBlobs, float64(len(blobs)))
	gauge(descBlobSize, size)
	c.n.fsm.rejected.each(func(code string, v uint64) { counter(descRejected, float64(v), code) })
}

// MetricsHandler serves /metrics, /healthz (this process can go on) and /readyz
// (it follows a leader, or is one).
func (n *Node) MetricsHandler() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collector{n})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	answer := func(w http.ResponseWriter, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("ok\n"))
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, n.broken()) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, n.ready()) })
	return mux
}

// ready says why this node cannot serve members, or nil.
func (n *Node) ready() error {
	if err := n.broken(); err != nil {
		return err
	}
	r := n.raftNode()
	if r == nil {
		return errors.New("starting")
	}
	if _, id := r.LeaderWithID(); id == "" {
		return errors.New("no leader")
	}
	if r.State() == raft.Shutdown {
		return errors.New("stopping")
	}
	return nil
}

// serveMetrics runs the optional HTTP listener until ctx ends.
func (n *Node) serveMetrics(ctx context.Context, l net.Listener) error {
	s := &http.Server{Handler: n.MetricsHandler(), ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
