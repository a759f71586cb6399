#!/usr/bin/env bash
# Anchors on a real chain: geth as a separate program, a chain of its own with a
# block each second. Deploys, anchors the heads of two witnessed ledgers, follows
# them until final, proves, verifies offline, and tries what must fail.
# Usage: .ci/anchor.sh OUT   (OUT/bin gets geth; logs are left in OUT)
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-.ci/out}")
mkdir -p "$out/bin"
[ -x "$out/bin/geth" ] || GOBIN="$out/bin" go install github.com/ethereum/go-ethereum/cmd/geth@v1.17.0
go build -o "$out/bin/consilium-anchor" ./cmd/consilium-anchor
work=$(mktemp -d)
geth=
trap '[ -n "$geth" ] && kill "$geth" 2>/dev/null; wait 2>/dev/null; rm -rf "$work"' EXIT

ipc=$work/geth.ipc
"$out/bin/geth" --dev --dev.period 1 --datadir "$work/chain" --ipcpath "$ipc" --nodiscover --port 0 --authrpc.port 0 --verbosity 2 >"$out/geth.log" 2>&1 &
geth=$!
attach() { "$out/bin/geth" attach --exec "$1" "$ipc"; }
for _ in $(seq 100); do
	[ -S "$ipc" ] && attach 'eth.blockNumber' >/dev/null 2>&1 && break
	kill -0 "$geth" || { cat "$out/geth.log"; exit 1; }
	sleep 0.2
done

anchor() { "$out/bin/consilium-anchor" "$@"; }
fails() { if "$@" >"$work/fails" 2>&1; then echo "should have failed: $*"; cat "$work/fails"; exit 1; fi; }

account=$(anchor account --dir "$work/a")
attach "eth.sendTransaction({from: eth.accounts[0], to: '$account', value: web3.toWei(10, 'ether')})" >/dev/null
for _ in $(seq 50); do
	[ "$(attach "eth.getBalance('$account') > 0")" = true ] && break
	sleep 0.2
done

# Two hospitals' ledgers with a witness, and a roster that names them.
go run ./.ci/heads "$work"
contract=$(anchor deploy --rpc "$ipc" --dir "$work/a")
chain=(--rpc "$ipc" --dir "$work/a" --depth 3)
put=(put "${chain[@]}" --roster "$work/roster.json" --board "$work/board.json" --checkpoint "$work/one" --checkpoint "$work/two")
anchor "${put[@]}" --epoch 1
anchor "${put[@]}" --epoch 1 # again: the same transaction
anchor status "${chain[@]}" --epoch 1 --wait 40s
anchor prove "${chain[@]}" --epoch 1 --out "$work/anchor.json"
number=$(anchor status "${chain[@]}" --epoch 1 | sed 's/.*block \([0-9]*\) .*/\1/')
block=$(attach "eth.getBlock($number).hash" | tr -d '"') # as another client tells it
verify=(verify --contract "$contract")
anchor "${verify[@]}" --anchor "$work/anchor.json" --block "$block"

fails anchor verify --anchor "$work/anchor.json" --block "$block" # no contract named
own=$(anchor account --dir "$work/own")
attach "eth.sendTransaction({from: eth.accounts[0], to: '$own', value: web3.toWei(1, 'ether')})" >/dev/null
for _ in $(seq 50); do
	[ "$(attach "eth.getBalance('$own') > 0")" = true ] && break
	sleep 0.2
done
anchor deploy --rpc "$ipc" --dir "$work/own" >/dev/null # a contract of one's own, on the same chain
anchor "${put[@]}" --dir "$work/own" --epoch 1
anchor status "${chain[@]}" --dir "$work/own" --epoch 1 --wait 40s
anchor prove "${chain[@]}" --dir "$work/own" --epoch 1 --out "$work/own.json"
ownnumber=$(anchor status "${chain[@]}" --dir "$work/own" --epoch 1 | sed 's/.*block \([0-9]*\) .*/\1/')
fails anchor "${verify[@]}" --anchor "$work/own.json" --block "$(attach "eth.getBlock($ownnumber).hash" | tr -d '"')"
fails anchor "${verify[@]}" --anchor "$work/anchor.json" --block "$(attach "eth.getBlock($number + 1).hash" | tr -d '"')"
sed 's/"size":3/"size":2/' "$work/anchor.json" >"$work/bad.json"
if cmp -s "$work/anchor.json" "$work/bad.json"; then echo "nothing was changed in the anchor"; exit 1; fi
fails anchor "${verify[@]}" --anchor "$work/bad.json" --block "$block"
fails anchor put "${chain[@]}" --epoch 1 --roster "$work/roster.json" --board "$work/board.json" --checkpoint "$work/one" # another root
fails anchor put "${chain[@]}" --epoch 2 --roster "$work/roster.json" --board "$work/board.json" --checkpoint "$work/foreign"
fails anchor put "${chain[@]}" --epoch 2 --roster "$work/unsigned.json" --board "$work/board.json" --checkpoint "$work/one"
anchor account --dir "$work/b" >/dev/null
fails anchor "${put[@]}" --dir "$work/b" --contract "$contract" --epoch 2 # a stranger
anchor "${put[@]}" --epoch 2
anchor status "${chain[@]}" --epoch 2 --wait 40s

# The committed bytecode is what the compiler makes of the committed source,
# where the compiler can be had.
if command -v npm >/dev/null && (cd "$work" && npm init -y >/dev/null 2>&1 && timeout 60 npm install --silent solc@0.8.30 >/dev/null 2>&1); then
	cp .ci/solc.js "$work/"
	node "$work/solc.js" cmd/consilium-anchor/evm
else
	echo "solc 0.8.30 is not to be had here: the bytecode was not compiled again"
fi
