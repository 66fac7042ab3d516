#!/bin/sh
# The slow attacks of slowhttptest on one instance with its default settings: 1,000 connections, 200 new ones per second,
# for 25 s each. Fails if a health check takes longer than a second meanwhile.
set -eu
cd "$(dirname "$0")/.."
tests/setup.sh slowhttptest curl
cargo build --release --locked
dir=$(mktemp -d)
PORT=0 BIND=127.0.0.1 target/release/bobbin 2>"$dir/log" &
bobbin=$!
trap 'kill $bobbin; rm -r "$dir"' EXIT
until url=$(grep -o 'http://127.0.0.1:[0-9]*' "$dir/log"); do sleep 0.1; done

# attack NAME OPTIONS...: runs one beside health checks, and prints the slowest of them.
attack() {
    name=$1
    shift
    slowhttptest -c 1000 -r 200 -l 25 -p 5 "$@" >"$dir/attack" 2>&1 &
    attack=$!
    : >"$dir/times"
    while kill -0 $attack 2>/dev/null; do
        curl -sf -m 1 -o "$dir/answer" -w '%{time_total}\n' "$url/healthz" >>"$dir/times" || echo 9 >>"$dir/times"
        sleep 0.1
    done
    wait $attack || true
    slowest=$(sort -n "$dir/times" | tail -1)
    ended=$(tr -d "\033" <"$dir/attack" | sed "s/\[[0-9;]*m//g" | grep -o "Exit status: *.*" | tail -1)
    echo "$name: $(wc -l <"$dir/times") health checks, the slowest took $slowest s ($ended)"
    [ "${slowest%%.*}" = 0 ]
}

attack "slow heads" -H -u "$url/" -i 10
attack "slow bodies" -B -u "$url/r/lobby/messages" -i 10 -s 8192
attack "slow reading" -X -u "$url/chat.js" -n 5 -w 1 -y 2 -z 1 -k 3
