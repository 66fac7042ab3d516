"""HAProxy in place of the Application Load Balancer, with the numbers of the templates: health checks on /healthz,
least connections, a stickiness cookie that expires, and an idle timeout. It is stricter in one respect: it never
retries.

Targets are slots whose address is set and removed through HAProxy's runtime commands. Like a target, a slot is used
once, so a cookie never refers to another task."""

import re
import socket
import subprocess

from processes import ROOT, poll

SLOTS = 8


def from_template(name, attribute):
    """A number among a template's load balancer attributes."""
    text = (ROOT / "cfn" / name).read_text()
    return int(re.search(rf"Key: {re.escape(attribute)}, Value: '(\d+)'", text)[1])


IDLE_SECONDS = from_template("cluster.yml", "idle_timeout.timeout_seconds")
COOKIE_SECONDS = from_template("chat-service.yml", "stickiness.lb_cookie.duration_seconds")
GRAIN = 4  # seconds: the resolution of time in HAProxy's cookies
# Checks are more frequent than on AWS, where three misses take half a minute: only the order of events is rehearsed.
CONFIG = """
global
    stats socket {control} mode 600 level admin
    maxconn 4000
defaults
    mode http
    retries 0
    timeout connect 5s
    timeout http-request 10s
    timeout client {idle}s
    timeout server {idle}s
    timeout tunnel {idle}s
frontend public
    bind fd@{listener}
    default_backend tasks
backend tasks
    balance leastconn
    cookie LB insert indirect nocache maxidle {cookie}s
    option httpchk GET /healthz
    http-check expect status 200
    default-server check inter 500ms rise 2 fall 3 disabled
{slots}
"""


class Balancer:
    def __init__(self, folder, cookie_seconds=COOKIE_SECONDS):
        # The port is free because it is bound here already; HAProxy inherits the socket.
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            self.port = listener.getsockname()[1]
            self.control = folder / f"haproxy-{self.port}.sock"
            slots = "\n".join(f"    server s{number} 127.0.0.1:9 cookie s{number}" for number in range(SLOTS))
            values = {"listener": listener.fileno(), "idle": IDLE_SECONDS, "cookie": cookie_seconds, "slots": slots}
            config = folder / f"haproxy-{self.port}.cfg"
            config.write_text(CONFIG.format(control=self.control, **values))
            args = ["haproxy", "-db", "-f", config]
            self.process = subprocess.Popen(args, pass_fds=[listener.fileno()])
        self.free = [f"s{number}" for number in range(SLOTS)]
        self.slots = {}
        poll("haproxy answers", self.control.exists)

    def command(self, *words):
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.control))
            control.sendall(" ".join(words).encode() + b"\n")
            control.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: control.recv(65536), b"")).decode()

    def add(self, task):
        """Register a task, and wait until it counts as healthy."""
        slot = self.slots[task] = self.free.pop(0)
        self.command("set server", f"tasks/{slot}", "addr 127.0.0.1 port", str(task.port))
        self.command("set server", f"tasks/{slot}", "state ready")
        poll(f"{slot} is healthy", lambda: self._is_up(slot))

    def _is_up(self, slot):
        _, head, *lines = self.command("show servers state tasks").strip().splitlines()
        rows = [dict(zip(head.split()[1:], line.split(), strict=False)) for line in lines]
        row = next(row for row in rows if row["srv_name"] == slot)
        # Running, and its last check passed.
        return (row["srv_op_state"], row["srv_check_result"]) == ("2", "3")

    def remove(self, task):
        """Deregister a task: it gets no new connections, cookie or not; open sockets stay."""
        self.command("set server", f"tasks/{self.slots.pop(task)}", "state maint")
