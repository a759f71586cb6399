package durable

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"consilium"
)

// ErrCorrupt says that acknowledged records of a journal do not verify.
// Nothing is cut off and nothing is guessed: restore the file from a copy, or
// retire the identity whose promises it held.
var ErrCorrupt = errors.New("journal is damaged")

// MaxRecord bounds the data of one record, in bytes.
const MaxRecord = 16 << 20

// The file starts with a magic and a format version. A record is
//
//	u32 length of data | u8 kind | u64 number | u32 CRC32C of data | u32 CRC32C of the fields before
//
// and the data, all big-endian. Numbers count from 0 without a gap. The
// header has its own checksum so that a damaged length is not mistaken for a
// torn tail: that would silently cut off every record behind it.
const (
	journalMagic   = "consjrnl"
	journalVersion = 1
	fileHeaderSize = len(journalMagic) + 4
	recordHeader   = 4 + 1 + 8 + 4 + 4
	sector         = 512 // bytes that a disk writes whole or not at all
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Journal is an append-only file of records. Its methods may be called from
// several goroutines.
type Journal struct {
	mu     sync.Mutex
	fsys   FS
	path   string
	file   File
	size   int64  // of the durable records, with the file header
	next   uint64 // number of the next record
	broken error  // why the journal takes no more records
}

// Open opens or creates the journal at path and recovers it: a torn last
// record is cut off. It fails with ErrCorrupt if acknowledged records do not
// verify.
func Open(path string) (*Journal, error) { return OpenFS(OS, path) }

// OpenFS is Open on a given file system.
func OpenFS(fsys FS, path string) (*Journal, error) {
	f, err := fsys.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		// The header is complete before the name appears, so a journal
		// without one is damaged, never new.
		head := append([]byte(journalMagic), 0, 0, 0, journalVersion)
		if err := WriteFileFS(fsys, path, head, 0o600); err != nil {
			return nil, err
		}
		f, err = fsys.OpenFile(path, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", Full(err))
	}
	j := &Journal{fsys: fsys, path: path, file: f}
	if err := j.recover(); err != nil {
		f.Close()
		return nil, fmt.Errorf("open journal %s: %w", path, Full(err))
	}
	return j, nil
}

func (j *Journal) recover() error {
	info, err := j.file.Stat()
	if err != nil {
		return err
	}
	total := info.Size()
	head := make([]byte, fileHeaderSize)
	if _, err := j.file.ReadAt(head, 0); err != nil {
		return fmt.Errorf("%w: file header: %w", ErrCorrupt, err)
	}
	if string(head[:len(journalMagic)]) != journalMagic {
		return fmt.Errorf("%w: it does not start like a journal", ErrCorrupt)
	}
	if v := binary.BigEndian.Uint32(head[len(journalMagic):]); v != journalVersion {
		return fmt.Errorf("journal format %d, this software reads %d", v, journalVersion)
	}
	j.size = int64(fileHeaderSize)
	r := reader(j.file, j.size, total)
	for j.size < total {
		_, data, err := readRecord(r, j.next)
		if err == nil {
			j.size += int64(recordHeader + len(data))
			j.next++
			continue
		}
		if !errors.Is(err, errBadRecord) {
			return err
		}
		torn, err := j.torn(total)
		if err != nil {
			return err
		}
		if !torn {
			return fmt.Errorf("%w at byte %d, record %d", ErrCorrupt, j.size, j.next)
		}
		if err := j.file.Truncate(j.size); err != nil {
			return err
		}
		return j.file.Sync()
	}
	return nil
}

// reader reads the bytes from one place in a file to another.
func reader(file File, from, to int64) *bufio.Reader {
	return bufio.NewReaderSize(io.NewSectionReader(file, from, to-from), int(min(to-from, 1<<16)))
}

// errBadRecord says that the bytes are not the expected record, torn or
// damaged.
var errBadRecord = errors.New("bad record")

func readRecord(r io.Reader, number uint64) (kind uint8, data []byte, err error) {
	var h [recordHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, short(err)
	}
	n, ok := parseHeader(h[:], number, false)
	if !ok {
		return 0, nil, errBadRecord
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return 0, nil, short(err)
	}
	if crc32.Checksum(data, castagnoli) != binary.BigEndian.Uint32(h[13:]) {
		return 0, nil, errBadRecord
	}
	return h[4], data, nil
}

func short(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errBadRecord
	}
	return err
}

// parseHeader returns the length of the data of record number, or of any
// later one.
func parseHeader(h []byte, number uint64, later bool) (int, bool) {
	if crc32.Checksum(h[:17], castagnoli) != binary.BigEndian.Uint32(h[17:]) {
		return 0, false
	}
	n := binary.BigEndian.Uint32(h)
	if have := binary.BigEndian.Uint64(h[5:]); n > MaxRecord || have != number && !(later && have > number) {
		return 0, false
	}
	return int(n), true
}

