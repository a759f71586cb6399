//go:build unix

package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// writeLimit is how long the disk takes for what the nodes of a cluster keep of
// one round and nothing else: copies of every vector, each in a file of its own
// that is synced.
func writeLimit(dir string, copies, files int, size int64) (float64, error) {
	dir = filepath.Join(dir, "limit")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	chunk := make([]byte, 1<<16)
	rand.Read(chunk)
	start := time.Now()
	var g errgroup.Group
	g.SetLimit(nodeCount * 8)
	for i := range copies * files {
		g.Go(func() error {
			f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
			if err != nil {
				return err
			}
			for left := size; left > 0; left -= int64(len(chunk)) {
				if _, err := f.Write(chunk[:min(left, int64(len(chunk)))]); err != nil {
					f.Close()
					return err
				}
			}
			return errors.Join(f.Sync(), f.Close())
		})
	}
	err := g.Wait()
	return time.Since(start).Seconds(), err
}

// loopbackLimit is how long the same bytes take over as many plain connections.
func loopbackLimit(copies, links int, size int64) (float64, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	var g errgroup.Group
	g.Go(func() error {
		for range copies * links {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			g.Go(func() error {
				defer c.Close()
				// A buffer, as a receiver that looks at the bytes has.
				n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 1<<16))
				if err == nil && n != size {
					err = fmt.Errorf("%d bytes arrived, want %d", n, size)
				}
				return err
			})
		}
		return nil
	})
	start := time.Now()
	for range copies * links {
		g.Go(func() error {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			chunk := make([]byte, 1<<16)
			for left := size; left > 0; left -= int64(len(chunk)) {
				if _, err := c.Write(chunk[:min(left, int64(len(chunk)))]); err != nil {
					c.Close()
					return err
				}
			}
			return c.Close()
		})
	}
	err = g.Wait()
	return time.Since(start).Seconds(), err
}
