// Package blob promises that what a digest names is there whole, or is
// reported missing. It keeps the big things of a federation: encrypted vectors,
// sealed boxes, aggregates, sealed states and results.
//
// A blob's name is the SHA-256 of the length-prefixed domain string of blobs
// followed by the raw bytes, so it can be computed while the bytes stream by.
// Put returns after the bytes and their name are durable. A blob never changes;
// the same bytes again are the same blob.
//
// Everything stored here is ciphertext; the package protects its integrity
// against accidents of storage, not its confidentiality. It does not defend
// against an administrator who deletes files: that is what replication is for.
package blob
