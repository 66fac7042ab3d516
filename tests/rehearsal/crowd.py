"""Clients by the hundred that follow the wire contract as the page does: each keeps its secret, its `since` and the
load balancer's cookie, resends under the same `ref` until the receipt arrives, and waits a random time after 1012.

They run on an event loop in a thread of its own; tests read their state from outside."""

import asyncio
import json
import random
import threading
import time
import uuid
from collections import Counter

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

RECEIPT_WITHIN = 6
RECONNECT_SPREAD = 3  # seconds, after 1012
LOOK_EVERY = 5


class Person:
    def __init__(self, url, name):
        self.url, self.name = url, name
        self.secret = uuid.uuid4().hex
        self.since = self.cookie = None
        self.joined, self.joined_at, self.participants = False, 0.0, 0
        self.outbox = {}  # ref → text, the oldest first; only that one is in flight
        self.send_again_at = 0.0
        self.join_again, self.join_sent_at = False, 0.0
        self.heard = []  # every message frame received
        self.came, self.left = [], []  # names in presence frames
        self.ends = Counter()  # close codes; 1006 means none
        self.refused = Counter()  # HTTP statuses instead of the upgrade
        self.problems = []  # violations

    async def live(self):
        """Connect, and reconnect whenever the connection ends, until cancelled."""
        while True:
            wait = random.uniform(0.5, 1)
            headers = {"Cookie": self.cookie} if self.cookie else {}
            try:
                async with connect(
                    self.url,
                    additional_headers=headers,
                    subprotocols=["bobbin.v1"],
                    compression=None,
                    ping_interval=None,
                    proxy=None,
                    max_queue=None,  # or a socket with 16 unread frames never reads the answer to its close frame
                ) as socket:
                    if "Set-Cookie" in socket.response.headers:
                        self.cookie = socket.response.headers["Set-Cookie"].partition(";")[0]
                    await self._converse(socket)
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd else 1006
                self.ends[code] += 1
                if code == 1012:
                    wait = random.uniform(0, RECONNECT_SPREAD)
            except InvalidStatus as refusal:
                self.refused[refusal.response.status_code] += 1
            except (OSError, InvalidHandshake, EOFError) as broken:
                self.refused[type(broken).__name__] += 1
            self.joined = False
            await asyncio.sleep(wait)

    async def _converse(self, socket):
        await self._join(socket)
        while True:
            try:
                frame = json.loads(await asyncio.wait_for(socket.recv(), LOOK_EVERY))
                self._take(frame)
            except TimeoutError:
                pass
            if self.join_again and time.monotonic() >= self.send_again_at:
                await self._join(socket)
            if self.joined and self.outbox and time.monotonic() >= self.send_again_at:
                self.send_again_at = time.monotonic() + RECEIPT_WITHIN
                ref, text = next(iter(self.outbox.items()))
                await self._send(socket, type="message", text=text, ref=ref)

    async def _join(self, socket):
        self.join_again, self.join_sent_at = False, time.monotonic()
        await self._send(socket, type="join", name=self.name, client=self.secret, since=self.since)

    async def _send(self, socket, **frame):
        await socket.send(json.dumps(frame))

    def _take(self, frame):
        kind = frame["type"]
        if kind == "welcome":
            self.joined, self.joined_at, self.send_again_at = True, time.monotonic(), 0
            self.participants = frame["participants"]
            if frame["gap"] or (self.since and len(frame["messages"]) == 500):
                self.problems.append(frame)
            for message in frame["messages"]:
                self._hear(message)
            self.since = frame["last"]
        elif kind == "message":
            self._hear(frame)
        elif kind == "presence":
            self.participants = frame["participants"]
            self.came += frame["joined"]
            self.left += frame["left"]
        elif kind == "error" and frame["code"] in ("rate_limited", "unavailable") and (self.joined or self.waited()):
            # A message or a join. A busy server refuses a join after 2 s; one that refuses every join does so at once.
            self.send_again_at = time.monotonic() + frame.get("retry_ms", 1000) / 1000
            self.join_again = not self.joined
        elif kind == "error":
            self.problems.append(frame)

    def waited(self):
        return time.monotonic() - self.join_sent_at >= 1.5

    def _hear(self, message):
        self.heard.append(message)
        self.since = message["id"]
        if self.outbox.pop(message.get("ref"), None):
            self.send_again_at = 0

    def say(self, text):
        self.outbox[uuid.uuid4().hex] = text


class Crowd:
    def __init__(self, balancer):
        self.balancer = balancer
        self.people, self.lives, self.talk = [], [], None
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def _on_loop(self, work, patience=60):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(patience)

    def come(self, room, names):
        """Add people, at most a hundred per second, so that this does not test a login storm."""
        url = f"ws://127.0.0.1:{self.balancer.port}/ws/{room}"
        some = [Person(url, name) for name in names]

        async def begin():
            for person in some:
                self.lives.append(asyncio.create_task(person.live()))
                await asyncio.sleep(0.01)

        self._on_loop(begin())
        self.people += some
        return some

    def start_talking(self):
        """Everyone sends about once per second."""

        async def talk():
            number = 0
            while True:
                number += 1
                for person in random.sample(self.people, len(self.people)):
                    person.say(f"{person.name} says {number}")
                    await asyncio.sleep(1 / len(self.people))

        async def begin():
            self.talk = asyncio.create_task(talk())

        self._on_loop(begin())

    def stop_talking(self):
        self.loop.call_soon_threadsafe(self.talk.cancel)

    def all_joined(self):
        return all(person.joined for person in self.people)

    def close(self):
        async def end():
            for life in self.lives:
                life.cancel()
            await asyncio.gather(*self.lives, return_exceptions=True)

        self._on_loop(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
