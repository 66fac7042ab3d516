#!/bin/sh
# Runs the WebSocket conformance cases of the Autobahn test suite, as packaged for Python by kosoku, against an echo
# server built from Bobbin's own session code. Fails if a case fails; compression (12, 13) is not offered. With
# arguments, runs only those cases: tests/conformance/run.sh '5.*'
set -eu
cd "$(dirname "$0")/../.."
cargo build --quiet --locked --example echo
mkdir -p target/conformance
rm -f target/conformance/address # of an earlier run
target/debug/examples/echo >target/conformance/address &
echo=$!
trap 'kill $echo' EXIT
until [ -s target/conformance/address ]; do sleep 0.1; done
options="--exclude 12.* --exclude 13.*"
for cases in "$@"; do options="$options --include $cases"; done
set -f # kosoku expands the patterns
# shellcheck disable=SC2086 # a list of words
target/venv/bin/kosoku $options --outdir target/conformance/report "$(cat target/conformance/address)"