// torn decides whether the bytes from j.size on are one record that was
// never acknowledged.
func (j *Journal) torn(total int64) (bool, error) {
	if total-j.size > MaxRecord+recordHeader {
		return false, nil
	}
	tail := make([]byte, total-j.size)
	if _, err := j.file.ReadAt(tail, j.size); err != nil {
		return false, err
	}
	for i := 1; i+recordHeader <= len(tail); i++ {
		n, ok := parseHeader(tail[i:i+recordHeader], j.next, true)
		if !ok || i+recordHeader+n > len(tail) {
			continue
		}
		data := tail[i+recordHeader:][:n]
		if crc32.Checksum(data, castagnoli) == binary.BigEndian.Uint32(tail[i+13:]) {
			return false, nil
		}
	}
	if len(tail) < recordHeader {
		return true, nil
	}
	if n, ok := parseHeader(tail[:recordHeader], j.next, false); ok {
		if len(tail) < recordHeader+n {
			return true, nil
		}
		if len(tail) > recordHeader+n {
			return false, nil
		}
	}
	for start := 0; start < len(tail); {
		end := min(start+sector-int((j.size+int64(start))%sector), len(tail))
		if allZero(tail[start:end]) {
			return true, nil
		}
		start = end
	}
	return false, nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Append writes one record and returns nil only after it is durable. After
// consilium.ErrDiskFull the journal is as it was before and takes records
// again once there is space. After any other error it takes no more: whether
// the record will be found on the next Open is unknown, and going on could
// contradict it.
func (j *Journal) Append(kind uint8, data []byte) error {
	if len(data) > MaxRecord {
		return consilium.ErrTooLarge.Withf("journal record of %d bytes, at most %d", len(data), MaxRecord)
	}
	rec := make([]byte, 0, recordHeader+len(data))
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil {
		return fmt.Errorf("journal %s takes no more records: %w", j.path, j.broken)
	}
	rec = binary.BigEndian.AppendUint32(rec, uint32(len(data)))
	rec = append(rec, kind)
	rec = binary.BigEndian.AppendUint64(rec, j.next)
	rec = binary.BigEndian.AppendUint32(rec, crc32.Checksum(data, castagnoli))
	rec = binary.BigEndian.AppendUint32(rec, crc32.Checksum(rec, castagnoli))
	rec = append(rec, data...)
	_, err := j.file.WriteAt(rec, j.size)
	if err == nil {
		err = j.file.Sync()
	}
	if err == nil {
		j.size += int64(len(rec))
		j.next++
		return nil
	}
	if !isFull(err) {
		j.broken = err
		return fmt.Errorf("append to journal %s: %w", j.path, err)
	}
	// Only what comes after the last acknowledged byte goes, so a page that
	// failed to flush cannot hold anything that was acknowledged.
	if cut := j.file.Truncate(j.size); cut != nil {
		j.broken = errors.Join(err, cut)
	} else if cut := j.file.Sync(); cut != nil {
		j.broken = errors.Join(err, cut)
	}
	return fmt.Errorf("append to journal %s: %w", j.path, Full(err))
}

// Replay calls f with every durable record in the order of Append. The data
// belong to f. An error of f ends the replay and is returned.
func (j *Journal) Replay(f func(kind uint8, data []byte) error) error {
	j.mu.Lock()
	size, next := j.size, j.next
	j.mu.Unlock()
	off := int64(fileHeaderSize)
	r := reader(j.file, off, size)
	for n := uint64(0); n < next; n++ {
		kind, data, err := readRecord(r, n)
		if errors.Is(err, errBadRecord) {
			return fmt.Errorf("journal %s: %w, record %d", j.path, ErrCorrupt, n)
		}
		if err != nil {
			return fmt.Errorf("journal %s: %w", j.path, err)
		}
		if err := f(kind, data); err != nil {
			return fmt.Errorf("journal %s: record %d: %w", j.path, n, err)
		}
	}
	return nil
}

// Len is the number of durable records.
func (j *Journal) Len() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.next
}

// Record is one record for Rewrite.
type Record struct {
	Kind uint8
	Data []byte
}

// Rewrite replaces the whole journal by the given records, for example to
// forget what ended. It is atomic as WriteFile is; if it fails, the journal is
// as it was.
func (j *Journal) Rewrite(records []Record) error {
	out := append([]byte(journalMagic), 0, 0, 0, journalVersion)
	for n, r := range records {
		if len(r.Data) > MaxRecord {
			return fmt.Errorf("journal record of %d bytes, at most %d", len(r.Data), MaxRecord)
		}
		start := len(out)
		out = binary.BigEndian.AppendUint32(out, uint32(len(r.Data)))
		out = append(out, r.Kind)
		out = binary.BigEndian.AppendUint64(out, uint64(n))
		out = binary.BigEndian.AppendUint32(out, crc32.Checksum(r.Data, castagnoli))
		out = binary.BigEndian.AppendUint32(out, crc32.Checksum(out[start:], castagnoli))
		out = append(out, r.Data...)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil {
		return fmt.Errorf("journal %s takes no more records: %w", j.path, j.broken)
	}
	if err := WriteFileFS(j.fsys, j.path, out, 0o600); err != nil {
		if !isFull(err) {
			j.broken = err // the rename may or may not survive a crash
		}
		return err
	}
	f, err := j.fsys.OpenFile(j.path, os.O_RDWR, 0)
	if err != nil {
		j.broken = err
		return fmt.Errorf("reopen journal %s: %w", filepath.Base(j.path), err)
	}
	j.file.Close()
	j.file, j.size, j.next = f, int64(len(out)), uint64(len(records))
	return nil
}

// Close closes the file. There is nothing left to write.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken == nil {
		j.broken = fs.ErrClosed
	}
	return j.file.Close()
}
