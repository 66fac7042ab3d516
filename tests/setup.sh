#!/bin/sh
# Installs what the tests need and what is missing: Debian packages with apt, and Python packages into target/venv. With
# arguments, only those packages. It prints what it installs, and does nothing if everything is there.
set -eu
cd "$(dirname "$0")/.."

wanted=${*:-redis-server sqlite3 prometheus curl jq faketime chromium firefox-esr haproxy nginx caddy systemd openssl python3-venv fonts-dejavu-core
    fonts-inter fonts-noto-color-emoji}
# Runs a command up to three times, because a mirror may fail for a moment.
retry() {
    why=$1
    shift
    for wait in 10 30; do
        if "$@"; then return; fi
        echo "$why; another try in $wait s"
        sleep $wait
    done
    "$@"
}

missing=
for package in $wanted; do
    case $(dpkg-query --show --showformat '${Status}' "$package" 2>/dev/null) in
    *" installed") ;;
    *) missing="$missing $package" ;;
    esac
done
# A Node.js from elsewhere than Debian's package is fine too.
if command -v npm >/dev/null 2>&1; then missing=$(echo "$missing" | sed 's/ npm\b//'); fi
if [ -n "$missing" ]; then
    sudo=
    # Another process may be installing, on a machine that has just started.
    patient='-o DPkg::Lock::Timeout=300 -o Acquire::Retries=3'
    if [ "$(id -u)" != 0 ]; then sudo=sudo; fi
    echo "installing Debian packages:$missing"
    # shellcheck disable=SC2086 # lists of words
    retry 'apt-get failed' $sudo sh -c "apt-get $patient update --quiet=2 &&
        DEBIAN_FRONTEND=noninteractive apt-get $patient install --quiet=2 --yes --no-install-recommends $missing >/dev/null"
fi
# The tests start their own redis-server, so stop one that the package started.
if [ $# -gt 0 ]; then exit; fi

stamp=target/venv/requirements.txt
# In a restored target/, the virtual environment may be of another Python.
if ! cmp --quiet tests/requirements.txt "$stamp" 2>/dev/null || ! target/venv/bin/python -c 'import playwright' 2>/dev/null; then
    echo "installing Python packages into target/venv"
    # Debian's Python, whose venv package was installed above.
    /usr/bin/python3 -m venv --clear target/venv
    retry 'pip failed' target/venv/bin/pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt
    cp tests/requirements.txt "$stamp"
fi
