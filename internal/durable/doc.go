// Package durable promises that what it acknowledged survives power loss.
//
// WriteFile replaces a small file whole: after a crash the file holds the old
// bytes or the new ones. Journal appends records: Append returns only after the
// record is on stable storage, and Open after a crash finds every acknowledged
// record, in order. Prepare takes a data directory for one process and writes
// into it what it is.
//
// # What recovery decides
//
// A record that was being written when the power failed is torn: it was never
// acknowledged, and Open cuts it off. Anything else that does not verify is
// damage to acknowledged records, and Open refuses the journal with ErrCorrupt
// rather than guess: a worker that forgot a vote could vote twice. The two are
// told apart as in etcd's write-ahead log: a torn record ends with the file, or
// has a 512-byte sector that was never written. A valid record behind a bad one
// proves damage, because each record is synced before the next is written.
//
// # What it does not protect
//
// A disk that acknowledges a flush it did not do; a journal that is replaced by
// an older copy of itself; a flipped bit in the last record when that record
// also holds a whole sector of zeros, which looks torn. Checksums are CRC32C:
// they find accidents, not forgeries.
package durable
