#!/bin/sh
# The scene of the original article: one Redis, two copies, one chat. Ctrl-C ends all three.
set -eu
cd "$(dirname "$0")/.."

port=6399
redis-server --port $port --bind 127.0.0.1 --save '' --loglevel warning &
redis=$!
PORT=3000 REDIS_ENDPOINT=127.0.0.1:$port target/release/bobbin &
first=$!
PORT=3001 REDIS_ENDPOINT=127.0.0.1:$port target/release/bobbin &
second=$!

# The copies get the terminal's Ctrl-C themselves; Redis must outlive them, to keep their last messages.
trap 'wait $first; wait $second; kill $redis 2>/dev/null || true' EXIT
trap 'kill -INT $first $second 2>/dev/null || true; exit' INT TERM
echo "open http://localhost:3000 and http://localhost:3001; Ctrl-C ends all"
wait $first
