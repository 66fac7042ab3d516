"""What the browser tests share: the real binary as an `Instance`, a real redis-server as `Redis`, a `Link` between a
browser and an instance (which can be cut, frozen and redirected), a `Talker` that uses the wire contract without a
browser, and a `Person` using the page.

Nothing uses a fixed port, every wait has a deadline, and only processes that were started here are ended.
"""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

from playwright.sync_api import expect
from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "rehearsal"))

from processes import BINARY, free_port, redis_user  # noqa: E402

PATIENCE = 10


def poll(what, probe, patience=PATIENCE):
    """Call `probe` until it returns something true; fail with `what` when time is up."""
    end = time.monotonic() + patience
    while True:
        value = probe()
        if value:
            return value
        assert time.monotonic() < end, f"not within {patience} s: {what}"
        time.sleep(0.02)


# For `wait`: the page's second script has been loaded.
CHAT_IS_LOADED = "performance.getEntriesByType('resource').some((one) => one.name.includes('chat.js') && one.responseEnd)"


def some_room():
    return f"r{uuid.uuid4().hex[:10]}"


class Redis:
    """A redis-server without persistence, which can be stopped and restarted on the same port."""

    def __init__(self, tmp):
        self.tmp = tmp
        self.port = free_port()
        self.start()

    def start(self):
        args = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *redis_user()]
        self.process = subprocess.Popen(args, cwd=self.tmp, stdout=subprocess.DEVNULL)
        poll("redis-server answers", self.answers)

    def answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as conn:
                conn.sendall(b"PING\r\n")
                return conn.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def command(self, *args):
        return subprocess.run(["redis-cli", "-p", str(self.port), *args], capture_output=True, text=True, check=True).stdout

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


class Instance:
    """One running binary; `log` is everything it wrote to stderr."""

    def __init__(self, redis=None, **settings):
        # All tests connect from one address, and act much faster than people.
        limits = ["RATE_LIMIT", "TEXT_RATE", *(f"ADDRESS_{what}" for what in ("CONNECTIONS", "CONNECTION_RATE", "JOINS", "NEW_ROOMS", "TEXT_RATE", "HISTORY_RATE"))]
        env = {"PATH": os.environ["PATH"], "PORT": "0", "BIND": "127.0.0.1", "RUST_LOG": "info"} | dict.fromkeys(limits, "0")
        env |= {"REDIS_ENDPOINT": f"redis://bobbin:open@127.0.0.1:{redis.port}"} if redis else {}
        env |= {name: str(value) for name, value in settings.items()}
        self.process = subprocess.Popen([BINARY], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.log = []
        threading.Thread(target=self._read, daemon=True).start()
        self.port = int(poll("the instance listens", self._listening))

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)

    def _listening(self):
        assert self.process.poll() is None, f"the instance ended: {''.join(self.log)}"
        found = re.search(r"listening on http://\S*?:(\d+)", "".join(self.log))
        return found and found[1]

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.process.wait(40)


