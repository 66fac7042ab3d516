"""The processes of the rehearsal, each on a free port, each ended by its own id: Redis and the instances. (The load
balancer is in balancer.py, the proxies are in proxies.py.)"""

import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("BOBBIN", ROOT / "target" / "debug" / "bobbin"))


def poll(what, probe, patience=20):
    """Call `probe` until it returns something true; fail with `what` when time is up."""
    end = time.monotonic() + patience
    while True:
        value = probe()
        if value:
            return value
        assert time.monotonic() < end, f"not within {patience} s: {what() if callable(what) else what}"
        time.sleep(0.05)


OWN = []


def free_port():
    """A port that belongs to this process until it ends: below the kernel's range for outgoing connections, and no other
    test has it, because the same port of another address is in use. (Tests in Rust use ports from 20,000.)"""
    for number in range(9_000):
        port = 11_000 + (os.getpid() * 37 + len(OWN) + number) % 9_000
        try:
            own = socket.create_server(("127.1.1.1", port))
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        OWN.append(own)
        return port
    raise AssertionError("all ports are in use")


def redis_user():
    """The Redis user in docs/redis.md, as arguments of redis-server; its password is `open`."""
    lines = (ROOT / "docs" / "redis.md").read_text().splitlines()
    user = next(line for line in lines if line.startswith("ACL SETUSER bobbin "))
    return ["--user", *user.removeprefix("ACL SETUSER ").replace("PASSWORD", "open").split()]


class Redis:
    def __init__(self, folder):
        self.port = free_port()
        args = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *redis_user()]
        self.process = subprocess.Popen(args, cwd=folder, stdout=subprocess.DEVNULL)
        poll("redis-server answers", self._answers)

    def _answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


class Instance:
    """One running server; `log` is everything it wrote to stderr."""

    def __init__(self, redis=None, **settings):
        self.env = {"PATH": os.environ["PATH"], "PORT": str(free_port()), "BIND": "127.0.0.1"}
        if redis:
            self.env["REDIS_ENDPOINT"] = f"redis://bobbin:open@127.0.0.1:{redis.port}"
        self.env |= {name: str(value) for name, value in settings.items()}
        self._start()

    def _start(self):
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([BINARY], env=self.env, **pipes)
        self.log = []
        threading.Thread(target=self._read, daemon=True).start()
        self.port = int(poll("the instance listens", self._listening))
        poll("the instance is ready", self._ready)

    def restart(self):
        """SIGTERM, and after its end a new one on the same port."""
        self.terminate()
        assert self.ended() == 0, "".join(self.log)
        self._start()

    def end(self):
        self.process.kill()
        self.process.wait()

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)

    def _listening(self):
        assert self.process.poll() is None, f"the instance ended: {''.join(self.log)}"
        found = re.search(r"listening on http://\S*?:(\d+)", "".join(self.log))
        return found and found[1]

    def get(self, path, **headers):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()

    def _ready(self):
        try:
            return self.get("/readyz")
        except OSError:
            return False

    def metric(self, name):
        return int(re.search(rf"^{name} (\d+)", self.get("/metrics"), re.M)[1])

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def ended(self, patience=30):
        """Its exit code, once it has ended."""
        return self.process.wait(patience)
