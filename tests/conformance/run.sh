#!/bin/sh
# Runs the WebSocket conformance cases of the Autobahn test suite, as packaged for Python by kosoku, against an echo
# server built from Bobbin's own session code. Fails if a case fails; compression (12, 13) is not offered. With
# arguments, runs only those cases: tests/conformance/run.sh '5.*'
set -eu
cd "$(dirname "$0")/../.."
tests/setup.sh python3-venv
cargo build --release --locked --example echo
venv=target/conformance
if [ ! -x $venv/bin/kosoku ]; then
    /usr/bin/python3 -m venv --clear $venv
    $venv/bin/pip install --quiet --disable-pip-version-check kosoku==0.1.0
fi
rm -f target/conformance/address # of an earlier run
target/release/examples/echo >target/conformance/address &
echo=$!
trap 'kill $echo' EXIT
until [ -s target/conformance/address ]; do sleep 0.1; done
options="--exclude 12.* --exclude 13.*"
for cases in "$@"; do options="$options --include $cases"; done
set -f # kosoku expands the patterns
# shellcheck disable=SC2086 # a list of words
$venv/bin/kosoku $options --outdir target/conformance/report "$(cat target/conformance/address)"
