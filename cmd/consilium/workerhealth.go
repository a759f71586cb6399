package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// serveHealth answers /healthz (this process can go on), /readyz (it can take
// part in studies) and /metrics until ctx ends.
func serveHealth(ctx context.Context, address string, w *runningWorker) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(w)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "ok\n") })
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, _ *http.Request) {
		if err := w.ready(); err != nil {
			http.Error(rw, err.Error(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(rw, "ok\n")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	s := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 8 << 10}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ready says why this worker takes no part in studies, or nil.
func (w *runningWorker) ready() error {
	g := w.gate.Load()
	if g == nil || !w.up.Load() {
		return errors.New("gate and vault are not running")
	}
	if w.config.isPaused() {
		return errors.New("paused: `consilium worker resume` ends it")
	}
	if err := g.Barred(); err != nil {
		return fmt.Errorf("the coordinators refuse this hospital: %w", err)
	}
	return g.Stale()
}

// The metrics are read when they are asked for, so that none can drift from
// what it describes. None carries a study's name.
var (
	descUp       = prometheus.NewDesc("consilium_worker_up", "Gate and vault are running.", nil, nil)
	descStale    = prometheus.NewDesc("consilium_worker_stale", "1 if the gate's directory is an older copy: no part is taken in any study.", nil, nil)
	descBarred   = prometheus.NewDesc("consilium_worker_barred", "1 if all coordinators refuse this hospital's certificate, or it theirs.", nil, nil)
	descRestarts = prometheus.NewDesc("consilium_vault_restarts_total", "Vaults that ended by themselves.", nil, nil)
	descExpires  = prometheus.NewDesc("consilium_roster_expires_seconds", "Unix time at which the installed roster ends.", nil, nil)
	descLive     = prometheus.NewDesc("consilium_worker_studies", "Studies that this hospital follows, by what it does in them.", []string{"doing"}, nil)
)

// Describe implements prometheus.Collector.
func (w *runningWorker) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descUp, descStale, descBarred, descRestarts, descExpires, descLive} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (w *runningWorker) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	yes := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	g := w.gate.Load()
	gauge(descUp, yes(w.up.Load()))
	gauge(descStale, yes(g != nil && g.Stale() != nil))
	gauge(descBarred, yes(g != nil && g.Barred() != nil))
	ch <- prometheus.MustNewConstMetric(descRestarts, prometheus.CounterValue, float64(w.restarts.Load()))
	gauge(descExpires, float64(w.kit.book.Roster().NotAfter))
	if g != nil {
		for doing, n := range g.Studies() {
			gauge(descLive, float64(n), doing)
		}
	}
}
