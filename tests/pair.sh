#!/bin/sh
# The setup of the original article: one Redis, two instances, one chat. Ctrl-C ends all three.
set -eu
cd "$(dirname "$0")/.."

port=6399
# In its own session, so that Ctrl-C does not end it before the instances have shut down.
setsid redis-server --port $port --bind 127.0.0.1 --save '' --loglevel warning &
redis=$!
trap 'kill $redis; exit' INT TERM
# So that the first line of the log is not a warning that Redis is down.
for _ in $(seq 50); do redis-cli -p $port ping >/dev/null 2>&1 && break; sleep 0.1; done
PORT=3000 REDIS_ENDPOINT=127.0.0.1:$port target/release/bobbin &
first=$!
PORT=3001 REDIS_ENDPOINT=127.0.0.1:$port target/release/bobbin &
second=$!

trap 'wait $first; wait $second; kill $redis 2>/dev/null || true' EXIT
trap 'kill -INT $first $second 2>/dev/null || true; exit' INT TERM
echo "open http://localhost:3000 and http://localhost:3001; Ctrl-C ends all"
wait $first