class Link:
    """A loopback connection from the browser to an instance, with faults on demand: `cut` closes it and accepts no
    more, `freeze` passes nothing on while both ends consider it open, and `to` leads new connections to another
    instance."""

    def __init__(self, instance, rewrite=None):
        self.to(instance)
        self.rewrite = rewrite  # (from, to): bytes towards the instance
        self.frozen = False
        self.pairs = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def to(self, instance):
        self.target = instance.port

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if not self.open:
                near.close()
                continue
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near):
        try:
            far = socket.create_connection(("127.0.0.1", self.target), 5)
        except OSError:
            near.close()
            return
        pair = (near, far)
        self.pairs.append(pair)
        try:
            while self.open:
                if self.frozen:
                    time.sleep(0.02)
                    continue
                for ready in select.select(pair, [], [], 0.05)[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    if self.rewrite and ready is near:
                        data = data.replace(*self.rewrite)
                    (far if ready is near else near).sendall(data)
        except (OSError, ValueError):
            pass
        finally:
            near.close()
            far.close()
            self.pairs.remove(pair)

    def cut(self):
        self.open = False
        poll("the line's connections are closed", lambda: not self.pairs)

    def mend(self):
        self.open = True

    def freeze(self):
        self.frozen = True

    def thaw(self):
        self.frozen = False

    def close(self):
        self.open = False
        self.listener.close()


class Talker:
    """A person in a room without a browser."""

    def __init__(self, instance, room, name, **join):
        self.socket = connect(f"ws://127.0.0.1:{instance.port}/ws/{room}", max_size=2**20, ping_interval=None)
        self.send(type="join", name=name, client=uuid.uuid4().hex, **join)
        self.welcome = self.next("welcome")

    def send(self, **frame):
        self.socket.send(json.dumps(frame))

    def next(self, kind, patience=PATIENCE):
        """The next frame of this type; others are skipped."""
        end = time.monotonic() + patience
        while True:
            frame = json.loads(self.socket.recv(timeout=max(0.01, end - time.monotonic())))
            if frame["type"] == kind:
                return frame

    def say(self, *texts):
        """Send all texts, and return the messages once each has its receipt."""
        kept = []
        for start in range(0, len(texts), 200):
            batch = {uuid.uuid4().hex: text for text in texts[start : start + 200]}
            for ref, text in batch.items():
                self.send(type="message", text=text, ref=ref)
            while batch:
                frame = self.next("message")
                if batch.pop(frame.get("ref"), None) is not None:
                    kept.append(frame)
        return kept

    def leave(self):
        self.socket.close()


class FakeServer:
    """The server's end of a page's WebSocket, for situations that a real server seldom produces. `visit(…,
    fake=FakeServer())`."""

    def __init__(self, **welcome):
        self.received = []
        self.socket = None
        self.welcome = {"messages": [], "names": [], "participants": 1, "last": "0-0", "more": False, "gap": False, **welcome}
        self.answers = {}  # by type of frame: called with the frame

    def open(self, socket):
        self.socket = socket
        socket.on_message(self._on_message)

    def _on_message(self, text):
        frame = json.loads(text)
        self.received.append(frame)
        answer = self.answers.get(frame["type"])
        if answer:
            answer(frame)
        elif frame["type"] == "join":
            self.send(type="welcome", name=frame.get("name", "Proxied"), by="b" * 16, room="r", **self.welcome)
        elif frame["type"] == "message":
            self.message(frame["text"], name="Ada", by="b" * 16, ref=frame["ref"])
        elif frame["type"] == "ping":
            self.send(type="pong")

    def send(self, **frame):
        self.socket.send(json.dumps(frame))

    def message(self, text, name="Bob", by="c" * 16, **more):
        self.count = getattr(self, "count", 0) + 1
        self.send(**fake_message(self.count, text, name, by), **more)


def fake_message(number, text, name="Bob", by="c" * 16):
    return {"type": "message", "id": f"{1_750_000_000_000 + number}-0", "by": by, "name": name, "text": text, "at": 1_750_000_000_000 + number}


class Person:
    """A person using the page."""

    def __init__(self, page, url):
        self.page = page
        self.url = url
        self.problems = []
        page.on("pageerror", lambda error: self.problems.append(f"error: {error.stack or error}"))
        page.on("console", self._console)

    def _console(self, message):
        # The browser's own errors about a broken connection are not the page's fault.
        network = re.search(r"WebSocket connection to|net::ERR_|status of (503|4\d\d)", message.text)
        if message.type in ("error", "warning") and not network:
            self.problems.append(f"{message.type}: {message.text}")

    def go(self, room):
        self.page.goto(f"{self.url}/r/{room}")
        return self

    def join(self, name, passphrase=None):
        expect(self("#join")).to_be_visible()
        self("#name").fill(name)
        if passphrase:
            self("#passphrase").fill(passphrase)
        self.page.keyboard.press("Enter")
        return self

    def joined(self, timeout=10_000):
        expect(self("body")).to_have_attribute("data-state", "joined", timeout=timeout)
        return self

    def __call__(self, selector, **options):
        return self.page.locator(selector, **options)

    def say(self, text):
        self("#text").fill(text)
        # On a touch keyboard Enter inserts a line break.
        self("#text").press("Control+Enter")

    def paste(self, text):
        """Like `fill`, but at once: Chromium types thousands of lines one by one."""
        self("#text").evaluate("(box, text) => { box.value = text; box.dispatchEvent(new InputEvent('input')); }", text)

    def message(self, text):
        """The row of the message with this text."""
        return self(".message", has=self.page.locator(".body", has_text=text))

    def sees(self, text, timeout=10_000):
        expect(self.message(text).last).to_be_visible(timeout=timeout)
        return self.message(text).last

    def texts(self):
        return self.page.evaluate("[...document.querySelectorAll('.message .body')].map((body) => body.textContent)")

    def sent(self):
        """Wait until everything sent has its receipt."""
        self.wait("() => document.querySelector('.message') && !document.querySelector('.sending, .waiting')", timeout=20_000)

    def wait(self, script, arg=None, timeout=10_000):
        return self.page.wait_for_function(script, arg=arg, timeout=timeout)

    def look_away(self):
        """Tell the page that its tab is in the background."""
        self.page.evaluate("""() => {
            Object.defineProperty(document, 'visibilityState', { value: 'hidden', configurable: true });
            document.hasFocus = () => false;
            document.dispatchEvent(new Event('visibilitychange'));
            window.dispatchEvent(new Event('blur'));
        }""")

    def look_back(self):
        self.page.evaluate("""() => {
            delete document.visibilityState;
            delete document.hasFocus;
            document.dispatchEvent(new Event('visibilitychange'));
            window.dispatchEvent(new Event('focus'));
        }""")

    def scroll(self, by):
        self.page.evaluate("(by) => document.querySelector('#scroller').scrollBy(0, by)", by)
