#!/bin/sh
# Regenerates the Go code beside the protos. With -check it writes elsewhere and
# fails if what is committed differs. Needs protoc and, on PATH or in
# $(go env GOPATH)/bin, protoc-gen-go and protoc-gen-go-grpc.
set -eu
cd "$(dirname "$0")"
PATH="$PATH:$(go env GOPATH)/bin"

generate() {
	protoc -I . --go_out="$1" --go_opt=paths=source_relative \
		--go-grpc_out="$1" --go-grpc_opt=paths=source_relative,require_unimplemented_servers=true \
		*.proto
}

case "${1-}" in
-check)
	out=$(mktemp -d)
	trap 'rm -rf "$out"' EXIT
	generate "$out"
	for f in "$out"/*.pb.go; do
		cmp "$f" "$(basename "$f")" || { echo "api/v1: $(basename "$f") is not current; run api/v1/generate.sh" >&2; exit 1; }
	done
	for f in *.pb.go; do
		[ -e "$out/$f" ] || { echo "api/v1: $f has no proto" >&2; exit 1; }
	done
	;;
"") generate . ;;
*) echo "usage: generate.sh [-check]" >&2; exit 2 ;;
esac
