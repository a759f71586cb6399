package policy

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"consilium"
)

// tornDisk is a log's file on a disk that refuses the next write after half of it.
type tornDisk struct {
	*os.File
	err error
}

func (d *tornDisk) WriteAt(b []byte, at int64) (int, error) {
	if err := d.err; err != nil {
		d.err = nil
		n, _ := d.File.WriteAt(b[:len(b)/2], at)
		return n, err
	}
	return d.File.WriteAt(b, at)
}

// TestAuditOnFullDisk: a log for whose next line there was no space is no refusal
// of any rule, and goes on once there is space. After a disk that failed it takes
// nothing until it is opened again. No line is torn either way.
func TestAuditOnFullDisk(t *testing.T) {
	in := testInput(t, "utah", nil)
	entry := AuditEntry{Time: 1, Node: "utah", Point: PointSite, Input: in, Decision: deny(PointSite, CodeUndefined, "x")}
	for cause, goesOn := range map[error]bool{syscall.ENOSPC: true, syscall.EIO: false} {
		path := filepath.Join(t.TempDir(), "decisions.jsonl")
		a, err := OpenAudit(path, auditKey)
		if err != nil {
			t.Fatal(err)
		}
		disk := &tornDisk{File: a.file.f.(*os.File)}
		a.file.f = disk
		if _, err := a.Append(entry); err != nil {
			t.Fatal(err)
		}
		disk.err = cause
		if _, err := a.Append(entry); !errors.Is(err, ErrAudit) || errors.Is(err, consilium.ErrPolicy) || errors.Is(err, consilium.ErrDiskFull) != goesOn {
			t.Errorf("%v: %v", cause, err)
		}
		want := uint64(1)
		_, err = a.Append(entry)
		if goesOn != (err == nil) || err != nil && !errors.Is(err, ErrAudit) {
			t.Errorf("%v, the next line: %v", cause, err)
		}
		if err == nil {
			want++
		}
		head, _ := a.Head()
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := OpenAudit(path, auditKey)
		if err != nil {
			t.Fatalf("%v: the log does not open again: %v", cause, err)
		}
		if h, n := again.Head(); h != head || n != want {
			t.Errorf("%v: the log holds %d lines, want %d", cause, n, want)
		}
		if _, err := again.Append(entry); err != nil {
			t.Errorf("%v, opened again: %v", cause, err)
		}
		again.Close()
	}
}
