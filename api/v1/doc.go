// Package apiv1 is the wire contract: one .proto file for each conversation and
// the code generated from it.
//
//   - study.proto: researchers and the board
//   - site.proto: hospitals
//   - peer.proto: coordinator nodes among themselves
//   - audit.proto: whoever checks the coordinator's log
//   - blob.proto and failure.proto: what several of them share
//
// What is signed travels as the exact bytes that were signed, in bytes fields;
// protobuf is only the envelope and nothing signs it. internal/wire turns these
// messages into domain values or an error, and no other package reads their
// fields. Field numbers and the names of services and codes are stable; a
// change that is not an addition is a new package version.
package apiv1

//go:generate ./generate.sh
